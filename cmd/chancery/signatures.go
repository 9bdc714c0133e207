package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// issuedSignature reads the reply to a digest that was signed. The log knows the
// signature by its hash; in which form it was asked for does not matter.
func issuedSignature(text string) (*issued, error) {
	var reply api.SignDigestReply
	err := api.Object([]byte(text), api.Limits{Bytes: longestToken}, func(name, value []byte) error {
		to, ok := map[string]*string{"signature": &reply.Signature, "kid": &reply.KID, "algorithm": &reply.Algorithm}[string(name)]
		if !ok {
			return nil
		}
		return json.Unmarshal(value, to)
	})
	if err != nil {
		return nil, fmt.Errorf("reply to a digest: %w", err)
	}
	alg, err := keystore.ParseAlgorithm(reply.Algorithm)
	if err != nil {
		return nil, fmt.Errorf("reply to a digest: %w", err)
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(reply.Signature)
	if err != nil || len(sig) == 0 || reply.KID == "" {
		return nil, errors.New("reply to a digest: without a kid, or a signature in base64")
	}
	if jose, err := keystore.SignatureJOSE(alg, sig); err == nil {
		sig = jose
	}
	hash, err := keystore.SignatureHash(alg, sig)
	if err != nil {
		return nil, fmt.Errorf("reply to a digest: %w", err)
	}
	return &issued{digest: hash, kid: keystore.KID(reply.KID)}, nil
}

// signatureIn returns the hash of the signature that e, of a digest, has made.
func signatureIn(e *audit.Entry) string {
	if e.Action != keystore.ActSignDigest {
		return ""
	}
	return e.Detail["signature"]
}
