package signer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/ca"
)

func csrFor(t testing.TB, names ...string) api.SignCSRRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	return api.SignCSRRequest{Authority: "devices", Profile: "tls", CSR: string(text)}
}

func certificate(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(rest) != 0 {
		t.Fatalf("%q is not one PEM block", text)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// S13: serial and intent are durable before the key is asked, the outcome
// before the reply.
func TestS13OrderOfACertificate(t *testing.T) {
	w := newWorld(t)
	reply, err := w.SignCSR(t.Context(), client, csrFor(t, "a.devices.test", "b.devices.test"), "")
	if err != nil {
		t.Fatal(err)
	}
	w.traced(t, "health", "view", "issuer", "ours", "open", "intend", "act intent", "sign", "act done", "finish", "view")

	cert := certificate(t, reply.Certificate)
	if len(reply.Chain) != 1 || !certificate(t, reply.Chain[0]).Equal(w.certs.issuer) || cert.CheckSignatureFrom(w.certs.issuer) != nil {
		t.Errorf("chain %q does not lead to the authority", reply.Chain)
	}
	serial := fmt.Sprintf("%x", cert.SerialNumber)
	intent, done := w.log.entries[0], w.log.entries[1]
	if reply.Serial != serial || reply.Entry != "log#1" || !reply.NotAfter.Equal(cert.NotAfter) {
		t.Errorf("reply %+v for serial %s", reply, serial)
	}
	for _, e := range []keystore.Record{intent, done} {
		if e.ID != serial || e.Serial != serial || e.KID != w.active("devices-ca") || e.KeySet != "devices-ca" || e.Version != 1 ||
			e.Rule != "ca" || e.NotAfter != cert.NotAfter.Unix() || e.Authority != "devices" || e.Profile != "tls" ||
			e.Principal != client.String() || e.Detail["names"] != "2" || e.Request == "" || e.Use != 1 {
			t.Errorf("entry %+v", e)
		}
	}
	if intent.Outcome != keystore.OutcomeIntent || done.Outcome != keystore.OutcomeDone {
		t.Errorf("outcomes %s, %s", intent.Outcome, done.Outcome)
	}
	kept := w.certs.intents[serial]
	if !slices.Equal(kept.Names, cert.DNSNames) || kept.SPKIHash != keystore.HashSPKI(cert.RawSubjectPublicKeyInfo) ||
		!kept.NotBefore.Equal(cert.NotBefore) || !kept.NotAfter.Equal(cert.NotAfter) || kept.Principal != client.String() || kept.Version != 1 {
		t.Errorf("kept %+v of %v", kept, cert.DNSNames)
	}
	if w.certs.finished[serial] != keystore.OutcomeDone || string(w.certs.der) != string(cert.Raw) {
		t.Errorf("finished as %q", w.certs.finished[serial])
	}
}

// Wherever it fails, what is known afterwards is not less than what happened.
func TestCertificatesThatFail(t *testing.T) {
	broken := errors.New("broken")
	fact := &keystore.Fact{At: noon}
	suspend := func(w *world) {
		w.change("devices-ca", func(ks *keystore.KeySet) { ks.Versions[0].Suspended = fact })
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
	const down = keystore.OutcomeUnknown
	for _, c := range []struct {
		what    string
		before  func(w *world)
		code    api.Code
		signed  int
		intents int              // rows with the serial
		outcome keystore.Outcome // of the row; empty: stays an intent, which counts as issued
	}{
		{"the log is down", func(w *world) { w.log.health = broken }, api.CodeAuditUnavailable, 0, 0, ""},
		{"the lease has passed", func(w *world) { w.lease = broken }, api.CodeLeaseExpired, 0, 0, ""},
		{"suspended", suspend, api.CodeKeySetSuspended, 0, 0, ""},
		{"no certificate of the authority yet", func(w *world) { w.certs.fail["issuer"] = fmt.Errorf("v1: %w", keystore.ErrNotFound) }, api.CodeBackendUnavailable, 0, 0, ""},
		{"the catalog cannot say whose key it is", func(w *world) { w.certs.fail["ours"] = broken }, api.CodeBackendUnavailable, 0, 0, ""},
		{"the serial was there before", func(w *world) { w.certs.fail["intend"] = keystore.ErrExists }, api.CodeInternal, 0, 0, ""},
		{"the catalog is busy", func(w *world) { w.certs.fail["intend"] = keystore.ErrUnavailable }, api.CodeBackendUnavailable, 0, 0, ""},
		{"the intent is not entered", onAct(keystore.OutcomeIntent, fails), api.CodeAuditUnavailable, 0, 1, ""},
		{"the key does not open", func(w *world) { w.openErr = keystore.ErrNotFound }, api.CodeBackendUnavailable, 0, 0, ""},
		{"its use has no number", func(w *world) { w.log.noTake = broken }, api.CodeAuditUnavailable, 0, 0, ""},
		{"the token is gone while it signs", func(w *world) { w.signErr = keystore.ErrUnavailable }, api.CodeBackendUnavailable, 0, 1, down},
		{"the deadline passes while it signs", func(w *world) { w.signErr = context.DeadlineExceeded }, api.CodeBackendUnavailable, 0, 1, down},
		{"the signature is wrong", func(w *world) { w.signErr = keystore.ErrSignature }, api.CodeSignatureInvalid, 0, 1, keystore.OutcomeFailed},
		{"nor can the failure be entered", func(w *world) {
			w.signErr = keystore.ErrSignature
			onAct(keystore.OutcomeFailed, fails)(w)
		}, api.CodeAuditUnavailable, 0, 1, ""},
		{"the outcome is not entered", onAct(keystore.OutcomeDone, fails), api.CodeAuditUnavailable, 1, 1, ""},
		{"the certificate is not kept", func(w *world) { w.certs.fail["finish"] = broken }, api.CodeBackendUnavailable, 1, 1, ""},
		{"suspended meanwhile", onAct(keystore.OutcomeDone, func(w *world) error { suspend(w); return nil }), api.CodeKeySetSuspended, 1, 1, keystore.OutcomeDone},
		{"rotated meanwhile", onAct(keystore.OutcomeDone, func(w *world) error { w.successor(t, "devices-ca")(); return nil }), api.CodeBackendUnavailable, 1, 1, keystore.OutcomeDone},
		{"the lease passes meanwhile", onAct(keystore.OutcomeDone, func(w *world) error { w.lease = broken; return nil }), api.CodeLeaseExpired, 1, 1, keystore.OutcomeDone},
	} {
		w := newWorld(t)
		c.before(w)
		reply, err := w.SignCSR(t.Context(), client, csrFor(t, "a.devices.test"), "")
		e := wants(t, c.what, err, c.code)
		if reply.Certificate != "" || w.signed != c.signed || len(w.certs.intents) != c.intents {
			t.Errorf("%s: %+v, %d signatures, %d intents", c.what, reply, w.signed, len(w.certs.intents))
		}
		for serial := range w.certs.intents {
			if got := w.certs.finished[serial]; got != c.outcome {
				t.Errorf("%s: finished as %q, want %q", c.what, got, c.outcome)
			}
		}
		if wire := onWire(t, err); strings.Contains(wire, "broken") || strings.Contains(wire, "v1") {
			t.Errorf("%s crosses the wire: %s", c.what, wire)
		}
		if p := e.Problem(); p.Status == 503 && p.RetryAfter < 1 {
			t.Errorf("%s: %+v", c.what, p)
		}
		// What was begun in the log is ended there, or its intent stands alone.
		if n := len(w.log.entries); n == 2 && (w.log.entries[1].ID != w.log.entries[0].ID || c.outcome != "" && w.log.entries[1].Outcome != c.outcome) {
			t.Errorf("%s: entries %+v", c.what, w.log.entries)
		}
		w.usesClosed(t, c.what)
	}
}

func TestA08RefusedRequests(t *testing.T) {
	w := newWorld(t)
	req := csrFor(t, "a.devices.test")
	spki := keystore.HashSPKI(publicOf(t, req))
	for _, c := range []struct {
		what string
		do   func() (api.SignCSRReply, error)
		code api.Code
	}{
		{"a foreign name", func() (api.SignCSRReply, error) {
			return w.SignCSR(t.Context(), client, csrFor(t, "a.example.com"), "")
		}, api.CodeNameNotAllowed},
		{"no request", func() (api.SignCSRReply, error) {
			return w.SignCSR(t.Context(), client, api.SignCSRRequest{Authority: "devices", Profile: "tls", CSR: "hello"}, "")
		}, api.CodeMalformed},
		{"two days", func() (api.SignCSRReply, error) {
			long, ttl := req, int64(48*3600)
			long.TTL = &ttl
			return w.SignCSR(t.Context(), client, long, "")
		}, api.CodeTTLTooLong},
		{"A10: a key of ours", func() (api.SignCSRReply, error) {
			w.certs.ours[spki] = true
			return w.SignCSR(t.Context(), client, req, "")
		}, api.CodeKeyRejected},
		{"an authority that vouches for our clients", func() (api.SignCSRReply, error) {
			w.anchors = []*x509.Certificate{w.certs.issuer}
			return w.SignCSR(t.Context(), client, csrFor(t, "a.devices.test"), "")
		}, api.CodeInternal},
	} {
		_, err := c.do()
		wants(t, c.what, err, c.code)
		if w.signed != 0 || len(w.certs.intents) != 0 || len(w.log.entries) != 0 {
			t.Errorf("%s: %d signatures, %d intents", c.what, w.signed, len(w.certs.intents))
		}
	}
	if len(w.log.refused) != 5 {
		t.Errorf("%d refusals in the log", len(w.log.refused))
	}
}

func publicOf(t *testing.T, req api.SignCSRRequest) []byte {
	block, _ := pem.Decode([]byte(req.CSR))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return csr.RawSubjectPublicKeyInfo
}

func TestA24UnknownAuthoritiesAndProfiles(t *testing.T) {
	w := newWorld(t)
	_, err := w.SignCSR(t.Context(), nobody, csrFor(t, "a.devices.test"), "")
	want := onWire(t, err)
	wants(t, "nobody", err, api.CodeForbidden)
	for _, c := range [][2]string{{"devices", "nonesuch"}, {"nonesuch", "tls"}, {"", ""}, {"web", "tls"}} {
		req := csrFor(t, "a.devices.test")
		req.Authority, req.Profile = c[0], c[1]
		for _, idempotency := range []string{"", "key"} {
			_, err := w.SignCSR(t.Context(), wild, req, idempotency)
			if got := onWire(t, err); got != want {
				t.Errorf("%v is seen as %s, nobody sees %s", c, got, want)
			}
		}
	}
}

func TestSameKeySameReply(t *testing.T) {
	w := newWorld(t)
	req := csrFor(t, "a.devices.test")
	first, err := w.SignCSR(t.Context(), client, req, "order 1")
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.SignCSR(t.Context(), client, req, "order 1")
	// intent, outcome, and the second release, which used to leave no entry
	if err != nil || fmt.Sprint(again) != fmt.Sprint(first) || w.signed != 1 || len(w.log.entries) != 3 {
		t.Errorf("%v: %+v is not the first reply; %d signatures", err, again, w.signed)
	}
	_, err = w.SignCSR(t.Context(), client, csrFor(t, "a.devices.test"), "order 1")
	wants(t, "another body", err, api.CodeIdempotencyMismatch)
	ttl := int64(60)
	short := req
	short.TTL = &ttl
	_, err = w.SignCSR(t.Context(), client, short, "order 1")
	wants(t, "another ttl", err, api.CodeIdempotencyMismatch)

	if other, err := w.SignCSR(t.Context(), wild, withTTL(req, 60), "order 1"); err != nil || other.Serial == first.Serial {
		t.Errorf("another principal's key: %v, serial %s", err, other.Serial)
	}
	if other, err := w.SignCSR(t.Context(), client, req, ""); err != nil || other.Serial == first.Serial {
		t.Errorf("no key: %v, serial %s", err, other.Serial)
	}
}

func withTTL(req api.SignCSRRequest, ttl int64) api.SignCSRRequest {
	req.TTL = &ttl
	return req
}

// A grant comes before the look: a stored reply is for who may still ask.
func TestIdempotencyIsAuthorisedFirst(t *testing.T) {
	w := newWorld(t)
	_, err := w.SignCSR(t.Context(), nobody, csrFor(t, "a.devices.test"), "order 1")
	wants(t, "nobody", err, api.CodeForbidden)
	w.traced(t, "refuse forbidden")
	_, err = w.SignCSR(t.Context(), client, csrFor(t, "a.devices.test"), strings.Repeat("x", MaxIdempotencyKey+1))
	wants(t, "a long key", err, api.CodeMalformed)
	if len(w.certs.bodies) != 0 {
		t.Errorf("keys claimed: %v", w.certs.bodies)
	}
}

func TestInProgress(t *testing.T) {
	w := newWorld(t)
	req := csrFor(t, "a.devices.test")
	var during error
	w.log.act = func(r keystore.Record) error {
		if r.Outcome == keystore.OutcomeIntent {
			_, during = w.SignCSR(context.Background(), client, req, "order 1")
		}
		return nil
	}
	if _, err := w.SignCSR(t.Context(), client, req, "order 1"); err != nil {
		t.Fatal(err)
	}
	wants(t, "the second while the first is signed", during, api.CodeIdempotencyInProgress)
	if w.signed != 1 {
		t.Errorf("%d signatures", w.signed)
	}
}

// A stored reply used to be released though its authority was suspended while
// the log took its time with the entry.
func TestReplayLooksAgain(t *testing.T) {
	w := newWorld(t)
	req := csrFor(t, "a.devices.test")
	if _, err := w.SignCSR(t.Context(), client, req, "order 1"); err != nil {
		t.Fatal(err)
	}
	w.log.act = func(keystore.Record) error {
		w.change("devices-ca", func(ks *keystore.KeySet) { ks.Versions[0].Suspended = &keystore.Fact{By: "olga"} })
		return nil
	}
	reply, err := w.SignCSR(t.Context(), client, req, "order 1")
	wants(t, "suspended meanwhile", err, api.CodeKeySetSuspended)
	if reply.Certificate != "" {
		t.Error("a certificate of a suspended authority is released")
	}
}

func TestFailureGivesTheKeyBack(t *testing.T) {
	w := newWorld(t)
	req := csrFor(t, "a.devices.test")
	w.signErr = keystore.ErrUnavailable
	_, err := w.SignCSR(t.Context(), client, req, "order 1")
	wants(t, "the token is down", err, api.CodeBackendUnavailable)
	w.signErr = nil
	reply, err := w.SignCSR(t.Context(), client, req, "order 1")
	if err != nil || len(w.certs.intents) != 2 {
		t.Errorf("%v: %d serials; the first is never used again", err, len(w.certs.intents))
	}
	if w.certs.finished[reply.Serial] != keystore.OutcomeDone {
		t.Errorf("finished: %v", w.certs.finished)
	}
}

func TestReplyThatIsNotKept(t *testing.T) {
	w := newWorld(t)
	w.certs.fail["conclude"] = errors.New("broken")
	reply, err := w.SignCSR(t.Context(), client, csrFor(t, "a.devices.test"), "order 1")
	wants(t, "the reply is not kept", err, api.CodeBackendUnavailable)
	if reply.Certificate != "" {
		t.Error("a reply that a second request would not get is released")
	}
	w.signErr = keystore.ErrSignature
	_, err = w.SignCSR(t.Context(), client, csrFor(t, "a.devices.test"), "order 2")
	wants(t, "nor is the key given back: the failure is what counts", err, api.CodeSignatureInvalid)
}

// The caller goes away when the certificate is there: it is kept, and the reply
// waits under its key.
func TestReplyIsKeptForACallerWhoLeft(t *testing.T) {
	w := newWorld(t)
	req := csrFor(t, "a.devices.test")
	ctx, leave := context.WithCancel(t.Context())
	w.log.act = func(r keystore.Record) error {
		if r.Outcome == keystore.OutcomeDone {
			leave()
		}
		return nil
	}
	first, err := w.SignCSR(ctx, client, req, "order 1")
	if err != nil || ctx.Err() == nil {
		t.Fatal(err, ctx.Err())
	}
	again, err := w.SignCSR(t.Context(), client, req, "order 1")
	if err != nil || again.Serial != first.Serial || w.signed != 1 || w.certs.finished[first.Serial] != keystore.OutcomeDone {
		t.Errorf("%v: %+v after %d signatures", err, again, w.signed)
	}
}

func TestStoredReplyThatIsDamaged(t *testing.T) {
	w := newWorld(t)
	req := csrFor(t, "a.devices.test")
	key := IdempotencyKey{client.String(), "devices", "tls", "order 1"}
	w.certs.bodies[key], w.certs.replies[key] = requestHash(req), []byte("{")
	_, err := w.SignCSR(t.Context(), client, req, "order 1")
	wants(t, "a damaged reply", err, api.CodeInternal)
}

// Every algorithm a CA may have issues what its own certificate verifies.
func TestAuthoritiesOfEveryAlgorithm(t *testing.T) {
	for _, alg := range keystore.Algorithms() {
		w := newWorld(t)
		w.add(t, "devices-ca", keystore.PurposeCA, alg)
		der, err := ca.SelfSigned(t.Context(), w.keys[w.active("devices-ca")], "devices", 0, noon.Add(-time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if w.certs.issuer, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		reply, err := w.SignCSR(t.Context(), client, csrFor(t, "a.devices.test"), "")
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		if err := certificate(t, reply.Certificate).CheckSignatureFrom(w.certs.issuer); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

// A05: what a CA key signs is never a JWT's signing input, even if the catalog
// were deceived about which key is whose.
func TestA05KeysOfAnotherPurpose(t *testing.T) {
	w := newWorld(t)
	w.keys[w.active("web")] = &mistaken{w.keys[w.active("web")], w.keys[w.active("devices-ca")]}
	_, err := w.SignJWT(t.Context(), issuer, ask("web"))
	wants(t, "a CA key asked for a JWT", err, api.CodeInternal)
	if !errors.Is(err, keystore.ErrMessage) {
		t.Errorf("%v", err)
	}
}

// mistaken is one key's name on another key.
type mistaken struct {
	keystore.Key
	real keystore.Key
}

func (m *mistaken) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return m.real.Sign(ctx, message)
}

func TestRequestHashTellsRequestsApart(t *testing.T) {
	seen := map[[32]byte]string{}
	one, two := int64(1), int64(2)
	for _, r := range []api.SignCSRRequest{
		{}, {Authority: "a"}, {Profile: "a"}, {CSR: "a"}, {CSR: "a", TTL: &one}, {CSR: "a", TTL: &two}, {Authority: "a", Profile: "b"}, {Authority: "ab"},
	} {
		text, _ := json.Marshal(r)
		if was, ok := seen[requestHash(r)]; ok {
			t.Errorf("%s and %s are the same", was, text)
		}
		seen[requestHash(r)] = string(text)
	}
}
