package transit

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"chancery/keystore"
)

var allPurposes = []keystore.Purpose{
	keystore.PurposeJWT, keystore.PurposeCA, keystore.PurposeAudit, keystore.PurposeDigest, keystore.PurposeProbe,
}

func TestANameSaysWhatItsKeyIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := keystore.KeyID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		purpose := rapid.SampledFrom(allPurposes).Draw(t, "purpose")
		alg := rapid.SampledFrom(keystore.Algorithms()).Draw(t, "algorithm")
		name := nameOf(id, purpose, alg)
		gotID, gotPurpose, gotAlg, ok := parseName(name)
		if !ok || gotID != id || gotPurpose != purpose || gotAlg != alg {
			t.Fatalf("%s: %v %v %v, %v", name, gotID, gotPurpose, gotAlg, ok)
		}
		if strings.ContainsFunc(name, func(r rune) bool { return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') }) {
			t.Fatalf("%s does not go into a path as it is", name)
		}
	})
}

func TestNamesThatAreNotOurs(t *testing.T) {
	id := strings.Repeat("0a", 16)
	for _, name := range []string{
		"", "chancery", "chancery-", "jwt-es256-" + id, "chancery-jwt-es256", "chancery-jwt-es256-" + id + "-2", "Chancery-jwt-es256-" + id,
		"chancery-JWT-es256-" + id, "chancery-jwt-ES256-" + id, "chancery-jwt-es257-" + id, "chancery-web-es256-" + id,
		"chancery-jwt-es256-" + strings.ToUpper(id), "chancery-jwt-es256-" + id[1:], "chancery-jwt-es256-" + id + "0", "chancery-jwt-es256-" + id + "\n",
		"chancery-chancery-jwt-es256-" + id, "chancery--es256-" + id, "chancery-jwt-e\u017f256-" + id, // a long s folds to s
	} {
		if _, _, _, ok := parseName(name); ok {
			t.Errorf("%q is taken for a name of ours", name)
		}
	}
}

// FuzzName: what parses is what is written, in that spelling only.
func FuzzName(f *testing.F) {
	f.Add("chancery-jwt-es256-" + strings.Repeat("0a", 16))
	f.Add("chancery-jwt-e\u017f256-" + strings.Repeat("0a", 16))
	f.Add(nameOf(probeID, probePurpose, probeAlgorithm))
	f.Fuzz(func(t *testing.T, name string) {
		id, purpose, alg, ok := parseName(name)
		if ok && nameOf(id, purpose, alg) != name {
			t.Errorf("%q is read as %q", name, nameOf(id, purpose, alg))
		}
	})
}
