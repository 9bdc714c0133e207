package transit

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"chancery/keystore"
)

var _ keystore.BatchSigner = (*key)(nil)

// A key is a Transit key of Chancery's. What many callers want signed at the same
// time travels in one request.
type key struct {
	p       *Provider
	ref     keystore.KeyRef
	purpose keystore.Purpose
	public  crypto.PublicKey
	name    string

	mu      sync.Mutex // guards what follows
	waiting [][]*call  // of each caller: one, or a batch
	flying  int        // requests under way
	state   string     // what was wrong with it when it was looked at last
	unfit   error      // why it is refused since then; nil: it is not
	cause   error      // what the last look because of a refusal has shown
	judged  time.Time  // when that was
}

// A call is one message that waits for its signature.
type call struct {
	input []byte // the digest, or for EdDSA the message
	until time.Time
	gone  <-chan struct{} // closed when its caller has given up
	done  chan struct{}   // closed when sig or err is there
	sig   []byte
	err   error
}

const (
	// flights is how many requests for one key are under way at a time; who comes
	// then waits for the next, and shares it. It keeps both sides busy.
	flights = 3
	// together is how many signatures of single callers one request asks for.
	together = 64
	// patience is how long a caller without a deadline waits.
	patience = 6 * time.Second
)

func (p *Provider) newKey(ref keystore.KeyRef, purpose keystore.Purpose) (*key, error) {
	pub, err := keystore.ParsePublic(ref.SPKI)
	if err != nil {
		return nil, fmt.Errorf("public key of %s: %w", ref.ID, err)
	}
	if err := ref.Algorithm.Fits(pub); err != nil {
		return nil, fmt.Errorf("key %s: %w", ref.ID, err)
	}
	return &key{p: p, ref: ref, purpose: purpose, public: pub, name: nameOf(ref.ID, purpose, ref.Algorithm)}, nil
}

func (k *key) Public() crypto.PublicKey      { return k.public }
func (k *key) Algorithm() keystore.Algorithm { return k.ref.Algorithm }

// Sign implements keystore.Key.
func (k *key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	c, err := k.prepare(ctx, message)
	if err != nil {
		return nil, err
	}
	if err := k.queue([]*call{c}); err != nil {
		return nil, err
	}
	return k.collect(ctx, c)
}

// prepare checks a message and hashes it.
func (k *key) prepare(ctx context.Context, message []byte) (*call, error) {
	if err := keystore.CheckMessage(k.purpose, k.ref.Algorithm, message); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, gaveUp(ctx)
	}
	if err := k.p.await(ctx); err != nil {
		return nil, err
	}
	k.mu.Lock()
	unfit := k.unfit
	k.mu.Unlock()
	if unfit != nil {
		return nil, unfit
	}
	return k.call(ctx, message), nil
}

// call returns a call for a message. It keeps nothing of message, which is its
// caller's again when that has given up.
func (k *key) call(ctx context.Context, message []byte) *call {
	c := &call{done: make(chan struct{}), gone: ctx.Done(), until: time.Now().Add(patience)}
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(c.until) {
		c.until = deadline
	}
	if k.purpose == keystore.PurposeDigest || k.ref.Algorithm.Hash() == 0 {
		c.input = bytes.Clone(message)
	} else {
		c.input = keystore.Digest(k.ref.Algorithm, message)
	}
	return c
}

// collect waits for the signature and verifies it.
func (k *key) collect(ctx context.Context, c *call) ([]byte, error) {
	select {
	case <-c.done:
	case <-ctx.Done():
		return nil, gaveUp(ctx)
	}
	if c.err != nil {
		return nil, c.err
	}
	if err := keystore.VerifyDigest(k.ref.Algorithm, k.public, c.input, c.sig); err != nil {
		err = fmt.Errorf("key %s: %w", k.name, err)
		k.p.cfg.Log.ErrorContext(ctx, "a signature does not verify and was not released", "keystore", k.p.cfg.Name, "key", k.name, "err", err)
		return nil, err
	}
	return c.sig, nil
}

// queue has the calls of one caller sent with the next request.
func (k *key) queue(calls []*call) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.waiting) >= k.p.cfg.Waiting {
		for i, c := range k.waiting {
			k.waiting[i] = wanted(c)
		}
		k.waiting = slices.DeleteFunc(k.waiting, func(c []*call) bool { return len(c) == 0 })
	}
	if len(k.waiting) >= k.p.cfg.Waiting {
		return fmt.Errorf("%w: %d", keystore.ErrOverloaded, len(k.waiting))
	}
	k.waiting = append(k.waiting, calls)
	if k.flying < flights {
		if !k.p.start(k.fly) {
			return errClosed
		}
		k.flying++
	}
	return nil
}

// wanted returns the calls that somebody waits for still, of calls, which is used
// up. It ends those whose time is over; who is gone hears of that without it.
func wanted(calls []*call) []*call {
	now := time.Now()
	return slices.DeleteFunc(calls, func(c *call) bool {
		select {
		case <-c.gone:
			return true
		default:
		}
		late := now.After(c.until)
		if late {
			c.err = errLate
			close(c.done)
		}
		return late
	})
}

var errLate = fmt.Errorf("%w: waiting for Vault: %w", keystore.ErrUnavailable, context.DeadlineExceeded)

// fly sends what waits, until nothing does.
func (k *key) fly() {
	for {
		k.mu.Lock()
		calls := k.share()
		if calls == nil {
			k.flying--
			k.mu.Unlock()
			return
		}
		k.mu.Unlock()
		k.send(calls)
	}
}

