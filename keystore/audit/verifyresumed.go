package audit

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Before tells of what was not looked at again.
type Before struct {
	Time    time.Time `json:"time"`    // of Options.State
	Entries int64     `json:"entries"` // of all logs that are there
}

// How much is verified at most between two states that are kept.
const (
	mostUnkept    = 5_000_000 // entries
	longestUnkept = 10 * time.Second
)

// A resumption goes on from a state, and keeps how far it is. It draws a second
// time from each entry that is signed, apart from what the other followers do: what
// no checkpoint signs yet a power cut can take back, and so it is no part of
// a state.
type resumption struct {
	opt    Options
	from   *State // its notes belong to the other followers
	to     *State // nil: nothing is kept
	keys   *logKeys
	notes  []follower // of to
	logs   map[string]LogState
	failed error // what Options.Keep returned

	blocked bool // to is not whole any more
	unkept  int64
	last    time.Time // when it was kept
}

// newResumption reads the state of opt. It is an error that it was made with
// other logs to compare with than those in peers.
func newResumption(opt Options, peers *peerFollower) (*resumption, error) {
	r := &resumption{opt: opt, from: newState(), to: newState(), logs: map[string]LogState{}, last: time.Now()}
	compared := slices.Sorted(maps.Keys(peers.Dirs))
	if opt.State != nil {
		b, err := opt.State.Encode()
		if err != nil {
			return nil, err
		}
		if r.from, err = ParseState(b); err != nil {
			return nil, err
		}
		if r.to, err = ParseState(b); err != nil {
			return nil, err
		}
		if !slices.Equal(r.from.Compared, compared) {
			return nil, fmt.Errorf("the state was kept when the log was compared with those of [%s], and now it is with [%s]: "+
				"compare with the same, or begin anew with another state", strings.Join(r.from.Compared, " "), strings.Join(compared, " "))
		}
	}
	for _, l := range r.from.Logs {
		r.logs[l.Name] = l
	}
	r.to.Compared = append([]string{}, compared...)
	r.keys = &logKeys{keyNotes: r.to.Keys}
	r.notes = []follower{r.keys, r.to.Months, r.to.Uses, r.to.Heads, &peerFollower{peerHeads: r.to.Peers, Dirs: peers.Dirs}}
	if opt.Keep == nil {
		r.to, r.notes = nil, nil
	}
	return r, nil
}

// known is what was verified of a log before.
type known struct {
	before  int64     // entries
	root    tlog.Hash // of them
	durable int64     // of the last
	upTo    *LogState // as the log stood at its signed size, once it has been there
	told    bool      // that its tiles do not fit what was verified before
	doubt   bool      // whether what is signed is a continuation, as its tiles do not show it
}

// resume has c go on behind what was verified before. What is signed now has to
// be a continuation of that: it is the root of a tree that is built on the old one.
//
// A state that is of another node's log is an error: nothing of it fits.
func (c *check) resume() error {
	i := slices.IndexFunc(c.v.resumption.from.Logs, func(l LogState) bool { return l.Name == c.name })
	if i < 0 {
		return nil
	}
	s := c.v.resumption.from.Logs[i]
	c.tree = s.tree()
	c.known = known{before: s.Size, root: c.tree.root(), durable: s.Durable}
	c.rep.Before, c.rep.First, c.rep.Last = s.Size, s.First, s.Last
	switch {
	case c.rep.Origin != "" && c.rep.Origin != s.Origin && c.name == lifecycleName:
		return fmt.Errorf("the state is of %s, and this log is %s: give the state that was kept of it, or begin anew with another", s.Origin, c.rep.Origin)
	case c.rep.Origin != "" && c.rep.Origin != s.Origin:
		c.wrong = true
		c.problem(-1, "it is %s, and what was verified before was %s", c.rep.Origin, s.Origin)
	case c.signed.Size < s.Size:
		c.wrong = true
		c.problem(-1, "%d of its entries are signed, and %d were verified before: it was cut, is an older copy, or an older checkpoint was put back", c.signed.Size, s.Size)
	case c.signed.Size == s.Size:
		c.upTo, c.rep.ProvenUntil = &s, s.Last
		if c.fits = c.signed.Root == c.known.root; !c.fits {
			c.wrong = true
			c.problem(-1, "its first %d entries are not the ones that were verified before", s.Size)
		}
	default:
		c.doubt = !c.goesOn()
		if c.doubt && c.forks() {
			c.wrong, c.broken = true, true // all that follows is of another tree
			c.problem(-1, "the %d entries that are signed do not go on from the %d that were verified before: it was rewritten", c.signed.Size, s.Size)
		}
	}
	c.rep.Origin = cmp.Or(c.rep.Origin, s.Origin)
	for _, k := range c.kept {
		if fits, known := c.had(k.Size, k.Root); known && !fits {
			c.problem(-1, "its first %d entries are not the ones of the checkpoint kept", k.Size)
		}
	}
	return nil
}

