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

// Where a set rotates while its requests are prepared, each version has a call.
func TestVersionsOfOneSetAreGatheredApart(t *testing.T) {
	w := newWorld(t)
	h := gathers(w, "web")
	old := w.sets["web"].Versions[0]
	w.successor(t, "web")()
	set, next := w.sets["web"], w.sets["web"].Versions[1]
	g := newGathering(h, 5)
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			at := &seat{gathering: g}
			defer at.leave()
			v, message := []*keystore.Version{&old, &next}[i%2], fmt.Appendf(nil, "e%d.e", i)
			key, err := at.Open(t.Context(), set, v)
			if err != nil {
				t.Error(err)
				return
			}
			sig, err := key.Sign(t.Context(), message)
			if err != nil || keystore.Verify(v.Algorithm, w.keys[v.KID].Public(), message, sig) != nil {
				t.Errorf("message %d: %v", i, err)
			}
		})
	}
	g.send(t.Context())
	wg.Wait()
	h.called(t, old.KID, 0, 3)
	h.called(t, next.KID, 0, 2)
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
// successor, each request by itself, and still not too many at a time.
func TestABatchOvertakenIsSignedAnewAlone(t *testing.T) {
	w := newWorld(t)
	h := gathers(w, "web")
	old := w.active("web")
	rotate := w.successor(t, "web")
	var once sync.Once
	w.log.act = func(keystore.Record) error {
		once.Do(rotate)
		return nil
	}
	h.sign = func() { time.Sleep(time.Millisecond) }
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
	h.called(t, w.active("web"), 100)
	if h.most > batchLanes || len(w.log.entries) != 200 {
		t.Errorf("%d at a time, %d entries", h.most, len(w.log.entries))
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

// Requests whose time ends while they wait for others in their batch were never
// signed, and are on record as such.
func TestABatchWhoseTimeEnds(t *testing.T) {
	for _, c := range []struct {
		what string
		end  func(ctx context.Context) (context.Context, context.CancelFunc)
		code api.Code
	}{
		{"deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		}, api.CodeOverloaded},
		{"canceled", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		}, api.CodeBackendUnavailable},
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
				if r.Reply != nil || r.Problem == nil || i%2 == 0 && r.Problem.Code != c.code {
					t.Errorf("%s: result %d: %+v", c.what, i, r.Problem)
				}
			}
			h.called(t, w.active("web"), 0)
			for _, r := range w.log.refused {
				if r.KeySet == "web" && r.Outcome != keystore.OutcomeFailed {
					t.Errorf("%s: the log has %+v", c.what, r)
				}
			}
			w.usesClosed(t, c.what)
		})
	}
}

// One of a batch that gives up takes its message along, and keeps no other
// waiting.
func TestASeatGivenUpWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := gathers(w, "web")
		g := newGathering(h, 3)
		var errs [2]error
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if i == 0 {
					time.AfterFunc(time.Second, cancel)
				}
				_, errs[i] = g.signOne(ctx, w)
			})
		}
		last := &seat{gathering: g}
		wg.Go(func() { g.send(t.Context()) })
		time.Sleep(time.Minute)
		h.called(t, w.active("web"), 0)
		last.leave()
		wg.Wait()
		if !errors.Is(errs[0], errUnsent) || !errors.Is(errs[0], context.Canceled) || errs[1] != nil {
			t.Errorf("%v", errs)
		}
		h.called(t, w.active("web"), 0, 1)
	})
}

// Who gives up after the messages are out does not know what becomes of his.
func TestASeatGivenUpDuringTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		h := gathers(w, "web")
		h.answer = func([][]byte) ([][]byte, []error) {
			time.Sleep(time.Minute)
			return nil, nil
		}
		g := newGathering(h, 1)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { g.send(t.Context()) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := g.signOne(ctx, w)
		if errors.Is(err, errUnsent) || !errors.Is(err, keystore.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

// signOne brings a message to a seat of its own, for the set web of w.
func (g *gathering) signOne(ctx context.Context, w *world) ([]byte, error) {
	at := &seat{gathering: g}
	defer at.leave()
	set := w.sets["web"]
	v, _ := set.Active()
	key, err := at.Open(ctx, set, v)
	if err != nil {
		return nil, err
	}
	return key.Sign(ctx, []byte("e.e"))
}

// However a request ends, the others go on.
func TestNoEndOfARequestHoldsItsBatch(t *testing.T) {
	for what, end := range map[string]func(at *seat){
		"returned":       func(*seat) {},
		"panicked":       func(*seat) { panic("x") },
		"left by itself": func(at *seat) { at.leave() },
		"opened and no more": func(at *seat) {
			at.Open(context.Background(), &keystore.KeySet{}, &keystore.Version{})
		},
		"panicked in a lane": func(at *seat) {
			at.alone(context.Background(), lane{opening: true}, func() error { panic("x") })
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			h := gathers(w, "web")
			h.w.keys[""] = h.w.keys[w.active("web")]
			const broken = batchLanes + 1 // a lane that was kept would be missed
			g := newGathering(h, broken+2)
			var wg sync.WaitGroup
			for range broken {
				wg.Go(func() {
					at := &seat{gathering: g}
					defer func() { recover() }()
					defer at.leave()
					end(at)
				})
			}
			for range 2 {
				wg.Go(func() {
					if sig, err := g.signOne(t.Context(), w); err != nil || sig == nil {
						t.Errorf("%s: %v", what, err)
					}
				})
			}
			g.send(t.Context())
			wg.Wait()
			h.called(t, w.active("web"), 0, 2)
		})
	}
}
