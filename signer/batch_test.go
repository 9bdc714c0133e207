package signer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
	"chancery/signer/api"
)

// A hall is the keys of a world, seen at work.
type hall struct {
	w *world
	// several says which key sets' keys sign several messages in one call.
	several map[string]bool
	// answer is called before a batch is answered, and may answer it; nil: not.
	answer func(messages [][]byte) ([][]byte, []error)
	// sign is called while a key signs alone; nil: not.
	sign func()

	mu    sync.Mutex // guards what follows
	calls map[keystore.KID][]int
	alone map[keystore.KID]int
	now   int // signing alone at this moment
	most  int
}

// gathers lets the keys of some sets of a world sign several messages in one call.
func gathers(w *world, several ...string) *hall {
	h := &hall{w: w, several: map[string]bool{}, calls: map[keystore.KID][]int{}, alone: map[keystore.KID]int{}}
	for _, name := range several {
		h.several[name] = true
	}
	w.Keys = h
	return h
}

func (h *hall) Open(_ context.Context, set *keystore.KeySet, v *keystore.Version) (keystore.Key, error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	k := seenKey{h.w.keys[v.KID].(*keystoretest.SoftKey), h, v.KID}
	if h.several[set.Name] {
		return seenBatch{k}, nil
	}
	return k, nil
}

type seenKey struct {
	*keystoretest.SoftKey
	h   *hall
	kid keystore.KID
}

func (k seenKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	k.h.mu.Lock()
	k.h.alone[k.kid]++
	k.h.now++
	k.h.most = max(k.h.most, k.h.now)
	k.h.mu.Unlock()
	if k.h.sign != nil {
		k.h.sign()
	}
	k.h.mu.Lock()
	k.h.now--
	k.h.mu.Unlock()
	return k.SoftKey.Sign(ctx, message)
}

type seenBatch struct{ seenKey }

func (k seenBatch) SignBatch(ctx context.Context, messages [][]byte) ([][]byte, []error) {
	k.h.mu.Lock()
	k.h.calls[k.kid] = append(k.h.calls[k.kid], len(messages))
	k.h.mu.Unlock()
	if k.h.answer != nil {
		if sigs, errs := k.h.answer(messages); sigs != nil {
			return sigs, errs
		}
	}
	return (&keystoretest.SoftBatch{SoftKey: k.SoftKey}).SignBatch(ctx, messages)
}

// called tests in how many calls, of how many messages, a version signed, and
// how often alone.
func (h *hall) called(t *testing.T, kid keystore.KID, alone int, calls ...int) {
	t.Helper()
	if !slices.Equal(h.calls[kid], calls) || h.alone[kid] != alone {
		t.Errorf("calls of %v messages and %d alone, want %v and %d", h.calls[kid], h.alone[kid], calls, alone)
	}
}

// requests returns n requests, to the key sets in turn.
func requests(n int, keysets ...string) api.BatchRequest {
	var req api.BatchRequest
	for i := range n {
		req.Requests = append(req.Requests, fmt.Appendf(nil, `{"keyset":%q,"claims":{"n":%d}}`, keysets[i%len(keysets)], i))
	}
	return req
}

// released tests that request i was answered with a token of its own.
func (w *world) released(t *testing.T, i int, r api.BatchResult) (kid string) {
	t.Helper()
	if r.Problem != nil || r.Reply == nil {
		t.Fatalf("result %d: %+v", i, r.Problem)
	}
	kid, payload := w.verified(t, r.Reply.Token)
	if kid != r.Reply.KID || payload["n"] != float64(i) {
		t.Fatalf("result %d is of %v, by %s", i, payload["n"], kid)
	}
	return kid
}

