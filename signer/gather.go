package signer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"chancery/keystore"
	"chancery/signer/api"
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

// A gathering has the requests of one batch go to the keystore together. Each
// request has a seat, at which it brings a message once or which it leaves. When
// no seat is awaited any more, the messages of each key version go out in one
// call. A request whose key signs one message at a time leaves, and asks alone,
// in a lane; so does one that signs anew.
type gathering struct {
	keys     Keys
	complete chan struct{} // closed when no seat is awaited any more

	mu      sync.Mutex // guards what follows
	awaited int        // seats at which no message was brought, and which were not left
	sent    bool       // what was brought is with the keystore, and stays as it is
	sheaves map[keystore.KID]*sheaf
	lanes   map[lane]chan struct{}
}

// A lane is what a request does by itself, and in which keystore. The two are
// apart so that no seat is awaited until others have had slow signatures made.
type lane struct {
	keystore string
	opening  bool
}

// A sheaf is the messages for one key version.
type sheaf struct {
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
		keys: keys, complete: make(chan struct{}), awaited: n,
		sheaves: make(map[keystore.KID]*sheaf), lanes: make(map[lane]chan struct{}),
	}
}

// send waits until no seat is awaited, and has what was brought signed. The
// contexts of the requests end with ctx at the latest: each looks at its own
// and leaves its seat, so that send need not look while it waits, and takes its
// message back if it is too late.
func (g *gathering) send(ctx context.Context) {
	<-g.complete
	g.mu.Lock()
	g.sent = ctx.Err() == nil
	g.mu.Unlock()
	if !g.sent { // only send changes it
		return
	}
	var wg sync.WaitGroup
	for _, s := range g.sheaves {
		wg.Go(func() { s.sign(ctx) })
	}
	wg.Wait()
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

// alone lends f one of the lanes of its kind.
func (g *gathering) alone(ctx context.Context, in lane, f func() error) error {
	g.mu.Lock()
	taken, ok := g.lanes[in]
	if !ok {
		taken = make(chan struct{}, batchLanes)
		g.lanes[in] = taken
	}
	g.mu.Unlock()
	select {
	case taken <- struct{}{}:
		defer func() { <-taken }()
		return f()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errUnsent, context.Cause(ctx))
	}
}

// A seat is the place of one request in a gathering, and the Keys of that
// request. It must be left, whatever became of the request.
type seat struct {
	*gathering
	gone bool // guarded by mu: not awaited any more
}

// leave says that no message is to be awaited. It may be said more than once.
func (t *seat) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rise()
}

// rise makes the seat one that is not awaited, and reports whether it was. The
// caller holds mu.
func (t *seat) rise() bool {
	if t.gone {
		return false
	}
	t.gone = true
	if t.awaited--; t.awaited == 0 {
		close(t.complete)
	}
	return true
}

// bring adds a message to those of its version. It returns false if the seat
// was used before.
func (t *seat) bring(key keystore.BatchSigner, kid keystore.KID, text []byte) (*sheaf, *message, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone {
		return nil, nil, false
	}
	s, ok := t.sheaves[kid]
	if !ok {
		s = &sheaf{key: key, done: make(chan struct{})}
		t.sheaves[kid] = s
	}
	m := &message{text: text}
	s.messages = append(s.messages, m)
	t.rise()
	return s, m, true
}

// await returns what became of m. If ctx ends before it was sent, it is not
// signed.
func (t *seat) await(ctx context.Context, s *sheaf, m *message) ([]byte, error) {
	select {
	case <-s.done:
		return m.sig, m.err
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sent {
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

func (k seatedKey) Sign(ctx context.Context, text []byte) (sig []byte, err error) {
	if several, ok := k.Key.(keystore.BatchSigner); ok {
		if s, m, ok := k.at.bring(several, k.of.KID, text); ok {
			return k.at.await(ctx, s, m)
		}
	}
	k.at.leave()
	err = k.at.alone(ctx, lane{k.of.Keystore, false}, func() error {
		sig, err = k.Key.Sign(ctx, text)
		return err
	})
	return sig, err
}
