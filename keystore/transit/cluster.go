package transit

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A cluster is the servers of one Vault. Its methods may be called concurrently.
type cluster struct {
	servers []*server
	current atomic.Int32 // the one that is asked first: that which answered last
	login   *login
	trial   func() *request // one that only a server that serves answers, and that shows that it signs
	changed func()          // called after a server went down or came up; it does not wait
}

// How a request that may be repeated is.
const (
	staleMost   = 6                     // tries while a node is behind (412)
	stalePause  = 50 * time.Millisecond // the first pause, doubled each time
	brokenPause = 100 * time.Millisecond
	awaitPause  = 50 * time.Millisecond
	longestWait = 5 * time.Second // for a quota
)

// do sends a request that may be repeated: to another server if one gives no good
// answer, and again to the same one if that says so. It waits for nothing that
// ctx does not leave the time for.
func (c *cluster) do(ctx context.Context, r *request) (*answer, error) {
	var last error
	tried := make(map[*server]int)
	waited, renewed := 0, false
	for {
		s, err := c.choose(tried, last)
		if err != nil {
			return nil, err
		}
		used := c.login.generation()
		a, err := s.send(ctx, r)
		if err == nil {
			if strings.Contains(r.path, "/sign/") {
				c.login.hasSigned(used)
			}
			return a, nil
		}
		t := troubleOf(err)
		if t == nil { // ctx is over
			return nil, gaveUp(ctx)
		}
		last = fmt.Errorf("%s: %w", s.address, err)
		switch {
		case t.kind == denied && !renewed:
			renewed = true
			if verdict := c.login.refused(ctx, used); verdict != nil {
				return nil, fmt.Errorf("%w (%w)", last, verdict)
			}
		case t.kind == stale && waited < staleMost:
			if !pause(ctx, jitter(stalePause<<waited)) {
				return nil, last
			}
			waited++
		case t.kind == limited && t.retryAfter > 0 && t.retryAfter <= longestWait && waited < staleMost:
			if !pause(ctx, t.retryAfter) {
				return nil, last
			}
			waited++
		case t.failed() && tried[s] == 0:
			tried[s]++
			if !pause(ctx, jitter(brokenPause)) {
				return nil, last
			}
		case t.failed() || t.kind == unreachable || t.down():
			tried[s] = 2
		default:
			return nil, last
		}
	}
}

// once sends a request that may not be repeated: what becomes of it when its
// answer is lost is to be read, not asked for again. It goes to another server
// only if nothing of it was sent.
func (c *cluster) once(ctx context.Context, r *request) (*answer, error) {
	tried := make(map[*server]int)
	var last error
	for {
		s, err := c.choose(tried, last)
		if err != nil {
			return nil, err
		}
		used := c.login.generation()
		a, err := s.send(ctx, r)
		if err == nil {
			return a, nil
		}
		t := troubleOf(err)
		if t == nil {
			return nil, gaveUp(ctx)
		}
		last = fmt.Errorf("%s: %w", s.address, err)
		if t.kind == denied {
			c.login.suspect(used) // for the next one
		}
		if !t.unsent {
			return nil, last
		}
		tried[s] = 2
	}
}

// choose returns the server to ask, or why there is none: what the last one said, or
// that all are down. One that comes back meanwhile is asked.
func (c *cluster) choose(tried map[*server]int, last error) (*server, error) {
	for {
		if s := c.pick(tried); s != nil {
			return s, nil
		}
		if err := cmp.Or(last, c.trouble()); err != nil {
			return nil, err
		}
	}
}

// pick returns the server to ask: the current one, or the next that is up and was
// not tried in vain.
func (c *cluster) pick(tried map[*server]int) *server {
	first := int(c.current.Load())
	for i := range c.servers {
		at := (first + i) % len(c.servers)
		if s := c.servers[at]; tried[s] < 2 && s.state.down() == nil {
			if at != first {
				c.current.CompareAndSwap(int32(first), int32(at))
			}
			return s
		}
	}
	return nil
}

// trouble returns why no server is asked; nil: one is.
func (c *cluster) trouble() error {
	var texts []string
	var kinds []kind
	for _, s := range c.servers {
		t := s.state.down()
		if t == nil {
			return nil
		}
		texts = append(texts, s.address+" is "+t.Error())
		kinds = append(kinds, t.kind)
	}
	worst := &trouble{kind: unreachable, unsent: true, text: strings.Join(texts, "; ")}
	for _, k := range kinds {
		if k == sealed {
			worst.kind = sealed
		}
	}
	return &downError{worst}
}

// await waits until there is a server to ask, as long as ctx leaves time: one that
// has cut a connection is left alone for a second.
func (c *cluster) await(ctx context.Context) {
	for c.trouble() != nil && pause(ctx, awaitPause) {
	}
}

// A downError says that no server is asked at all.
type downError struct{ *trouble }

func (e *downError) Error() string { return e.text }
func (e *downError) Unwrap() error { return e.trouble }

// The look at a server that is down: no more than one request a second.
const (
	lookEvery  = time.Second
	lookJitter = 50 * time.Millisecond
)

// watch looks at servers that are down, or in doubt, until ctx ends.
func (c *cluster) watch(ctx context.Context, within time.Duration) {
	var all sync.WaitGroup
	for _, s := range c.servers {
		all.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-s.state.changed:
				}
				if s.state.down() == nil && !c.doubt(ctx, s) {
					continue
				}
				s.close() // what is kept may be as dead as what failed
				c.changed()
				c.awaitUp(ctx, s, within)
			}
		})
	}
	all.Wait()
}

// doubt has a server that keeps failing show that it serves, and reports whether
// it is down by now: what fails may be about one key.
func (c *cluster) doubt(ctx context.Context, s *server) (down bool) {
	if _, err := s.send(ctx, c.trial()); ctx.Err() == nil {
		s.state.judge(troubleOf(err))
	}
	return s.state.down() != nil
}

// awaitUp looks at a server until it serves. That it is healthy, or on standby and
// may pass requests on to an active node, is for the trial to show.
func (c *cluster) awaitUp(ctx context.Context, s *server, within time.Duration) {
	health := &request{method: "GET", path: "sys/health", within: within, via: viaServer}
	tried := false // it is healthy, and did not stand the trial
	looked := time.Now()
	for pause(ctx, time.Until(looked.Add(lookEvery+rand.N(lookJitter)))) {
		looked = time.Now()
		if !tried {
			_, err := s.send(ctx, health)
			t := troubleOf(err)
			if tried = t != nil && (t.kind == limited || t.status == 473); t != nil { // a trial is the next request
				if !tried {
					c.judge(s, t)
				}
				continue
			}
		}
		_, err := s.send(ctx, c.trial())
		if ctx.Err() != nil {
			return
		}
		t := troubleOf(err)
		if c.judge(s, t); t.serves() {
			return
		}
		tried = t.kind == broken || t.kind == standby || t.kind == unreachable && !t.unsent
	}
}

// judge notes what a look at a server that is down has shown.
func (c *cluster) judge(s *server, t *trouble) {
	if s.state.judge(t) {
		c.changed()
	}
}

// pause waits for d, if ctx leaves more time than that. It reports whether it did.
func pause(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter returns d, up to half more.
func jitter(d time.Duration) time.Duration { return d + rand.N(d/2+1) }
