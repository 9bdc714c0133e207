package audit

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"chancery/keystore"
)

const (
	host = "localhost:8443"
	node = "dev"
)

// softKey is a log key in memory.
type softKey struct {
	priv crypto.Signer
	alg  keystore.Algorithm
}

func newSoftKey(t testing.TB, alg keystore.Algorithm) *softKey {
	t.Helper()
	if alg == keystore.EdDSA {
		_, priv, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return &softKey{priv, alg}
	}
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &softKey{priv, alg}
}

func (k *softKey) Public() crypto.PublicKey      { return k.priv.Public() }
func (k *softKey) Algorithm() keystore.Algorithm { return k.alg }

func (k *softKey) Sign(_ context.Context, message []byte) ([]byte, error) {
	if err := keystore.CheckMessage(keystore.PurposeAudit, k.alg, message); err != nil {
		return nil, err
	}
	if k.alg == keystore.EdDSA {
		return k.priv.Sign(rand.Reader, message, crypto.Hash(0))
	}
	digest := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, k.priv.(*ecdsa.PrivateKey), digest[:])
	if err != nil {
		return nil, err
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return sig, nil
}

func (k *softKey) vkey(t testing.TB) string {
	t.Helper()
	v, err := VKeyFor(keyName(host, node), k.alg, k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// signedBy returns c as the keys sign it, the first of which is the active one.
func signedBy(t testing.TB, c Checkpoint, keys ...keystore.Key) []byte {
	t.Helper()
	s, err := Keys{Active: keys[0], Former: keys[1:]}.sign(t.Context(), c, keyName(host, node))
	if err != nil || s.failed != nil {
		t.Fatal(err, s.failed)
	}
	return s.note
}

// memory is a Memory in memory.
type memory struct {
	mu    sync.Mutex
	heads map[string]Head
	err   error
}

func newMemory() *memory { return &memory{heads: map[string]Head{}} }

func (m *memory) Remember(_ context.Context, origin string, size int64, root [32]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	if size < m.heads[origin].Size {
		return keystore.ErrOvertaken
	}
	m.heads[origin] = Head{size, root}
	return nil
}

func (m *memory) Recall(context.Context) (map[string]Head, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	heads := map[string]Head{}
	for k, v := range m.heads {
		heads[k] = v
	}
	return heads, nil
}

// clock is a clock set by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock(t time.Time) *clock { return &clock{t: t} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

// rig is a log with everything around it.
type rig struct {
	testing.TB
	cfg Config
	key *softKey
	mem *memory
	log *Log
}

// newRig opens a log whose keeper does nothing by itself for an hour.
func newRig(t testing.TB, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{TB: t, key: newSoftKey(t, keystore.EdDSA), mem: newMemory()}
	r.cfg = Config{
		Dir: filepath.Join(t.TempDir(), "audit"), Host: host, Node: node, Memory: r.mem, JournalSize: 64 << 10,
		Keys:     func(context.Context) (Keys, error) { return Keys{Active: r.key}, nil },
		Interval: time.Hour, idle: true,
	}
	for _, f := range change {
		f(&r.cfg)
	}
	r.open()
	t.Cleanup(func() {
		if r.log != nil {
			r.log.Close(context.WithoutCancel(t.Context()))
		}
	})
	return r
}

func (r *rig) open() {
	r.Helper()
	var err error
	if r.log, err = Open(r.Context(), r.cfg); err != nil {
		r.Fatalf("opening the log: %v", err)
	}
}

func (r *rig) close() {
	r.Helper()
	if err := r.log.Close(r.Context()); err != nil {
		r.Fatalf("closing the log: %v", err)
	}
	r.log = nil
}

func (r *rig) act(n int) Receipt {
	r.Helper()
	rec, err := r.log.Act(r.Context(), signed(n))
	if err != nil {
		r.Fatalf("act %d: %v", n, err)
	}
	if _, faulty := r.cfg.disk.(*faultyDisk); faulty && n == 1 {
		r.monthBegan() // so that the fault ordered next meets an act
	}
	return rec
}

// monthBegan waits until it is durable in lifecycle that a month began.
func (r *rig) monthBegan() {
	r.Helper()
	waitFor(r, "the month's beginning is entered", func() bool {
		for _, e := range r.all(Filter{Action: keystore.ActAuditShard}) {
			if e.Entry.Sequence < r.log.lifecycle.current().length() {
				return true
			}
		}
		return false
	})
}

// signed returns how many acts are under the last checkpoint.
func (r *rig) signed() int64 {
	r.log.publishing <- struct{}{}
	defer func() { <-r.log.publishing }()
	return r.log.acts.current().signed
}

func (r *rig) lifecycle(rec keystore.Record) Receipt {
	r.Helper()
	receipt, err := r.log.Lifecycle(r.Context(), rec)
	if err != nil {
		r.Fatalf("lifecycle: %v", err)
	}
	return receipt
}

func (r *rig) verify() *Report {
	r.Helper()
	rep, err := Verify(r.Context(), r.cfg.Dir, Options{Keys: []string{r.key.vkey(r)}})
	if err != nil {
		r.Fatalf("verify: %v", err)
	}
	return rep
}

// sound fails the test unless the log verifies.
func (r *rig) sound() *Report {
	r.Helper()
	rep := r.verify()
	if !rep.OK() {
		r.Fatalf("the log does not verify: key verified %v, %v", rep.KeyVerified, rep.Problems)
	}
	return rep
}

func (r *rig) all(f Filter) []Located {
	r.Helper()
	var all []Located
	for e, err := range Entries(r.cfg.Dir, f) {
		if err != nil {
			r.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// signed is what a signature's entry looks like.
func signed(n int) keystore.Record {
	return keystore.Record{
		Principal: "dev:spiffe:spiffe://chancery.dev/issuer", Action: keystore.ActSignJWT, Outcome: keystore.OutcomeDone,
		KeySet: "web", KID: "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", Version: 3, State: "active",
		Rule: "issuers", Policy: "sha256:2jmj7l5rSw0yVb_vlWAYkK_YBwk", Request: "qPvH3qS4o2Q0yJ3cXbmXf7S0b2x",
		Exp: 1_900_000_000, JTI: fmt.Sprintf("jti-%08d", n),
	}
}

// waitFor polls until is holds.
func waitFor(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}
