package signer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// A mire is where a request is held up for two seconds, and then fails.
type mire struct {
	Horizons
	Keys
	Log
	keystore.Key

	opening bool
	err     error
}

func (m *mire) stuck() error {
	time.Sleep(2 * time.Second)
	return m.err
}

func (m *mire) RaiseHorizon(context.Context, keystore.KID, time.Time) error { return m.stuck() }

func (m *mire) Open(ctx context.Context, set *keystore.KeySet, v *keystore.Version) (key keystore.Key, err error) {
	if m.opening {
		return nil, m.stuck()
	}
	m.Key, err = m.Keys.Open(ctx, set, v)
	return m, err
}

func (m *mire) Sign(context.Context, []byte) ([]byte, error) { return nil, m.stuck() }

func (m *mire) Act(context.Context, keystore.Record) (audit.Receipt, error) {
	return audit.Receipt{}, m.stuck()
}

func (m *mire) Start(keystore.Record) audit.Pending { return m }

func (m *mire) Wait(context.Context) (audit.Receipt, error) { return audit.Receipt{}, m.stuck() }

func (m *mire) Leave() {}

// A caller that hung up counted as a keystore, a log or a catalog that is down, and one
// whose own deadline was short as a queue that is full. Wherever it happens, it is told
// and entered as what it is, and what took as long as any request may is still overload.
func TestWhoDidNotWaitIsToldFromWhatIsDown(t *testing.T) {
	type ends func(context.Context) (context.Context, context.CancelFunc)
	hangsUp := func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(time.Second, cancel)
		return ctx, cancel
	}
	hurries := func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, time.Second)
	}
	limited := func(ctx context.Context) (context.Context, context.CancelFunc) { return Within(ctx, time.Second) }
	for _, where := range []struct {
		what   string
		mire   func(w *world, m *mire)
		broken api.Code // what it is while the caller waits
		long   api.Code // when it took too long
		csr    bool     // certificates and digests get there too
	}{
		{"the horizon", func(w *world, m *mire) { w.Horizons = m }, api.CodeLeaseExpired, api.CodeOverloaded, false},
		{"opening the key", func(w *world, m *mire) { m.opening, w.Keys = true, m }, api.CodeBackendUnavailable, api.CodeOverloaded, true},
		{"signing", func(w *world, m *mire) { m.Keys, w.Keys = w.Keys, m }, api.CodeBackendUnavailable, api.CodeOverloaded, true},
		{"the log", func(w *world, m *mire) { m.Log, w.Log = w.Log, m }, api.CodeAuditUnavailable, api.CodeAuditUnavailable, true},
	} {
		for _, who := range []struct {
			what string
			ends ends
			err  error
			code api.Code
		}{
			{"hung up", hangsUp, context.Canceled, api.CodeCanceled},
			{"gave it little time", hurries, context.DeadlineExceeded, api.CodeDeadlineExceeded},
			{"waited for as long as it may", limited, ErrTimeLimit, where.long},
			{"waits", context.WithCancel, context.DeadlineExceeded, where.broken},
			{"waits, and something of ours was stopped", context.WithCancel, context.Canceled, where.broken},
			{"hung up, and it is down all the same", hangsUp, keystore.ErrUnavailable, where.broken},
		} {
			for action, ask := range map[string]func(context.Context, *world) error{
				"JWT": func(ctx context.Context, w *world) error { _, err := w.SignJWT(ctx, issuer, ask("web")); return err },
				"batch": func(ctx context.Context, w *world) error {
					reply, err := w.SignJWTBatch(ctx, issuer, requests(1, "web"))
					if err != nil {
						return err
					}
					return &api.Error{Code: reply.Results[0].Problem.Code}
				},
				"CSR": func(ctx context.Context, w *world) error {
					_, err := w.SignCSR(ctx, client, csrFor(t, "a.devices.test"), "")
					return err
				},
				"digest": func(ctx context.Context, w *world) error {
					_, err := w.SignDigest(ctx, releaser, digestOf(keystore.ES256, "x"))
					return err
				},
			} {
				if !where.csr && (action == "CSR" || action == "digest") {
					continue
				}
				if action == "batch" && who.err == keystore.ErrUnavailable {
					continue // it asks for each of its requests once more, in no time
				}
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					where.mire(w, &mire{err: who.err})
					ctx, cancel := who.ends(t.Context())
					defer cancel()
					what := fmt.Sprint(action, ", ", where.what, ", ", who.what)
					wants(t, what, ask(ctx, w), who.code)
					outcomes := append(w.log.entries, w.log.refused...)
					if n := len(outcomes); where.broken != api.CodeAuditUnavailable && (n == 0 || outcomes[n-1].Code != string(who.code)) {
						t.Errorf("%s: entered as %+v, want %s", what, outcomes, who.code)
					}
				})
			}
		}
	}
}

// A token whose caller goes while its entry is written is withdrawn: the log says that it
// never left.
func TestATokenThatNobodyWaitsForIsWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Log = &mire{Log: w.Log, err: context.Canceled}
		ctx, hangUp := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, hangUp)
		_, err := w.SignJWT(ctx, issuer, ask("web"))
		wants(t, "it hung up", err, api.CodeCanceled)
		if n := len(w.log.refused); n != 1 || w.log.refused[0].JTI == "" || w.log.refused[0].Use != 0 || w.log.refused[0].Outcome != keystore.OutcomeRefused {
			t.Errorf("%+v", w.log.refused)
		}
	})
}

