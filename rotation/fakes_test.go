package rotation

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

var errCrash = errors.New("the process is gone")

// fuse ends the process at a chosen durable point, before or after it holds.
type fuse struct {
	mu    sync.Mutex
	left  int // points until the crash; 0: none
	after bool
	dead  bool
	count int
}

// point is a durable point: do makes it hold.
func (f *fuse) point(do func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return errCrash
	}
	f.count++
	if f.left > 0 {
		f.left--
		if f.left == 0 {
			f.dead = true
			if f.after {
				_ = do()
			}
			return errCrash
		}
	}
	return do()
}

// memory is a Catalog and a Log that keep what they are told in memory, check
// every change as the real one does, and can crash at each durable point.
type memory struct {
	*fuse
	now func() time.Time

	mu       sync.Mutex
	revision int64
	sets     map[string]*keystore.KeySet
	nodes    []keystore.Node
	outbox   []keystore.Record
	known    map[string]bool // ids of what ever was in the outbox
	log      []Entered
	down     error // what the catalog answers
	full     error // what the log answers
	changed  func()
	hold     func() // called once, between f and the commit of an Update, while others read

	writer chan struct{} // capacity 1: full during an Update
}

func newMemory(now func() time.Time) *memory {
	return &memory{fuse: &fuse{}, now: now, sets: map[string]*keystore.KeySet{}, known: map[string]bool{}, changed: func() {}, writer: make(chan struct{}, 1)}
}

func (m *memory) View(context.Context) (*keystore.View, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return nil, m.down
	}
	var sets []*keystore.KeySet
	for _, ks := range m.sets {
		sets = append(sets, ks.Clone())
	}
	return keystore.NewView(m.revision, m.now(), sets).WithNodes(m.now(), m.nodes), nil
}

func (m *memory) Create(ctx context.Context, ks *keystore.KeySet, recs ...keystore.Record) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.sets[ks.Name]; taken {
		return "", keystore.ErrExists
	}
	return m.commit(ks.Clone(), recs)
}

func (m *memory) Update(ctx context.Context, name string, expect int64, f func(keystore.Moment, *keystore.KeySet) ([]keystore.Record, error)) (string, error) {
	m.writer <- struct{}{}
	defer func() { <-m.writer }()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return "", m.down
	}
	before, ok := m.sets[name]
	if !ok {
		return "", keystore.ErrNotFound
	}
	if expect >= 0 && before.Revision != expect {
		return "", keystore.ErrOvertaken
	}
	after := before.Clone()
	recs, err := f(keystore.Moment{Now: m.now(), Nodes: m.nodes}, after)
	if err != nil {
		return "", err
	}
	if len(recs) == 0 {
		return "", nil
	}
	if err := legal(before, after); err != nil {
		return "", err
	}
	if hold := m.hold; hold != nil {
		m.hold = nil
		m.mu.Unlock()
		hold()
		m.mu.Lock()
	}
	return m.commit(after.Clone(), recs)
}

// Knows finds a record that was committed, entered or not.
func (m *memory) Knows(_ context.Context, id string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return false, m.down
	}
	return m.known[id], nil
}