// forks reports whether the tiles show that what is signed goes on from other
// entries than those verified before.
func (c *check) forks() bool {
	tiles := HashReader(c.dir, c.signed.Size)
	root, err := tlog.TreeHash(c.before, tiles)
	if err != nil || root == c.known.root {
		return false
	}
	proof, err := tlog.ProveTree(c.signed.Size, c.before, tiles)
	return err == nil && tlog.CheckTree(proof, c.signed.Size, c.signed.Root, c.before, root) == nil
}

// goesOn reports whether the tiles show that what is signed is a continuation of
// what was verified before. Whether it is, reading tells; until then a state that
// can be gone on from is not given up.
func (c *check) goesOn() bool {
	proof, err := ProveConsistency(c.dir, c.before, c.signed.Size)
	return err == nil && tlog.CheckTree(proof, c.signed.Size, c.signed.Root, c.before, c.known.root) == nil
}

// orBefore is what else a wrong root may mean.
func (c *check) orBefore() string {
	if c.before == 0 {
		return ""
	}
	return fmt.Sprintf(", or do not go on from the %d that were verified before", c.before)
}

// firstJournal returns where reading begins: with the journal in which the first
// entry stands, or will stand, that was not verified before. What it holds below
// that is only passed over.
func (c *check) firstJournal() int {
	if c.before == 0 {
		return 1
	}
	n, first, err := journalOf(c.dir, c.before)
	if err != nil { // which reading all tells better
		return 1
	}
	if c.next = first; first == c.before {
		c.durable = c.known.durable
	}
	for passed := 1; passed < n; passed++ {
		c.v.done += sizeOf(journalPath(c.dir, passed))
	}
	return n
}

// had reports whether the first size entries have the given root, and whether
// that can be known: of a tree that c has passed only if it was verified before.
func (c *check) had(size int64, root tlog.Hash) (fits, known bool) {
	switch {
	case c.broken || size < 0 || size > c.tree.size:
		return false, false
	case size == c.tree.size:
		return root == c.tree.root(), true
	case size > c.before:
		return false, false
	}
	have, err := c.rootBefore(size)
	if err != nil && !c.told {
		c.told = true
		c.problem(-1, "its tiles do not tell what its first %d entries were, %d of which were verified before: %v", size, c.before, err)
	}
	return err == nil && have == root, err == nil
}

// rootBefore returns the root of the first size entries, of those verified before,
// from the tiles, which have to lead to what was verified.
func (c *check) rootBefore(size int64) (root tlog.Hash, err error) {
	switch size {
	case 0:
		return sha256.Sum256(nil), nil
	case c.before:
		return c.known.root, nil
	}
	for range tornLooks { // a running daemon puts wider tiles in the place of others
		tiles := HashReader(c.dir, c.before)
		var proof tlog.TreeProof
		if root, err = tlog.TreeHash(size, tiles); err == nil {
			proof, err = tlog.ProveTree(c.before, size, tiles)
		}
		if err == nil {
			err = tlog.CheckTree(proof, c.before, c.known.root, size, root)
		}
		if err == nil {
			return root, nil
		}
		if ended := pause(c.v.ctx, c.v.pause); ended != nil {
			return root, errors.Join(err, ended)
		}
	}
	return root, err
}

// draw draws from e what is kept, if it is signed.
func (c *check) draw(e *Entry) {
	r := c.v.resumption
	if r.to == nil || r.blocked || c.tree.size >= c.signed.Size {
		return
	}
	if len(c.v.report.Problems) > 0 {
		r.blocked = true
		return
	}
	c.v.silent = true
	for _, f := range r.notes {
		f.entry(c, e)
	}
	c.v.silent = false
}

// keep keeps now and then how far c is.
func (c *check) keep() {
	r := c.v.resumption
	if r.to == nil || r.blocked || c.tree.size > c.signed.Size {
		return
	}
	if c.tree.size == c.signed.Size {
		s := c.stands()
		c.upTo = &s
	}
	r.unkept++
	due := r.unkept >= cmp.Or(r.opt.keepEvery, mostUnkept) || r.unkept%(1<<14) == 0 && time.Since(r.last) >= longestUnkept
	if due && c.isSigned() {
		r.put(c)
		r.failed = cmp.Or(r.failed, c.v.keep())
	}
}

