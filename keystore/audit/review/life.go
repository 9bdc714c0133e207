package review

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// A life is what the entries tell of one version, over all time.
type life struct {
	set       *setLife
	number    int
	kid       keystore.KID
	algorithm string
	keystore  string
	state     keystore.State
	facts     []*fact // all that name it

	generated *fact // the outcome
	published *fact
	activated *fact
	stopped   *fact
	removed   *fact
	destroyed *fact
	abandoned *fact
	leaked    *fact
	proven    *fact            // the first proof
	served    map[string]*fact // by node: the first time it said so
	held      []hold

	acts    Tally     // in the period
	exp     time.Time // the highest of all acts that were read
	expBy   audit.Located
	expires string // "exp" or "not_after"
	checks  []Check
}

// A hold is a suspension; to is nil while it lasts.
type hold struct{ from, to *fact }

// A setLife is what the entries tell of one key set.
type setLife struct {
	name     string
	configs  []*fact
	promises []keystore.Promise // of configs
	lives    []*life            // by number
}

func (s *setLife) detail(name string, until time.Time) (value string) {
	for _, f := range s.configs {
		if v := f.Entry.Detail[name]; v != "" && (value == "" || until.IsZero() || f.at.Before(until)) {
			value = v
		}
	}
	return value
}

// skew returns S in force at t.
func (s *setLife) skew(t time.Time) time.Duration {
	d := time.Duration(0)
	for _, f := range s.configs {
		if v, err := time.ParseDuration(f.Entry.Detail["skew"]); err == nil && !f.at.After(t) {
			d = v
		}
	}
	return d
}

// inForce returns what was promised to caches and verifiers and counted at t.
func (s *setLife) inForce(t time.Time) keystore.Promise {
	n := 0
	for n < len(s.promises) && !s.promises[n].At.After(t) {
		n++
	}
	return keystore.InForce(s.promises[:n], t)
}

// promise returns what a configuration promises. What is no duration promises
// nothing.
func promise(f *fact) keystore.Promise {
	p := keystore.Promise{At: f.at}
	p.CacheFor, _ = time.ParseDuration(f.Entry.Detail["cache_for"])
	p.MaxLifetime, _ = time.ParseDuration(f.Entry.Detail["max_ttl"])
	return p
}

// A model is what the lifecycle tells of all key sets.
type model struct {
	facts  []fact
	sets   map[string]*setLife
	byKID  map[keystore.KID]*life
	absent []string // nodes whose logs were not given
	lone   bool     // one log was given, of a node that shares its catalog
	found  []Deviation
}

// newModel folds facts, which are in the order of time.
func newModel(facts []fact) *model {
	m := &model{facts: facts, sets: make(map[string]*setLife), byKID: make(map[keystore.KID]*life)}
	m.absent, m.lone = absentOf(facts), isLone(facts)
	for i := range m.facts {
		f := &m.facts[i]
		e := &f.Entry
		switch {
		case e.KeySet == "":
		case e.Action == keystore.ActKeySetCreate || e.Action == keystore.ActKeySetConfigure:
			s := m.set(e.KeySet)
			s.configs, s.promises = append(s.configs, f), append(s.promises, promise(f))
		case e.Version > 0 && e.Action != keystore.ActRotate:
			l := m.life(e.KeySet, e.Version)
			l.facts = append(l.facts, f)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.sets)) {
		s := m.sets[name]
		slices.SortFunc(s.lives, func(a, b *life) int { return cmp.Compare(a.number, b.number) })
		for _, l := range s.lives {
			arrange(l.facts)
			for _, f := range l.facts {
				m.step(l, f)
			}
		}
	}
	return m
}

func (m *model) set(name string) *setLife {
	s, ok := m.sets[name]
	if !ok {
		s = &setLife{name: name}
		m.sets[name] = s
	}
	return s
}

func (m *model) life(set string, number int) *life {
	s := m.set(set)
	if i := slices.IndexFunc(s.lives, func(l *life) bool { return l.number == number }); i >= 0 {
		return s.lives[i]
	}
	l := &life{set: s, number: number, served: make(map[string]*fact)}
	s.lives = append(s.lives, l)
	return l
}

// apart is how far the entries of two nodes may be out of order: a lease, and
// their clocks.
const apart = 10 * time.Second

// arrange puts steps that different nodes entered within moments of each other
// into the order of a life.
func arrange(facts []*fact) {
	for i := 1; i < len(facts); i++ {
		for j := i; j > 0; j-- {
			a, b := facts[j-1], facts[j]
			ra, rb := rank(a), rank(b)
			swap := a.Origin != b.Origin && ra > 0 && rb > 0 && ra > rb && b.Entry.Time.Sub(a.Entry.Time) <= apart
			if !swap {
				break
			}
			facts[j-1], facts[j] = b, a
		}
	}
}

// rank orders the steps of a life; 0 for what may come at any time.
func rank(f *fact) int {
	order := []keystore.Action{
		keystore.ActKeyGenerate, keystore.ActKeyPublish, keystore.ActKeyProven, keystore.ActKeyServed,
		keystore.ActKeyActivate, keystore.ActKeyRetire, keystore.ActKeyRemove, keystore.ActKeyDestroy,
	}
	return slices.Index(order, f.Entry.Action) + 1
}