// share takes what the next request asks for: the batch of one caller, or what
// single callers wait for; nil if nobody waits. Its caller holds mu.
func (k *key) share() (calls []*call) {
	for len(k.waiting) > 0 && len(calls) < together {
		next := wanted(k.waiting[0])
		k.waiting[0] = next
		if len(calls) > 0 && len(next) > 1 {
			break
		}
		k.waiting = k.waiting[1:]
		calls = append(calls, next...)
	}
	return calls
}

// send gets signatures for calls with one request, and ends them.
func (k *key) send(calls []*call) {
	until := calls[0].until
	req := signForm(k.ref.Algorithm)
	for _, c := range calls {
		req.Batch = append(req.Batch, signInput{c.input})
		if c.until.After(until) {
			until = c.until
		}
	}
	ctx, cancel := context.WithDeadline(k.p.ctx, until)
	defer cancel()
	var reply signReply
	a, err := k.p.cluster.do(ctx, &request{method: "POST", path: k.p.cfg.Mount + "/sign/" + k.name, body: &req, within: k.p.cfg.Deadlines.Sign})
	if err == nil {
		err = a.read(&reply)
	}
	if err == nil && len(reply.Results) != len(calls) {
		err = fmt.Errorf("%w: %d answers to %d messages", keystore.ErrUnavailable, len(reply.Results), len(calls))
	}
	if err != nil {
		err = k.explain(ctx, err)
	}
	var refusal error // what it means, looked up once
	for i, c := range calls {
		switch {
		case err != nil:
			c.err = err
		case reply.Results[i].Error != "":
			if refusal == nil {
				refusal = k.explain(ctx, &trouble{kind: refused, status: 200, text: clean(reply.Results[i].Error)})
			}
			c.err = refusal
		default:
			c.sig, c.err = parseSignature(k.ref.Algorithm, reply.Results[i])
		}
		close(c.done)
	}
}

// explained is how long what a look has shown of a key is believed.
const explained = time.Second

// explain says what a refusal to sign means: Vault's words are not to be relied
// on, so the key is looked at. Its errors wrap keystore.ErrNotFound if it is gone,
// keystore.ErrAttributes if somebody has made it unusable.
func (k *key) explain(ctx context.Context, err error) error {
	if k.p.ctx.Err() != nil {
		return errClosed
	}
	if ctx.Err() != nil {
		return gaveUp(ctx)
	}
	if !isKind(err, refused) && !isKind(err, absent) {
		if isKind(err, noRoute) {
			k.p.suspect()
		}
		return fmt.Errorf("key %s: %w", k.name, err)
	}
	k.mu.Lock()
	cause, recent := k.cause, time.Since(k.judged) < explained
	k.mu.Unlock()
	if recent {
		return cause
	}
	info, look := k.p.find(ctx, k.ref.ID, k.name)
	switch {
	case errors.Is(look, keystore.ErrNotFound), errors.Is(look, keystore.ErrAttributes):
		cause = look
	case look != nil:
		return fmt.Errorf("key %s: %w", k.name, look)
	default:
		if cause = k.fits(info); cause == nil {
			cause = fmt.Errorf("%w: key %s: %w", keystore.ErrUnavailable, k.name, err)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cause, k.judged = cause, time.Now()
	return cause
}

// differs notes what a look has shown: what the key lacks, and why it is refused
// for that, as it would be if it were opened now. It reports whether that is
// another thing than before.
func (k *key) differs(lacks []string, unfit error) bool {
	state := strings.Join(lacks, ", ")
	if unfit != nil {
		state = unfit.Error()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	differs := state != k.state
	k.state, k.unfit = state, unfit
	return differs
}

// challenge has the key sign something fresh that no key of any purpose signs as
// anything else.
func (k *key) challenge(ctx context.Context) error {
	message := append([]byte{keystore.ProbePrefix}, "chancery challenge "+rand.Text()...)
	if k.purpose == keystore.PurposeDigest {
		message = keystore.Digest(k.ref.Algorithm, message)
	}
	c := k.call(ctx, message)
	if err := k.queue([]*call{c}); err != nil {
		return err
	}
	_, err := k.collect(ctx, c)
	return err
}

// SignBatch implements keystore.BatchSigner: one request for all of them.
func (k *key) SignBatch(ctx context.Context, messages [][]byte) (sigs [][]byte, errs []error) {
	if n := len(messages); n > keystore.MaxBatch {
		return keystore.RefuseBatch(n, fmt.Errorf("%d messages in a batch: want %d at most", n, keystore.MaxBatch))
	}
	sigs, errs = make([][]byte, len(messages)), make([]error, len(messages))
	calls, sent := make([]*call, len(messages)), make([]*call, 0, len(messages))
	for i, m := range messages {
		if calls[i], errs[i] = k.prepare(ctx, m); errs[i] == nil {
			sent = append(sent, calls[i])
		}
	}
	if len(sent) == 0 {
		return sigs, errs
	}
	if err := k.queue(sent); err != nil {
		return keystore.RefuseBatch(len(messages), err)
	}
	var all sync.WaitGroup
	for lane := range verifyLanes {
		all.Go(func() {
			for i := lane; i < len(calls); i += verifyLanes {
				if errs[i] == nil {
					sigs[i], errs[i] = k.collect(ctx, calls[i])
				}
			}
		})
	}
	all.Wait()
	return sigs, errs
}

// verifyLanes is how many signatures of a batch are verified at a time.
const verifyLanes = 4