// isSigned reports whether what is read of c is known to be signed by a key that
// is trusted while it is being read. Of lifecycle signed by a key that it announces
// itself that is known when it has been read.
func (c *check) isSigned() bool {
	if c.doubt || c.name == lifecycleName || c.sig.Verified {
		return !c.doubt && c.sig.Verified
	}
	s, ok := c.v.resumption.to.Months.Seals[c.rep.Origin]
	lifecycle := c.v.report.Logs[0]
	return ok && lifecycle.Verified && s.Index < lifecycle.Proven
}

func (c *check) stands() LogState {
	at := c.tree.clone()
	return LogState{
		Name: c.name, Origin: c.rep.Origin, Size: at.size, Edge: at.levels,
		First: c.rep.First, Last: c.rep.Last, Durable: c.durable,
	}
}

// put notes how far notes were drawn from c.
func (r *resumption) put(c *check) {
	switch {
	case c.upTo != nil:
		r.logs[c.name] = *c.upTo
	case c.tree.size > c.before && c.tree.size <= c.signed.Size:
		r.logs[c.name] = c.stands()
	}
}

// interrupted keeps how far c is, if it is the end of ctx that ended it.
func (v *verification) interrupted(c *check) error {
	if v.resumption.put(c); v.ctx.Err() == nil || !c.isSigned() {
		return nil
	}
	return v.keep()
}

// ended keeps that c has been read. What no trusted key signed, which is told at
// the end, is not kept, nor what is read after it.
func (v *verification) ended(c *check) error {
	r := v.resumption
	r.put(c)
	r.blocked = r.blocked || !c.rep.Verified && c.signed.Size > c.before
	return cmp.Or(r.failed, v.keep())
}

// keep has the state kept, unless anything is wrong: the next run then goes on
// from before that, and finds it again.
func (v *verification) keep() error {
	r := v.resumption
	_, begun := r.logs[lifecycleName]
	if r.to == nil || r.blocked || !begun || r.failed != nil || len(v.report.Problems) > 0 || len(v.keys) == 0 {
		return nil
	}
	r.to.Time, r.to.Keys = time.Now().UTC().Truncate(time.Second), r.keys.keyNotes
	r.to.Logs = slices.SortedFunc(maps.Values(r.logs), func(a, b LogState) int {
		if a.Name == lifecycleName || b.Name == lifecycleName {
			return -strings.Compare(a.Name, b.Name)
		}
		return strings.Compare(a.Name, b.Name)
	})
	r.unkept, r.last = 0, time.Now()
	if err := r.opt.Keep(r.to); err != nil {
		return fmt.Errorf("keeping how far the log was verified: %w", err)
	}
	return nil
}

func (r *resumption) entry(*check, *Entry) {}

func (r *resumption) log(c *check) {
	c.rep.Before = min(c.before, c.next)
	if c.name == lifecycleName && r.missed(c.v) {
		r.gap()
	}
}

// missed reports whether acts were pruned that are behind what was verified
// before: those in the last month of that, or in later ones.
func (r *resumption) missed(v *verification) bool {
	if r.opt.State == nil {
		return false
	}
	at := r.from.Logs[len(r.from.Logs)-1]
	for origin := range r.from.Months.Prunes {
		name := NameOf(origin)
		there := exists(filepath.Join(v.dir, filepath.FromSlash(name)))
		behind := name > at.Name || name == at.Name && at.Size < r.from.Months.Seals[origin].Size
		if !there && (behind || at.Name == lifecycleName) {
			return true
		}
	}
	return false
}

// gap has the numbers of uses begin anew: behind what was read of acts, some that
// nobody read were pruned.
func (r *resumption) gap() {
	r.from.Uses.forget()
	if r.to != nil {
		r.to.Uses.forget()
	}
}

// conclude tells which logs are gone.
func (r *resumption) conclude(v *verification) {
	if r.opt.State == nil {
		return
	}
	v.report.Before = &Before{Time: r.from.Time}
	for _, l := range v.report.Logs {
		v.report.Before.Entries += l.Before
	}
	for _, l := range r.from.Logs {
		at := l.tree()
		if v.has(l.Origin) || v.away[l.Name] || v.prunedAs(Checkpoint{l.Origin, l.Size, at.root()}) {
			continue
		}
		v.problem(l.Name, -1, fmt.Sprintf("it is not there, and %d entries of %s were verified before", l.Size, l.Origin))
	}
}
