package main

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"

	"chancery/keystore"
	"chancery/signer/api"
)

// handleDigestKeys adds a fake's key set of purpose digest, whose key is that of its
// root.
func (f *fake) handleDigestKeys(handle func(pattern, role string, do func(*http.Request) (int, any, error))) {
	handle("GET /v1/keysets/release", "", func(*http.Request) (int, any, error) {
		der, err := x509.MarshalPKIXPublicKey(f.rootKey.Public())
		ks := api.KeySet{Name: "release", Purpose: "digest", Algorithm: "ES256", Keystore: "hsm", Versions: []api.Version{
			{Version: 1, KID: "gone", State: "retired", Algorithm: "ES256"},
			{Version: 2, KID: "signs", State: "active", Algorithm: "ES256", PublicKey: string(pemOf("PUBLIC KEY", der))},
		}}
		if f.mode == "unasked" {
			return 0, nil, api.Errorf(api.CodeForbidden, "not permitted")
		}
		return 200, ks, err
	})
}

func (f *fake) signDigest(r *http.Request) (int, any, error) {
	var req api.SignDigestRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return 0, nil, err
	}
	if req.KeySet != "release" {
		return 0, nil, api.Errorf(api.CodeForbidden, "not permitted")
	}
	digest, err := base64.StdEncoding.DecodeString(req.Digest)
	if err != nil || len(digest) != 32 {
		return 0, nil, api.Errorf(api.CodeMalformed, `"digest" has %d bytes`, len(digest))
	}
	sig, err := ecdsa.SignASN1(rand.Reader, f.rootKey, digest)
	if err == nil && req.Format == api.FormatRaw {
		sig, err = keystore.SignatureJOSE(keystore.ES256, sig)
	}
	if err != nil {
		return 0, nil, err
	}
	return 200, api.SignDigestReply{Signature: base64.StdEncoding.EncodeToString(sig), KID: "signs", Algorithm: "ES256", Entry: "localhost/audit/dev/acts/2026-11#7"}, nil
}
