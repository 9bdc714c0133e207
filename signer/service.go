// Package signer makes a signature because someone asked. Service is the one
// place where the order of the steps is written:
//
//	authorise → prepare → wait → sign → record → look again → release
//
// A Grant, which only policy can make, is needed to prepare; a Prepared, which
// can be redeemed once, is needed to sign; a Receipt from the log is needed to
// release. So nothing leaves that was not allowed, and nothing leaves that is
// not on record.
//
//	service, err := signer.New(signer.Config{ /* views, keys, log, … */ })
//	reply, err := service.SignJWT(ctx, principal, request)
//	// err is an *api.Error: a stable code for the caller, the cause for the log
package signer

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"sync"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
	"chancery/signer/jwt"
	"chancery/signer/limit"
	"chancery/signer/policy"
)

// Config is what a Service works with. Every member but Profile, Queue, Limits and
// Now is required.
// All functions and interfaces must be safe for concurrent use.
type Config struct {
	// Policy returns the policy in force.
	Policy func() *policy.Policy
	// View returns the snapshot in force, or an error once the signing lease has
	// passed, or while the node's clock is not to be gone by. The error is an
	// *api.Error where the caller is to know more than that nothing is signed.
	View func() (*keystore.View, error)
	// Settings returns what the configuration says of a key set.
	Settings func(keyset string) (Settings, bool)
	// Digests reports whether the configuration has a key set sign digests.
	Digests func(keyset string) bool
	// Profile returns a claims profile other than the plain one; nil: those that are
	// built in are there.
	Profile func(name string) (*jwt.Profile, bool)
	// Authority returns what the configuration says of an authority.
	Authority func(name string) (Authority, bool)

	Keys         Keys
	Log          Log
	Horizons     Horizons
	Certificates Certificates
	Rotations    Rotations
	Tokens       Tokens
	Clock        Clock
	Nodes        Nodes

	// Queue returns where principals wait for a keystore; nil, or a nil Queue: nobody
	// waits, and the keystore's own line is all there is.
	Queue func(keystore string) *Queue
	// Limits are those of principals; nil: there are none.
	Limits *limit.Limiter

	// Salt keys the digests of requests in the log.
	Salt [32]byte
	// Now is the wall clock; nil means time.Now.
	Now func() time.Time
}

// Settings is what the configuration says of a key set that signs JWTs.
type Settings struct {
	Issuer     string        // the iss claim
	DefaultTTL time.Duration // for a request that names none
	MaxTTL     time.Duration // L: what the rotation windows count on
	Skew       time.Duration // S: nbf is iat − S
}

// Keys opens private keys this node has proven.
type Keys interface {
	// Open returns the private key of a version, or an error wrapping
	// keystore.ErrUnavailable if its token cannot be reached or this node has not
	// yet seen it sign.
	Open(ctx context.Context, set *keystore.KeySet, v *keystore.Version) (keystore.Key, error)
}

// Log is the tamper-evident log.
type Log interface {
	// Take numbers a use of a key, which is asked only afterwards. The entry of
	// the act has the number and closes it, whichever way it goes in.
	Take(kid keystore.KID) (use int64, err error)
	// GiveBack takes a number back that no entry has, because the key was not
	// asked. False: it stays open, for the entry of the act that failed.
	GiveBack(kid keystore.KID, use int64) bool
	// Act enters an act; when it returns without error the entry is durable.
	Act(ctx context.Context, r keystore.Record) (audit.Receipt, error)
	// Start begins to enter an act, for who can do something else meanwhile. It does
	// not wait.
	Start(r keystore.Record) audit.Pending
	// Hurry has what was started written now, because nothing else is left to do.
	Hurry()
	// Refuse enters a refusal within its budget. It does not wait.
	Refuse(r keystore.Record)
	// Health returns nil, or why nothing can be entered now.
	Health() error
}

// Horizons keeps, per kid, the time no token outlives.
type Horizons interface {
	RaiseHorizon(ctx context.Context, kid keystore.KID, to time.Time) error
}

// Rotations is what operators ask of the rotation engine. Its errors are
// *api.Error where the caller is to know more than "internal error".
type Rotations interface {
	Rotate(ctx context.Context, by, keyset, reason string, now bool) (api.RotateReply, error)
	Suspend(ctx context.Context, by, keyset string, kid keystore.KID, reason string) (api.SuspendReply, error)
	Resume(ctx context.Context, by, keyset string, kid keystore.KID, reason string) (api.SuspendReply, error)
	// Compromise says that the keys of a scope are in other hands.
	Compromise(ctx context.Context, by string, scope Scope, reason string) (api.CompromiseReply, error)
	// Gap returns before when a key set without a version that signs cannot have one
	// again, because the one that did is compromised; zero: only an operator ends
	// that. False: it has no such gap. It does not wait.
	Gap(set *keystore.KeySet) (soonest time.Time, ok bool)
	// Destroy destroys the key of the version that kid or version names.
	Destroy(ctx context.Context, by, keyset string, kid keystore.KID, version int, reason string) (api.DestroyReply, error)
	KeySet(ctx context.Context, set *keystore.KeySet) (api.KeySet, error)
	Plan(ctx context.Context, keyset string) (api.Plan, error)
	History(ctx context.Context, keyset string) (api.History, error)
}

