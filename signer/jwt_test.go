package signer

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chancery/keystore"
	"chancery/signer/api"
)

func ask(keyset string) api.SignJWTRequest {
	return api.SignJWTRequest{KeySet: keyset, Claims: json.RawMessage(`{"sub":"alice","secret":"canary"}`)}
}

// active returns the kid of a set's active version.
func (w *world) active(name string) keystore.KID {
	v, _ := w.sets[name].Active()
	return v.KID
}

// verified returns the payload of a token that is signed by the key its header
// names.
func (w *world) verified(t *testing.T, token string) (kid string, payload map[string]any) {
	t.Helper()
	input, sig64, ok := cutLast(token, '.')
	header64, payload64, ok2 := strings.Cut(input, ".")
	if !ok || !ok2 {
		t.Fatalf("%q is no JWS", token)
	}
	var header struct{ KID, Alg string }
	for _, part := range []struct {
		text string
		into any
	}{{header64, &header}, {payload64, &payload}} {
		raw, err := base64.RawURLEncoding.DecodeString(part.text)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, part.into); err != nil {
			t.Fatal(err)
		}
	}
	sig, err := base64.RawURLEncoding.DecodeString(sig64)
	if err != nil {
		t.Fatal(err)
	}
	key := w.keys[keystore.KID(header.KID)]
	if err := keystore.Verify(keystore.Algorithm(header.Alg), key.Public(), []byte(input), sig); err != nil {
		t.Fatal(err)
	}
	return header.KID, payload
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// I2: every token verifies under the key its kid names; and its entry says what
// was signed, under which rule, and none of the claims.
func TestI2TokenAndItsEntry(t *testing.T) {
	w := newWorld(t)
	w.add(t, "legacy", keystore.PurposeJWT, keystore.RS256)
	for _, name := range []string{"web", "edge", "legacy"} {
		reply, err := w.SignJWT(t.Context(), issuer, ask(name))
		if err != nil {
			t.Fatal(err)
		}
		kid, payload := w.verified(t, reply.Token)
		if kid != reply.KID || kid != string(w.active(name)) {
			t.Errorf("%s: kid %s in the header, %s in the reply", name, kid, reply.KID)
		}
		if payload["iss"] != "https://localhost/issuers/"+name || payload["sub"] != "alice" ||
			payload["iat"] != float64(noon.Unix()) || payload["nbf"] != float64(noon.Add(-time.Minute).Unix()) ||
			payload["exp"] != float64(reply.ExpiresAt.Unix()) || !reply.ExpiresAt.Equal(noon.Add(5*time.Minute)) {
			t.Errorf("%s: payload %v, said to expire at %v", name, payload, reply.ExpiresAt)
		}
		e := w.log.entries[len(w.log.entries)-1]
		if reply.Entry != fmt.Sprintf("log#%d", len(w.log.entries)-1) {
			t.Errorf("%s: the reply names entry %q", name, reply.Entry)
		}
		want := keystore.Record{
			Principal: issuer.String(), Action: keystore.ActSignJWT, Outcome: keystore.OutcomeDone, KeySet: name,
			KID: w.active(name), Version: 1, Use: 1, State: "active", Rule: "issuer", Policy: w.Policy().Hash(), Request: e.Request,
			Exp: reply.ExpiresAt.Unix(), JTI: payload["jti"].(string), Profile: "jwt",
		}
		if got, want := fmt.Sprintf("%+v", e), fmt.Sprintf("%+v", want); got != want {
			t.Errorf("%s: entry %s, want %s", name, got, want)
		}
		if text := fmt.Sprintf("%+v", e); strings.Contains(text, "alice") || strings.Contains(text, "canary") || e.Request == "" {
			t.Errorf("%s: entry %s", name, text)
		}
	}
}

// I1: the reply comes after the entry, the entry after the signature, the
// signature after the horizon; and what signs is looked at again at the end.
func TestI1OrderOfAJWT(t *testing.T) {
	w := newWorld(t)
	if _, err := w.SignJWT(t.Context(), issuer, ask("web")); err != nil {
		t.Fatal(err)
	}
	w.traced(t, "health", "view", "raise", "open", "sign", "act done", "view")
}

