// Package jwks makes what verifiers fetch: the published key set (RFC 7517) and
// the metadata that leads to it. It is a pure function of a key set, of which
// keys this node has seen proven, and of the time.
//
//	body, etag, err := jwks.Set(set, proven)                 // application/jwk-set+json
//	maxAge := jwks.MaxAge(set.Promises, now)                 // Cache-Control
//	doc, etag, err := jwks.Discovery(issuer, uri, historyURI, jwks.Algorithms(set))
//	past, err := jwks.Historical(keys)                       // what is signed of keys it had
//
// A set has every version the world knows and this node has seen proven, by
// number. A key is in it with these members, and nothing of its private half
// was ever here:
//
//	{"use":"sig","kty":…,"kid":THUMBPRINT,"alg":ALG, and its public numbers}
package jwks

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"

	"chancery/keystore"
)

// ErrEmpty: no version of the key set can be published. An empty set is not
// served: a cache would hold it as long as a good one. One that is Emptied is.
var ErrEmpty = errors.New("no key to publish")

// Set returns the JWK set of ks and its entity tag. It has the versions that are
// known to the world, not compromised, and proven: those whose row a signature
// by the token has borne out on this node. The same versions give the same
// bytes. It returns an error wrapping ErrEmpty if there are none and ks is not
// Emptied, and another if ks is not of purpose jwt or one of its rows contradicts itself.
func Set(ks *keystore.KeySet, proven func(keystore.KID) bool) (body []byte, etag string, err error) {
	if ks.Purpose != keystore.PurposeJWT {
		return nil, "", fmt.Errorf("key set %q is of purpose %q and has no JWK set", ks.Name, ks.Purpose)
	}
	var set jose.JSONWebKeySet
	for _, v := range ks.Known() {
		if !proven(v.KID) {
			continue
		}
		key, err := public(v)
		if err != nil {
			return nil, "", fmt.Errorf("key set %q version %d: %w", ks.Name, v.Number, err)
		}
		set.Keys = append(set.Keys, key)
	}
	if len(set.Keys) == 0 && Emptied(ks) {
		set.Keys = []jose.JSONWebKey{}
	} else if len(set.Keys) == 0 {
		return nil, "", fmt.Errorf("key set %q: %w", ks.Name, ErrEmpty)
	}
	return encode(set)
}

// Emptied reports whether every version that was served has left the set because
// of a compromise. Then the set is served without any: whoever gets no answer
// instead may go on with the one it has.
func Emptied(ks *keystore.KeySet) bool {
	for _, v := range ks.Known() {
		if !v.ServedAt.IsZero() {
			return false
		}
	}
	return !ks.ServedAt.IsZero() && slices.ContainsFunc(ks.Versions, func(v keystore.Version) bool { return v.Compromised != nil })
}

// public returns v as a JWK, if its row agrees with itself.
func public(v *keystore.Version) (jose.JSONWebKey, error) {
	pub, err := v.Public()
	if err != nil {
		return jose.JSONWebKey{}, fmt.Errorf("reading its public key: %w", err)
	}
	if err := v.Algorithm.Fits(pub); err != nil {
		return jose.JSONWebKey{}, err
	}
	kid, err := keystore.Thumbprint(pub)
	if err != nil {
		return jose.JSONWebKey{}, err
	}
	if kid != v.KID {
		return jose.JSONWebKey{}, errors.New("its kid is not the thumbprint of its public key")
	}
	return jose.JSONWebKey{Key: pub, KeyID: string(kid), Algorithm: string(v.Algorithm), Use: "sig"}, nil
}

func encode(v any) (body []byte, etag string, err error) {
	if body, err = json.Marshal(v); err != nil {
		return nil, "", fmt.Errorf("writing JSON: %w", err)
	}
	return body, ETag(body), nil
}

// ETag returns the strong entity tag of body, quotes included (RFC 9110 Section
// 8.8.3).
func ETag(body []byte) string {
	sum := sha256.Sum256(body)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
}

// MaxAge returns the max-age to send with a set at now: what was configured
// last, and never more than the cache time that is in force (rotation rule 3).
// It is in whole seconds.
func MaxAge(promises []keystore.Promise, now time.Time) time.Duration {
	return keystore.InForce(promises, now).MaxAge.Truncate(time.Second)
}

// Algorithms returns every algorithm the key set may ever use: those announced
// from its first day, its own, and those of its versions. Some verifiers read
// the list once (rotation rule 11). The order is fixed.
func Algorithms(ks *keystore.KeySet) []keystore.Algorithm {
	may := append(slices.Clone(ks.Announced), ks.Algorithm)
	for i := range ks.Versions {
		may = append(may, ks.Versions[i].Algorithm)
	}
	return slices.DeleteFunc(keystore.Algorithms(), func(a keystore.Algorithm) bool { return !slices.Contains(may, a) })
}

// metadata is what OpenID Connect Discovery 1.0 Section 3 and RFC 8414 Section 2
// require of it and a verifier reads; it is not a conformant OpenID provider's.
type metadata struct {
	Issuer        string               `json:"issuer"`
	JWKSURI       string               `json:"jwks_uri"`
	ResponseTypes []string             `json:"response_types_supported"`
	SubjectTypes  []string             `json:"subject_types_supported"`
	Algorithms    []keystore.Algorithm `json:"id_token_signing_alg_values_supported"`
	// History is metadata of a federation entity (OpenID Federation 1.0 Section
	// 5.1.1). It stands here, where others pass over it, since this is where whoever
	// has nothing but a token's issuer looks.
	History string `json:"federation_historical_keys_endpoint"`
}

// Discovery returns the metadata of an issuer and its entity tag. issuer is
// exactly what tokens carry in iss. historyURI is where its historical keys are,
// once it has some.
func Discovery(issuer, jwksURI, historyURI string, algs []keystore.Algorithm) (body []byte, etag string, err error) {
	if issuer == "" || jwksURI == "" || historyURI == "" || len(algs) == 0 {
		return nil, "", errors.New("metadata needs an issuer, the addresses of its JWK sets, and an algorithm")
	}
	return encode(metadata{
		Issuer: issuer, JWKSURI: jwksURI, History: historyURI, Algorithms: algs,
		ResponseTypes: []string{"id_token"}, SubjectTypes: []string{"public"},
	})
}
