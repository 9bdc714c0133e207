package signer

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/keystoretest"
	"chancery/signer/api"
	"chancery/signer/ca"
	"chancery/signer/policy"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func principal(name string) policy.Caller {
	return policy.Caller{Principal: policy.Principal{Anchor: "dev", Kind: policy.KindSPIFFE, Value: "spiffe://chancery.dev/" + name}}
}

// The principals: wild may sign with whatever there is, root end whatever there is.
var (
	issuer   = principal("issuer")
	wild     = principal("wild")
	releaser = principal("release")
	client   = principal("ca")
	operator = principal("operator")
	root     = principal("root")
	auditor  = principal("auditor")
	nobody   = principal("nobody")
)

func testPolicy(t testing.TB) *policy.Policy {
	t.Helper()
	p, err := policy.New(policy.Config{
		Anchors: []policy.Anchor{{Name: "dev", SPIFFE: []string{"chancery.dev"}}},
		Rules: []policy.Rule{
			{Name: "issuer", Principals: []string{issuer.String()}, Actions: []policy.Action{policy.SignJWT}, KeySets: []string{"web", "legacy", "edge"}, MaxTTL: time.Hour, Types: []string{"JWT", "at+jwt"}},
			{Name: "wild", Principals: []string{wild.String()}, Actions: []policy.Action{policy.SignJWT, policy.SignCSR, policy.SignDigest}, KeySets: []string{policy.Any}, Authorities: []string{policy.Any}, Profiles: []string{policy.Any}, Names: []string{".devices.test"}, MaxTTL: time.Hour},
			{Name: "release", Principals: []string{releaser.String()}, Actions: []policy.Action{policy.SignDigest}, KeySets: []string{"release", "gone"}},
			{Name: "ca", Principals: []string{client.String()}, Actions: []policy.Action{policy.SignCSR}, Authorities: []string{"devices"}, Profiles: []string{"tls"}, Names: []string{".devices.test"}, MaxTTL: 24 * time.Hour},
			{Name: "operator", Principals: []string{operator.String()}, Actions: []policy.Action{policy.Rotate, policy.Suspend, policy.Resume, policy.Compromise, policy.Destroy, policy.Reconcile, policy.ReadKeySets, policy.ReadRotation, policy.ManageTokens, policy.ConfirmClock, policy.ManageNodes}, KeySets: []string{"web", "gone"}},
			{Name: "root", Principals: []string{root.String()}, Actions: []policy.Action{policy.Compromise}, KeySets: []string{policy.Any}},
			{Name: "auditor", Principals: []string{auditor.String()}, Actions: []policy.Action{policy.ReadAudit, policy.ReadKeySets, policy.ReadRotation}, KeySets: []string{policy.Any}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A world is everything around a Service, in memory, and the order in which the
// Service asked for it.
type world struct {
	*Service
	log       *fakeLog
	horizons  *fakeHorizons
	certs     *fakeCertificates
	rotations *fakeRotations
	tokens    *fakeTokens
	setting   *fakeClock
	nodes     *fakeNodes

	mu      sync.Mutex // guards what follows
	now     time.Time
	sets    map[string]*keystore.KeySet
	lease   error // what View returns
	keys    map[keystore.KID]keystore.Key
	openErr error
	signErr error
	signed  int // signatures made
	trace   []string
	anchors []*x509.Certificate
}

func (w *world) did(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

// change has f change a copy of a key set, as the next snapshot has it.
func (w *world) change(name string, f func(ks *keystore.KeySet)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.sets[name].Clone()
	c.Revision++
	f(c)
	w.sets[name] = c
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		now: noon, sets: map[string]*keystore.KeySet{}, keys: map[keystore.KID]keystore.Key{},
		rotations: &fakeRotations{}, tokens: &fakeTokens{}, setting: &fakeClock{}, nodes: newNodes(),
	}
	w.log, w.horizons, w.certs = &fakeLog{w: w}, &fakeHorizons{w: w, to: map[keystore.KID]time.Time{}}, newCertificates(w)
	w.add(t, "web", keystore.PurposeJWT, keystore.ES256)
	w.add(t, "edge", keystore.PurposeJWT, keystore.EdDSA)
	w.add(t, "release", keystore.PurposeDigest, keystore.ES256)
	w.add(t, "devices-ca", keystore.PurposeCA, keystore.ES256)
	profile, err := ca.NewProfile(ca.ProfileConfig{Name: "tls", NamesUnder: []string{"devices.test"}, Usages: []ca.Usage{ca.UsageServer}})
	if err != nil {
		t.Fatal(err)
	}
	v, _ := w.sets["devices-ca"].Active()
	der, err := ca.SelfSigned(t.Context(), w.keys[v.KID], "devices", 0, noon.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if w.certs.issuer, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	p := testPolicy(t)
	w.Service, err = New(Config{
		Policy: func() *policy.Policy { return p },
		View:   w.view,
		Settings: func(name string) (Settings, bool) {
			ks, ok := w.sets[name]
			return Settings{Issuer: "https://localhost/issuers/" + name, DefaultTTL: 5 * time.Minute, MaxTTL: time.Hour, Skew: time.Minute},
				ok && ks.Purpose == keystore.PurposeJWT
		},
		Digests: func(name string) bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			ks, ok := w.sets[name]
			return ok && ks.Purpose == keystore.PurposeDigest
		},
		Authority: func(name string) (Authority, bool) {
			return Authority{KeySet: "devices-ca", Profiles: map[string]*ca.Profile{"tls": profile}, Skew: time.Minute, ClientAnchors: w.anchors}, name == "devices"
		},
		Keys: w, Log: w.log, Horizons: w.horizons, Certificates: w.certs, Rotations: w.rotations, Tokens: w.tokens, Clock: w.setting, Nodes: w.nodes,
		Salt: [32]byte{1}, Now: w.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// add makes a key set with one active version.
func (w *world) add(t testing.TB, name string, p keystore.Purpose, alg keystore.Algorithm) {
	w.sets[name] = &keystore.KeySet{
		Name: name, Purpose: p, Algorithm: alg, CreatedAt: noon,
		Versions: []keystore.Version{w.version(t, 1, p, alg, keystore.Active)},
	}
}

func (w *world) version(t testing.TB, number int, p keystore.Purpose, alg keystore.Algorithm, s keystore.State) keystore.Version {
	key := keystoretest.NewKey(t, p, alg)
	spki, kid := key.SPKI(t)
	w.keys[kid] = key
	return keystore.Version{Number: number, Algorithm: alg, KID: kid, SPKI: spki, State: s}
}

// successor gives a key set a published version and returns what makes it the
// active one.
func (w *world) successor(t testing.TB, name string) (rotate func()) {
	set := w.sets[name]
	next := w.version(t, len(set.Versions)+1, set.Purpose, set.Algorithm, keystore.Published)
	w.change(name, func(ks *keystore.KeySet) { ks.Versions = append(ks.Versions, next) })
	return func() {
		w.change(name, func(ks *keystore.KeySet) {
			n := len(ks.Versions)
			ks.Versions[n-2].State, ks.Versions[n-1].State = keystore.Retiring, keystore.Active
		})
	}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) view() (*keystore.View, error) {
	w.did("view")
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lease != nil {
		return nil, w.lease
	}
	var sets []*keystore.KeySet
	for _, ks := range w.sets {
		sets = append(sets, ks)
	}
	return keystore.NewView(1, w.now, sets), nil
}

// Open is Keys'.
func (w *world) Open(_ context.Context, _ *keystore.KeySet, v *keystore.Version) (keystore.Key, error) {
	w.did("open")
	w.mu.Lock()
	defer w.mu.Unlock()
	return &tracedKey{w.keys[v.KID], w}, w.openErr
}

type tracedKey struct {
	keystore.Key
	w *world
}

func (k *tracedKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	k.w.did("sign")
	k.w.mu.Lock()
	err := k.w.signErr
	if err == nil {
		k.w.signed++
	}
	k.w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return k.Key.Sign(ctx, message)
}

// A fakeLog is the log in memory.
type fakeLog struct {
	w *world

	mu      sync.Mutex
	health  error
	act     func(r keystore.Record) error // called before an act is entered
	noTake  error
	taken   map[keystore.KID]int64
	entries []keystore.Record
	refused []keystore.Record
	counted []keystore.Record // acts that were not entered, whose numbers the log closes
}

func (l *fakeLog) Act(_ context.Context, r keystore.Record) (audit.Receipt, error) {
	l.w.did("act %s", r.Outcome)
	if l.act != nil {
		if err := l.act(r); err != nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.counted = append(l.counted, r)
			return audit.Receipt{}, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, r)
	return audit.Receipt{Entry: fmt.Sprintf("log#%d", len(l.entries)-1)}, nil
}

func (l *fakeLog) Hurry() {}

func (l *fakeLog) Start(r keystore.Record) audit.Pending {
	receipt, err := l.Act(context.Background(), r)
	return entered{receipt, err}
}

func (l *fakeLog) Take(kid keystore.KID) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.noTake != nil {
		return 0, l.noTake
	}
	if l.taken == nil {
		l.taken = map[keystore.KID]int64{}
	}
	l.taken[kid]++
	return l.taken[kid], nil
}

func (l *fakeLog) GiveBack(kid keystore.KID, use int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.taken[kid] == use
	if last {
		l.taken[kid]--
	}
	return last
}

func (l *fakeLog) Refuse(r keystore.Record) {
	l.w.did("refuse %s", r.Code)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused = append(l.refused, r)
}

func (l *fakeLog) Health() error {
	l.w.did("health")
	return l.health
}

type fakeHorizons struct {
	w *world

	mu     sync.Mutex
	err    error
	raised int
	to     map[keystore.KID]time.Time
}

func (h *fakeHorizons) RaiseHorizon(_ context.Context, kid keystore.KID, to time.Time) error {
	h.w.did("raise")
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return h.err
	}
	h.raised++
	h.to[kid] = to
	return nil
}

// fakeCertificates is what was issued, and the idempotency keys.
type fakeCertificates struct {
	w      *world
	issuer *x509.Certificate

	mu       sync.Mutex
	intents  map[string]Issuance
	finished map[string]keystore.Outcome
	der      []byte
	ours     map[keystore.SPKIHash]bool
	bodies   map[IdempotencyKey][32]byte
	replies  map[IdempotencyKey][]byte
	fail     map[string]error // by method
}

func newCertificates(w *world) *fakeCertificates {
	return &fakeCertificates{
		w: w, intents: map[string]Issuance{}, finished: map[string]keystore.Outcome{}, ours: map[keystore.SPKIHash]bool{},
		bodies: map[IdempotencyKey][32]byte{}, replies: map[IdempotencyKey][]byte{}, fail: map[string]error{},
	}
}

func (c *fakeCertificates) enter(name string) (func(), error) {
	c.w.did("%s", name)
	c.mu.Lock()
	return c.mu.Unlock, c.fail[name]
}

func (c *fakeCertificates) Issuer(context.Context, string, int) (*x509.Certificate, error) {
	leave, err := c.enter("issuer")
	defer leave()
	return c.issuer, err
}

func (c *fakeCertificates) Intend(_ context.Context, i Issuance) error {
	leave, err := c.enter("intend")
	defer leave()
	if err == nil {
		c.intents[i.Serial] = i
	}
	return err
}

func (c *fakeCertificates) Finish(ctx context.Context, serial string, outcome keystore.Outcome, der []byte, _ string) error {
	leave, err := c.enter("finish")
	defer leave()
	if err = errors.Join(err, ctx.Err()); err == nil {
		c.finished[serial], c.der = outcome, der
	}
	return err
}

func (c *fakeCertificates) IsOurs(_ context.Context, h keystore.SPKIHash) (bool, error) {
	leave, err := c.enter("ours")
	defer leave()
	return c.ours[h], err
}

func (c *fakeCertificates) Begin(_ context.Context, key IdempotencyKey, body [32]byte) ([]byte, error) {
	leave, err := c.enter("begin")
	defer leave()
	was, ok := c.bodies[key]
	switch {
	case err != nil:
		return nil, err
	case ok && was != body:
		return nil, api.Errorf(api.CodeIdempotencyMismatch, "another body")
	case ok && c.replies[key] == nil:
		return nil, api.Errorf(api.CodeIdempotencyInProgress, "in progress")
	}
	c.bodies[key] = body
	return c.replies[key], nil
}

func (c *fakeCertificates) Conclude(ctx context.Context, key IdempotencyKey, reply []byte) error {
	leave, err := c.enter("conclude")
	defer leave()
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	if c.replies[key] = reply; reply == nil {
		delete(c.bodies, key)
	}
	return nil
}

type fakeRotations struct {
	err   error
	gap   bool
	until time.Time // of the gap
	asked []string
}

func (r *fakeRotations) did(what, by, keyset string, more ...any) {
	r.asked = append(r.asked, fmt.Sprint(what, " ", keyset, " by ", by, " ", more))
}

func (r *fakeRotations) Rotate(_ context.Context, by, keyset, reason string, now bool) (api.RotateReply, error) {
	r.did("rotate", by, keyset, reason, now)
	return api.RotateReply{Entry: "rotated"}, r.err
}

func (r *fakeRotations) Suspend(_ context.Context, by, keyset string, kid keystore.KID, reason string) (api.SuspendReply, error) {
	r.did("suspend", by, keyset, kid, reason)
	return api.SuspendReply{Suspended: true}, r.err
}

func (r *fakeRotations) Resume(_ context.Context, by, keyset string, kid keystore.KID, reason string) (api.SuspendReply, error) {
	r.did("resume", by, keyset, kid, reason)
	return api.SuspendReply{}, r.err
}

func (r *fakeRotations) Compromise(_ context.Context, by string, scope Scope, reason string) (api.CompromiseReply, error) {
	r.did("compromise", by, scope.KeySet, scope.KID, scope.Keystore, scope.Node, reason)
	return api.CompromiseReply{Next: []string{"sleep"}}, r.err
}

func (r *fakeRotations) Gap(*keystore.KeySet) (time.Time, bool) { return r.until, r.gap }

func (r *fakeRotations) Destroy(_ context.Context, by, keyset string, kid keystore.KID, version int, reason string) (api.DestroyReply, error) {
	r.did("destroy", by, keyset, kid, version, reason)
	return api.DestroyReply{State: "destroyed"}, r.err
}

func (r *fakeRotations) KeySet(_ context.Context, set *keystore.KeySet) (api.KeySet, error) {
	return api.KeySet{Name: set.Name}, r.err
}

func (r *fakeRotations) Plan(_ context.Context, keyset string) (api.Plan, error) {
	return api.Plan{Held: keyset}, r.err
}

func (r *fakeRotations) History(_ context.Context, keyset string) (api.History, error) {
	return api.History{Events: []api.Event{{At: noon, Event: keyset}}}, r.err
}

// wants fails the test unless err is an *api.Error with the code, and returns it.
func wants(t *testing.T, what string, err error, code api.Code) *api.Error {
	t.Helper()
	e, ok := err.(*api.Error)
	if !ok || e.Code != code {
		t.Fatalf("%s: %T %v, want %s", what, err, err, code)
	}
	return e
}

// onWire is what the caller sees of an error.
func onWire(t *testing.T, err error) string {
	t.Helper()
	e, ok := err.(*api.Error)
	if !ok {
		t.Fatalf("%T %v is not an *api.Error", err, err)
	}
	b, err := json.Marshal(e.Problem())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (w *world) traced(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(w.trace, want) {
		t.Errorf("the order was %q, want %q", w.trace, want)
	}
}

// fakeClock confirms a step of an hour back.
type fakeClock struct {
	err       error
	confirmed []keystore.Record
}

func (f *fakeClock) Confirm(_ context.Context, rec keystore.Record) (api.ClockConfirmReply, error) {
	if f.err != nil {
		return api.ClockConfirmReply{}, f.err
	}
	f.confirmed = append(f.confirmed, rec)
	return api.ClockConfirmReply{Node: "n1", Offset: -3600, Entry: "log#3"}, nil
}