func TestI1NoTokenWithoutAnEntry(t *testing.T) {
	w := newWorld(t)
	w.log.act = func(keystore.Record) error { return errors.New("no space left") }
	reply, err := w.SignJWT(t.Context(), issuer, ask("web"))
	e := wants(t, "the log fails", err, api.CodeAuditUnavailable)
	if reply != (api.SignJWTReply{}) || e.RetryAfter < 1 || w.signed != 1 {
		t.Errorf("%+v, %+v, %d signatures", reply, e, w.signed)
	}

	w = newWorld(t)
	w.log.health = errors.New("no space left")
	reply, err = w.SignJWT(t.Context(), issuer, ask("web"))
	wants(t, "the log is down", err, api.CodeAuditUnavailable)
	if reply != (api.SignJWTReply{}) || w.signed != 0 || w.horizons.raised != 0 {
		t.Errorf("%+v, %d signatures: none is to be spent", reply, w.signed)
	}
}

// What changes between the receipt and the release is seen.
func TestLookAgainBeforeTheRelease(t *testing.T) {
	fact := &keystore.Fact{At: noon, By: "operator", Reason: "drill"}
	for _, c := range []struct {
		what      string
		meanwhile func(w *world)
		code      api.Code
	}{
		{"suspended", func(w *world) {
			w.change("web", func(ks *keystore.KeySet) { ks.Versions[0].Suspended = fact })
		}, api.CodeKeySetSuspended},
		{"compromised", func(w *world) {
			w.change("web", func(ks *keystore.KeySet) { ks.Versions[0].Compromised = fact })
		}, api.CodeKeySetSuspended},
		{"nothing active", func(w *world) {
			w.change("web", func(ks *keystore.KeySet) { ks.Versions[0].State = keystore.Retiring })
		}, api.CodeBackendUnavailable},
		{"the lease passed", func(w *world) { w.lease = errors.New("too old") }, api.CodeLeaseExpired},
		{"the set is gone", func(w *world) { delete(w.sets, "web") }, api.CodeForbidden},
	} {
		w := newWorld(t)
		w.log.act = func(keystore.Record) error {
			c.meanwhile(w)
			return nil
		}
		reply, err := w.SignJWT(t.Context(), issuer, ask("web"))
		e := wants(t, c.what, err, c.code)
		if reply != (api.SignJWTReply{}) || w.signed != 1 || len(w.log.entries) != 1 {
			t.Errorf("%s: %+v, %d signatures, %d entries", c.what, reply, w.signed, len(w.log.entries))
		}
		if p := e.Problem(); p.Status == 503 && p.RetryAfter < 1 {
			t.Errorf("%s: %+v", c.what, p)
		}
		// The log says that the token it has as done never left.
		if r := w.log.refused; len(r) != 1 || r[0].JTI != w.log.entries[0].JTI || r[0].Code != string(c.code) {
			t.Errorf("%s: refusals %+v", c.what, r)
		}

		w = newWorld(t) // and before: nothing is signed at all
		c.meanwhile(w)
		if _, err := w.SignJWT(t.Context(), issuer, ask("web")); err == nil || w.signed != 0 {
			t.Errorf("%s before: %v, %d signatures", c.what, err, w.signed)
		}
	}
}

func TestRotatedMeanwhileIsSignedAnew(t *testing.T) {
	w := newWorld(t)
	old := w.active("web")
	rotate := w.successor(t, "web")
	var once sync.Once
	w.log.act = func(keystore.Record) error {
		once.Do(rotate)
		return nil
	}
	reply, err := w.SignJWT(t.Context(), issuer, ask("web"))
	if err != nil {
		t.Fatal(err)
	}
	kid, payload := w.verified(t, reply.Token)
	if kid == string(old) || kid != string(w.active("web")) {
		t.Errorf("signed by %s; %s is active", kid, w.active("web"))
	}
	if r := w.log.refused; len(r) != 1 || r[0].JTI != w.log.entries[0].JTI || r[0].Use != 0 {
		t.Errorf("that the token of the old version never left: %+v", r)
	}
	if n := len(w.log.entries); n != 2 || w.log.entries[0].KID != old || w.log.entries[1].JTI != payload["jti"] ||
		w.log.entries[0].JTI == w.log.entries[1].JTI || reply.Entry != "log#1" {
		t.Errorf("entries %+v for %v", w.log.entries, payload)
	}
	if len(w.horizons.to) != 2 {
		t.Errorf("horizons %v: each version has its own", w.horizons.to)
	}
}

