package signer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"chancery/keystore"
	"chancery/signer/api"
)

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func digestOf(alg keystore.Algorithm, text string) api.SignDigestRequest {
	return api.SignDigestRequest{KeySet: "release", Digest: b64(keystore.Digest(alg, []byte(text)))}
}

func unb64(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The intent is durable before the key is asked, the outcome before the reply.
func TestOrderOfADigest(t *testing.T) {
	w := newWorld(t)
	reply, err := w.SignDigest(t.Context(), releaser, digestOf(keystore.ES256, "a release"))
	if err != nil {
		t.Fatal(err)
	}
	w.traced(t, "health", "view", "open", "act intent", "sign", "act done", "view")
	if reply.KID != string(w.active("release")) || reply.Algorithm != "ES256" || reply.Entry != "log#1" {
		t.Errorf("reply %+v", reply)
	}
	intent, done := w.log.entries[0], w.log.entries[1]
	for _, e := range []keystore.Record{intent, done} {
		if e.Action != keystore.ActSignDigest || e.Principal != releaser.String() || e.KeySet != "release" || string(e.KID) != reply.KID || e.Version != 1 ||
			e.State != "active" || e.Rule != "release" || e.Policy == "" || e.Request == "" || e.Use != 1 || e.Detail["format"] != "der" {
			t.Errorf("entry %+v", e)
		}
	}
	if intent.Outcome != keystore.OutcomeIntent || done.Outcome != keystore.OutcomeDone || intent.ID != done.ID || len(done.ID) != 32 {
		t.Errorf("entries %+v, %+v", intent, done)
	}
	jose, err := keystore.SignatureJOSE(keystore.ES256, unb64(t, reply.Signature))
	if err != nil {
		t.Fatal(err)
	}
	if hash, err := keystore.SignatureHash(keystore.ES256, jose); err != nil || done.Detail["signature"] != hash {
		t.Errorf("the entry has the signature as %q, it is %q: %v", done.Detail["signature"], hash, err)
	}
	if strings.Contains(done.Request+intent.Request, digestOf(keystore.ES256, "a release").Digest) {
		t.Error("the digest itself is in the log")
	}
}

// Each algorithm but EdDSA, in both forms, as the standard library verifies them.
func TestDigestsVerify(t *testing.T) {
	for _, alg := range keystore.Algorithms() {
		if alg.Hash() == 0 {
			continue
		}
		t.Run(string(alg), func(t *testing.T) {
			w := newWorld(t)
			w.add(t, "release", keystore.PurposeDigest, alg)
			v, _ := w.sets["release"].Active()
			pub, err := v.Public()
			if err != nil {
				t.Fatal(err)
			}
			req := digestOf(alg, "what was digested")
			digest := unb64(t, req.Digest)
			for _, format := range []string{"", api.FormatDER, api.FormatRaw} {
				req.Format = format
				reply, err := w.SignDigest(t.Context(), releaser, req)
				if err != nil {
					t.Fatal(err)
				}
				sig := unb64(t, reply.Signature)
				if format == api.FormatRaw {
					if err := keystore.VerifyDigest(alg, pub, digest, sig); err != nil {
						t.Errorf("raw: %v", err)
					}
					continue
				}
				if !verifiesAsX509Does(alg, pub, digest, sig) {
					t.Errorf("format %q does not verify", format)
				}
			}
		})
	}
}

func verifiesAsX509Does(alg keystore.Algorithm, pub crypto.PublicKey, digest, sig []byte) bool {
	if k, ok := pub.(*ecdsa.PublicKey); ok {
		return ecdsa.VerifyASN1(k, digest, sig)
	}
	k, ok := pub.(*rsa.PublicKey)
	if !ok {
		return false
	}
	if alg.IsPSS() {
		return rsa.VerifyPSS(k, alg.Hash(), digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	}
	return rsa.VerifyPKCS1v15(k, alg.Hash(), digest, sig) == nil
}

// P24: a digest that is not exactly as long as the hash of the key is refused
// before the keystore is touched. So is what has a second spelling.
func TestP24DigestsOfAWrongLength(t *testing.T) {
	for alg, size := range map[keystore.Algorithm]int{keystore.ES256: 32, keystore.ES384: 48, keystore.ES512: 64, keystore.RS256: 32, keystore.PS512: 64} {
		w := newWorld(t)
		w.add(t, "release", keystore.PurposeDigest, alg)
		for n := range 80 {
			if n == size {
				continue
			}
			_, err := w.SignDigest(t.Context(), releaser, api.SignDigestRequest{KeySet: "release", Digest: b64(make([]byte, n))})
			wants(t, "a digest of another length", err, api.CodeMalformed)
		}
		good := b64(bytes.Repeat([]byte{0xfb}, size))
		for what, req := range map[string]api.SignDigestRequest{
			"no digest":          {},
			"base64url":          {Digest: base64.URLEncoding.EncodeToString(bytes.Repeat([]byte{0xfb}, size))},
			"a line break":       {Digest: good[:8] + "\n" + good[8:]},
			"white space":        {Digest: good + " "},
			"hexadecimal":        {Digest: strings.Repeat("ab", size)},
			"an unknown form":    {Digest: good, Format: "pem"},
			"a form in capitals": {Digest: good, Format: "DER"},
		} {
			req.KeySet = "release"
			_, err := w.SignDigest(t.Context(), releaser, req)
			wants(t, what, err, api.CodeMalformed)
		}
		if size%3 != 0 {
			_, err := w.SignDigest(t.Context(), releaser, api.SignDigestRequest{KeySet: "release", Digest: strings.TrimRight(good, "=")})
			wants(t, "no padding", err, api.CodeMalformed)
		}
		for _, did := range w.trace {
			if did == "open" || did == "sign" || strings.HasPrefix(did, "act") {
				t.Fatalf("%s: %q", alg, w.trace)
			}
		}
		if len(w.log.taken) != 0 {
			t.Errorf("%s: uses were numbered: %v", alg, w.log.taken)
		}
	}
}

// Wherever it fails, the log knows not less than what happened, and nothing leaves.
func TestDigestsThatFail(t *testing.T) {
	broken := errors.New("broken")
	change := func(f func(ks *keystore.KeySet)) func(w *world) {
		return func(w *world) { w.change("release", f) }
	}
	onAct := func(o keystore.Outcome, f func(w *world) error) func(w *world) {
		return func(w *world) {
			w.log.act = func(r keystore.Record) error {
				if r.Outcome == o {
					return f(w)
				}
				return nil
			}
		}
	}
	fails := func(*world) error { return broken }
	suspend := func(w *world) error {
		w.change("release", func(ks *keystore.KeySet) { ks.Versions[0].Suspended = &keystore.Fact{At: noon} })
		return nil
	}
	for _, c := range []struct {
		what    string
		before  func(w *world)
		code    api.Code
		signed  int
		entered string // the outcomes of its entries
	}{
		{"the log is down", func(w *world) { w.log.health = broken }, api.CodeAuditUnavailable, 0, ""},
		{"no number can be taken", func(w *world) { w.log.noTake = broken }, api.CodeAuditUnavailable, 0, ""},
		{"the intent cannot be entered", onAct(keystore.OutcomeIntent, fails), api.CodeAuditUnavailable, 0, ""},
		{"the outcome cannot be entered", onAct(keystore.OutcomeDone, fails), api.CodeAuditUnavailable, 1, "intent"},
		{"the lease has passed", func(w *world) { w.lease = broken }, api.CodeLeaseExpired, 0, ""},
		{"suspended", func(w *world) { _ = suspend(w) }, api.CodeKeySetSuspended, 0, ""},
		{"suspended before the release", onAct(keystore.OutcomeDone, suspend), api.CodeKeySetSuspended, 1, "intent done"},
		{"no version signs yet", change(func(ks *keystore.KeySet) { ks.Versions[0].State = keystore.Published }), api.CodeBackendUnavailable, 0, ""},
		{"the key does not open", func(w *world) { w.openErr = keystore.ErrUnavailable }, api.CodeBackendUnavailable, 0, ""},
		{"the keystore is full", func(w *world) { w.signErr = keystore.ErrOverloaded }, api.CodeOverloaded, 0, "intent failed"},
		{"the keystore may have signed", func(w *world) { w.signErr = keystore.ErrUnavailable }, api.CodeBackendUnavailable, 0, "intent unknown"},
		{"the signature is bad", func(w *world) { w.signErr = keystore.ErrSignature }, api.CodeSignatureInvalid, 0, "intent failed"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			c.before(w)
			reply, err := w.SignDigest(t.Context(), releaser, digestOf(keystore.ES256, "a release"))
			wants(t, c.what, err, c.code)
			if reply != (api.SignDigestReply{}) || w.signed != c.signed {
				t.Errorf("reply %+v, %d signatures", reply, w.signed)
			}
			var outcomes []string
			for _, e := range w.log.entries {
				outcomes = append(outcomes, string(e.Outcome))
			}
			if got := strings.Join(outcomes, " "); got != c.entered {
				t.Errorf("entered %q, want %q", got, c.entered)
			}
		})
	}
}

// A digest whose version a rotation ends before the release was refused as if the
// keystore were down. The successor signs it: what the first made never leaves, the log
// says so, and each key that was asked has its entries.
func TestDigestOvertaken(t *testing.T) {
	w := newWorld(t)
	rotate := w.successor(t, "release")
	var first keystore.KID
	w.log.act = func(r keystore.Record) error {
		if r.Outcome == keystore.OutcomeDone && first == "" {
			first = r.KID
			rotate()
		}
		return nil
	}
	reply, err := w.SignDigest(t.Context(), releaser, digestOf(keystore.ES256, "a release"))
	if err != nil || reply.KID != string(w.active("release")) || reply.KID == string(first) || reply.Entry != "log#3" {
		t.Fatalf("%+v, %v", reply, err)
	}
	if len(w.log.entries) != 4 || len(w.log.refused) != 1 {
		t.Fatalf("entries %+v, refused %+v", w.log.entries, w.log.refused)
	}
	withdrawn := w.log.refused[0]
	if withdrawn.ID != w.log.entries[1].ID || withdrawn.KID != first || withdrawn.Use != 0 || withdrawn.Code != string(api.CodeBackendUnavailable) {
		t.Errorf("withdrawn %+v", withdrawn)
	}
	for i, outcome := range []keystore.Outcome{keystore.OutcomeIntent, keystore.OutcomeDone} {
		a, b := w.log.entries[i], w.log.entries[2+i]
		if a.Outcome != outcome || b.Outcome != outcome || a.KID != first || string(b.KID) != reply.KID || a.ID == b.ID || a.Request != b.Request || b.Use != 1 {
			t.Errorf("entries %+v, %+v", a, b)
		}
	}
	if w.usesClosed(t, "overtaken"); w.signed != 2 {
		t.Errorf("%d signatures", w.signed)
	}
}

// One that is overtaken again and again is refused at last, and not beyond its time.
func TestDigestOvertakenForEver(t *testing.T) {
	w := newWorld(t)
	w.log.act = func(r keystore.Record) error {
		if r.Outcome == keystore.OutcomeDone {
			w.successor(t, "release")()
		}
		return nil
	}
	_, err := w.SignDigest(t.Context(), releaser, digestOf(keystore.ES256, "a release"))
	if e := wants(t, "overtaken each time", err, api.CodeBackendUnavailable); e.RetryAfter == 0 || w.signed != attempts || len(w.log.refused) != attempts {
		t.Errorf("%v, %d signatures, refused %+v", e, w.signed, w.log.refused)
	}
}

// A successor that signs digests of another length cannot sign this one, and says why.
func TestDigestOvertakenByAnotherAlgorithm(t *testing.T) {
	w := newWorld(t)
	w.log.act = func(r keystore.Record) error {
		if r.Outcome == keystore.OutcomeDone {
			w.add(t, "release", keystore.PurposeDigest, keystore.ES384)
		}
		return nil
	}
	_, err := w.SignDigest(t.Context(), releaser, digestOf(keystore.ES256, "a release"))
	wants(t, "another length", err, api.CodeMalformed)
	w.usesClosed(t, "another length")
}

// Who may not, what is not there and what is for something else look the same.
func TestDigestsForbidden(t *testing.T) {
	w := newWorld(t)
	digest := digestOf(keystore.ES256, "x").Digest
	var first string
	for what, c := range map[string]struct {
		who    string
		keyset string
	}{
		"no rule":                      {"issuer", "release"},
		"a key set there is not":       {"release", "gone"},
		"no key set":                   {"release", ""},
		"a key set for JWTs":           {"wild", "web"},
		"a key set of an authority":    {"wild", "devices-ca"},
		"nobody":                       {"nobody", "release"},
		"an operator, of all the keys": {"root", "release"},
	} {
		_, err := w.SignDigest(t.Context(), principal(c.who), api.SignDigestRequest{KeySet: c.keyset, Digest: digest})
		wants(t, what, err, api.CodeForbidden)
		if got := onWire(t, err); first == "" {
			first = got
		} else if got != first {
			t.Errorf("%s: %s, not %s", what, got, first)
		}
	}
	if w.signed != 0 || len(w.log.entries) != 0 {
		t.Errorf("%d signatures, entries %+v", w.signed, w.log.entries)
	}
}

// A key set that is configured no more signs no more, though the catalog has it.
func TestDigestsOfAKeySetThatIsConfiguredNoMore(t *testing.T) {
	w := newWorld(t)
	w.Digests = func(string) bool { return false }
	_, err := w.SignDigest(t.Context(), releaser, digestOf(keystore.ES256, "x"))
	wants(t, "not configured", err, api.CodeForbidden)
}

// A prepared digest is redeemed once.
func TestPreparedDigestOnce(t *testing.T) {
	p := &preparedDigest{digest: make([]byte, sha256.Size)}
	key := &tracedKey{newWorld(t).keys[""], newWorld(t)}
	key.w.signErr = errors.New("asked")
	if _, err := p.redeem(t.Context(), key); err == nil || err.Error() != "asked" {
		t.Errorf("first: %v", err)
	}
	if _, err := p.redeem(t.Context(), key); err == nil || err.Error() == "asked" {
		t.Errorf("second: %v", err)
	}
}
