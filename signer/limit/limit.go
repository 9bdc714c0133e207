// Package limit bounds what one principal may ask for: how often, how much at a
// time, and how many signatures in an hour or a day. It is about principals, not
// keystores: who waits for whom at a keystore is package queue's.
//
//	l := limit.New(limit.Config{}, time.Now)
//	release, err := l.Admit(who)        // before the request is read; *limit.Refusal
//	defer release()
//	l.Charge(who, len(batch)-1)         // a batch is as many requests
//	alert, err := l.Sign(who)           // before the key is asked
//
// The counts are this node's and of this process: a restart begins anew.
package limit

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"chancery/signer/policy"
)

// What holds where a Limit does not say. A rate is not among them: what a token can
// make is not known here, and the queue before it shares it out.
const (
	// DefaultConcurrent is half the connections a door lets in by default, so that
	// one principal never has all the requests that are worked on.
	DefaultConcurrent = 512
	// DefaultWeight is everybody's, so that all have the same share.
	DefaultWeight = 1
	// DefaultSignatures in DefaultPer raise an alert.
	DefaultSignatures = 1_000_000
	DefaultPer        = Day
)

// The windows of a quota. They begin with the hour and the day in UTC.
const (
	Hour = time.Hour
	Day  = 24 * time.Hour
)

// A Limit is what one principal may ask for. The zero value of a member means its
// default.
type Limit struct {
	Rate       int // requests a second; 0: any
	Burst      int // requests at once, where there is a rate; 0: as many as in a second
	Concurrent int // requests worked on at a time
	Weight     int // share of a keystore that others want too, next to theirs
	Quota      Quota
}

// A Quota is how many signatures are nothing to speak of.
type Quota struct {
	Signatures int           // 0: DefaultSignatures
	Per        time.Duration // Hour or Day; 0: DefaultPer
	Refuse     bool          // what is over it is refused; false: the alert is all
}

func (l Limit) withDefaults() Limit {
	set := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	set(&l.Burst, l.Rate)
	set(&l.Concurrent, DefaultConcurrent)
	set(&l.Weight, DefaultWeight)
	set(&l.Quota.Signatures, DefaultSignatures)
	if l.Quota.Per == 0 {
		l.Quota.Per = DefaultPer
	}
	return l
}

// Config is everybody's Limit, and those of some.
type Config struct {
	Default    Limit
	Principals map[policy.Principal]Limit
}

func (c *Config) of(who policy.Principal) Limit {
	if l, ok := c.Principals[who]; ok {
		return l.withDefaults()
	}
	return c.Default.withDefaults()
}

// A Cause is which limit refused.
type Cause string

// The causes.
const (
	Rate       Cause = "rate"
	Concurrent Cause = "concurrent"
	OverQuota  Cause = "quota"
)

// Causes returns every cause.
func Causes() []Cause { return []Cause{Rate, Concurrent, OverQuota} }

// A Refusal is what a principal is told who asks for too much.
type Refusal struct {
	Cause Cause
	Most  int           // what the limit is
	Wait  time.Duration // when to come back
}

// Error says which limit it was.
func (r *Refusal) Error() string {
	switch r.Cause {
	case Rate:
		return fmt.Sprintf("the principal may ask %d times a second", r.Most)
	case Concurrent:
		return fmt.Sprintf("the principal may have %d requests worked on at a time", r.Most)
	}
	return fmt.Sprintf("the principal's quota is %d signatures", r.Most)
}

// An Alert tells that a principal has had its quota.
type Alert struct {
	Quota
	Until time.Time // the end of the window: there is one alert in it
}

// A Limiter keeps the limits. It may be used concurrently.
type Limiter struct {
	now    func() time.Time
	config atomic.Pointer[Config]

	rate, concurrent, quota, alerts atomic.Uint64

	mu    sync.Mutex // guards what follows
	known map[policy.Principal]*account
	swept time.Time
}

// An account is what one principal has had lately. It is guarded by the Limiter's
// mu.
type account struct {
	Limit
	of      *Config // that Limit is from
	tokens  *rate.Limiter
	inside  int
	release func()

	window  time.Time // the beginning of the quota's
	signed  int       // in it
	alerted bool
}

// New returns a Limiter. now is the wall clock, whose hours and days count.
func New(c Config, now func() time.Time) *Limiter {
	l := &Limiter{now: now, known: make(map[policy.Principal]*account)}
	l.config.Store(&c)
	return l
}

// Set puts other limits in force. What principals have had still counts.
func (l *Limiter) Set(c Config) { l.config.Store(&c) }

// Weight returns the principal's share, for queue.New.
func (l *Limiter) Weight(who policy.Principal) int { return l.config.Load().of(who).Weight }

// sweepEvery is how long an account that says nothing any more is kept at most,
// while somebody asks.
const sweepEvery = time.Minute

