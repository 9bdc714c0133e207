package signer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
	"chancery/signer/queue"
)

// batchLanes is how many requests of one batch have a keystore sign at a time,
// each by itself: enough to keep a worker busy, and no more, so that a few
// batches do not fill the keystore's waiting room. As many may open keys there,
// which seldom asks the keystore.
const batchLanes = 32

// A batch of the API is never more than one call.
const _ = uint(keystore.MaxBatch - api.MaxBatch)

// errUnsent: the time of a request was over before its key was asked.
var errUnsent = errors.New("the key was not asked to sign")

// errMisfit: a BatchSigner broke its contract. Whose signature is whose cannot
// be told then, and none is used.
var errMisfit = fmt.Errorf("%w: the answer does not fit the batch", keystore.ErrSignature)

// A gathering has the requests of one batch go to the keystores together. Each
// request has a seat. At it the request comes to a keystore, once, or leaves it. When
// no seat is awaited any more, those who have come to one keystore are a party: they
// wait for one turn there, and only then take numbers and bring their messages. When
// all of a party have, the messages of each key version go out in one call. A request
// whose key signs one message at a time leaves, and asks alone, in a lane and a turn
// of its own; so does one that signs anew.
type gathering struct {
	keys Keys
	// turn waits for a turn of the batch's principal; nil: nobody waits.
	turn    func(ctx context.Context, keystore string, cost int) (queue.Turn[policy.Principal], error)
	arrived chan struct{} // closed when no seat is awaited any more

	mu      sync.Mutex // guards what follows
	awaited int        // seats that have come to no keystore, and were not left
	parties map[string]*party
	lanes   map[lane]chan struct{}
}

// A party is the requests of a batch that have come to one keystore. Its members are
// guarded by the gathering's mu.
type party struct {
	cost    int // of their signatures
	seats   int // that have not brought their message, and were not left
	final   bool
	let     chan struct{} // closed when their turn has come, or was refused
	refused error         // set before let is closed
	ready   chan struct{} // closed when it is final, and no seat is left
	sent    bool          // what was brought is with the keystore, and stays as it is
	sheaves map[keystore.KID]*sheaf
}

// A lane is what a request does by itself, and in which keystore. The two are
// apart so that no seat is awaited until others have had slow signatures made.
type lane struct {
	keystore string
	opening  bool
}

// A sheaf is the messages for one key version.
type sheaf struct {
	of       *party
	key      keystore.BatchSigner
	messages []*message    // guarded by the gathering's mu until they are sent
	done     chan struct{} // closed when each has its outcome
}

type message struct {
	text, sig []byte
	err       error
}

// newGathering returns a gathering that awaits n seats.
func newGathering(keys Keys, n int) *gathering {
	return &gathering{
		keys: keys, arrived: make(chan struct{}), awaited: n,
		parties: make(map[string]*party), lanes: make(map[lane]chan struct{}),
	}
}

// await waits for a turn.
func (g *gathering) await(ctx context.Context, keystore string, cost int) (queue.Turn[policy.Principal], error) {
	if g.turn == nil {
		return queue.Turn[policy.Principal]{}, nil
	}
	return g.turn(ctx, keystore, cost)
}

// send waits until no seat is awaited, and has what each party brings signed. The
// contexts of the requests end with ctx at the latest: each looks at its own
// and leaves its seat, so that send need not look while it waits, and takes its
// message back if it is too late.
func (g *gathering) send(ctx context.Context) {
	<-g.arrived
	var wg sync.WaitGroup
	for keystore, p := range g.parties { // nobody joins one any more
		wg.Go(func() { g.sendParty(ctx, keystore, p) })
	}
	wg.Wait()
}

func (g *gathering) sendParty(ctx context.Context, keystore string, p *party) {
	g.mu.Lock()
	p.final = true
	p.settle()
	cost := p.cost
	g.mu.Unlock()
	if cost == 0 { // all have left
		return
	}
	turn, err := g.await(ctx, keystore, cost)
	p.refused = err
	close(p.let)
	defer turn.Leave()
	<-p.ready
	g.mu.Lock()
	p.sent = ctx.Err() == nil
	g.mu.Unlock()
	if !p.sent { // only this changes it
		return
	}
	var wg sync.WaitGroup
	for _, s := range p.sheaves {
		wg.Go(func() { s.sign(ctx) })
	}
	wg.Wait()
}

// settle says that a party is ready, if it is. The caller holds mu.
func (p *party) settle() {
	if p.final && p.seats == 0 {
		close(p.ready)
	}
}

func (s *sheaf) sign(ctx context.Context) {
	defer close(s.done)
	texts := make([][]byte, len(s.messages))
	for i, m := range s.messages {
		texts[i], m.err = m.text, errMisfit
	}
	sigs, errs := s.key.SignBatch(ctx, texts)
	if len(sigs) != len(texts) || len(errs) != len(texts) {
		return
	}
	for i, m := range s.messages {
		if (sigs[i] == nil) != (errs[i] == nil) {
			m.sig, m.err = sigs[i], errs[i]
		}
	}
}

