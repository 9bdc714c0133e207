package transittest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
)

// publicKey reads version 1 of a key.
func publicKey(t *testing.T, s *Server, path string) crypto.PublicKey {
	t.Helper()
	data := s.Call(t, "GET", path, nil)["data"].(map[string]any)
	text := data["keys"].(map[string]any)["1"].(map[string]any)["public_key"].(string)
	if data["type"] == "ed25519" {
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return ed25519.PublicKey(raw)
	}
	block, _ := pem.Decode([]byte(text))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return public
}

func TestSignaturesVerify(t *testing.T) {
	message := []byte("what is signed")
	cases := []struct {
		kind, hash string
		request    map[string]any
		salt       int
	}{
		{"ecdsa-p256", "sha2-256", map[string]any{}, 0},
		{"ecdsa-p256", "sha2-256", map[string]any{"marshaling_algorithm": "jws"}, 0},
		{"ecdsa-p384", "sha2-384", map[string]any{"marshaling_algorithm": "jws"}, 0},
		{"ecdsa-p521", "sha2-512", map[string]any{"marshaling_algorithm": "jws"}, 0},
		{"ecdsa-p521", "sha3-512", map[string]any{}, 0},
		{"ed25519", "", map[string]any{}, 0},
		{"rsa-2048", "sha2-256", map[string]any{"signature_algorithm": "pkcs1v15"}, 0},
		{"rsa-2048", "sha2-512", map[string]any{"signature_algorithm": "pss", "salt_length": "hash"}, rsa.PSSSaltLengthEqualsHash},
		{"rsa-2048", "sha2-384", map[string]any{}, 256 - 48 - 2},
		{"rsa-2048", "sha2-256", map[string]any{"salt_length": "20"}, 20},
		{"rsa-3072", "sha2-256", map[string]any{"signature_algorithm": "pkcs1v15"}, 0},
	}
	Either(t, func(t *testing.T, s *Server) {
		mount := s.Mount(t)
		for _, c := range cases {
			key := mount + "/keys/" + c.kind
			s.Call(t, "POST", key, map[string]any{"type": c.kind})
			for _, prehashed := range []bool{false, true} {
				if prehashed && c.kind == "ed25519" {
					continue
				}
				digest := message
				request := map[string]any{"input": base64.StdEncoding.EncodeToString(message), "prehashed": prehashed}
				for k, v := range c.request {
					request[k] = v
				}
				if c.hash != "" {
					h := hashes[c.hash].New()
					h.Write(message)
					digest, request["hash_algorithm"] = h.Sum(nil), c.hash
				}
				if prehashed {
					request["input"] = base64.StdEncoding.EncodeToString(digest)
				}
				data := s.Call(t, "POST", mount+"/sign/"+c.kind, request)["data"].(map[string]any)
				text, _ := strings.CutPrefix(data["signature"].(string), "vault:v1:")
				if !verifies(publicKey(t, s, key), hashes[c.hash], digest, text, c.request, c.salt) {
					t.Errorf("%s %v: the signature does not verify (prehashed: %t)", c.kind, c.request, prehashed)
				}
			}
		}
	})
}

func verifies(public crypto.PublicKey, hash crypto.Hash, digest []byte, text string, request map[string]any, salt int) bool {
	jws := request["marshaling_algorithm"] == "jws"
	encoding := base64.StdEncoding
	if jws {
		encoding = base64.RawURLEncoding
	}
	signature, err := encoding.DecodeString(text)
	if err != nil {
		return false
	}
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		if !jws {
			return ecdsa.VerifyASN1(public, digest, signature)
		}
		n := len(signature) / 2
		if size := (public.Params().BitSize + 7) / 8; n != size || len(signature) != 2*size {
			return false
		}
		return ecdsa.Verify(public, digest, new(big.Int).SetBytes(signature[:n]), new(big.Int).SetBytes(signature[n:]))
	case ed25519.PublicKey:
		return ed25519.Verify(public, digest, signature)
	case *rsa.PublicKey:
		if request["signature_algorithm"] == "pkcs1v15" {
			return rsa.VerifyPKCS1v15(public, hash, digest, signature) == nil
		}
		return rsa.VerifyPSS(public, hash, digest, signature, &rsa.PSSOptions{SaltLength: salt}) == nil
	}
	return false
}