// The messages of each version go out in one call, also where other requests
// are refused or their key signs one message at a time.
func TestABatchIsOneCallOfEachVersion(t *testing.T) {
	w := newWorld(t)
	w.add(t, "legacy", keystore.PurposeJWT, keystore.ES256)
	h := gathers(w, "web", "edge")
	sets := []string{"web", "edge", "legacy", "nonesuch"}
	req := requests(api.MaxBatch, sets...)
	req.Requests[0] = json.RawMessage(`{"keyset":"web","claims":{"exp":1}}`)
	req.Requests[1] = json.RawMessage(`7`)
	reply, err := w.SignJWTBatch(t.Context(), issuer, req)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range reply.Results {
		switch {
		case i < 2 || i%4 == 3:
			if r.Reply != nil || r.Problem == nil {
				t.Errorf("result %d: %+v", i, r)
			}
		default:
			if kid := w.released(t, i, r); kid != string(w.active(sets[i%4])) {
				t.Errorf("result %d is signed by %s", i, kid)
			}
		}
	}
	h.called(t, w.active("web"), 0, 63)
	h.called(t, w.active("edge"), 0, 63)
	h.called(t, w.active("legacy"), 64)
	if len(w.log.entries) != 63+63+64 || len(w.log.refused) != 64+2 {
		t.Errorf("%d entries, %d refusals: each request has its own", len(w.log.entries), len(w.log.refused))
	}
}

// An error is the result of the message at whose place it stands.
func TestAnErrorInABatchIsOneRequests(t *testing.T) {
	for _, c := range []struct {
		err     error
		code    api.Code
		outcome keystore.Outcome
	}{
		{keystore.ErrUnavailable, api.CodeBackendUnavailable, keystore.OutcomeUnknown},
		{keystore.ErrSignature, api.CodeSignatureInvalid, keystore.OutcomeFailed},
		{keystore.ErrOverloaded, api.CodeOverloaded, keystore.OutcomeFailed},
	} {
		w := newWorld(t)
		h := gathers(w, "web")
		key := keystoretest.SoftBatch{SoftKey: w.keys[w.active("web")].(*keystoretest.SoftKey)}
		h.answer = func(messages [][]byte) ([][]byte, []error) {
			sigs, errs := key.SignBatch(t.Context(), messages)
			sigs[3], errs[3] = nil, c.err
			return sigs, errs
		}
		reply, err := w.SignJWTBatch(t.Context(), issuer, requests(8, "web"))
		if err != nil {
			t.Fatal(err)
		}
		failed := 0
		for i, r := range reply.Results {
			if r.Problem == nil {
				w.released(t, i, r)
				continue
			}
			if failed++; r.Problem.Code != c.code || r.Reply != nil {
				t.Errorf("%v: result %d: %+v", c.err, i, r.Problem)
			}
		}
		if r := w.log.refused; failed != 1 || len(w.log.entries) != 7 || len(r) != 1 || r[0].Outcome != c.outcome {
			t.Errorf("%v: %d failed, %d entries, refusals %+v", c.err, failed, len(w.log.entries), r)
		}
		w.usesClosed(t, c.err.Error())
	}
}

// Of an answer that does not fit the batch nothing is used: it may be that every
// signature is of another message.
func TestAnAnswerThatDoesNotFitTheBatch(t *testing.T) {
	for what, answer := range map[string]func(n int) ([][]byte, []error){
		"none":        func(int) ([][]byte, []error) { return [][]byte{}, nil },
		"one too few": func(n int) ([][]byte, []error) { return make([][]byte, n-1), make([]error, n-1) },
		"no errors":   func(n int) ([][]byte, []error) { return make([][]byte, n), nil },
		"neither":     func(n int) ([][]byte, []error) { return make([][]byte, n), make([]error, n) },
		"both": func(n int) ([][]byte, []error) {
			return slices.Repeat([][]byte{{1}}, n), slices.Repeat([]error{errors.New("x")}, n)
		},
	} {
		w := newWorld(t)
		gathers(w, "web").answer = func(messages [][]byte) ([][]byte, []error) { return answer(len(messages)) }
		reply, err := w.SignJWTBatch(t.Context(), issuer, requests(4, "web"))
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range reply.Results {
			if r.Reply != nil || r.Problem == nil || r.Problem.Code != api.CodeSignatureInvalid {
				t.Errorf("%s: result %d: %+v", what, i, r)
			}
		}
		if len(w.log.entries) != 0 {
			t.Errorf("%s: %d entries", what, len(w.log.entries))
		}
	}
}

