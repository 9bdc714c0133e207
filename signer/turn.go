package signer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/limit"
	"chancery/signer/policy"
	"chancery/signer/queue"
)

// A Queue is where principals wait for a keystore.
type Queue = queue.Queue[policy.Principal]

// A Turn is leave to ask a keystore.
type Turn = queue.Turn[policy.Principal]

// slowCost is what a signature by an RSA key counts for next to one on an elliptic
// curve: between the two that it takes in an HSM and the thirty in software, and so few
// that a window has some for each worker.
const slowCost = 4

func costOf(a keystore.Algorithm) int {
	switch a {
	case keystore.ES256, keystore.ES384, keystore.ES512, keystore.EdDSA:
		return 1
	}
	return slowCost
}

// errNoTurn: a request was refused before its key was asked and before it had a
// number, because too much was asked for.
var errNoTurn = fmt.Errorf("%w: there was no turn for it", errUnsent)

// longestRetry is how much later a caller is told to come back at most, however long
// others have waited. A quota's end may be later.
const longestRetry = time.Minute

// retryAfter returns a wait in whole seconds, 1 at least.
func retryAfter(wait time.Duration) int64 { return max(1, int64(math.Ceil(wait.Seconds()))) }

// Admit counts a request of who in, before anything of it but the certificate is
// read, or refuses it: an *api.Error with the code overloaded, which Refuse enters.
// What it returns must be called once, when the request has been answered.
func (s *Service) Admit(who policy.Caller) (release func(), err error) {
	if s.Limits == nil {
		return func() {}, nil
	}
	release, err = s.Limits.Admit(who.Principal)
	if err != nil {
		return nil, tooMuch(err)
	}
	return release, nil
}

// tooMuch is what a caller sees of a refusal by a queue or a limit.
func tooMuch(err error) *api.Error {
	if full, ok := errors.AsType[*queue.FullError](err); ok {
		e := overloaded(fmt.Errorf("%w: %w", errNoTurn, err))
		e.RetryAfter = retryAfter(min(full.Wait, longestRetry))
		return e
	}
	e := api.Errorf(api.CodeOverloaded, "%v", err).Because(errNoTurn) // the detail is the rest of it
	e.RetryAfter = 1
	if r, ok := errors.AsType[*limit.Refusal](err); ok {
		e.RetryAfter = retryAfter(r.Wait)
	}
	return e
}

// errUnsent: the time of a request was over before its key was asked.
var errUnsent = errors.New("the key was not asked to sign")

// await waits for who's turn in the queue before a keystore. A request that does not
// come so far has cost neither a signature nor a number: its error wraps errUnsent,
// and errNoTurn where too much was asked for.
func (s *Service) await(ctx context.Context, who policy.Principal, keystore string, cost int) (Turn, error) {
	q := s.queue(keystore)
	if q == nil {
		return Turn{}, nil
	}
	return hadTurn(q.Enter(ctx, who, cost))
}

// awaitPortion is await for a portion of a batch.
func (s *Service) awaitPortion(ctx context.Context, who policy.Principal, keystore string, cost int) (Turn, error) {
	q := s.queue(keystore)
	if q == nil {
		return Turn{}, nil
	}
	return hadTurn(q.EnterPortion(ctx, who, cost))
}

// queue returns the one before a keystore, or nil.
func (s *Service) queue(keystore string) *Queue {
	if s.Queue == nil {
		return nil
	}
	return s.Queue(keystore)
}

func hadTurn(t Turn, err error) (Turn, error) {
	if errors.Is(err, queue.ErrLeft) {
		return t, fmt.Errorf("%w: %w", errUnsent, err)
	}
	if err != nil {
		return t, tooMuch(err)
	}
	return t, nil
}

// count counts a signature towards who's quota. The one that fills it has the log
// say so, once in each window; if the log cannot, nothing is signed.
func (s *Service) count(ctx context.Context, who policy.Principal) error {
	if s.Limits == nil {
		return nil
	}
	alert, err := s.Limits.Sign(who)
	if err != nil {
		return tooMuch(err)
	}
	if alert == nil {
		return nil
	}
	_, err = s.Log.Act(ctx, quotaReached(who, alert))
	if err != nil {
		s.Limits.Unsaid(who)
		return auditUnavailable(fmt.Errorf("%w: %w", errUnsent, err))
	}
	return nil
}

func quotaReached(who policy.Principal, a *limit.Alert) keystore.Record {
	then := "signed"
	if a.Refuse {
		then = "refused"
	}
	per := "day"
	if a.Per == limit.Hour {
		per = "hour"
	}
	return keystore.Record{
		Principal: who.String(), Action: keystore.ActQuota, Outcome: keystore.OutcomeDone,
		Detail: map[string]string{
			"signatures": fmt.Sprint(a.Signatures), "per": per, "until": a.Until.UTC().Format(time.RFC3339), "then": then,
		},
	}
}

// noTurn enters that a request did not get its turn, and returns what the caller
// sees of err.
func (s *Service) noTurn(ctx context.Context, r keystore.Record, err error) error {
	if errors.Is(err, errNoTurn) {
		return s.refuse(r, err)
	}
	return s.fail(r, overdue(ctx, err, publicError))
}