func TestRotatedEachTimeIsGivenUp(t *testing.T) {
	w := newWorld(t)
	w.log.act = func(keystore.Record) error {
		w.successor(t, "web")()
		return nil
	}
	reply, err := w.SignJWT(t.Context(), issuer, ask("web"))
	wants(t, "rotated each time", err, api.CodeBackendUnavailable)
	if reply != (api.SignJWTReply{}) || w.signed != attempts {
		t.Errorf("%+v after %d signatures", reply, w.signed)
	}
}

func TestHorizonIsRaisedOnceForMany(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if _, err := w.SignJWT(t.Context(), issuer, ask("web")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if to := w.horizons.to[w.active("web")]; w.horizons.raised != 1 || !to.Equal(noon.Add(2*time.Hour)) {
		t.Errorf("raised %d times, to %v; want once, by 2 L", w.horizons.raised, to)
	}
	w.now = noon.Add(time.Hour + 55*time.Minute)
	if _, err := w.SignJWT(t.Context(), issuer, ask("web")); err != nil || w.horizons.raised != 1 {
		t.Errorf("%v: raised %d times; exp is the horizon itself", err, w.horizons.raised)
	}
	w.now = w.now.Add(time.Second)
	if _, err := w.SignJWT(t.Context(), issuer, ask("web")); err != nil || w.horizons.raised != 2 {
		t.Errorf("%v: raised %d times; exp is beyond the horizon", err, w.horizons.raised)
	}
}

func TestHorizonOfTheCatalogCounts(t *testing.T) {
	w := newWorld(t)
	w.change("web", func(ks *keystore.KeySet) { ks.Versions[0].ExpHorizon = noon.Add(time.Hour) })
	if _, err := w.SignJWT(t.Context(), issuer, ask("web")); err != nil || w.horizons.raised != 0 {
		t.Errorf("%v: raised %d times within the horizon there was", err, w.horizons.raised)
	}
}

func TestHorizonThatCannotBeRaised(t *testing.T) {
	w := newWorld(t)
	w.horizons.err = errors.New("disk I/O error")
	for range 2 {
		_, err := w.SignJWT(t.Context(), issuer, ask("web"))
		wants(t, "the catalog cannot be written", err, api.CodeLeaseExpired)
	}
	if w.signed != 0 || len(w.log.entries) != 0 {
		t.Errorf("%d signatures, %d entries", w.signed, len(w.log.entries))
	}
	w.horizons.err = nil
	if _, err := w.SignJWT(t.Context(), issuer, ask("web")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Rotation rule 2: whenever a token leaves, the catalog already holds a horizon
// that it does not outlive.
func TestNoTokenOutlivesItsHorizon(t *testing.T) {
	w := newWorld(t)
	rapid.Check(t, func(t *rapid.T) {
		w.mu.Lock()
		w.now = w.now.Add(time.Duration(rapid.Int64Range(0, 10000).Draw(t, "later")) * time.Second)
		w.mu.Unlock()
		req := ask(rapid.SampledFrom([]string{"web", "edge"}).Draw(t, "key set"))
		ttl := rapid.Int64Range(1, 3600).Draw(t, "ttl")
		req.TTL = &ttl
		reply, err := w.SignJWT(context.Background(), issuer, req)
		if err != nil {
			t.Fatal(err)
		}
		if to := w.horizons.to[keystore.KID(reply.KID)]; reply.ExpiresAt.After(to) {
			t.Fatalf("expires at %v, the horizon is %v", reply.ExpiresAt, to)
		}
	})
}

// Each failure of a keystore has its stable code; what the token said stays in
// the log.
func TestA24KeystoreErrorsHaveCodes(t *testing.T) {
	const canary = "CKR_PIN_INCORRECT slot 7"
	for _, c := range []struct {
		err     error
		code    api.Code
		outcome keystore.Outcome
	}{
		{keystore.ErrNotFound, api.CodeBackendUnavailable, keystore.OutcomeFailed},
		{keystore.ErrAmbiguous, api.CodeBackendUnavailable, keystore.OutcomeFailed},
		{keystore.ErrUnavailable, api.CodeBackendUnavailable, keystore.OutcomeUnknown},
		{keystore.ErrOverloaded, api.CodeOverloaded, keystore.OutcomeFailed},
		{keystore.ErrPINRejected, api.CodeBackendUnavailable, keystore.OutcomeFailed},
		{keystore.ErrTokenChanged, api.CodeBackendUnavailable, keystore.OutcomeUnknown},
		{keystore.ErrAttributes, api.CodeBackendUnavailable, keystore.OutcomeFailed},
		{keystore.ErrUncertain, api.CodeBackendUnavailable, keystore.OutcomeUnknown},
		{context.DeadlineExceeded, api.CodeBackendUnavailable, keystore.OutcomeUnknown},
		{context.Canceled, api.CodeBackendUnavailable, keystore.OutcomeUnknown},
		{keystore.ErrSignature, api.CodeSignatureInvalid, keystore.OutcomeFailed},
		{keystore.ErrMessage, api.CodeInternal, keystore.OutcomeFailed},
		{keystore.ErrUnsupported, api.CodeInternal, keystore.OutcomeFailed},
		{keystore.ErrExists, api.CodeInternal, keystore.OutcomeFailed},
		{errors.New("anything else"), api.CodeInternal, keystore.OutcomeFailed},
	} {
		for _, where := range []string{"opening", "signing"} {
			w := newWorld(t)
			cause := fmt.Errorf("%s: %w", canary, c.err)
			if where == "opening" {
				w.openErr = cause
			} else {
				w.signErr = cause
			}
			reply, err := w.SignJWT(t.Context(), issuer, ask("web"))
			what := fmt.Sprintf("%s: %v", where, c.err)
			e := wants(t, what, err, c.code)
			if reply != (api.SignJWTReply{}) || !errors.Is(err, c.err) {
				t.Errorf("%s: %+v, %v", what, reply, err)
			}
			if p := e.Problem(); p.Status == 503 && p.RetryAfter < 1 {
				t.Errorf("%s: %+v has no Retry-After", what, p)
			}
			if wire := onWire(t, err); strings.Contains(wire, "CKR") || strings.Contains(wire, c.err.Error()) {
				t.Errorf("%s crosses the wire: %s", what, wire)
			}
			r := w.log.refused
			outcome, use := c.outcome, int64(1)
			if where == "opening" { // the key was not asked
				outcome, use = keystore.OutcomeFailed, 0
			}
			if len(r) != 1 || r[0].Outcome != outcome || r[0].Use != use || r[0].Code != string(c.code) || !strings.Contains(r[0].Reason, canary) || r[0].KID == "" {
				t.Errorf("%s: the log has %+v", what, r)
			}
			if len(w.log.entries) != 0 {
				t.Errorf("%s: entries %+v", what, w.log.entries)
			}
		}
	}
}

// A24: what is forbidden and what does not exist look the same, down to the byte.
func TestA24ForbiddenAndUnknownLookAlike(t *testing.T) {
	w := newWorld(t)
	w.add(t, "unsettled", keystore.PurposeJWT, keystore.ES256)
	settings := w.Settings
	w.Settings = func(name string) (Settings, bool) {
		s, ok := settings(name)
		return s, ok && name != "unsettled" || name == "unseen" || name == "devices-ca"
	}
	_, err := w.SignJWT(t.Context(), nobody, ask("web"))
	want := onWire(t, err)
	wants(t, "nobody", err, api.CodeForbidden)
	for _, c := range []struct{ who, keyset string }{
		{"issuer", "secret"}, {"issuer", "devices-ca"}, {"wild", "nonesuch"}, {"wild", "unsettled"}, {"wild", "unseen"},
		{"wild", "devices-ca"}, {"operator", "web"}, {"", "web"}, {"wild", ""},
	} {
		req := ask(c.keyset)
		if req.KeySet == "unseen" {
			req.Claims = json.RawMessage(`{}`)
		}
		_, err := w.SignJWT(t.Context(), principal(c.who), req)
		if got := onWire(t, err); got != want {
			t.Errorf("%s asking for %q sees %s, nobody sees %s", c.who, c.keyset, got, want)
		}
	}
	if w.signed != 0 || len(w.log.refused) != 10 {
		t.Errorf("%d signatures, %d refusals in the log", w.signed, len(w.log.refused))
	}
}

func TestRefusedJWTs(t *testing.T) {
	long, zero := int64(3601), int64(0)
	for _, c := range []struct {
		what string
		req  api.SignJWTRequest
		code api.Code
	}{
		{"a reserved claim", api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{"exp":1}`)}, api.CodeClaimReserved},
		{"no object", api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`[]`)}, api.CodeMalformed},
		{"an hour and a second", api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`), TTL: &long}, api.CodeTTLTooLong},
		{"no lifetime", api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`), TTL: &zero}, api.CodeMalformed},
		{"another typ", api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`), Typ: "logout+jwt"}, api.CodeTypNotAllowed},
	} {
		w := newWorld(t)
		_, err := w.SignJWT(t.Context(), issuer, c.req)
		wants(t, c.what, err, c.code)
		r := w.log.refused
		if w.signed != 0 || len(r) != 1 || r[0].Code != string(c.code) || r[0].Outcome != keystore.OutcomeRefused || r[0].Rule != "issuer" {
			t.Errorf("%s: %d signatures, refusals %+v", c.what, w.signed, r)
		}
	}
}

