package pkcs11

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"chancery/keystore"
)

var (
	_ keystore.Announcer      = (*key)(nil)
	_ keystore.BatchAnnouncer = (*key)(nil)
)

// sheavesPerWorker is how many sheaves of one batch are under way at a time: enough
// to keep a worker busy while the daemon verifies, and no more, so that a few
// batches do not fill the hall.
const sheavesPerWorker = 4

// SignBatch implements keystore.BatchSigner. The messages go to the workers in
// sheaves, each to the worker that has least to do then, and their signatures are
// verified as the sheaves come back, several at the same time.
func (k *key) SignBatch(ctx context.Context, messages [][]byte) ([][]byte, []error) {
	return k.SignBatchAsked(ctx, messages, nil)
}

// SignBatchAsked implements keystore.BatchAnnouncer.
func (k *key) SignBatchAsked(ctx context.Context, messages [][]byte, asked func(place int)) ([][]byte, []error) {
	if len(messages) > keystore.MaxBatch {
		return keystore.RefuseBatch(len(messages), fmt.Errorf("%w: %d messages, at most %d", keystore.ErrMessage, len(messages), keystore.MaxBatch))
	}
	b := &batch{messages: messages, asked: asked, sigs: make([][]byte, len(messages)), errs: make([]error, len(messages))}
	var fit []int // places of messages that may be signed
	for i, message := range messages {
		if b.errs[i] = keystore.CheckMessage(k.purpose, k.ref.Algorithm, message); b.errs[i] == nil {
			fit = append(fit, i)
		}
	}
	fit = k.tried(ctx, b, fit)
	size := sheafSize(k.ref.Algorithm)
	sheaves := slices.Collect(slices.Chunk(fit, size))
	var next atomic.Int64
	lane := func() {
		for i := next.Add(1) - 1; i < int64(len(sheaves)); i = next.Add(1) - 1 {
			k.signPlaces(ctx, b, sheaves[i])
		}
	}
	var all sync.WaitGroup
	for range min(len(sheaves), sheavesPerWorker*k.p.cfg.Workers) - 1 {
		all.Go(lane)
	}
	lane()
	all.Wait()
	return b.sigs, b.errs
}

// A batch is messages and what became of them. Each place is written by one
// goroutine.
type batch struct {
	messages [][]byte
	sigs     [][]byte
	errs     []error
	asked    func(place int) // nil: nobody wants to know
}

// telling returns what tells once that the message at a place was asked for.
func (b *batch) telling(place int) func() {
	if b.asked == nil {
		return nil
	}
	return func() { b.asked(place) }
}

// fail gives the places that have no outcome err.
func (b *batch) fail(places []int, err error) {
	for _, i := range places {
		if b.sigs[i] == nil && b.errs[i] == nil {
			b.errs[i] = err
		}
	}
}

// tried returns which of the places may be asked for. A key in quarantine signs one
// message for a trial, and the others only if that went well.
func (k *key) tried(ctx context.Context, b *batch, places []int) []int {
	trial, err := k.doubt.refuses(k.p.cfg.Now)
	switch {
	case err != nil:
		b.fail(places, err)
		return nil
	case !trial || len(places) == 0:
		return places
	}
	first := places[0]
	if b.sigs[first], b.errs[first] = k.signOne(ctx, 1, b.messages[first], b.telling(first)); b.errs[first] != nil {
		b.fail(places, b.errs[first])
		return nil
	}
	return places[1:]
}

// signPlaces signs one sheaf, and once more if the worker ended under it.
func (k *key) signPlaces(ctx context.Context, b *batch, places []int) {
	if len(places) == 1 {
		i := places[0]
		b.sigs[i], b.errs[i] = k.signOne(ctx, 2, b.messages[i], b.telling(i))
		return
	}
	size := len(places) * 4
	for _, i := range places {
		size += len(b.messages[i])
	}
	body := make([]byte, 0, size)
	for _, i := range places {
		body = appendMessage(body, b.messages[i])
	}
	told := b.asked == nil
	err := k.sure(ctx, func() error {
		return k.p.served(ctx, 2, func(g *generation, at *place) error {
			if err := k.heldBy(ctx, g); err != nil {
				return err
			}
			return k.askSheaf(ctx, g, at, b, places, body, &told)
		})
	})
	if err != nil {
		b.fail(places, err)
	}
}

// askSheaf has g sign a sheaf with a key it holds, and verifies what has come. As
// with a single signature, a wrong one ends the generation; the right ones beside
// it are what was asked for.
func (k *key) askSheaf(ctx context.Context, g *generation, at *place, b *batch, places []int, body []byte, told *bool) error {
	c, err := g.begin(ctx, at, k.blame, verbSignSheaf, k.p.cfg.Deadlines.Sign, k.name[:], body)
	if err != nil {
		return err
	}
	if !*told {
		*told = true
		for _, i := range places {
			b.asked(i)
		}
	}
	answer, err := g.await(ctx, c)
	if err != nil {
		return err
	}
	sigs, errs, err := parseOutcomes(answer, len(places))
	if err != nil {
		g.end(err)
		return fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	var wrong error
	for n, i := range places {
		if errs[n] != nil {
			b.errs[i] = errs[n]
			continue
		}
		if err := k.check(b.messages[i], sigs[n]); err != nil {
			b.errs[i], wrong = err, err
			continue
		}
		b.sigs[i] = sigs[n]
		g.signed.Add(1)
	}
	if wrong != nil {
		k.condemn(ctx, g, wrong)
		return nil
	}
	k.doubt.signed()
	return nil
}