// step takes the next fact of l's life.
func (m *model) step(l *life, f *fact) {
	e := &f.Entry
	m.name(l, f)
	if e.Action == keystore.ActKeyGenerate && l.state == 0 {
		l.state = keystore.Pending
	}
	if e.Outcome != keystore.OutcomeDone {
		return
	}
	switch e.Action {
	case keystore.ActKeyGenerate:
		l.generated = cmp.Or(l.generated, f)
	case keystore.ActKeyPublish:
		m.move(l, f, keystore.Published, &l.published)
	case keystore.ActKeyActivate:
		m.move(l, f, keystore.Active, &l.activated)
	case keystore.ActKeyRetire:
		m.move(l, f, keystore.Retiring, &l.stopped)
	case keystore.ActKeyRemove:
		m.move(l, f, keystore.Retired, &l.removed)
	case keystore.ActKeyAbandon:
		m.move(l, f, keystore.Abandoned, &l.abandoned)
	case keystore.ActKeyDestroy:
		if l.state != keystore.Destroyed { // once more, when its key was there again
			m.move(l, f, keystore.Destroyed, &l.destroyed)
		}
	case keystore.ActKeyProven:
		l.proven = cmp.Or(l.proven, f)
	case keystore.ActKeyServed:
		if node := cmp.Or(e.Detail["node"], shortNode(f.Origin)); l.served[node] == nil {
			l.served[node] = f
		}
	case keystore.ActSuspend:
		if n := len(l.held); n == 0 || l.held[n-1].to != nil {
			l.held = append(l.held, hold{from: f})
		}
	case keystore.ActResume:
		if n := len(l.held); n > 0 && l.held[n-1].to == nil {
			l.held[n-1].to = f
		}
	case keystore.ActCompromise:
		m.leak(l, f)
	}
}

// name takes what f says of l's key. A key belongs to one version for ever.
func (m *model) name(l *life, f *fact) {
	e := &f.Entry
	l.algorithm = cmp.Or(l.algorithm, e.Detail["algorithm"])
	l.keystore = cmp.Or(l.keystore, e.Detail["keystore"])
	if e.KID == "" {
		return
	}
	other, known := m.byKID[e.KID]
	switch {
	case l.kid != "" && l.kid != e.KID:
		m.find(l, f, Breach, "rotation/8", fmt.Sprintf("its key is %s here and was %s before", e.KID, l.kid), l.facts[0])
	case known && other != l:
		m.find(l, f, Breach, "rotation/8", fmt.Sprintf("its key is that of version %d of %s as well", other.number, other.set.name), other.facts[0])
	}
	l.kid = cmp.Or(l.kid, e.KID)
	if !known {
		m.byKID[e.KID] = l
	}
}

// move takes l to its next state.
func (m *model) move(l *life, f *fact, next keystore.State, when **fact) {
	if !l.state.MayBecome(next) {
		was, severity := "nothing so far", m.weight()
		if l.state != 0 {
			was = l.state.String()
		}
		m.find(l, f, severity, "rotation/9", fmt.Sprintf("%s though it was %s: steps only go forward, and one at a time", steps[next], was))
	}
	if *when == nil {
		*when = f
	}
	if next > l.state {
		l.state = next
	}
}

// leak takes l out of the world, whatever it was.
func (m *model) leak(l *life, f *fact) {
	if l.leaked == nil {
		l.leaked = f
	}
	switch {
	case l.state <= keystore.Pending:
		l.state, l.abandoned = keystore.Abandoned, cmp.Or(l.abandoned, f)
	case l.state < keystore.Retired:
		l.state = keystore.Retired
	}
}

// ended returns the fact that ended l's signing, or nil.
func (l *life) ended() *fact {
	var first *fact
	for _, f := range []*fact{l.stopped, l.leaked, l.removed} {
		if f != nil && (first == nil || f.at.Before(first.at)) {
			first = f
		}
	}
	return first
}

// steps says what becoming a state is called.
var steps = map[keystore.State]string{
	keystore.Published: "published", keystore.Active: "activated", keystore.Retiring: "retired",
	keystore.Retired: "removed", keystore.Destroyed: "destroyed", keystore.Abandoned: "abandoned",
}

// weight is that of something missing, which may stand in a log not given.
func (m *model) weight() Severity {
	if len(m.absent) > 0 || m.lone {
		return Attention
	}
	return Breach
}

// find notes a deviation that f shows, with what else proves it.
func (m *model) find(l *life, f *fact, severity Severity, rule, text string, with ...*fact) {
	d := Deviation{Severity: severity, Rule: rule, At: f.Entry.Time, KeySet: f.Entry.KeySet, Version: f.Entry.Version, KID: f.Entry.KID, Text: text}
	if l != nil {
		d.KeySet, d.Version, d.KID = l.set.name, l.number, l.kid
	}
	for _, w := range append(with, f) {
		if w != nil {
			d.Entries = append(d.Entries, w.Name())
		}
	}
	m.found = append(m.found, d)
}

// absentOf returns the nodes that facts name, and of which there are none.
func absentOf(facts []fact) []string {
	given, named := make(map[string]bool), make(map[string]bool)
	for i := range facts {
		e := &facts[i].Entry
		given[shortNode(facts[i].Origin)] = true
		switch e.Action {
		case keystore.ActKeyServed, keystore.ActNodeEnrol, keystore.ActNodeForget:
			named[e.Detail["node"]] = true
		case keystore.ActAuditPeer:
			named[shortNode(e.Detail["origin"])] = true
		}
	}
	maps.DeleteFunc(named, func(node string, _ bool) bool { return given[node] || node == "" || node == "." })
	return append([]string{}, slices.Sorted(maps.Keys(named))...)
}

// isLone reports whether all facts are of one node, and it has said that it shares
// its catalog with others.
func isLone(facts []fact) bool {
	shared := false
	for i := range facts {
		if nodeOf(facts[i].Origin) != nodeOf(facts[0].Origin) {
			return false
		}
		e := &facts[i].Entry
		shared = shared || e.Action == keystore.ActNodeEnrol && e.Detail["catalog"] == "shared"
	}
	return shared
}