func TestBatchAnswersInOrder(t *testing.T) {
	w := newWorld(t)
	var req api.BatchRequest
	for i := range api.MaxBatch {
		text := fmt.Sprintf(`{"keyset":"web","claims":{"n":%d}}`, i)
		switch i % 4 {
		case 1:
			text = `{"keyset":"nonesuch","claims":{}}`
		case 2:
			text = `{"keyset":"web","claims":{},"alg":"none"}`
		case 3:
			text = `{"keyset":"web","claims":{"iss":"me"}}`
		}
		req.Requests = append(req.Requests, json.RawMessage(text))
	}
	reply, err := w.SignJWTBatch(t.Context(), issuer, req)
	if err != nil || len(reply.Results) != api.MaxBatch {
		t.Fatalf("%v, %d results", err, len(reply.Results))
	}
	entries := map[string]bool{}
	for i, r := range reply.Results {
		if code := []api.Code{"", api.CodeForbidden, api.CodeMalformed, api.CodeClaimReserved}[i%4]; code != "" {
			if r.Reply != nil || r.Problem == nil || r.Problem.Code != code {
				t.Fatalf("result %d: %+v, want %s", i, r, code)
			}
			continue
		}
		if r.Problem != nil || r.Reply == nil {
			t.Fatalf("result %d: %+v", i, r.Problem)
		}
		if _, payload := w.verified(t, r.Reply.Token); payload["n"] != float64(i) || entries[r.Reply.Entry] {
			t.Fatalf("result %d is of %v, entry %s", i, payload["n"], r.Reply.Entry)
		}
		entries[r.Reply.Entry] = true
	}
	if len(w.log.entries) != api.MaxBatch/4 || len(w.log.refused) != api.MaxBatch/4*3 {
		t.Errorf("%d entries, %d refusals: each request has its own", len(w.log.entries), len(w.log.refused))
	}
}