// What was signed by a version that no longer signs is signed anew by its
// successor, together again.
func TestABatchOvertakenIsSignedAnew(t *testing.T) {
	w := newWorld(t)
	h := gathers(w, "web")
	old := w.active("web")
	rotate := w.successor(t, "web")
	var once sync.Once
	w.log.act = func(keystore.Record) error {
		once.Do(rotate)
		return nil
	}
	reply, err := w.SignJWTBatch(t.Context(), issuer, requests(100, "web"))
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range reply.Results {
		if kid := w.released(t, i, r); kid != string(w.active("web")) {
			t.Errorf("result %d is signed by %s", i, kid)
		}
	}
	h.called(t, old, 0, 100)
	h.called(t, w.active("web"), 0, 100)
	if len(w.log.entries) != 200 {
		t.Errorf("%d entries", len(w.log.entries))
	}
}

// Keys that sign one message at a time are asked by so many requests at once as
// there are lanes, and no more.
func TestRequestsAloneKeepToTheirLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := gathers(w)
		h.sign = func() { time.Sleep(time.Second) }
		began := time.Now()
		reply, err := w.SignJWTBatch(t.Context(), issuer, requests(api.MaxBatch, "web", "edge"))
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range reply.Results {
			w.released(t, i, r)
		}
		if took := time.Since(began); h.most != batchLanes || took != api.MaxBatch/batchLanes*time.Second {
			t.Errorf("%d at a time, in %v", h.most, took)
		}
	})
}

// A keystore that is slow keeps those of another from nothing.
func TestAnotherKeystoreIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.change("edge", func(ks *keystore.KeySet) { ks.Versions[0].Keystore = "slow" })
		h := gathers(w, "web")
		h.sign = func() { time.Sleep(time.Second) }
		began := time.Now()
		var called time.Duration
		h.answer = func([][]byte) ([][]byte, []error) {
			called = time.Since(began)
			return nil, nil
		}
		if _, err := w.SignJWTBatch(t.Context(), issuer, requests(api.MaxBatch, "edge", "edge", "edge", "web")); err != nil {
			t.Fatal(err)
		}
		h.called(t, w.active("web"), 0, api.MaxBatch/4)
		if called != 0 {
			t.Errorf("the call of the quick one came after %v", called)
		}
	})
}

// stalled is Horizons of which one kid's cannot be raised while ctx lasts.
type stalled struct {
	Horizons
	kid keystore.KID
}

func (s stalled) RaiseHorizon(ctx context.Context, kid keystore.KID, to time.Time) error {
	if kid == s.kid {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return s.Horizons.RaiseHorizon(ctx, kid, to)
}

// Requests whose time ends before their key is asked were never signed, and are on
// record as such; those of another key set have not waited for them.
func TestABatchWhoseTimeEnds(t *testing.T) {
	for _, c := range []struct {
		what string
		end  func(ctx context.Context) (context.Context, context.CancelFunc)
		code api.Code
	}{
		{"deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return Within(ctx, time.Second)
		}, api.CodeOverloaded},
		{"the caller's deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		}, api.CodeDeadlineExceeded},
		{"canceled", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		}, api.CodeCanceled},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			h := gathers(w, "web", "edge")
			w.Horizons = stalled{w.horizons, w.active("edge")}
			ctx, cancel := c.end(t.Context())
			defer cancel()
			began := time.Now()
			reply, err := w.SignJWTBatch(ctx, issuer, requests(10, "web", "edge"))
			if took := time.Since(began); err != nil || took != time.Second {
				t.Errorf("%s: %v after %v", c.what, err, took)
			}
			for i, r := range reply.Results {
				if i%2 == 0 {
					w.released(t, i, r)
				} else if r.Reply != nil || r.Problem == nil || r.Problem.Code != c.code {
					t.Errorf("%s: result %d: %+v", c.what, i, r.Problem)
				}
			}
			h.called(t, w.active("web"), 0, 5)
			h.called(t, w.active("edge"), 0)
			if len(w.log.refused) != 5 {
				t.Errorf("%s: the log has %+v", c.what, w.log.refused)
			}
			w.usesClosed(t, c.what)
		})
	}
}

// A telling key says that it was asked, and signs only then.
type tellingKey struct {
	seenBatch
	err error // instead of a signature; nil: none
}

func (k tellingKey) SignAsked(ctx context.Context, message []byte, asked func()) ([]byte, error) {
	asked()
	k.h.w.did("sign")
	if k.err != nil {
		return nil, k.err
	}
	return k.SoftKey.Sign(ctx, message)
}

