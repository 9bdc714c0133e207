package transittest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // the hashes that crypto.Hash.New makes here
	_ "crypto/sha256"
	_ "crypto/sha3"
	_ "crypto/sha512"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/http"
	"strconv"
	"strings"
)

// hashes are Vault's names; 0 stands for none.
var hashes = map[string]crypto.Hash{
	"none": 0, "sha1": crypto.SHA1, "sha2-224": crypto.SHA224, "sha2-256": crypto.SHA256, "sha2-384": crypto.SHA384, "sha2-512": crypto.SHA512,
	"sha3-224": crypto.SHA3_224, "sha3-256": crypto.SHA3_256, "sha3-384": crypto.SHA3_384, "sha3-512": crypto.SHA3_512,
}

// A signRequest is what holds for all inputs of a request to sign.
type signRequest struct {
	version   int
	prehashed bool
	hash      crypto.Hash
	jws       bool
	algorithm string // of RSA: pss, pkcs1v15
	salt      int
}

func newSignRequest(c *call) (s signRequest, err error) {
	s.version, s.prehashed, s.algorithm = field[int](c, "key_version"), field[bool](c, "prehashed"), field[string](c, "signature_algorithm")
	var known bool
	hash := c.args[1]
	for _, other := range []string{field[string](c, "hash_algorithm"), field[string](c, "algorithm"), "sha2-256"} {
		if hash == "" {
			hash = other
		}
	}
	if s.hash, known = hashes[hash]; !known {
		return s, refuse(http.StatusBadRequest, "invalid hash algorithm %q", hash)
	}
	marshaling, said := c.data["marshaling_algorithm"].(string)
	if s.jws = marshaling == "jws"; said && !s.jws && marshaling != "asn1" {
		return s, refuse(http.StatusBadRequest, "invalid marshaling type %q", marshaling)
	}
	salt, said := c.data["salt_length"].(string)
	switch strings.ToLower(salt) {
	case "auto":
		s.salt = rsa.PSSSaltLengthAuto
	case "hash":
		s.salt = rsa.PSSSaltLengthEqualsHash
	default:
		if !said {
			break
		}
		if s.salt, err = strconv.Atoi(salt); err != nil {
			return s, refuse(http.StatusBadRequest, "salt length neither 'auto', 'hash', nor an int: %s", salt)
		}
		if s.salt < rsa.PSSSaltLengthEqualsHash {
			return s, refuse(http.StatusBadRequest, "salt length is invalid: %d", s.salt)
		}
	}
	return s, nil
}

// sign answers MOUNT/sign/NAME. It signs while it does not hold mu, as RSA takes
// its time.
func (f *FakeServer) sign(m *mount, c *call) (*reply, error) {
	s, err := newSignRequest(c)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	k := m.keys[c.args[0]]
	var now transitKey
	versions := make(map[int]keyVersion)
	if k != nil {
		now = *k
		for n, v := range k.versions {
			versions[n] = v
		}
		now.versions = versions
	}
	f.mu.Unlock()
	switch {
	case k == nil:
		return nil, refuse(http.StatusBadRequest, "signing key not found")
	case now.kind == "aes256-gcm96":
		return nil, refuse(http.StatusBadRequest, "key type %s does not support signing", now.kind)
	case s.hash == 0 && (!s.prehashed || s.algorithm != "pkcs1v15"):
		return nil, refuse(http.StatusBadRequest, "hash_algorithm=none requires both prehashed=true and signature_algorithm=pkcs1v15")
	}
	if batch, ok := c.data["batch_input"].([]any); ok {
		return signBatch(&now, s, batch)
	}
	signature, version, err := s.sign(&now, field[string](c, "input"))
	if err != nil {
		return nil, err
	}
	return &reply{data: map[string]any{"signature": signature, "key_version": version}}, nil
}

