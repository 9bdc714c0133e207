package transittest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A transitKey is a named key with its versions.
type transitKey struct {
	name, kind string
	versions   map[int]keyVersion
	latest     int

	minAvailable, minDecryption, minEncryption int

	deletable, exportable, plaintextBackup bool
	autoRotate                             time.Duration
}

// A keyVersion is one version of a key.
type keyVersion struct {
	key     crypto.Signer // nil: it cannot sign
	created time.Time
}

// keyKinds are the types of keys, and what the reply calls each version.
var keyKinds = map[string]string{
	"ecdsa-p256": "P-256", "ecdsa-p384": "P-384", "ecdsa-p521": "P-521", "ed25519": "ed25519",
	"rsa-2048": "rsa-2048", "rsa-3072": "rsa-3072", "rsa-4096": "rsa-4096", "aes256-gcm96": "",
}

var transitEndpoints = []endpoint{
	{path: at(`keys/?`), do: ops{opList: (*FakeServer).listKeys}},
	{path: at(`keys/` + name), do: ops{opUpdate: (*FakeServer).createKey, opRead: (*FakeServer).readKey, opDelete: (*FakeServer).deleteKey},
		fields: fields{
			"type": text, "derived": flag, "convergent_encryption": flag, "exportable": flag, "allow_plaintext_backup": flag,
			"auto_rotate_period": seconds, "key_size": number, "name": text, "context": text,
		}},
	{path: at(`keys/` + name + `/config`), do: ops{opUpdate: (*FakeServer).configureKey}, fields: fields{
		"min_decryption_version": number, "min_encryption_version": number, "deletion_allowed": flag, "exportable": flag,
		"allow_plaintext_backup": flag, "auto_rotate_period": seconds, "name": text,
	}},
	{path: at(`keys/` + name + `/rotate`), do: ops{opUpdate: (*FakeServer).rotateKey}, fields: fields{"name": text}},
	{path: at(`keys/` + name + `/trim`), do: ops{opUpdate: (*FakeServer).trimKey}, fields: fields{"min_available_version": number, "name": text}},
	{path: at(`sign/` + name + `(?:/([^/]+))?`), do: ops{opUpdate: (*FakeServer).sign}, fields: fields{
		"input": text, "batch_input": list, "key_version": number, "prehashed": flag, "hash_algorithm": text, "algorithm": text,
		"signature_algorithm": text, "marshaling_algorithm": text, "salt_length": text, "context": text, "name": text,
	}},
}

// rsaPool keeps the RSA keys a process has made, for the next server of it:
// each of them has its own, but one test need not wait for what another has.
var rsaPool struct {
	sync.Mutex
	keys map[int][]*rsa.PrivateKey
}

func pooledRSA(bits, index int) (*rsa.PrivateKey, error) {
	rsaPool.Lock()
	defer rsaPool.Unlock()
	if rsaPool.keys == nil {
		rsaPool.keys = make(map[int][]*rsa.PrivateKey)
	}
	for len(rsaPool.keys[bits]) <= index {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			return nil, err
		}
		rsaPool.keys[bits] = append(rsaPool.keys[bits], key)
	}
	return rsaPool.keys[bits][index], nil
}

// newSigner makes a private key. Its caller does not hold mu: RSA takes its time.
func (f *FakeServer) newSigner(kind string) (crypto.Signer, error) {
	switch kind {
	case "ecdsa-p256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa-p384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ecdsa-p521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case "rsa-2048", "rsa-3072", "rsa-4096":
		bits, err := strconv.Atoi(strings.TrimPrefix(kind, "rsa-"))
		if err != nil {
			return nil, err
		}
		var index int
		f.set(func() {
			index = f.rsaUsed[bits]
			f.rsaUsed[bits]++
		})
		return pooledRSA(bits, index)
	}
	return nil, nil
}

// add makes the next version of k. Its caller holds mu.
func (k *transitKey) add(key crypto.Signer, now time.Time) {
	k.latest++
	k.versions[k.latest] = keyVersion{key, now}
	k.minDecryption = max(k.minDecryption, 1)
}