// A request whose time was over was told that keystore or catalog are down, when
// it had only waited behind too many others.
func TestOverdueRequestsAreOverload(t *testing.T) {
	w := newWorld(t)
	late, cancel := Within(t.Context(), -time.Second)
	defer cancel()
	w.signErr = fmt.Errorf("%w: waiting for the token: %w", keystore.ErrUnavailable, context.DeadlineExceeded)
	w.horizons.err = context.DeadlineExceeded
	_, err := w.SignJWT(late, issuer, ask("web"))
	wants(t, "it waited for the horizon", err, api.CodeOverloaded)
	w.horizons.err = nil
	_, err = w.SignJWT(t.Context(), issuer, ask("web"))
	wants(t, "the token is down", err, api.CodeBackendUnavailable)
	_, err = w.SignJWT(late, issuer, ask("web"))
	if e := wants(t, "it waited for the token", err, api.CodeOverloaded); e.Problem().RetryAfter < 1 {
		t.Errorf("no Retry-After: %+v", e.Problem())
	}
	w.signErr = nil
	reply, err := w.SignJWTBatch(late, issuer, api.BatchRequest{Requests: []json.RawMessage{json.RawMessage(`{"keyset":"web","claims":{}}`)}})
	if err != nil || reply.Results[0].Problem == nil || reply.Results[0].Problem.Code != api.CodeOverloaded || w.signed != 0 {
		t.Errorf("a batch: %+v, %v; %d signatures", reply.Results, err, w.signed)
	}
}

func TestBatchLimits(t *testing.T) {
	w := newWorld(t)
	for _, n := range []int{0, api.MaxBatch + 1} {
		reply, err := w.SignJWTBatch(t.Context(), issuer, api.BatchRequest{Requests: make([]json.RawMessage, n)})
		wants(t, fmt.Sprintf("%d requests", n), err, api.CodeMalformed)
		if reply.Results != nil {
			t.Errorf("%d results", len(reply.Results))
		}
	}
	if w.signed != 0 || len(w.log.refused) != 2 {
		t.Errorf("%d signatures, %d refusals", w.signed, len(w.log.refused))
	}
}