func (k tellingKey) SignBatchAsked(ctx context.Context, messages [][]byte, asked func(int)) ([][]byte, []error) {
	sigs, errs := make([][]byte, len(messages)), make([]error, len(messages))
	var all sync.WaitGroup
	for i, m := range messages {
		all.Go(func() { sigs[i], errs[i] = k.SignAsked(ctx, m, func() { asked(i) }) })
	}
	all.Wait()
	return sigs, errs
}

// tellingKeys are a world's, each as it is made.
type tellingKeys struct {
	*hall
	err error
}

func (k tellingKeys) Open(ctx context.Context, set *keystore.KeySet, v *keystore.Version) (keystore.Key, error) {
	key, err := k.hall.Open(ctx, set, v)
	if err != nil {
		return nil, err
	}
	return tellingKey{key.(seenBatch), k.err}, nil
}

// I1: the entry of a token is begun when its key was asked and not before; and the
// reply waits for both, whichever comes first.
func TestI1TheEntryIsWrittenWhileTheKeySigns(t *testing.T) {
	w := newWorld(t)
	w.Keys = tellingKeys{hall: gathers(w, "web")}
	if _, err := w.SignJWT(t.Context(), issuer, ask("web")); err != nil {
		t.Fatal(err)
	}
	w.traced(t, "health", "view", "raise", "act done", "sign", "view")
	reply, err := w.SignJWTBatch(t.Context(), issuer, requests(20, "web"))
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]bool{}
	for i, r := range reply.Results {
		w.released(t, i, r)
		entries[r.Reply.Entry] = true
	}
	if len(entries) != 20 || len(w.log.entries) != 21 {
		t.Errorf("%d entries are named, of %d", len(entries), len(w.log.entries))
	}
	w.usesClosed(t, "told")
}

// A token whose entry was begun and that was not made after all has one more entry,
// which says so; nothing is released, and its number is closed once.
func TestAnEntryOfATokenThatWasNotMade(t *testing.T) {
	for _, c := range []struct {
		err     error
		code    api.Code
		outcome keystore.Outcome
	}{
		{keystore.ErrUnavailable, api.CodeBackendUnavailable, keystore.OutcomeUnknown},
		{keystore.ErrSignature, api.CodeSignatureInvalid, keystore.OutcomeFailed},
	} {
		w := newWorld(t)
		w.Keys = tellingKeys{hall: gathers(w, "web"), err: c.err}
		_, err := w.SignJWT(t.Context(), issuer, ask("web"))
		wants(t, c.err.Error(), err, c.code)
		reply, err := w.SignJWTBatch(t.Context(), issuer, requests(3, "web"))
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range reply.Results {
			if r.Reply != nil || r.Problem == nil || r.Problem.Code != c.code {
				t.Errorf("%v: result %d: %+v", c.err, i, r)
			}
		}
		if len(w.log.entries) != 4 || len(w.log.refused) != 4 {
			t.Fatalf("%v: %d entries, %d of failures", c.err, len(w.log.entries), len(w.log.refused))
		}
		of := map[string]bool{}
		for _, e := range w.log.entries {
			of[e.JTI] = true
		}
		for _, r := range w.log.refused {
			if r.Outcome != c.outcome || r.Use != 0 || !of[r.JTI] || r.Code != string(c.code) {
				t.Errorf("%v: the log has %+v", c.err, r)
			}
		}
		w.usesClosed(t, c.err.Error())
	}
}

// A panic in the work on a batch is the batch's: the daemon goes on.
func TestAPanicInABatchIsInternal(t *testing.T) {
	w := newWorld(t)
	h := gathers(w, "web")
	h.answer = func([][]byte) ([][]byte, []error) { panic("of a test") }
	reply, err := w.SignJWTBatch(t.Context(), issuer, requests(4, "web", "edge"))
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range reply.Results {
		if i%2 == 1 {
			w.released(t, i, r)
		} else if r.Reply != nil || r.Problem == nil || r.Problem.Code != api.CodeInternal {
			t.Errorf("result %d: %+v", i, r)
		}
	}
	h.several["web"], h.sign = false, func() { panic("of a test") }
	reply, err = w.SignJWTBatch(t.Context(), issuer, requests(4, "web"))
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range reply.Results {
		if r.Reply != nil || r.Problem == nil || r.Problem.Code != api.CodeInternal {
			t.Errorf("one by one, result %d: %+v", i, r)
		}
	}
	w.usesClosed(t, "a panic")
}
