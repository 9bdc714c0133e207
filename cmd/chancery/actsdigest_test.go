package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"os"

	"github.com/rogpeppe/go-internal/testscript"

	"chancery/keystore"
	"chancery/signer/api"
)

// makeDigests writes a log of digests that were signed into DIR, and the kid of their
// key into KID.
func makeDigests(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(writeActsBy(context.Background(), dir, func(l *actsLog) { ts.Setenv("KID", string(l.digests())) }))
}

// digests enters digests that were signed, and writes the replies.
func (l *actsLog) digests() keystore.KID {
	key, other := newAuthority().key, newAuthority().key
	kid := l.publish("release", keystore.PurposeDigest, 1, key.Public())
	rec := keystore.Record{
		Principal: "dev:spiffe:spiffe://chancery.dev/release", Action: keystore.ActSignDigest, KeySet: "release", KID: kid, Version: 1,
		State: "active", Rule: "release", Policy: "p", Request: "q",
	}
	enter := func(id string, sig []byte, last keystore.Outcome) {
		hash, err := keystore.SignatureHash(keystore.ES256, sig)
		l.err = errors.Join(l.err, err)
		rec.ID, rec.Outcome, rec.Detail = id, keystore.OutcomeIntent, map[string]string{"format": "der"}
		l.act(rec)
		rec.Outcome, rec.Detail = keystore.OutcomeDone, map[string]string{"format": "der", "signature": hash}
		l.act(rec)
		if last == keystore.OutcomeRefused {
			rec.Outcome, rec.Reason = last, "suspended"
			l.act(rec)
		}
	}
	made, withheld := l.signature(key), l.signature(key)
	enter("d1", made, keystore.OutcomeDone)
	enter("d2", withheld, keystore.OutcomeRefused)

	der, err := keystore.SignatureASN1(keystore.ES256, made)
	l.err = errors.Join(l.err, err)
	s := new(big.Int).SetBytes(made[32:])
	turned := append(append([]byte(nil), made[:32]...), new(big.Int).Sub(keystore.ES256.Curve().Params().N, s).FillBytes(make([]byte, 32))...)
	for name, reply := range map[string]api.SignDigestReply{
		"signature":      {Signature: base64.StdEncoding.EncodeToString(der), KID: string(kid)},
		"turned":         {Signature: base64.StdEncoding.EncodeToString(turned), KID: string(kid)},
		"othersignature": {Signature: base64.StdEncoding.EncodeToString(l.signature(other)), KID: string(kid)},
		"otherkey":       {Signature: base64.StdEncoding.EncodeToString(der), KID: "another"},
		"withheld":       {Signature: base64.StdEncoding.EncodeToString(withheld), KID: string(kid)},
	} {
		reply.Algorithm, reply.Entry = "ES256", "localhost:8443/audit/dev/acts/2026-11#1"
		line, err := json.Marshal(reply)
		l.err = errors.Join(l.err, err)
		l.file(name+".json", append(line, '\n'))
	}
	return kid
}

// signature signs a digest, in JOSE form.
func (l *actsLog) signature(key *ecdsa.PrivateKey) []byte {
	r, s, err := ecdsa.Sign(rand.Reader, key, make([]byte, 32))
	if err != nil {
		l.err = errors.Join(l.err, err)
		return make([]byte, 64)
	}
	return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
}