// account returns who's. The caller holds mu.
func (l *Limiter) account(who policy.Principal, now time.Time) *account {
	if now.Sub(l.swept).Abs() >= sweepEvery {
		l.sweep(now)
	}
	a, ok := l.known[who]
	if !ok {
		a = new(account)
		a.release = func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			a.inside--
		}
		l.known[who] = a
	}
	if c := l.config.Load(); a.of != c {
		a.set(c, who, now)
	}
	return a
}

// set puts the limits of c in force for an account.
func (a *account) set(c *Config, who policy.Principal, now time.Time) {
	before := a.Limit
	a.Limit, a.of = c.of(who), c
	switch {
	case a.Rate == 0:
		a.tokens = nil
	case a.tokens == nil:
		a.tokens = rate.NewLimiter(rate.Limit(a.Rate), a.Burst)
	default:
		a.tokens.SetLimitAt(now, rate.Limit(a.Rate))
		a.tokens.SetBurstAt(now, a.Burst)
	}
	if a.Quota != before.Quota {
		a.alerted = false
	}
}

// sweep forgets the accounts that a new one would be equal to.
func (l *Limiter) sweep(now time.Time) {
	l.swept = now
	for who, a := range l.known {
		full := a.tokens == nil || a.tokens.TokensAt(now) >= float64(a.Burst)
		if a.inside == 0 && full && (a.signed == 0 || !a.window.Equal(now.Truncate(a.Quota.Per))) {
			delete(l.known, who)
		}
	}
}

// Admit counts a request of who in, or refuses it with a *Refusal. What it returns
// must be called once, when the request has been answered. It neither waits nor
// reads anything of the request.
func (l *Limiter) Admit(who policy.Principal) (release func(), err error) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(who, now)
	if a.inside >= a.Concurrent {
		l.concurrent.Add(1)
		return nil, &Refusal{Concurrent, a.Concurrent, 0}
	}
	a.turnPage(now)
	if err := l.exhausted(a); err != nil {
		return nil, err
	}
	if a.tokens != nil && !a.tokens.AllowN(now, 1) {
		l.rate.Add(1)
		lacking := 1 - a.tokens.TokensAt(now)
		return nil, &Refusal{Rate, a.Rate, time.Duration(math.Ceil(lacking / float64(a.Rate) * float64(time.Second)))}
	}
	a.inside++
	return a.release, nil
}

// Charge counts n requests more than were admitted, which came together. They are
// not refused: the principal is in debt then, and what it asks next is, until its
// rate has made up for them.
func (l *Limiter) Charge(who policy.Principal, n int) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(who, now)
	for n > 0 && a.tokens != nil {
		part := min(n, a.Burst)
		a.tokens.ReserveN(now, part)
		n -= part
	}
}

// Sign counts a signature that is about to be made. It returns an Alert, once in a
// window, with the one that fills the quota, and a *Refusal for those beyond it if
// the quota says so.
func (l *Limiter) Sign(who policy.Principal) (*Alert, error) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(who, now)
	a.turnPage(now)
	if err := l.exhausted(a); err != nil {
		return nil, err
	}
	a.signed++
	if a.alerted || a.signed < a.Quota.Signatures {
		return nil, nil
	}
	a.alerted = true
	l.alerts.Add(1)
	return &Alert{a.Quota, a.window.Add(a.Quota.Per)}, nil
}

// Unsaid takes an alert back that could not be told: the next signature has it.
func (l *Limiter) Unsaid(who policy.Principal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(who, l.now())
	a.alerted = false
	a.signed = min(a.signed, a.Quota.Signatures-1)
}

// turnPage begins to count anew where another window has begun.
func (a *account) turnPage(now time.Time) {
	if w := now.Truncate(a.Quota.Per); !w.Equal(a.window) { // of zero time, whose days are UTC's
		a.window, a.signed, a.alerted = w, 0, false
	}
}

// exhausted returns why nothing is signed any more in the window of a, if so. The
// caller holds mu.
func (l *Limiter) exhausted(a *account) error {
	if !a.Quota.Refuse || a.signed < a.Quota.Signatures {
		return nil
	}
	l.quota.Add(1)
	return &Refusal{OverQuota, a.Quota.Signatures, a.window.Add(a.Quota.Per).Sub(l.now())}
}

// Refused returns how often a limit refused.
func (l *Limiter) Refused(c Cause) uint64 {
	switch c {
	case Rate:
		return l.rate.Load()
	case Concurrent:
		return l.concurrent.Load()
	}
	return l.quota.Load()
}

// Alerts returns how many there were.
func (l *Limiter) Alerts() uint64 { return l.alerts.Load() }

// Known returns how many principals have an account.
func (l *Limiter) Known() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.known)
}
