package transit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"chancery/keystore"
)

// A login keeps a valid token for the cluster: it logs in, renews before the token
// runs out, and logs in again when it cannot be renewed or is refused. It alone
// does, so that of a thousand requests that meet a dead token one login comes.
type login struct {
	cfg     *Config
	cluster *cluster
	changed func() // called when the outcome of a login differs from before; it does not wait

	kick chan struct{} // capacity 1: a token was refused, or an operator asks

	// Owned by the goroutine of run.
	refusedAs [sha256.Size]byte // the credentials that were refused last; zero: none were
	refusedAt time.Time
	reentered time.Time     // when a token that was refused was replaced last
	reenter   time.Duration // the pause before the next that may be
	rested    time.Time     // nothing is tried before

	forced atomic.Bool   // an operator asks: they are tried at once
	signed atomic.Uint64 // the number of the last token that made a signature

	mu       sync.Mutex // guards what follows
	last     uint64     // the number of the last token
	number   uint64     // of the token in use; 0: none
	token    secret
	made     bool      // by a login, so that it is ours to revoke
	expires  time.Time // zero: never
	lease    time.Duration
	renews   bool
	suspects uint64        // the token that a request was refused with; not yet looked at
	denied   uint64        // the token that is good and may not do what it was asked
	judged   time.Time     // when that was seen
	err      error         // why there is no token; nil: there is one, or it is being looked for
	tries    uint64        // logins that had an outcome
	tried    error         // the last one's
	warning  string        // of a token that runs out
	settled  chan struct{} // closed and made anew when the outcome of a look or login is known
}

// The renewer's pace. A request that cannot be made at all is not tried: while no
// server is up nothing is sent.
const (
	firstRetry    = time.Second
	leaveRefused  = 30 * time.Second
	lookAtFile    = time.Second     // how often a refused credential's file is read
	renewAt       = 2               // a token is renewed when 1/2 of its time is left
	judgedFor     = 2 * time.Second // how long it is believed that a token is good and may not do a thing
	verdictWithin = 3 * time.Second
)

func newLogin(cfg *Config, changed func()) *login {
	return &login{cfg: cfg, changed: changed, kick: make(chan struct{}, 1), settled: make(chan struct{})}
}

// generation returns the number of the token in use.
func (l *login) generation() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.number
}

// problem returns why there is no token; ok is false while that is not known yet.
func (l *login) problem() (err error, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err, l.err != nil || l.number != 0
}

// told returns a warning about the token in use, or "".
func (l *login) told() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.warning
}