// take takes one of the lanes of its kind, which is given back by receiving from it.
func (g *gathering) take(ctx context.Context, in lane) (chan struct{}, error) {
	g.mu.Lock()
	taken, ok := g.lanes[in]
	if !ok {
		taken = make(chan struct{}, batchLanes)
		g.lanes[in] = taken
	}
	g.mu.Unlock()
	select {
	case taken <- struct{}{}:
		return taken, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errUnsent, context.Cause(ctx))
	}
}

// alone lends f one of the lanes of its kind.
func (g *gathering) alone(ctx context.Context, in lane, f func() error) error {
	taken, err := g.take(ctx, in)
	if err != nil {
		return err
	}
	defer func() { <-taken }()
	return f()
}

// A seat is the place of one request in a gathering, and the Keys of that
// request. It must be left, whatever became of the request.
type seat struct {
	*gathering
	entered bool   // the request's own: it has its turn
	gone    bool   // guarded by mu: not awaited any more
	with    *party // guarded by mu: whose message it has not brought; nil: it is in none
	cost    int    // guarded by mu: of that message
}

// leave says that no message is to be awaited. It may be said more than once.
func (t *seat) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rise()
	if p := t.with; p != nil {
		t.with = nil
		p.cost -= t.cost
		p.seats--
		p.settle()
	}
}

// rise makes the seat one that is not awaited, and reports whether it was. The
// caller holds mu.
func (t *seat) rise() bool {
	if t.gone {
		return false
	}
	t.gone = true
	if t.awaited--; t.awaited == 0 {
		close(t.arrived)
	}
	return true
}

// join makes the request one of the party at a keystore, and waits until that has its
// turn. It returns false if the seat is awaited no more.
func (t *seat) join(ctx context.Context, at string, cost int) (bool, error) {
	t.mu.Lock()
	if t.gone {
		t.mu.Unlock()
		return false, nil
	}
	p, ok := t.parties[at]
	if !ok {
		p = &party{let: make(chan struct{}), ready: make(chan struct{}), sheaves: make(map[keystore.KID]*sheaf)}
		t.parties[at] = p
	}
	t.with, t.cost = p, cost
	p.cost += cost
	p.seats++
	t.rise()
	t.mu.Unlock()
	select {
	case <-p.let:
	case <-ctx.Done():
		t.leave()
		return true, fmt.Errorf("%w: %w", errUnsent, context.Cause(ctx))
	}
	if p.refused != nil {
		t.leave()
		return true, p.refused
	}
	return true, nil
}

// bring adds a message to those of its version. It returns false if the request is
// in no party.
func (t *seat) bring(key keystore.BatchSigner, kid keystore.KID, text []byte) (*sheaf, *message, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.with
	if p == nil {
		return nil, nil, false
	}
	s, ok := p.sheaves[kid]
	if !ok {
		s = &sheaf{of: p, key: key, done: make(chan struct{})}
		p.sheaves[kid] = s
	}
	m := &message{text: text}
	s.messages = append(s.messages, m)
	t.with = nil
	p.seats--
	p.settle()
	return s, m, true
}

// signed returns what became of m. If ctx ends before it was sent, it is not
// signed.
func (t *seat) signed(ctx context.Context, s *sheaf, m *message) ([]byte, error) {
	select {
	case <-s.done:
		return m.sig, m.err
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.of.sent {
		return nil, fmt.Errorf("%w: waiting for the batch: %w", keystore.ErrUnavailable, context.Cause(ctx))
	}
	s.messages = slices.DeleteFunc(s.messages, func(other *message) bool { return other == m })
	return nil, fmt.Errorf("%w: %w", errUnsent, context.Cause(ctx))
}

// Open implements Keys.
func (t *seat) Open(ctx context.Context, set *keystore.KeySet, v *keystore.Version) (keystore.Key, error) {
	k := seatedKey{at: t, of: v}
	err := t.alone(ctx, lane{v.Keystore, true}, func() (err error) {
		k.Key, err = t.keys.Open(ctx, set, v)
		return err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// A seatedKey is the key of a version for the request at a seat.
type seatedKey struct {
	keystore.Key
	at *seat
	of *keystore.Version
}

// enter waits for a turn: that of the party if the key signs several messages in one
// call, or one of its own.
func (k seatedKey) enter(ctx context.Context) (turn, error) {
	cost := costOf(k.of.Algorithm)
	if _, ok := k.Key.(keystore.BatchSigner); ok {
		if joined, err := k.at.join(ctx, k.of.Keystore, cost); joined || err != nil {
			k.at.entered = err == nil
			return turn{seat: k.at}, err
		}
	}
	k.at.leave()
	taken, err := k.at.take(ctx, lane{k.of.Keystore, false})
	if err != nil {
		return turn{}, err
	}
	own, err := k.at.await(ctx, k.of.Keystore, cost)
	if err != nil {
		<-taken
		return turn{}, err
	}
	k.at.entered = true
	return turn{own: own, lane: taken, seat: k.at}, nil
}

// Sign implements keystore.Key, in the request's turn.
func (k seatedKey) Sign(ctx context.Context, text []byte) ([]byte, error) {
	if !k.at.entered {
		t, err := k.enter(ctx)
		if err != nil {
			return nil, err
		}
		defer t.leave()
	}
	if several, ok := k.Key.(keystore.BatchSigner); ok {
		if s, m, ok := k.at.bring(several, k.of.KID, text); ok {
			return k.at.signed(ctx, s, m)
		}
	}
	return k.Key.Sign(ctx, text)
}