// describe is what Vault says about a key. Its caller holds mu.
func (k *transitKey) describe() (map[string]any, error) {
	versions := make(map[string]any)
	for n, v := range k.versions {
		if n < k.minDecryption {
			continue // archived
		}
		if v.key == nil {
			versions[strconv.Itoa(n)] = v.created.Unix()
			continue
		}
		public, err := publicText(v.key.Public())
		if err != nil {
			return nil, err
		}
		versions[strconv.Itoa(n)] = map[string]any{
			"name": keyKinds[k.kind], "public_key": public, "certificate_chain": "", "hybrid_public_key": "",
			"creation_time": v.created.Format(time.RFC3339Nano),
		}
	}
	symmetric, isRSA := k.kind == "aes256-gcm96", strings.HasPrefix(k.kind, "rsa-")
	return map[string]any{
		"name": k.name, "type": k.kind, "derived": false, "deletion_allowed": k.deletable, "min_available_version": k.minAvailable,
		"min_decryption_version": k.minDecryption, "min_encryption_version": k.minEncryption, "latest_version": k.latest,
		"exportable": k.exportable, "allow_plaintext_backup": k.plaintextBackup,
		"supports_encryption": symmetric || isRSA, "supports_decryption": symmetric || isRSA, "supports_signing": !symmetric,
		"supports_derivation": symmetric || k.kind == "ed25519", "auto_rotate_period": int64(k.autoRotate / time.Second),
		"imported_key": false, "keys": versions,
	}, nil
}

// publicText writes a public key as Vault does: Ed25519 as base64, others as PEM.
func publicText(public crypto.PublicKey) (string, error) {
	if raw, ok := public.(ed25519.PublicKey); ok {
		return base64.StdEncoding.EncodeToString(raw), nil
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), err
}

func (k *transitKey) reply(warnings ...string) (*reply, error) {
	data, err := k.describe()
	return &reply{data: data, warnings: warnings}, err
}

func (f *FakeServer) listKeys(m *mount, _ *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &reply{data: map[string]any{"keys": slices.Sorted(maps.Keys(m.keys))}}, nil
}

func (f *FakeServer) readKey(m *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if k := m.keys[c.args[0]]; k != nil {
		return k.reply()
	}
	return nil, nil
}

// rotationPeriod checks auto_rotate_period.
func rotationPeriod(c *call) (time.Duration, error) {
	d := field[time.Duration](c, "auto_rotate_period")
	if d != 0 && d < time.Hour {
		return 0, refuse(http.StatusBadRequest, "auto rotate period must be 0 to disable or at least an hour")
	}
	return d, nil
}

