package signer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// batchLanes is how many requests of one batch have a key sign at a time that signs
// one message in a call: enough to keep a worker busy, and no more, so that a few
// batches do not fill the keystore's waiting room.
const batchLanes = 32

// A batch of the API is never more than one call.
const _ = uint(keystore.MaxBatch - api.MaxBatch)

// errMisfit: a BatchSigner broke its contract. Whose signature is whose cannot
// be told then, and none is used.
var errMisfit = fmt.Errorf("%w: the answer does not fit the batch", keystore.ErrSignature)

// SignJWTBatch signs up to api.MaxBatch JWTs for who. Each request has its own
// grant, its own entry and its own result; only a batch that is empty or too
// large fails as a whole. The requests of one key set go to the keystore together;
// those of another do not wait for them.
func (s *Service) SignJWTBatch(ctx context.Context, who policy.Caller, req api.BatchRequest) (api.BatchReply, error) {
	return s.SignJWTs(ctx, who, len(req.Requests), func(i int) (one api.SignJWTRequest, err error) {
		err = api.Decode(req.Requests[i], &one, api.DefaultLimits)
		return one, err
	})
}

// SignJWTs is SignJWTBatch for n requests that request reads one by one; an error of
// its is the result of that one.
func (s *Service) SignJWTs(ctx context.Context, who policy.Caller, n int, request func(i int) (api.SignJWTRequest, error)) (api.BatchReply, error) {
	if n == 0 || n > api.MaxBatch {
		act := keystore.Record{Principal: who.String(), Action: keystore.ActSignJWT}
		return api.BatchReply{}, s.refuse(act, api.Errorf(api.CodeMalformed, "a batch holds 1 to %d requests, this one %d", api.MaxBatch, n))
	}
	if s.Limits != nil {
		s.Limits.Charge(who.Principal, n-1) // one was admitted
	}
	reply := api.BatchReply{Results: make([]api.BatchResult, n)}
	b := &batch{s: s, who: who, lanes: make(map[string]chan struct{})}
	groups := make(map[string]*group) // by key set
	for i := range n {
		d, err := s.batched(ctx, who, func() (api.SignJWTRequest, error) { return request(i) })
		if err != nil {
			reply.Results[i] = problem(err)
			continue
		}
		g := groups[d.req.KeySet]
		if g == nil {
			g = &group{batch: b, keyset: d.req.KeySet}
			groups[d.req.KeySet] = g
		}
		g.members = append(g.members, member{draft: d, result: &reply.Results[i]})
	}
	var wg sync.WaitGroup
	for _, g := range groups {
		wg.Go(func() { g.run(ctx) })
	}
	wg.Wait()
	return reply, nil
}

// batched reads and authorises one request of a batch. Its errors have been entered.
func (s *Service) batched(ctx context.Context, who policy.Caller, request func() (api.SignJWTRequest, error)) (*draft, error) {
	act := keystore.Record{Principal: who.String(), Action: keystore.ActSignJWT}
	if ctx.Err() != nil { // it came when its time was over
		return nil, s.refuse(act, overdue(ctx, context.Cause(ctx), publicError))
	}
	req, err := request()
	if err != nil {
		return nil, s.refuse(act, err)
	}
	return s.draft(who, req)
}

// A batch is what its requests have in common.
type batch struct {
	s   *Service
	who policy.Caller

	mu    sync.Mutex
	lanes map[string]chan struct{} // by keystore
}

// lanesOf returns the lanes to a keystore: a channel that holds one element for each
// that is taken.
func (b *batch) lanesOf(keystore string) chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lanes[keystore] == nil {
		b.lanes[keystore] = make(chan struct{}, batchLanes)
	}
	return b.lanes[keystore]
}

// A group is the requests of a batch by one key set.
type group struct {
	*batch
	keyset  string
	members []member // without a result
}

type member struct {
	*draft
	result *api.BatchResult // its own
	sig    []byte
}

func problem(err error) api.BatchResult {
	return api.BatchResult{Problem: publicError(err).Problem()}
}

