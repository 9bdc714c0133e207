package rotation

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chancery/keystore"
)

// model is a rotator, one node and the world's caches, under a clock of their
// own. A checker holds every token against every set a cache may still hold.
type model struct {
	t       *rapid.T
	clock   time.Time
	catalog *memory
	token   *software
	pedal   *pedal
	spec    Spec
	r       *Rotator

	// The node.
	view   *keystore.KeySet // what it signs and serves by; nil: it has just started
	viewAt time.Time
	config Schedule // what it lets callers and caches have

	served []*snapshot
	tokens []signed
	states map[int]keystore.State
	events *counters
}

// snapshot is a set as it was served, from the first moment to the last.
type snapshot struct {
	kids     map[keystore.KID]bool
	from, to time.Time
	open     bool          // served still: to is now
	cacheFor time.Duration // how long a cache may hold it
}

type signed struct {
	kid      keystore.KID
	iat, exp time.Time
}

type counters struct{ events, tokens, pairs, crashes, rotations atomic.Int64 }

const modelLease = 2 * time.Second

func newModel(t *rapid.T, events *counters) *model {
	m := &model{t: t, clock: start, token: newSoftware(), pedal: newPedal(), states: map[int]keystore.State{}, events: events}
	m.catalog = newMemory(func() time.Time { return m.clock })
	sch := fast
	sch.Lease = modelLease
	sch.Ahead = rapid.Bool().Draw(t, "ahead")
	m.spec = Spec{Name: "web", Purpose: keystore.PurposeJWT, Algorithm: keystore.EdDSA, Keystore: "hsm", Schedule: sch}
	m.restart()
	return m
}

// restart is what a daemon does at its start: outbox first, then configuration,
// then what was left over.
func (m *model) restart() {
	m.close()
	m.view = nil
	*m.catalog.fuse, *m.token.fuse = fuse{}, fuse{}
	m.r = New(Config{
		Catalog: m.catalog, Keys: m.token, Audit: m.catalog, Brake: m.pedal,
		Now: func() time.Time { return m.clock },
	})
	if _, err := m.catalog.drain(); err != nil {
		m.t.Fatal(err)
	}
	if err := m.r.Ensure(m.t.Context(), []Spec{m.spec}); err != nil {
		m.t.Fatal(err)
	}
	m.config = m.spec.Schedule
	found, err := m.r.Reconcile(m.t.Context(), "")
	if err := errors.Join(err, found.Err()); err != nil && !errors.Is(err, keystore.ErrUnavailable) {
		m.t.Fatal(err)
	}
}

// died restarts if the process has ended, and reports whether it had.
func (m *model) died() bool {
	if !m.catalog.dead && !m.token.dead {
		return false
	}
	m.events.crashes.Add(1)
	m.restart()
	return true
}

func (m *model) advance() {
	m.clock = m.clock.Add(time.Duration(rapid.SampledFrom([]int{1, 100, 500, 900, 1000, 2000, 3100, 5000, 9000, 21000}).Draw(m.t, "ms")) * time.Millisecond)
	if s := m.current(); s != nil {
		s.to = m.clock
	}
}

// wake goes to the very moment for which the next step is planned, as Run does,
// and takes it.
func (m *model) wake() {
	f, sch, err := m.r.Facts(m.t.Context(), "web")
	m.tolerate(err)
	if err != nil {
		return
	}
	var next time.Time
	for _, w := range Waits(f, sch, m.clock) {
		if w.At.After(m.clock) && (next.IsZero() || w.At.Before(next)) {
			next = w.At
		}
	}
	if next.IsZero() || next.Sub(m.clock) > time.Minute {
		return
	}
	m.clock = next
	if s := m.current(); s != nil {
		s.to = m.clock
	}
	m.pass()
	if rapid.Bool().Draw(m.t, "at once") && !m.died() {
		m.refresh()
		m.sign()
	}
}

// linger has the node sign by the view it has to the last moment of its lease.
func (m *model) linger() {
	if end := m.viewAt.Add(modelLease); m.view != nil && end.After(m.clock) {
		m.clock = end
		if s := m.current(); s != nil {
			s.to = m.clock
		}
		m.sign()
	}
}

func (m *model) pass() {
	s, _, err := m.r.of("web")
	if err != nil {
		m.t.Fatal(err)
	}
	_, err = m.r.locked(m.t.Context(), "web", s)
	m.tolerate(err)
}

// tolerate fails on errors that no fault explains.
func (m *model) tolerate(err error) {
	for _, known := range []error{nil, errCrash, keystore.ErrUnavailable, keystore.ErrUncertain, keystore.ErrNotFound, keystore.ErrOvertaken} {
		if err == nil || known != nil && errors.Is(err, known) {
			return
		}
	}
	if _, ok := errors.AsType[*TooEarly](err); ok {
		return
	}
	if _, ok := errors.AsType[*TooMany](err); ok {
		return
	}
	m.t.Fatalf("unexpected: %v", err)
}

