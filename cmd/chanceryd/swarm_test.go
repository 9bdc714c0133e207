package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"chancery/signer/api"
	"chancery/signer/client"
)

// fastCache is how long a cache may keep a set of dev --fast.
const fastCache = 4 * time.Second

// I3: no live token is rejected by any of many verifiers while every key set
// rotates as often as it may, an operator stops and resumes one, and the daemon
// is restarted and killed.
func TestASwarmOfVerifiers(t *testing.T) {
	t.Parallel()
	length := time.Duration(soak(t, 60, 600, "seconds")) * time.Second
	d := startDev(t, tempDir(t), "--fast")
	s := &swarm{t: t, d: d, public: d.endpoints.Public, parties: d.parties(), kids: make(map[string]map[string]bool)}
	load := d.crowd(3, 60*time.Millisecond, fastSets...)
	ctx, end := context.WithTimeout(t.Context(), length)
	defer s.wg.Wait()
	defer end()
	for _, keyset := range fastSets {
		issuer := d.client("issuer")
		s.wg.Go(func() { s.sign(ctx, issuer, keyset) })
	}
	operator := d.client("operator")
	s.wg.Go(func() { s.operate(ctx, operator) })
	for ctx.Err() == nil {
		s.restartAfter(ctx, 10*time.Second+rand.N(4*time.Second))
	}
	load.stop()
	s.wg.Wait() // until the last token has expired
	s.d.stop()
	s.d.proven()
	s.d.wantRecorded(append(load.replies(), s.answers...))
	s.report(len(load.replies()))
}

// A swarm is parties that verify tokens three times in their life, of a daemon
// that things are done to.
type swarm struct {
	t        *testing.T
	d        *chanceryd // that runs now; owned by the test's own goroutine
	public   string     // where keys are, always
	parties  []*party
	restarts int
	wg       sync.WaitGroup

	mu       sync.Mutex // guards all below
	answers  []answer
	kids     map[string]map[string]bool // that signed, by key set
	downs    []outage
	rotates  int // that were granted
	suspends int
}

// An outage is a time in which nobody may count on the daemon.
type outage struct{ from, to time.Time } // to is zero while it goes on

// sign has a token signed now and then, which everybody is given.
func (s *swarm) sign(ctx context.Context, c *client.Client, keyset string) {
	for ctx.Err() == nil {
		a := answer{keyset: keyset, sent: time.Now()}
		a.reply, a.err = c.SignJWT(ctx, signAs(keyset))
		if a.answered = time.Now(); a.err == nil {
			s.give(a)
		}
		pause(ctx, 250*time.Millisecond)
	}
}

func pause(ctx context.Context, long time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(long):
	}
}

// give gives a token to all parties, which verify it at once, in the middle of
// its life and in its last second.
func (s *swarm) give(a answer) {
	s.mu.Lock()
	s.answers = append(s.answers, a)
	if s.kids[a.keyset] == nil {
		s.kids[a.keyset] = make(map[string]bool)
	}
	s.kids[a.keyset][a.reply.KID] = true
	s.mu.Unlock()
	life := time.Until(a.reply.ExpiresAt)
	issuer := s.public + "/issuers/" + a.keyset
	for _, p := range s.parties {
		if !p.relies(a.keyset) {
			continue
		}
		s.wg.Go(func() {
			for _, left := range []time.Duration{life, life / 2, 700 * time.Millisecond} {
				time.Sleep(time.Until(a.reply.ExpiresAt.Add(-left)))
				if err := p.try(issuer, a, s.wasDown); err != nil {
					s.t.Error(err)
				}
			}
		})
	}
}

// operate rotates every key set whenever it may be, and now and then suspends
// one and resumes it.
func (s *swarm) operate(ctx context.Context, c *client.Client) {
	for n := 1; ctx.Err() == nil; n++ {
		for _, keyset := range fastSets {
			_, err := c.Rotate(ctx, keyset, api.OperateRequest{Reason: "a swarm looks on", When: "now"})
			s.count(&s.rotates, err)
		}
		if n%8 == 0 {
			_, err := c.Suspend(ctx, "web", api.OperateRequest{Reason: "a swarm looks on"})
			s.count(&s.suspends, err)
			pause(ctx, 700*time.Millisecond)
			s.resume(c)
		}
		pause(ctx, time.Second)
	}
}

func (s *swarm) count(n *int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		*n++
	}
}

// resume resumes what was suspended, however long the daemon takes to be there
// again; it may not have been suspended.
func (s *swarm) resume(c *client.Client) {
	for range 100 {
		_, err := c.Resume(context.Background(), "web", api.OperateRequest{Reason: "a swarm looks on"})
		p, answered := errors.AsType[*api.Problem](err)
		if err == nil || answered && p.Status < http.StatusInternalServerError {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.t.Error("web could not be resumed")
}

// restartAfter restarts the daemon when a while has passed, by SIGTERM and by
// SIGKILL in turn.
func (s *swarm) restartAfter(ctx context.Context, while time.Duration) {
	if pause(ctx, while); ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	s.downs = append(s.downs, outage{from: time.Now()})
	s.mu.Unlock()
	if s.restarts++; s.restarts%2 == 0 {
		s.d.kill()
	} else {
		s.d.stop()
	}
	s.d = startDev(s.t, s.d.dir)
	s.mu.Lock()
	s.downs[len(s.downs)-1].to = time.Now()
	s.mu.Unlock()
}

// wasDown reports whether the daemon was down between two moments, or a second
// before: that long a failure may be remembered.
func (s *swarm) wasDown(from, to time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.downs {
		if o.from.Before(to) && (o.to.IsZero() || from.Before(o.to.Add(time.Second))) {
			return true
		}
	}
	return false
}

func (s *swarm) report(load int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rotations := 0
	for _, keyset := range fastSets {
		n := len(s.kids[keyset]) - 1
		if rotations += n; n < 2 {
			s.t.Errorf("%d rotations of %s: little was shown", n, keyset)
		}
	}
	s.t.Logf("%d tokens verified and %d more signed, over %d rotations (%d asked for), %d suspensions, %d restarts, %d of them by kill -9",
		len(s.answers), load, rotations, s.rotates, s.suspends, s.restarts, s.restarts/2)
	for _, p := range s.parties {
		p.report(s.t)
	}
}