// first waits for the outcome of the first login.
func (l *login) first(ctx context.Context) error {
	for {
		l.mu.Lock()
		settled := l.settled
		l.mu.Unlock()
		if err, known := l.problem(); known {
			return err
		}
		if err := l.cluster.trouble(); err != nil {
			return err
		}
		timer := time.NewTimer(firstRetry / 10)
		select {
		case <-settled:
		case <-timer.C: // a server may be down by now
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		timer.Stop()
	}
}

// retry logs in anew and returns the outcome.
func (l *login) retry(ctx context.Context) error {
	l.mu.Lock()
	before := l.tries
	l.mu.Unlock()
	l.again()
	for {
		l.mu.Lock()
		tries, tried, settled := l.tries, l.tried, l.settled
		l.mu.Unlock()
		if tries != before {
			return tried
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return fmt.Errorf("%w: logging in: %w", keystore.ErrUnavailable, context.Cause(ctx))
		}
	}
}

// errNotAllowed: the token is good and may not do what was asked.
var errNotAllowed = errors.New("the token is good, and its policy does not allow this (hint: README has the policy that Chancery needs)")

// suspect has the token looked at that a request was refused with. It does not wait.
func (l *login) suspect(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.number == number && !(l.denied == number && time.Since(l.judged) < judgedFor) {
		l.suspects = number
		l.wake()
	}
}

// wake has run look. Its caller holds mu, or knows that it does not matter.
func (l *login) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// refused is told that a request was refused with a token, and waits until it is
// known what that means: nil, there is another token by now and the request may
// be made again; or why not.
func (l *login) refused(ctx context.Context, number uint64) error {
	l.suspect(number)
	timer := time.NewTimer(verdictWithin)
	defer timer.Stop()
	for {
		l.mu.Lock()
		now, suspects, denied, err, settled := l.number, l.suspects, l.denied, l.err, l.settled
		l.mu.Unlock()
		switch {
		case err != nil:
			return err
		case now != number:
			return nil
		case suspects != number && denied == number:
			return errNotAllowed
		}
		select {
		case <-settled:
		case <-timer.C:
			return fmt.Errorf("%w: a login takes too long", keystore.ErrUnavailable)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// settle makes an outcome known. Its caller holds mu.
func (l *login) settle(err error) {
	l.err = err
	close(l.settled)
	l.settled = make(chan struct{})
	l.changed()
}

// again has the credentials tried at once, though they were refused.
func (l *login) again() {
	l.forced.Store(true)
	l.wake()
}

// run keeps the token until ctx ends, and then revokes it if it is ours.
func (l *login) run(ctx context.Context) {
	for ctx.Err() == nil {
		l.sleep(ctx, l.turn(ctx))
	}
	l.revoke()
}

// turn does what is due and returns how long there is nothing to do.
func (l *login) turn(ctx context.Context) time.Duration {
	if l.cluster.trouble() != nil {
		return lookAtFile // nothing can be asked
	}
	if left := time.Until(l.rested); left > 0 && !l.forced.Load() {
		return left // however many are waiting
	}
	l.mu.Lock()
	number, suspects, due, renews := l.number, l.suspects, l.due(), l.renews
	l.mu.Unlock()
	now := l.cfg.Now()
	switch {
	case l.forced.Swap(false):
		l.refusedAs = [sha256.Size]byte{}
		return l.enter(ctx)
	case number == 0:
		return l.enter(ctx)
	case suspects == number:
		return l.judge(ctx)
	case l.replaced():
		return l.enter(ctx)
	case !due.IsZero() && !now.Before(due) && renews:
		return l.renew(ctx)
	case !due.IsZero() && !now.Before(due):
		return l.enter(ctx)
	case l.cfg.Auth.Method == MethodToken:
		return lookAtFile
	case due.IsZero():
		return time.Hour
	}
	return due.Sub(now)
}

// replaced reports whether the file of a token holds another one by now, that was
// not refused.
func (l *login) replaced() bool {
	if l.cfg.Auth.Method != MethodToken {
		return false
	}
	cred, err := l.credentials()
	l.mu.Lock()
	defer l.mu.Unlock()
	return err == nil && cred != l.token && !l.left(cred)
}

// left reports whether credentials were refused a short while ago.
func (l *login) left(cred secret) bool {
	return sha256.Sum256([]byte(cred)) == l.refusedAs && time.Since(l.refusedAt) < leaveRefused
}

// due returns when the token is to be renewed or replaced; zero: never. Its
// caller holds mu.
func (l *login) due() time.Time {
	if l.expires.IsZero() {
		return time.Time{}
	}
	return l.expires.Add(-l.lease / renewAt)
}

// rest returns how long what failed is left, of which no request makes less.
func (l *login) rest() time.Duration {
	d := jitter(firstRetry)
	l.rested = time.Now().Add(d)
	return d
}

func (l *login) sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.kick:
	case <-ctx.Done():
	}
}

// hasSigned notes that a token was good for a signature.
func (l *login) hasSigned(number uint64) {
	for {
		was := l.signed.Load()
		if number <= was || l.signed.CompareAndSwap(was, number) {
			return
		}
	}
}

// judge looks whether a token that a request was refused with is good. A policy
// may not even allow that look. If another token has just been taken in the place
// of one that was refused, and has signed nothing, it is the policy that does not
// allow the request; if it has, it may be dead, or the policy allows some requests
// and not others: it is replaced after pauses that grow.
func (l *login) judge(ctx context.Context) time.Duration {
	since := time.Since(l.reentered)
	if since >= leaveRefused {
		l.reenter = 0
	}
	l.mu.Lock()
	token, fresh := l.token, since < l.reenter || l.number != l.signed.Load() && since < leaveRefused
	l.mu.Unlock()
	_, err := l.ask(ctx, token, &request{method: "GET", path: "auth/token/lookup-self"})
	switch {
	case err == nil, isKind(err, denied) && fresh:
		l.mu.Lock()
		l.suspects, l.denied, l.judged = 0, l.number, time.Now()
		l.settle(nil)
		l.mu.Unlock()
		return firstRetry
	case isKind(err, denied):
		l.cfg.Log.WarnContext(ctx, "the Vault token is refused; logging in anew", "keystore", l.cfg.Name)
		l.reentered, l.reenter = time.Now(), min(max(2*l.reenter, firstRetry), leaveRefused)
		return l.enter(ctx)
	}
	return l.rest()
}

// ask sends a request with a token that the others may not have, once to each
// server until one answers.
func (l *login) ask(ctx context.Context, token secret, r *request) (*answer, error) {
	r.within, r.via = l.cfg.Deadlines.Login, viaLogin
	err := l.cluster.trouble()
	tried := make(map[*server]int)
	for s := l.cluster.pick(tried); s != nil; s = l.cluster.pick(tried) {
		s.entry.SetToken(string(token)) // ours alone
		var a *answer
		if a, err = s.send(ctx, r); err == nil {
			return a, nil
		}
		if t := troubleOf(err); t == nil || t.kind != unreachable && !t.down() && !t.failed() {
			break
		}
		tried[s] = 2
	}
	if err == nil { // the last one that was up has just gone
		err = &trouble{kind: unreachable, text: "no server is up"}
	}
	return nil, err
}

// renew renews the token. One that is refused, or that was given less time than it
// had, because its longest is near, is replaced.
func (l *login) renew(ctx context.Context) time.Duration {
	l.mu.Lock()
	token := l.token
	l.mu.Unlock()
	a, err := l.ask(ctx, token, &request{method: "POST", path: "auth/token/renew-self", body: struct{}{}})
	switch {
	case err == nil && a.Auth != nil && a.Auth.Lease > 0:
		lease := time.Duration(a.Auth.Lease) * time.Second
		l.mu.Lock()
		short := lease < l.lease*3/4
		l.expires, l.renews = l.cfg.Now().Add(spread(lease)), a.Auth.Renewable && !short
		l.lease = max(l.lease, lease)
		l.alarm(ctx, short && !l.made, "") // what a login made, a login replaces
		l.mu.Unlock()
		return firstRetry
	case err == nil, isKind(err, denied), isKind(err, refused):
		l.mu.Lock()
		l.renews = false
		l.mu.Unlock()
		return l.enter(ctx)
	}
	l.mu.Lock()
	l.alarm(ctx, l.expires.Sub(l.cfg.Now()) < l.lease/3, "")
	l.mu.Unlock()
	return l.rest()
}

// alarm tells, once, of a token that runs out, and why no other is taken. Its
// caller holds mu.
func (l *login) alarm(ctx context.Context, short bool, why string) {
	warning := ""
	if short {
		warning = fmt.Sprintf("the Vault token could not be renewed in full and runs out at %s", l.expires.UTC().Truncate(time.Minute).Format(time.RFC3339))
	}
	if why != "" {
		warning = strings.TrimPrefix(warning+"; "+why, "; ")
	}
	if warning != "" && l.warning == "" {
		l.cfg.Log.WarnContext(ctx, "a Vault token runs out", "keystore", l.cfg.Name, "warning", warning)
	}
	if news := warning != l.warning; news {
		l.warning = warning
		l.changed()
	}
}

// spread shortens a time a little, so that not all nodes do the same at once.
func spread(d time.Duration) time.Duration { return d - rand.N(d/20+1) }

// enter logs in. Credentials that Vault has refused are left for a while, unless
// their file has been written anew: some auth methods lock who tries too often.
func (l *login) enter(ctx context.Context) time.Duration {
	cred, err := l.credentials()
	if err != nil {
		l.fail(ctx, &rejected{err})
		return lookAtFile
	}
	if l.left(cred) {
		l.lapse()
		return lookAtFile
	}
	err = l.try(ctx, cred)
	switch {
	case err == nil:
		l.refusedAs = [sha256.Size]byte{}
		return firstRetry
	case isKind(err, denied), isKind(err, refused), isKind(err, absent), isKind(err, noRoute):
		l.refusedAs, l.refusedAt = sha256.Sum256([]byte(cred)), time.Now()
		l.fail(ctx, &rejected{err})
		return lookAtFile
	}
	if ctx.Err() == nil {
		l.fail(ctx, fmt.Errorf("login: %w", err))
	}
	return l.rest()
}

// rejected is a login that Vault refused, or that cannot be tried.
type rejected struct{ error }

func (e *rejected) Error() string {
	s := "login: " + e.error.Error()
	if isKind(e.error, noRoute) {
		s += " (hint: check the namespace, and where the auth method is mounted)"
	}
	return s
}
func (e *rejected) Unwrap() []error { return []error{e.error, keystore.ErrUnavailable} }

// fail makes known that a login did not succeed. A token that is good is used
// until it runs out.
func (l *login) fail(ctx context.Context, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tries++
	l.tried = err
	if l.good() {
		l.alarm(ctx, false, err.Error())
		l.settle(nil)
		return
	}
	l.drop(err)
}

// good reports whether there is a token that nothing is known to be wrong with.
// Its caller holds mu.
func (l *login) good() bool {
	return l.number != 0 && l.suspects != l.number && (l.expires.IsZero() || l.cfg.Now().Before(l.expires))
}

// drop makes known that there is no token. Its caller holds mu.
func (l *login) drop(why error) {
	for _, s := range l.cluster.servers {
		s.client.ClearToken()
	}
	l.number, l.token, l.expires, l.suspects, l.warning = 0, "", time.Time{}, 0, ""
	l.settle(why)
}

// lapse drops a token that is good no more, for which no other was given.
func (l *login) lapse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.number != 0 && !l.good() {
		l.drop(l.tried)
	}
}