// run gives each member its result.
func (g *group) run(ctx context.Context) {
	defer recovered(ctx, slices.Clone(g.members))
	for range attempts {
		if g.attempt(ctx); len(g.members) == 0 {
			return
		}
	}
	for _, m := range g.members {
		*m.result = problem(unavailable(errOvertaken))
	}
}

// recovered makes errors of a panic, for those who have no result: it is theirs, and
// the daemon goes on. It is to be deferred.
func recovered(ctx context.Context, members []member) {
	p := recover()
	if p == nil {
		return
	}
	err := panicked(p)
	for _, m := range members {
		if m.result.Reply == nil && m.result.Problem == nil {
			*m.result = problem(m.failed(ctx, err))
		}
	}
}

// each does f with every member, and gives those a result for whom it returns an
// error.
func (g *group) each(f func(m *member) error) {
	kept := g.members[:0]
	for i := range g.members {
		m := g.members[i]
		if err := f(&m); err != nil {
			*m.result = problem(err)
			continue
		}
		kept = append(kept, m)
	}
	g.members = kept
}

// attempt is attemptJWT for all members at once. Those that are left were overtaken.
func (g *group) attempt(ctx context.Context) {
	s := g.s
	g.each(func(m *member) error {
		if err := m.prepare(); err != nil {
			return s.refuse(m.act, err)
		}
		return nil
	})
	if len(g.members) == 0 {
		return
	}
	unhealthy := s.Log.Health() // before a signature is spent
	set, v, silent := s.signing(g.keyset, keystore.PurposeJWT)
	g.each(func(m *member) error {
		switch {
		case unhealthy != nil:
			return s.refuse(m.act, auditUnavailable(unhealthy))
		case silent != nil:
			return s.refuse(m.act, silent)
		}
		if err := m.fit(set, v); err != nil {
			return s.refuse(m.act, err)
		}
		return nil
	})
	g.cover(ctx, v)
	if len(g.members) == 0 {
		return
	}
	key, err := open(ctx, s.Keys, set, v)
	if err != nil {
		g.each(func(m *member) error { return s.fail(m.act, overdue(ctx, err, publicError)) })
		return
	}
	if several, ok := key.(keystore.BatchSigner); ok {
		g.together(ctx, several, v)
		return
	}
	g.oneByOne(ctx, key, v)
}

// cover covers the member whose token lives longest, and each by itself if that
// cannot be: the horizon may be far enough for some.
func (g *group) cover(ctx context.Context, v *keystore.Version) {
	var longest time.Time
	for _, m := range g.members {
		if exp := m.prepared.Exp(); exp.After(longest) {
			longest = exp
		}
	}
	if len(g.members) == 0 || g.s.cover(ctx, v, longest, g.members[0].now, g.members[0].settings.MaxTTL) == nil {
		return
	}
	g.each(func(m *member) error {
		if err := g.s.cover(ctx, v, m.prepared.Exp(), m.now, m.settings.MaxTTL); err != nil {
			return g.s.refuse(m.act, overdue(ctx, err, leaseExpired))
		}
		return nil
	})
}

// together has the key sign for all members, and then records and releases.
func (g *group) together(ctx context.Context, key keystore.BatchSigner, v *keystore.Version) {
	g.sign(ctx, key, v)
	g.s.Log.Hurry()
	var overtaken []member
	g.each(func(m *member) error {
		receipt, err := m.record(ctx)
		if err != nil {
			return err
		}
		reply, err := m.release(v, m.sig, receipt)
		switch {
		case errors.Is(err, errOvertaken):
			overtaken = append(overtaken, *m)
			return nil
		case err != nil:
			return err
		}
		*m.result = api.BatchResult{Reply: &reply}
		return nil
	})
	g.members = overtaken
}

// portions is how many portions of one batch are at a keystore, or wait for that, at a
// time: while one's signatures are verified, the next are made.
const portions = 4

