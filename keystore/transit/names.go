package transit

import (
	"strings"

	"chancery/keystore"
)

// prefix begins the name of every Transit key that Chancery makes.
const prefix = "chancery-"

// nameOf returns the name of the Transit key that holds a version: what the key
// is for is in its name, because nothing else of a Transit key can be chosen and
// never be changed. Transit has one name space for each mount, and names of
// letters, digits, '-', '_' and '.'.
func nameOf(id keystore.KeyID, p keystore.Purpose, alg keystore.Algorithm) string {
	return prefix + string(p) + "-" + strings.ToLower(string(alg)) + "-" + id.String()
}

// parseName reads what nameOf returns, in that spelling only.
func parseName(name string) (id keystore.KeyID, p keystore.Purpose, alg keystore.Algorithm, ok bool) {
	parts := strings.Split(strings.TrimPrefix(name, prefix), "-")
	if len(parts) != 3 {
		return id, "", "", false
	}
	p, err := keystore.ParsePurpose(parts[0])
	if err != nil {
		return id, "", "", false
	}
	for _, a := range keystore.Algorithms() {
		if strings.EqualFold(string(a), parts[1]) {
			alg = a
		}
	}
	if id, err = keystore.ParseKeyID(parts[2]); err != nil || alg == "" {
		return id, "", "", false
	}
	return id, p, alg, nameOf(id, p, alg) == name
}

// probeID is the id of the probe key of every mount: nodes that share one make it
// at the same moment and have the same.
var probeID = keystore.KeyID([]byte("chancery probe 1"))

const (
	probeAlgorithm = keystore.ES256
	probePurpose   = keystore.PurposeProbe
)