// commit writes a set and its records, and then enters those.
func (m *memory) commit(ks *keystore.KeySet, recs []keystore.Record) (string, error) {
	err := m.point(func() error {
		m.revision++
		ks.Revision = m.revision
		m.sets[ks.Name] = ks
		for _, rec := range recs {
			if rec.ID == "" {
				rec.ID = keystore.NewKeyID().String()
			}
			m.outbox = append(m.outbox, rec)
			m.known[rec.ID] = true
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	m.changed()
	return m.drain()
}

// drain enters what is in the outbox.
func (m *memory) drain() (entry string, err error) {
	for len(m.outbox) > 0 {
		rec := m.outbox[0]
		entered := slices.ContainsFunc(m.log, func(e Entered) bool {
			return e.Record.ID == rec.ID && e.Record.Outcome == rec.Outcome
		})
		if !entered {
			if entry, err = m.enter(rec); err != nil {
				return "", err
			}
		}
		m.outbox = m.outbox[1:]
	}
	return entry, nil
}

func (m *memory) enter(rec keystore.Record) (entry string, err error) {
	if m.full != nil {
		return "", m.full
	}
	entry = fmt.Sprintf("log#%d", len(m.log))
	if rec.ID == "" {
		rec.ID = keystore.NewKeyID().String()
	}
	return entry, m.point(func() error {
		m.log = append(m.log, Entered{rec, m.now(), entry})
		return nil
	})
}

func (m *memory) Lifecycle(_ context.Context, rec keystore.Record) (audit.Receipt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	entry, err := m.enter(rec)
	return audit.Receipt{Entry: entry}, err
}

func (m *memory) Find(_ context.Context, id string) (audit.Receipt, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.log {
		if e.Record.ID == id {
			return audit.Receipt{Entry: e.Entry}, true, nil
		}
	}
	return audit.Receipt{}, false, nil
}

func (m *memory) Health() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.full
}

// acknowledge has the node say that it serves the known versions.
func (m *memory) acknowledge(name string, numbers []int, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ks := m.sets[name]
	fresh := false
	for _, n := range numbers {
		if v, ok := ks.Version(n); ok && v.State.Known() && v.ServedAt.IsZero() {
			v.ServedAt, fresh = at, true
		}
	}
	if fresh && ks.ServedAt.IsZero() {
		ks.ServedAt = at
	}
	if fresh {
		m.revision++
		ks.Revision = m.revision
		m.changed()
	}
}

func (m *memory) raise(kid keystore.KID, to time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ks := range m.sets {
		if v, ok := ks.ByKID(kid); ok {
			v.ExpHorizon = later(v.ExpHorizon, to)
		}
	}
}

func (m *memory) set(name string) *keystore.KeySet {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sets[name].Clone()
}

func (m *memory) entries() []Entered {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Entered(nil), m.log...)
}

// legal is what the catalog demands of a change.
func legal(before, after *keystore.KeySet) error {
	active := 0
	for i := range after.Versions {
		v := &after.Versions[i]
		if v.Number != i+1 {
			return fmt.Errorf("version %d in place %d", v.Number, i+1)
		}
		if v.State == keystore.Active {
			active++
		}
		if i >= len(before.Versions) {
			if v.State != keystore.Pending {
				return fmt.Errorf("version %d begins as %s", v.Number, v.State)
			}
			continue
		}
		b := &before.Versions[i]
		switch {
		case v.State != b.State && !b.State.MayBecome(v.State):
			return fmt.Errorf("version %d: %s never becomes %s", v.Number, b.State, v.State)
		case v.KeyID != b.KeyID || v.Algorithm != b.Algorithm || v.Keystore != b.Keystore || b.KID != "" && v.KID != b.KID:
			return fmt.Errorf("version %d changed what it is", v.Number)
		case !v.ServedAt.Equal(b.ServedAt) || v.ExpHorizon.Before(b.ExpHorizon) || v.MaxLifetime < b.MaxLifetime:
			return fmt.Errorf("version %d changed what is not rotation's to change", v.Number)
		case v.State == keystore.Active && b.State != keystore.Active && v.Suspended != nil:
			return fmt.Errorf("version %d activated while suspended", v.Number)
		}
	}
	switch {
	case active > 1:
		return fmt.Errorf("%d versions active", active)
	case isLimited(after) && len(after.Known()) > MaxKnown:
		return fmt.Errorf("%d versions known", len(after.Known()))
	case len(after.Versions) < len(before.Versions) || len(after.Promises) < len(before.Promises):
		return errors.New("something was removed")
	case !after.ServedAt.Equal(before.ServedAt):
		return errors.New("service is the node's to say")
	}
	return nil
}

// software is a Provider with keys in memory.
type software struct {
	*fuse
	mu        sync.Mutex
	keys      map[keystore.KeyID]ed25519.PrivateKey
	down      error
	generate  func() error        // fails a generation, before it happens
	destroy   func() error        // fails a destruction, before it happens
	lose      bool                // make the key and say ErrUncertain
	block     chan struct{}       // hold up Generate and Find until closed
	state     keystore.TokenState // "": ready
	generated int
	dropped   []keystore.KeyID
}

func newSoftware() *software {
	return &software{fuse: &fuse{}, keys: map[keystore.KeyID]ed25519.PrivateKey{}}
}

func (s *software) Provider(string) (keystore.Provider, error) { return s, nil }

func (s *software) wait(ctx context.Context) error {
	s.mu.Lock()
	block := s.block
	s.mu.Unlock()
	if block == nil {
		return nil
	}
	select {
	case <-block:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", keystore.ErrUncertain, ctx.Err())
	}
}

func (s *software) Generate(ctx context.Context, id keystore.KeyID, _ keystore.Purpose, _ keystore.Algorithm) ([]byte, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return nil, s.down
	}
	if s.generate != nil {
		if err := s.generate(); err != nil {
			return nil, err
		}
	}
	var spki []byte
	err := s.point(func() (err error) {
		pub, priv, _ := ed25519.GenerateKey(rand.Reader)
		s.keys[id] = priv
		s.generated++
		spki, err = keystore.MarshalPublic(pub)
		return err
	})
	if err == nil && s.lose {
		return nil, keystore.ErrUncertain
	}
	return spki, err
}

func (s *software) Find(ctx context.Context, id keystore.KeyID, _ keystore.Purpose, _ keystore.Algorithm) ([]byte, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return nil, s.down
	}
	priv, ok := s.keys[id]
	if !ok {
		return nil, keystore.ErrNotFound
	}
	return keystore.MarshalPublic(priv.Public())
}

func (s *software) Open(context.Context, keystore.KeyRef, keystore.Purpose) (keystore.Key, error) {
	return nil, keystore.ErrUnsupported
}

func (s *software) List(context.Context) ([]keystore.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var objects []keystore.Object
	for id, priv := range s.keys {
		spki, err := keystore.MarshalPublic(priv.Public())
		if err != nil {
			return nil, err
		}
		objects = append(objects, keystore.Object{ID: id.String(), Type: "Ed25519", Label: "chancery/jwt/EdDSA", SPKI: spki})
	}
	return objects, s.down
}

func (s *software) Status() []keystore.TokenStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == "" {
		return nil
	}
	return []keystore.TokenStatus{{State: s.state}}
}

func (s *software) Probe(context.Context) error { return nil }

func (s *software) Destroy(ctx context.Context, ref keystore.KeyRef) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return s.down
	}
	if s.destroy != nil {
		if err := s.destroy(); err != nil {
			return err
		}
	}
	return s.point(func() error {
		delete(s.keys, ref.ID)
		return nil
	})
}

func (s *software) Drop(_ context.Context, id keystore.KeyID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped = append(s.dropped, id)
	return nil
}

func (s *software) Close() error { return nil }

// pedal is a Brake in memory.
type pedal struct {
	mu   sync.Mutex
	kept map[keystore.KID]keystore.Fact
	bad  error
}

func newPedal() *pedal { return &pedal{kept: map[keystore.KID]keystore.Fact{}} }

func (p *pedal) Suspended() map[keystore.KID]keystore.Fact {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.kept)
}

func (p *pedal) Put(kid keystore.KID, fact keystore.Fact) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept[kid] = fact
	return p.bad
}

func (p *pedal) Remove(kid keystore.KID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bad == nil {
		delete(p.kept, kid)
	}
	return p.bad
}