// sign gives the members their signatures, in portions that each have a turn.
func (g *group) sign(ctx context.Context, key keystore.BatchSigner, v *keystore.Version) {
	n := len(g.members)
	errs, size := make([]error, n), min(n, g.s.portion(v))
	var next atomic.Int64
	lane := func() {
		for from := int(next.Add(int64(size))) - size; from < n; from = int(next.Add(int64(size))) - size {
			to := min(from+size, n)
			g.signPortion(ctx, key, v, g.members[from:to], errs[from:to])
		}
	}
	var others sync.WaitGroup
	for range min(portions, (n+size-1)/size) - 1 {
		others.Go(lane)
	}
	lane()
	others.Wait()
	i := -1
	g.each(func(m *member) error {
		i++
		if errs[i] != nil {
			return m.failed(ctx, errs[i])
		}
		return nil
	})
}

// portion returns how many signatures by v's key come to its keystore in one turn.
func (s *Service) portion(v *keystore.Version) int {
	if q := s.queue(v.Keystore); q != nil && q.Portion() > 0 {
		return max(1, q.Portion()/costOf(v.Algorithm))
	}
	return api.MaxBatch
}

// signPortion has the key sign for members in one call, in one turn that costs as
// much as they do. At each place there is a signature or an error then. A panic is an
// error of those that have none.
func (g *group) signPortion(ctx context.Context, key keystore.BatchSigner, v *keystore.Version, members []member, errs []error) {
	defer func() {
		if p := recover(); p != nil {
			fill(members, errs, panicked(p))
		}
	}()
	turn, err := g.s.awaitPortion(ctx, g.who.Principal, v.Keystore, len(members)*costOf(v.Algorithm))
	if err != nil {
		fill(members, errs, err)
		return
	}
	defer turn.Leave()
	texts, places := make([][]byte, 0, len(members)), make([]int, 0, len(members))
	for i, m := range members {
		if errs[i] = g.s.count(ctx, g.who.Principal); errs[i] == nil {
			errs[i] = m.number(v)
		}
		if errs[i] == nil {
			texts, places = append(texts, m.input), append(places, i)
		}
	}
	if len(texts) == 0 {
		return
	}
	sigs, failed := keystore.SignBatchAsked(ctx, key, texts, func(place int) { members[places[place]].asked() })
	if len(sigs) != len(texts) || len(failed) != len(texts) {
		fill(members, errs, errMisfit)
		return
	}
	for n, i := range places {
		members[i].sig, errs[i] = sigs[n], failed[n]
		if (sigs[n] == nil) == (failed[n] == nil) {
			members[i].sig, errs[i] = nil, errMisfit
		}
	}
}

// fill gives err to those who have neither a signature nor an error.
func fill(members []member, errs []error, err error) {
	for i := range members {
		if members[i].sig == nil && errs[i] == nil {
			errs[i] = err
		}
	}
}

func panicked(p any) error {
	return api.Errorf(api.CodeInternal, "internal error").Because(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
}

// oneByOne has a key sign that signs one message in a call, for so many members at a
// time as there are lanes.
func (g *group) oneByOne(ctx context.Context, key keystore.Key, v *keystore.Version) {
	overtaken := make([]bool, len(g.members))
	var wg sync.WaitGroup
	lanes := g.lanesOf(v.Keystore)
	for i := range g.members {
		wg.Go(func() {
			m := &g.members[i]
			defer recovered(ctx, g.members[i:i+1])
			select {
			case lanes <- struct{}{}:
				defer func() { <-lanes }()
			case <-ctx.Done():
				*m.result = problem(m.failed(ctx, fmt.Errorf("%w: %w", errUnsent, context.Cause(ctx))))
				return
			}
			reply, err := g.s.complete(ctx, m.draft, key, v)
			switch {
			case errors.Is(err, errOvertaken):
				overtaken[i] = true
			case err != nil:
				*m.result = problem(err)
			default:
				*m.result = api.BatchResult{Reply: &reply}
			}
		})
	}
	wg.Wait()
	kept := g.members[:0]
	for i, m := range g.members {
		if overtaken[i] {
			kept = append(kept, m)
		}
	}
	g.members = kept
}