// A batch that came when its caller had gone costs nothing.
func TestABatchOfWhoHungUp(t *testing.T) {
	w := newWorld(t)
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	reply, err := w.SignJWTBatch(gone, issuer, api.BatchRequest{Requests: []json.RawMessage{json.RawMessage(`{"keyset":"web","claims":{}}`)}})
	if err != nil || reply.Results[0].Problem == nil || reply.Results[0].Problem.Code != api.CodeCanceled || w.signed != 0 {
		t.Errorf("%+v, %v; %d signatures", reply.Results, err, w.signed)
	}
}

// An operator who hung up was told of in the metrics as a log that is down.
func TestAnOperatorHangsUp(t *testing.T) {
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	w := newWorld(t)
	w.log.act = func(keystore.Record) error { return context.Canceled }
	wants(t, "reading the log", w.ReadAudit(gone, auditor, "acts"), api.CodeCanceled)
	wants(t, "reading the log, and waiting for it", w.ReadAudit(t.Context(), auditor, "acts"), api.CodeAuditUnavailable)
	w.rotations.err = leaseExpired(context.Canceled)
	_, err := w.Rotate(gone, operator, "web", api.OperateRequest{Reason: "why"})
	wants(t, "rotating", err, api.CodeCanceled)
}

// What is down, and a signature that does not verify, stay so when the caller does not
// wait to hear it.
func TestWhatIsDownIsNoHangUp(t *testing.T) {
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	for _, err := range []error{keystore.ErrUnavailable, errors.Join(keystore.ErrSignature, context.Canceled)} {
		if e := byCaller(gone, err); e != nil {
			t.Errorf("%v becomes %v", err, e)
		}
	}
}

// An intent whose caller went while it was written was entered, and nothing closed it:
// at the next start it was a certificate of which nobody knows whether there is one.
func TestAnIntentThatNobodyWaitsForIsClosed(t *testing.T) {
	for action, ask := range map[string]func(context.Context, *world) error{
		"CSR": func(ctx context.Context, w *world) error {
			_, err := w.SignCSR(ctx, client, csrFor(t, "a.devices.test"), "")
			return err
		},
		"digest": func(ctx context.Context, w *world) error {
			_, err := w.SignDigest(ctx, releaser, digestOf(keystore.ES256, "x"))
			return err
		},
	} {
		for ends, code := range map[error]api.Code{context.Canceled: api.CodeCanceled, context.DeadlineExceeded: api.CodeDeadlineExceeded, ErrTimeLimit: api.CodeOverloaded} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.Log = &slowLog{w.Log, 2 * time.Second}
				ctx, hangUp := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, hangUp)
				switch ends {
				case context.DeadlineExceeded:
					ctx, hangUp = context.WithTimeout(t.Context(), time.Second)
				case ErrTimeLimit:
					ctx, hangUp = Within(t.Context(), time.Second)
				}
				defer hangUp()
				what := fmt.Sprint(action, ", ", ends)
				wants(t, what, ask(ctx, w), code)
				n := len(w.log.entries)
				if n != 2 || w.log.entries[0].Outcome != keystore.OutcomeIntent {
					t.Fatalf("%s: %+v", what, w.log.entries)
				}
				if last := w.log.entries[1]; last.Outcome != keystore.OutcomeFailed || last.Code != string(code) || last.ID != w.log.entries[0].ID || last.Use != w.log.entries[0].Use {
					t.Errorf("%s: closed by %+v", what, last)
				}
				if slices.Contains(w.trace, "sign") {
					t.Errorf("%s: the key was asked", what)
				}
			})
		}
	}
}

// A log that was slow for longer than an outcome is waited for had the intent left open
// of a caller who did wait.
func TestAnIntentIsWaitedForAsLongAsItsCallerWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Log = &slowLog{w.Log, outcomeDeadline + 2*time.Second}
		ctx, cancel := Within(t.Context(), outcomeDeadline+5*time.Second)
		defer cancel()
		if _, err := w.SignDigest(ctx, releaser, digestOf(keystore.ES256, "x")); err != nil {
			t.Fatal(err)
		}
		if n := len(w.log.entries); n != 2 || w.log.entries[1].Outcome != keystore.OutcomeDone {
			t.Errorf("%+v", w.log.entries)
		}
	})
}

// slowLog takes its time for an intent, and enters it whether or not somebody waits.
type slowLog struct {
	Log
	takes time.Duration
}

func (l *slowLog) Act(ctx context.Context, r keystore.Record) (audit.Receipt, error) {
	if r.Outcome == keystore.OutcomeIntent {
		time.Sleep(l.takes)
	}
	receipt, err := l.Log.Act(context.WithoutCancel(ctx), r)
	if ctx.Err() != nil {
		return audit.Receipt{}, fmt.Errorf("%w: whether it is in the log: %w", keystore.ErrUncertain, context.Cause(ctx))
	}
	return receipt, err
}