func signBatch(k *transitKey, s signRequest, batch []any) (*reply, error) {
	if len(batch) == 0 {
		return nil, refuse(http.StatusBadRequest, "missing batch input to process")
	}
	results := make([]any, 0, len(batch))
	for _, item := range batch {
		result := map[string]any{"reference": "", "key_version": 0}
		fields, _ := item.(map[string]any)
		if ref, ok := fields["reference"].(string); ok {
			result["reference"] = ref
		}
		if input, ok := fields["input"].(string); !ok {
			result["error"] = "missing input"
		} else if signature, version, err := s.sign(k, input); err != nil {
			result["error"] = plain(err)
		} else {
			result["signature"], result["key_version"] = signature, version
		}
		results = append(results, result)
	}
	return &reply{data: map[string]any{"batch_results": results}}, nil
}

// plain is the text of an error without the list around it.
func plain(err error) string {
	if f, ok := err.(*failure); ok {
		return f.texts[0]
	}
	return err.Error()
}

func (s signRequest) sign(k *transitKey, encoded string) (signature string, version int, err error) {
	input, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", 0, refuse(http.StatusBadRequest, "unable to decode input: %s", err)
	}
	if k.kind == "ed25519" {
		switch {
		case s.prehashed:
			return "", 0, refuse(http.StatusBadRequest, "failed to parse batch item: only Pure Ed25519 signatures supported, prehashed must be false")
		case s.hash == crypto.SHA512:
			return "", 0, refuse(http.StatusBadRequest, "failed to parse batch item: only Pure Ed25519 signatures supported, hash_alogithm should not be set")
		}
	} else if !s.prehashed {
		h := s.hash.New()
		h.Write(input)
		input = h.Sum(nil)
	}
	version = s.version
	problem := ""
	switch {
	case version == 0:
		version = k.latest
	case version < 0:
		problem = "requested version for signing is negative"
	case version > k.latest:
		problem = "requested version for signing is higher than the latest key version"
	case k.minEncryption > 0 && version < k.minEncryption:
		problem = "requested version for signing is less than the minimum encryption key version"
	case version < k.minDecryption:
		problem = "no such key version"
	}
	if problem != "" {
		return "", 0, fail(http.StatusInternalServerError, problem)
	}
	raw, err := s.with(k.versions[version].key, input)
	if err != nil {
		return "", 0, fail(http.StatusInternalServerError, err.Error())
	}
	encoding := base64.StdEncoding
	if s.jws {
		encoding = base64.RawURLEncoding
	}
	return fmt.Sprintf("vault:v%d:%s", version, encoding.EncodeToString(raw)), version, nil
}

// with signs a digest, or the message if the key is an Ed25519 key.
func (s signRequest) with(key crypto.Signer, input []byte) ([]byte, error) {
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		der, err := ecdsa.SignASN1(rand.Reader, key, input)
		if err != nil || !s.jws {
			return der, err
		}
		return concatenated(der, (key.Curve.Params().BitSize+7)/8)
	case ed25519.PrivateKey:
		return ed25519.Sign(key, input), nil
	case *rsa.PrivateKey:
		switch s.algorithm {
		case "", "pss":
			if s.salt > key.Size()-2-s.hash.Size() {
				return nil, fmt.Errorf("requested salt length %d is invalid", s.salt)
			}
			return rsa.SignPSS(rand.Reader, key, s.hash, input, &rsa.PSSOptions{SaltLength: s.salt})
		case "pkcs1v15":
			return rsa.SignPKCS1v15(rand.Reader, key, s.hash, input)
		}
		return nil, fmt.Errorf("unsupported rsa signature algorithm %s", s.algorithm)
	}
	return nil, fmt.Errorf("a %T cannot sign", key)
}

// concatenated makes the signature of JWS of one of X.509: r and s, each of size
// bytes.
func concatenated(der []byte, size int) ([]byte, error) {
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &rs); err != nil {
		return nil, err
	}
	out := make([]byte, 2*size)
	rs.R.FillBytes(out[:size])
	rs.S.FillBytes(out[size:])
	return out, nil
}