// Tokens is what operators ask of the keystores.
type Tokens interface {
	Status() []keystore.TokenStatus
	Retry(ctx context.Context, token string) error
	// Reconcile compares a keystore with the catalog; empty: every one. It returns
	// an error wrapping keystore.ErrNotFound if there is none of that name.
	Reconcile(ctx context.Context, keystore string) (api.Reconciliation, error)
	// Reconciled returns the last comparison of every keystore; false: none yet.
	Reconciled() (api.Reconciliation, bool)
}

// Clock is what operators ask of the node's wall clock.
type Clock interface {
	// Confirm has the node go by its wall clock again, which was stepped, once the
	// record is a durable entry of the lifecycle log. Its errors are *api.Error
	// where the caller is to know more than "internal error": a conflict where there
	// is nothing to confirm.
	Confirm(ctx context.Context, rec keystore.Record) (api.ClockConfirmReply, error)
}

// Service signs and operates for principals. It may be used concurrently.
type Service struct {
	Config
	horizons  horizons
	digesters sync.Pool // of *digester
}

// New returns a Service, or an error that names what c lacks.
func New(c Config) (*Service, error) {
	switch {
	case c.Policy == nil, c.View == nil, c.Settings == nil, c.Digests == nil, c.Authority == nil:
		return nil, errors.New("signer: a function of Config is missing")
	case c.Keys == nil, c.Log == nil, c.Horizons == nil, c.Certificates == nil, c.Rotations == nil, c.Tokens == nil, c.Clock == nil, c.Nodes == nil:
		return nil, errors.New("signer: an interface of Config is missing")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Profile == nil {
		c.Profile = builtIn()
	}
	return &Service{Config: c}, nil
}

// A digester makes digests of requests, one at a time.
type digester struct {
	mac hash.Hash
	buf [sha256.Size]byte
}

// digest returns the salted digest of a request for its entry: hexadecimal
// HMAC-SHA-256, so that the log shows which requests were equal and nothing
// of what they said.
func (s *Service) digest(parts ...[]byte) string {
	d, ok := s.digesters.Get().(*digester)
	if !ok {
		d = &digester{mac: hmac.New(sha256.New, s.Salt[:])}
	}
	defer s.digesters.Put(d)
	d.mac.Reset()
	for _, p := range parts {
		binary.BigEndian.PutUint64(d.buf[:8], uint64(len(p)))
		d.mac.Write(d.buf[:8])
		d.mac.Write(p)
	}
	return hex.EncodeToString(d.mac.Sum(d.buf[:0]))
}

// refuse enters the refusal and returns what the caller sees of err. r names
// the act; its outcome, code and cause are filled in.
func (s *Service) refuse(r keystore.Record, err error) error {
	e := publicError(err)
	r.Outcome, r.Code, r.Reason = keystore.OutcomeRefused, string(e.Code), e.Reason()
	s.Log.Refuse(r)
	return e
}

// fail is refuse for an act that had reached the key: what became of it is
// failed, or unknown where the token may have signed.
func (s *Service) fail(r keystore.Record, err error) error {
	e := publicError(err)
	r.Outcome, r.Code, r.Reason = failure(err), string(e.Code), e.Reason()
	s.Log.Refuse(r)
	return e
}

func failure(err error) keystore.Outcome {
	if errors.Is(err, keystore.ErrPINRejected) || errors.Is(err, errUnsent) { // it never got so far
		return keystore.OutcomeFailed
	}
	if errors.Is(err, keystore.ErrUncertain) || errors.Is(err, keystore.ErrUnavailable) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return keystore.OutcomeUnknown
	}
	return keystore.OutcomeFailed
}

// publicError turns any error of a room below into what a caller may see.
func publicError(err error) *api.Error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, policy.ErrForbidden):
		return api.Errorf(api.CodeForbidden, "not allowed").Because(err)
	case errors.Is(err, keystore.ErrOverloaded):
		return overloaded(err)
	case errors.Is(err, keystore.ErrSignature):
		return api.Errorf(api.CodeSignatureInvalid, "the key did not make a valid signature").Because(err)
	case errors.Is(err, keystore.ErrUnavailable), errors.Is(err, keystore.ErrNotFound),
		errors.Is(err, keystore.ErrAmbiguous), errors.Is(err, keystore.ErrAttributes),
		errors.Is(err, keystore.ErrUncertain), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return unavailable(err)
	}
	return api.Errorf(api.CodeInternal, "internal error").Because(err)
}

func overloaded(cause error) *api.Error {
	e := api.Errorf(api.CodeOverloaded, "too many requests wait for the keystore").Because(cause)
	e.RetryAfter = 1
	return e
}

func unavailable(cause error) *api.Error {
	e := api.Errorf(api.CodeBackendUnavailable, "the keystore cannot do it now").Because(cause)
	e.RetryAfter = 1
	return e
}

func auditUnavailable(cause error) *api.Error {
	e := api.Errorf(api.CodeAuditUnavailable, "the log cannot be written, so nothing is released").Because(cause)
	e.RetryAfter = 1
	return e
}

func leaseExpired(cause error) *api.Error {
	if e, ok := errors.AsType[*api.Error](cause); ok {
		return e
	}
	e := api.Errorf(api.CodeLeaseExpired, "the key catalog cannot be read or written, so nothing is signed").Because(cause)
	e.RetryAfter = 1
	return e
}

func suspended() *api.Error {
	e := api.Errorf(api.CodeKeySetSuspended, "the key set is suspended")
	e.RetryAfter = 60
	return e
}