func (f *FakeServer) createKey(m *mount, c *call) (*reply, error) {
	kind := field[string](c, "type")
	if kind == "" {
		kind = "aes256-gcm96"
	}
	period, err := rotationPeriod(c)
	if err != nil {
		return nil, err
	}
	if field[bool](c, "convergent_encryption") && !field[bool](c, "derived") {
		return nil, refuse(http.StatusBadRequest, "convergent encryption requires derivation to be enabled")
	}
	if _, ok := keyKinds[kind]; !ok {
		return nil, refuse(http.StatusBadRequest, "unknown key type %v", kind)
	}
	if field[int](c, "key_size") != 0 {
		return nil, refuse(http.StatusBadRequest, "key_size is not valid for algorithm %v", kind)
	}
	exists := func() *transitKey {
		f.mu.Lock()
		defer f.mu.Unlock()
		return m.keys[c.args[0]]
	}
	if exists() == nil && field[bool](c, "derived") {
		return nil, fail(http.StatusInternalServerError, "key derivation and convergent encryption not supported for keys of type "+kind)
	}
	var key crypto.Signer
	if exists() == nil {
		if key, err = f.newSigner(kind); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if k := m.keys[c.args[0]]; k != nil {
		return k.reply() // Vault means to warn that it existed, but 1.21.1 does not
	}
	k := &transitKey{
		name: c.args[0], kind: kind, versions: make(map[int]keyVersion), autoRotate: period,
		exportable: field[bool](c, "exportable"), plaintextBackup: field[bool](c, "allow_plaintext_backup"),
	}
	k.add(key, f.now())
	m.keys[k.name] = k
	return k.reply()
}

func (f *FakeServer) deleteKey(m *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch k := m.keys[c.args[0]]; {
	case k == nil:
		return nil, refuse(http.StatusBadRequest, "error deleting policy %s: could not delete key; not found", c.args[0])
	case !k.deletable:
		return nil, refuse(http.StatusBadRequest, "error deleting policy %s: deletion is not allowed for this key", c.args[0])
	}
	delete(m.keys, c.args[0])
	return nil, nil
}

func (f *FakeServer) configureKey(m *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := m.keys[c.args[0]]
	if k == nil {
		return nil, refuse(http.StatusBadRequest, "no existing key named %s could be found", c.args[0])
	}
	next := *k
	var warnings []string
	if v, said := c.data["min_decryption_version"].(int); said {
		if v < 0 {
			return nil, refuse(http.StatusBadRequest, "min decryption version cannot be negative")
		}
		if v == 0 {
			v, warnings = 1, append(warnings, "since Vault 0.3, transit key numbering starts at 1; forcing minimum to 1")
		}
		if v > k.latest {
			return nil, refuse(http.StatusBadRequest, "cannot set min decryption version of %d, latest key version is %d", v, k.latest)
		}
		next.minDecryption = v
	}
	if v, said := c.data["min_encryption_version"].(int); said {
		if v < 0 {
			return nil, refuse(http.StatusBadRequest, "min encryption version cannot be negative")
		}
		if v > k.latest {
			return nil, refuse(http.StatusBadRequest, "cannot set min encryption version of %d, latest key version is %d", v, k.latest)
		}
		next.minEncryption = v
	}
	if next.minEncryption > 0 && next.minEncryption < next.minDecryption {
		return nil, refuse(http.StatusBadRequest, "cannot set min encryption/decryption values; min encryption version of %d must be greater than or equal to min decryption version of %d", next.minEncryption, next.minDecryption)
	}
	if v, said := c.data["deletion_allowed"].(bool); said {
		next.deletable = v
	}
	// Once set, these two stay set.
	next.exportable = next.exportable || field[bool](c, "exportable")
	next.plaintextBackup = next.plaintextBackup || field[bool](c, "allow_plaintext_backup")
	if _, said := c.data["auto_rotate_period"]; said {
		period, err := rotationPeriod(c)
		if err != nil {
			return nil, err
		}
		next.autoRotate = period
	}
	switch {
	case next.minAvailable > next.minEncryption:
		return nil, refuse(http.StatusBadRequest, "min encryption version should not be less than min available version")
	case next.minAvailable > next.minDecryption:
		return nil, refuse(http.StatusBadRequest, "min decryption version should not be less then min available version")
	}
	*k = next
	return k.reply(warnings...)
}

func (f *FakeServer) rotateKey(m *mount, c *call) (*reply, error) {
	f.mu.Lock()
	k := m.keys[c.args[0]]
	f.mu.Unlock()
	if k == nil {
		return nil, refuse(http.StatusBadRequest, "key not found")
	}
	key, err := f.newSigner(k.kind) // the kind never changes
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	k.add(key, f.now())
	return k.reply()
}

func (f *FakeServer) trimKey(m *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := m.keys[c.args[0]]
	if k == nil {
		return nil, refuse(http.StatusBadRequest, "invalid key name")
	}
	v, said := c.data["min_available_version"].(int)
	problem := ""
	switch {
	case !said:
		problem = "missing min_available_version"
	case v < k.minAvailable:
		problem = "minimum available version cannot be decremented"
	case k.minEncryption == 0:
		problem = "minimum available version cannot be set when minimum encryption version is not set"
	case k.minDecryption == 0:
		problem = "minimum available version cannot be set when minimum decryption version is not set"
	case v > k.minEncryption:
		problem = "minimum available version cannot be greater than minmum encryption version"
	case v > k.minDecryption:
		problem = "minimum available version cannot be greater than minimum decryption version"
	case v < 0:
		problem = "minimum available version cannot be negative"
	case v == 0:
		problem = "minimum available version should be positive"
	}
	if problem != "" {
		return nil, refuse(http.StatusBadRequest, "%s", problem)
	}
	k.minAvailable = v
	for n := range k.versions {
		if n < v {
			delete(k.versions, n)
		}
	}
	return k.reply()
}

// Rotate makes a new version of a key, as somebody else would.
func (f *FakeServer) Rotate(t testing.TB, mount, key string) {
	t.Helper()
	f.Call(t, "POST", mount+"/keys/"+key+"/rotate", nil)
}