// refresh has the node read the catalog and serve what it says.
func (m *model) refresh() {
	m.view, m.viewAt = m.catalog.set("web"), m.clock
	m.open()
	m.forget()
}

// forget drops what no cache holds and no caller presents any more.
func (m *model) forget() {
	skew := m.spec.Schedule.Skew
	m.served = slices.DeleteFunc(m.served, func(s *snapshot) bool {
		return !s.open && m.clock.After(s.to.Add(s.cacheFor+skew))
	})
	m.tokens = slices.DeleteFunc(m.tokens, func(tok signed) bool { return m.clock.After(tok.exp.Add(skew)) })
}

// publish has the node serve what the catalog says and say so in one go.
func (m *model) publish() {
	m.refresh()
	m.acknowledge()
}

func (m *model) current() *snapshot {
	if n := len(m.served); n > 0 && m.served[n-1].open {
		return m.served[n-1]
	}
	return nil
}

func (m *model) close() {
	if s := m.current(); s != nil {
		s.to, s.open = m.clock, false
	}
}

func (m *model) open() {
	kids := map[keystore.KID]bool{}
	for _, v := range m.view.Known() {
		kids[v.KID] = true
	}
	m.close()
	if len(kids) == 0 {
		return // 404, no-store
	}
	s := &snapshot{kids: kids, from: m.clock, to: m.clock, open: true, cacheFor: m.config.CacheFor}
	m.served = append(m.served, s)
	for _, tok := range m.tokens {
		m.hold(s, tok)
	}
}

func (m *model) acknowledge() {
	if s := m.current(); s != nil {
		var numbers []int
		for _, v := range m.view.Known() {
			numbers = append(numbers, v.Number)
		}
		m.catalog.acknowledge("web", numbers, m.clock)
	}
}

// sign has the node sign a token as long as it is allowed to live, if its view
// is young enough.
func (m *model) sign() {
	if m.view == nil || m.clock.Sub(m.viewAt) > modelLease {
		return
	}
	v, ok := m.view.Active()
	if !ok || !v.Signs() {
		return
	}
	if _, braked := m.pedal.Suspended()[v.KID]; braked {
		return
	}
	set := m.catalog.set("web")
	row, _ := set.ByKID(v.KID)
	if row.State != keystore.Active && row.State != keystore.Retiring {
		return // the horizon cannot be raised any more
	}
	if row.ServedAt.IsZero() || row.ServedAt.After(m.clock) {
		m.t.Fatalf("version %d signs and was never served", v.Number)
	}
	tok := signed{v.KID, m.clock, m.clock.Add(m.config.Lifetime)}
	if row.ExpHorizon.Before(tok.exp) {
		m.catalog.raise(v.KID, m.clock.Add(2*m.config.Lifetime))
	}
	m.tokens = append(m.tokens, tok)
	m.events.tokens.Add(1)
	for _, s := range m.served {
		m.hold(s, tok)
	}
}

// hold holds a token against a cache that has the set: while the token may be
// presented, by a verifier whose clock is off by less than S, the set must know
// its key.
func (m *model) hold(s *snapshot, tok signed) {
	m.events.pairs.Add(1)
	skew := m.spec.Schedule.Skew
	until := s.to.Add(s.cacheFor + skew)
	if s.open {
		until = m.clock.Add(s.cacheFor + skew)
	}
	overlap := tok.iat.Before(until) && s.from.Before(tok.exp.Add(skew))
	if overlap && !s.kids[tok.kid] {
		m.t.Fatalf("rejected: a token of %s from %v to %v, by a set served from %v to %v and held for %v\n%s",
			tok.kid, tok.iat.Sub(start), tok.exp.Sub(start), s.from.Sub(start), s.to.Sub(start), s.cacheFor, m.describe())
	}
}

func (m *model) describe() (all string) {
	for _, v := range m.catalog.set("web").Versions {
		all += fmt.Sprintf("%d %s %s served %v active %v stopped %v horizon %v retired %v\n", v.Number, v.KID, v.State,
			v.ServedAt.Sub(start), v.ActivatedAt.Sub(start), v.StoppedAt.Sub(start), v.ExpHorizon.Sub(start), v.RetiredAt.Sub(start))
	}
	return all
}

func (m *model) rotate() {
	_, err := m.r.Rotate(m.t.Context(), Request{By: "olga", KeySet: "web", Reason: "drill", Now: rapid.Bool().Draw(m.t, "now")})
	m.tolerate(err)
}

func (m *model) suspend() {
	_, err := m.r.Suspend(m.t.Context(), "olga", "web", "", "doubt")
	m.tolerate(err)
}

func (m *model) resume() {
	_, err := m.r.Resume(m.t.Context(), "olga", "web", "", "no doubt")
	m.tolerate(err)
	if err == nil {
		m.tolerate(m.r.Settle(m.t.Context()))
	}
}

