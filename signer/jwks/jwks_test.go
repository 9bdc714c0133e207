package jwks

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"chancery/keystore"
)

func newKey(t *testing.T, alg keystore.Algorithm) crypto.PublicKey {
	t.Helper()
	switch {
	case alg.Curve() != nil:
		k, err := ecdsa.GenerateKey(alg.Curve(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k.Public()
	case alg.IsRSA():
		k, err := rsa.GenerateKey(rand.Reader, keystore.RSABits)
		if err != nil {
			t.Fatal(err)
		}
		return k.Public()
	}
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func version(t *testing.T, n int, s keystore.State, alg keystore.Algorithm) keystore.Version {
	t.Helper()
	v := keystore.Version{Number: n, State: s, Algorithm: alg}
	if s == keystore.Pending {
		return v
	}
	pub := newKey(t, alg)
	var err error
	if v.SPKI, err = keystore.MarshalPublic(pub); err != nil {
		t.Fatal(err)
	}
	if v.KID, err = keystore.Thumbprint(pub); err != nil {
		t.Fatal(err)
	}
	return v
}

func all(keystore.KID) bool { return true }

// kids reads a set with the library verifiers use.
func kids(t *testing.T, body []byte) []string {
	t.Helper()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(body, &set); err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, k := range set.Keys {
		if !k.Valid() || !k.IsPublic() || k.Use != "sig" || k.Algorithm == "" {
			t.Errorf("key %+v", k)
		}
		list = append(list, k.KeyID)
	}
	return list
}

func TestSetHasTheKnownAndProvenVersions(t *testing.T) {
	ks := &keystore.KeySet{Name: "web", Purpose: keystore.PurposeJWT, Algorithm: keystore.ES256}
	for i, s := range []keystore.State{keystore.Destroyed, keystore.Retired, keystore.Retiring, keystore.Active, keystore.Published, keystore.Pending} {
		ks.Versions = append(ks.Versions, version(t, i+1, s, keystore.ES256))
	}
	kid := func(n int) string { return string(ks.Versions[n-1].KID) }
	body, etag, err := Set(ks, all)
	if err != nil {
		t.Fatal(err)
	}
	if got := kids(t, body); !slices.Equal(got, []string{kid(3), kid(4), kid(5)}) {
		t.Errorf("kids %v", got)
	}
	again, sameTag, _ := Set(ks.Clone(), all)
	if string(again) != string(body) || sameTag != etag || !strings.HasPrefix(etag, `"`) || strings.HasPrefix(etag, "W/") {
		t.Errorf("the same set differs: %s, %s", etag, sameTag)
	}

	unproven, tag, err := Set(ks, func(k keystore.KID) bool { return string(k) != kid(5) })
	if err != nil || tag == etag || !slices.Equal(kids(t, unproven), []string{kid(3), kid(4)}) {
		t.Errorf("%s, %v", unproven, err)
	}
	ks.Versions[2].Compromised = &keystore.Fact{}
	ks.Versions[3].Suspended = &keystore.Fact{}
	body, _, err = Set(ks, all)
	if err != nil || !slices.Equal(kids(t, body), []string{kid(4), kid(5)}) {
		t.Errorf("suspended stays and compromised goes: %s, %v", body, err)
	}
}

// A set all of whose keys are compromised is served, and empty; one that was never
// served is not.
func TestSetWithoutAKeyThatIsNotCompromised(t *testing.T) {
	taken := func(n int) keystore.Version {
		v := version(t, n, keystore.Retired, keystore.ES256)
		v.ServedAt, v.Compromised = time.Unix(1, 0), &keystore.Fact{}
		return v
	}
	next := version(t, 2, keystore.Published, keystore.ES256)
	ks := &keystore.KeySet{Name: "web", Purpose: keystore.PurposeJWT, ServedAt: time.Unix(1, 0), Versions: []keystore.Version{taken(1)}}
	none := func(keystore.KID) bool { return false }
	body, _, err := Set(ks, all)
	if err != nil || string(body) != `{"keys":[]}` {
		t.Errorf("%s, %v", body, err)
	}
	ks.Versions = append(ks.Versions, next) // made, and not proven here yet
	if body, _, err = Set(ks, none); err != nil || len(kids(t, body)) != 0 {
		t.Errorf("%s, %v", body, err)
	}
	if body, _, err = Set(ks, all); err != nil || len(kids(t, body)) != 1 {
		t.Errorf("with its successor: %s, %v", body, err)
	}
	ks.Versions[1].ServedAt = time.Unix(2, 0)
	if _, _, err = Set(ks, none); !errors.Is(err, ErrEmpty) {
		t.Errorf("its successor was served and is not proven: %v", err)
	}
	ks.Versions = ks.Versions[:1]
	ks.ServedAt = time.Time{}
	if _, _, err = Set(ks, all); !errors.Is(err, ErrEmpty) {
		t.Errorf("it was never served: %v", err)
	}
}

func TestSetHasEveryAlgorithm(t *testing.T) {
	ks := &keystore.KeySet{Name: "web", Purpose: keystore.PurposeJWT}
	for i, alg := range []keystore.Algorithm{keystore.ES256, keystore.ES384, keystore.ES512, keystore.RS256, keystore.EdDSA} {
		ks.Versions = append(ks.Versions, version(t, i+1, keystore.Retiring, alg))
	}
	body, _, err := Set(ks, all)
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(body, &set); err != nil {
		t.Fatal(err)
	}
	for i, k := range set.Keys {
		want, err := ks.Versions[i].Public()
		if err != nil {
			t.Fatal(err)
		}
		if !want.(interface{ Equal(crypto.PublicKey) bool }).Equal(k.Key) || k.Algorithm != string(ks.Versions[i].Algorithm) {
			t.Errorf("%s: %+v", ks.Versions[i].Algorithm, k)
		}
	}
}

func TestSetRefuses(t *testing.T) {
	good := func() *keystore.KeySet {
		return &keystore.KeySet{Name: "web", Purpose: keystore.PurposeJWT,
			Versions: []keystore.Version{version(t, 1, keystore.Active, keystore.ES256)}}
	}
	for name, change := range map[string]func(*keystore.KeySet){
		"A05 a CA's keys":               func(ks *keystore.KeySet) { ks.Purpose = keystore.PurposeCA },
		"A05 keys for digests":          func(ks *keystore.KeySet) { ks.Purpose = keystore.PurposeDigest },
		"no purpose":                    func(ks *keystore.KeySet) { ks.Purpose = "" },
		"a row with another's kid":      func(ks *keystore.KeySet) { ks.Versions[0].KID = "x" },
		"a row with another algorithm":  func(ks *keystore.KeySet) { ks.Versions[0].Algorithm = keystore.RS256 },
		"a row with another's key":      func(ks *keystore.KeySet) { ks.Versions[0].SPKI = version(t, 2, keystore.Active, keystore.ES256).SPKI },
		"a row without key":             func(ks *keystore.KeySet) { ks.Versions[0].SPKI = nil },
		"a row with half a key":         func(ks *keystore.KeySet) { ks.Versions[0].SPKI = ks.Versions[0].SPKI[:40] },
		"no version known to the world": func(ks *keystore.KeySet) { ks.Versions[0].State = keystore.Retired },
	} {
		ks := good()
		change(ks)
		if body, _, err := Set(ks, all); err == nil {
			t.Errorf("%s: %s", name, body)
		}
	}
	if _, _, err := Set(good(), func(keystore.KID) bool { return false }); !errors.Is(err, ErrEmpty) {
		t.Errorf("nothing proven: %v", err)
	}
}

func TestMaxAgeIsThatInForce(t *testing.T) {
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	promises := []keystore.Promise{
		{At: start, MaxAge: time.Hour, CacheFor: 10 * time.Minute},
		{At: start.Add(time.Hour), MaxAge: 90 * time.Second, CacheFor: time.Minute},
	}
	for after, want := range map[time.Duration]time.Duration{
		time.Hour:                 90 * time.Second, // the old A still counts
		time.Hour + time.Minute:   90 * time.Second,
		2*time.Hour - time.Second: time.Minute,
	} {
		if got := MaxAge(promises, start.Add(after)); got != want {
			t.Errorf("after %v: %v, want %v", after, got, want)
		}
	}
	if got := MaxAge(promises[:1], start); got != 10*time.Minute {
		t.Errorf("more than A: %v", got)
	}
	if got := MaxAge(nil, start); got != 0 {
		t.Errorf("nothing promised: %v", got)
	}
}

func TestDiscoveryListsEveryAlgorithmFromTheFirstDay(t *testing.T) {
	ks := &keystore.KeySet{Algorithm: keystore.EdDSA, Announced: []keystore.Algorithm{keystore.PS256, keystore.ES256}, Versions: []keystore.Version{{Algorithm: keystore.RS256}, {Algorithm: keystore.EdDSA}}}
	algs := Algorithms(ks)
	if !slices.Equal(algs, []keystore.Algorithm{keystore.ES256, keystore.RS256, keystore.PS256, keystore.EdDSA}) {
		t.Errorf("algorithms %v", algs)
	}
	body, etag, err := Discovery("http://localhost:1/issuers/web", "http://localhost:1/issuers/web/jwks.json", "http://localhost:1/issuers/web/history", algs)
	want := `{"issuer":"http://localhost:1/issuers/web","jwks_uri":"http://localhost:1/issuers/web/jwks.json",` +
		`"response_types_supported":["id_token"],"subject_types_supported":["public"],` +
		`"id_token_signing_alg_values_supported":["ES256","RS256","PS256","EdDSA"],` +
		`"federation_historical_keys_endpoint":"http://localhost:1/issuers/web/history"}`
	if err != nil || string(body) != want || etag != ETag(body) {
		t.Errorf("%s, %v", body, err)
	}
	if _, _, err := Discovery("", "x", "x", algs); err == nil {
		t.Error("metadata without issuer")
	}
}