// configure changes what caches and callers may have: first the rotator is
// told, then the node.
func (m *model) configure() {
	seconds := func(name string, of ...int) time.Duration {
		return time.Duration(rapid.SampledFrom(of).Draw(m.t, name)) * time.Second
	}
	spec := m.spec
	spec.Schedule.CacheFor = seconds("A", 2, 4, 9)
	spec.Schedule.Lifetime = seconds("L", 3, 10, 30)
	spec.Schedule.Every = seconds("every", 0, 15, 20, 60)
	if err := m.r.Ensure(m.t.Context(), []Spec{spec}); err != nil {
		m.tolerate(err)
		return
	}
	m.spec, m.config = spec, spec.Schedule
	if m.view != nil && m.current() != nil {
		m.open() // the same set, under another promise
	}
}

func (m *model) fault() {
	left := rapid.IntRange(1, 6).Draw(m.t, "crash at")
	switch rapid.IntRange(0, 5).Draw(m.t, "fault") {
	case 0:
		m.catalog.left, m.catalog.after = left, false
	case 1:
		m.catalog.left, m.catalog.after = left, true
	case 2:
		m.token.left, m.token.after = 1, rapid.Bool().Draw(m.t, "after")
	case 3:
		m.token.down = keystore.ErrUnavailable
	case 4:
		m.token.lose = true
	case 5:
		m.token.down, m.token.lose = nil, false
	}
}

// check demands what must hold at every moment.
func (m *model) check() {
	m.events.events.Add(1)
	set := m.catalog.set("web")
	rows := map[keystore.KeyID]bool{}
	active := 0
	for _, v := range set.Versions {
		rows[v.KeyID] = true
		before, known := m.states[v.Number]
		if known && before != v.State && v.State < before {
			m.t.Fatalf("version %d went from %s to %s", v.Number, before, v.State)
		}
		if before != v.State && v.State == keystore.Active {
			m.events.rotations.Add(1)
		}
		m.states[v.Number] = v.State
		if v.State == keystore.Active {
			active++
		}
	}
	if active > 1 || len(set.Versions) < len(m.states) {
		m.t.Fatalf("%d active, %d of %d versions left", active, len(set.Versions), len(m.states))
	}
	for id := range m.token.keys {
		if !rows[id] {
			m.t.Fatalf("key %s on the token has no row", id)
		}
	}
}

// calm lets all faults end, and demands that rotation goes on by itself.
func (m *model) calm() {
	m.token.down, m.token.lose = nil, false
	m.catalog.left, m.token.left = 0, 0
	m.resume()
	m.spec.Schedule.Every = 20 * time.Second
	m.spec.Schedule.Lifetime = 10 * time.Second
	if err := m.r.Ensure(m.t.Context(), []Spec{m.spec}); err != nil {
		m.t.Fatal(err)
	}
	m.config = m.spec.Schedule
	for range 300 {
		m.pass()
		m.refresh()
		m.acknowledge()
		m.sign()
		m.clock = m.clock.Add(time.Second)
		m.check()
	}
	v, ok := m.catalog.set("web").Active()
	if !ok || m.clock.Sub(v.ActivatedAt) > 25*time.Second {
		m.t.Fatalf("rotation does not go on: %s", m.describe())
	}
	m.entered()
}

// entered demands that the log tells every step of every version once.
func (m *model) entered() {
	told := map[string]int{}
	for _, e := range m.catalog.entries() {
		told[fmt.Sprintf("%s %d", e.Record.Action, e.Record.Version)]++
	}
	for _, v := range m.catalog.set("web").Versions {
		for action, when := range map[keystore.Action]time.Time{
			keystore.ActKeyPublish: v.PublishedAt, keystore.ActKeyActivate: v.ActivatedAt,
			keystore.ActKeyRetire: v.StoppedAt, keystore.ActKeyRemove: v.RetiredAt,
		} {
			want := 0
			if !when.IsZero() {
				want = 1
			}
			if n := told[fmt.Sprintf("%s %d", action, v.Number)]; n != want {
				m.t.Fatalf("the log tells %s of version %d %d times, want %d", action, v.Number, n, want)
			}
		}
	}
}

// TestRollover holds what the package promises against random operations,
// faults, crashes at every durable point, restarts and changes of
// configuration: no token is ever rejected by a cache that complies, at most
// one version is active, nothing signs that was not served, states only move
// forward, every key on the token has its row, and the log tells every step
// once (FAULTS I3, I4, I5, S01).
func TestRollover(t *testing.T) {
	var events counters
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t, &events)
		ops := []func(){
			m.advance, m.advance, m.advance, m.pass, m.pass, m.wake, m.wake, m.wake, m.refresh, m.publish, m.publish, m.acknowledge, m.linger,
			m.sign, m.sign, m.rotate, m.suspend, m.resume, m.configure, m.fault,
		}
		for range rapid.IntRange(20, 200).Draw(t, "length") {
			ops[rapid.IntRange(0, len(ops)-1).Draw(t, "op")]()
			m.died()
			m.check()
		}
		m.calm()
	})
	t.Logf("%d events, %d activations, %d crashes, %d tokens, %d pairs of token and cached set: none rejected",
		events.events.Load(), events.rotations.Load(), events.crashes.Load(), events.tokens.Load(), events.pairs.Load())
}
