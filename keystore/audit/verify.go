package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Options of Verify.
type Options struct {
	Keys     []string                // verifier keys; none: signatures are not checked, and the report says so
	Progress func(done, total int64) // called now and then with bytes read; may be nil
	Kept     []Checkpoint            // checkpoints seen before, which the logs have to fit still
	Peers    []string                // audit directories of other nodes, or copies of this one, to compare with; their signatures are not checked

	Witnesses Quorum   // nil: none is known, and everything is told to be unwitnessed
	Cosigned  [][]byte // cosigned checkpoints from elsewhere than dir; only for Witnesses

	State *State             // how far an earlier run came, to go on from there; nil: the beginning
	Keep  func(*State) error // called now and then, and at the end, with how far it is (see State); may be nil

	keepEvery int64 // entries; 0: mostUnkept
}

// Verify reads everything under dir, an audit directory, and checks it: that no
// entry was changed, lost, added or moved, that times ascend, that tiles fit,
// and that the checkpoints sign exactly these entries. A cut is found up to the
// last checkpoint. It needs no daemon, takes no lock, and is right beside a
// running one: of a log that is being written it reads what is signed when the
// log's turn comes, and about as much as is there then. What is wrong with the
// log is in the report; the error is for what could not be read, a bad key, a
// State that is not for opt, what opt.Keep returned, and the end of ctx.
func Verify(ctx context.Context, dir string, opt Options) (*Report, error) {
	return verify(ctx, dir, opt, tornPause)
}

func verify(ctx context.Context, dir string, opt Options, pause time.Duration) (*Report, error) {
	v := verification{
		ctx: ctx, dir: dir, opt: opt, pause: pause, kept: slices.Clone(opt.Kept), away: map[string]bool{},
		report: &Report{LogKeys: []LogKey{}, Problems: []Problem{}}, logKeys: newLogKeys(),
	}
	peers, err := newPeerFollower(ctx, opt.Peers)
	if err != nil {
		return nil, err
	}
	if v.resumption, err = newResumption(opt, peers); err != nil {
		return nil, err
	}
	gathered := v.resumption.from
	v.logKeys.keyNotes = gathered.Keys
	peers.peerHeads = gathered.Peers
	v.followers = []follower{v.logKeys, gathered.Months, gathered.Uses, gathered.Heads, newWitnesses(dir, opt), peers,
		newNewest(dir, v.logKeys, gathered), v.resumption}
	for _, k := range opt.Keys {
		if err := v.trust(k); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(filepath.Join(dir, lifecycleName)); err != nil {
		return nil, fmt.Errorf("no audit log in %s: %w", dir, err)
	}
	v.total = journalBytes(dir)
	if err := v.readAhead(); err != nil {
		return nil, err
	}
	if err := v.log(lifecycleName); err != nil {
		return nil, err
	}
	// The months come after lifecycle, so that every month it closed is there.
	months, err := listMonths(dir)
	if err != nil {
		return nil, err
	}
	for _, m := range months {
		if err := v.month(actsName + "/" + m); err != nil {
			return nil, err
		}
	}
	v.conclude()
	return v.report, v.keep()
}

// conclude judges what is told by several logs together.
func (v *verification) conclude() {
	for _, f := range v.followers {
		f.conclude(v)
	}
	for _, k := range v.kept {
		v.problem(NameOf(k.Origin), -1, fmt.Sprintf("it is not there, and the checkpoint kept of %s has %d entries "+
			"(hint: restore the directory from a backup that has this log; if its removal was decided, verify without that checkpoint)", k.Origin, k.Size))
	}
	if lifecycle := &v.report.Logs[0]; lifecycle.Entries == 0 {
		v.tell(Problem{lifecycleName, -1, "it has no entries: a node enters its start before all else " +
			"(hint: give the directory of a log, or restore it from a backup)", Nothing})
	}
	v.report.KeyVerified = len(v.keys) > 0
	for _, l := range v.report.Logs {
		v.report.KeyVerified = v.report.KeyVerified && (l.Verified || l.Entries == 0)
		if l.Verified || l.Entries == 0 || len(v.keys) == 0 {
			continue
		}
		ours := slices.ContainsFunc(v.keys, func(k note.Verifier) bool {
			return signatureKey(note.Signature{Name: k.Name(), Hash: k.KeyHash()}) == l.Key
		})
		switch {
		case l.Key == "":
			v.problem(l.Name, -1, "it has no checkpoint, so that nothing proves its entries")
		case !ours: // otherwise what is wrong has been told
			what, kind := v.logKeys.unknown(v, &l)
			v.tell(Problem{l.Name, -1, what, kind})
		}
	}
}

// NameOf returns the name of the log with the given origin: "lifecycle" or
// "acts/YYYY-MM". It may be called concurrently.
func NameOf(origin string) string {
	last := origin[strings.LastIndex(origin, "/")+1:]
	if isMonth(last) {
		return actsName + "/" + last
	}
	return last
}

// maxProblems is how many problems of one log are told; a log that is wrong
// everywhere needs no longer list.
const maxProblems = 100

type verification struct {
	ctx    context.Context
	dir    string
	opt    Options
	pause  time.Duration
	keys   []note.Verifier
	report *Report
	kept   []Checkpoint // those whose log was not met yet
	total  int64
	done   int64
	away   map[string]bool // months that cannot be reached, by name

	ahead      map[string][]byte // checkpoints that were read ahead, by the names of their logs
	logKeys    *logKeys          // one of the followers
	resumption *resumption       // one of the followers
	followers  []follower
	silent     bool // what is met has been told
}

// A follower draws from the entries of all logs together what no single one
// shows. It meets lifecycle first, then the months of acts in their order.
type follower interface {
	entry(c *check, e *Entry) // the next entry of c's log, whose record is sound
	log(c *check)             // c has been read to its end
	conclude(v *verification) // everything has
}

func (v *verification) problem(log string, index int64, what string) {
	v.tell(Problem{log, index, what, Changed})
}

func (v *verification) tell(p Problem) {
	if v.silent {
		return
	}
	n := 0
	for _, told := range v.report.Problems {
		if told.Log == p.Log {
			n++
		}
	}
	switch {
	case n < maxProblems:
		v.report.Problems = append(v.report.Problems, p)
	case n == maxProblems:
		v.report.Problems = append(v.report.Problems, Problem{p.Log, -1, "and more", p.Kind})
	}
}

func journalBytes(dir string) (n int64) {
	names := []string{lifecycleName}
	months, _ := listMonths(dir) // only for the progress
	for _, m := range months {
		names = append(names, actsName+"/"+m)
	}
	for _, name := range names {
		at := filepath.Join(dir, filepath.FromSlash(name))
		numbers, _ := listJournals(at)
		for _, k := range numbers {
			n += sizeOf(journalPath(at, k))
		}
		n += sizeOf(packPath(at))
	}
	return n
}

// sizeOf returns how many bytes the file at path has; 0 if there is none.
func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// month verifies one month of acts. One that is removed meanwhile counts as one
// that was not there, and one that cannot be reached is told.
func (v *verification) month(name string) error {
	dir := filepath.Join(v.dir, filepath.FromSlash(name))
	logs, problems := len(v.report.Logs), len(v.report.Problems)
	unreachable := away(dir)
	var err error
	if unreachable == nil {
		err = v.log(name)
	}
	if _, gone := os.Lstat(dir); errors.Is(gone, fs.ErrNotExist) {
		v.report.Logs, v.report.Problems = v.report.Logs[:logs], v.report.Problems[:problems]
		v.resumption.gap()
		return nil
	}
	if unreachable != nil {
		v.away[name] = true
		v.resumption.gap() // it may have the numbers of uses that are missed
		v.tell(Problem{name, -1, fmt.Sprintf("it cannot be read: %v (hint: it was moved; bring the storage it was moved to back)", unreachable), Away})
	}
	return err
}

// log verifies one log. The checkpoint is read first, so that a running daemon
// cannot have signed more than is read after it.
func (v *verification) log(name string) error {
	c := check{
		v: v, name: name, dir: filepath.Join(v.dir, filepath.FromSlash(name)),
		hasher: newLeafHasher(), rep: LogReport{Name: name},
	}
	if month, ok := monthOf(name); ok {
		c.begins, c.ends = month, month.AddDate(0, 1, 0)
	}
	var err error
	if c.signed, err = c.readCheckpoint(); err != nil {
		return err
	}
	v.kept = slices.DeleteFunc(v.kept, func(k Checkpoint) bool {
		ours := strings.HasSuffix(k.Origin, "/"+name)
		if ours {
			c.kept = append(c.kept, k)
		}
		return ours
	})
	if err := c.resume(); err != nil {
		return err
	}
	if err := v.logKeys.begin(&c); err != nil {
		return err
	}
	if err := c.entries(); err != nil {
		return errors.Join(err, v.interrupted(&c))
	}
	c.conclude()
	v.report.Logs = append(v.report.Logs, c.rep)
	return v.ended(&c)
}

// A check is the verification of one log.
type check struct {
	v      *verification
	name   string
	dir    string
	begins time.Time  // the month; zero: the log is lifecycle
	ends   time.Time  // the next one
	signed Checkpoint // Size 0: none
	note   []byte     // signed, as it was published
	sig    Signature
	hasher leafHasher
	rep    LogReport

	tree     tree
	next     int64        // index of the next entry
	durable  int64        // of the last record
	broken   bool         // the tree cannot be known any more
	fits     bool         // the tree had the signed root at the signed size
	wrong    bool         // a tree comparison failed, which was told
	outdated bool         // its checkpoint is not its newest, which was told
	kept     []Checkpoint // of this log; they have to fit
	known                 // what was verified before
}

func (c *check) problem(index int64, format string, args ...any) {
	c.v.problem(c.name, index, fmt.Sprintf(format, args...))
}

func (c *check) readCheckpoint() (Checkpoint, error) {
	b, err := c.awaitCheckpoint()
	if errors.Is(err, fs.ErrNotExist) {
		return Checkpoint{}, nil
	}
	if errors.Is(err, errForeign) {
		c.problem(-1, "reading its checkpoint: %v", err)
		return Checkpoint{}, nil
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("reading the checkpoint: %w", err)
	}
	signed, sig, err := OpenCheckpoint(b, c.v.keys)
	if err != nil {
		c.problem(-1, "%v", err)
		return Checkpoint{}, nil
	}
	if !strings.HasSuffix(signed.Origin, "/"+c.name) {
		c.problem(-1, "its checkpoint is of %s", signed.Origin)
		return Checkpoint{}, nil
	}
	if sig.Verified && keyOf(sig.Key) != strings.TrimSuffix(signed.Origin, "/"+c.name) {
		c.problem(-1, "its checkpoint is signed by %s, which is no key of this node", sig.Key)
		return Checkpoint{}, nil
	}
	c.note, c.sig, c.rep.Key, c.rep.Origin = b, sig, sig.Key, signed.Origin
	return signed, nil
}

// awaitCheckpoint reads the checkpoint file. A log that a running daemon has
// just begun gets its first one within moments.
func (c *check) awaitCheckpoint() ([]byte, error) {
	path := filepath.Join(c.dir, checkpointFile)
	if b, ok := c.v.ahead[c.name]; ok {
		return b, nil
	}
	for look := 0; ; look++ {
		b, err := readPlain(path)
		young := errors.Is(err, fs.ErrNotExist) && len(c.v.keys) > 0 && look < checkpointLooks
		if !young || !hasEntries(c.dir) {
			return b, err
		}
		if err := pause(c.v.ctx, c.v.pause); err != nil {
			return nil, err
		}
	}
}

func hasEntries(dir string) bool {
	for _, err := range entries(dir, 0) {
		return err == nil
	}
	return false
}

// keyOf returns the name in NAME+ID.
func keyOf(key string) string {
	name, _, _ := strings.Cut(key, "+")
	return name
}

// entry checks the entry of record r, which stands where it has to.
func (c *check) entry(r record) {
	e, err := ParseEntry(r.entry)
	if err != nil {
		c.problem(r.index, "%v", err)
	} else {
		c.meaning(r, &e)
	}
	if c.broken {
		return
	}
	for _, t := range c.tree.add(c.hasher.sum(r.entry), nil) {
		c.tile(t)
	}
	for _, k := range c.kept {
		if k.Size == c.tree.size && k.Root != c.tree.root() {
			c.problem(-1, "its first %d entries are not the ones of the checkpoint kept", k.Size)
		}
	}
	if c.tree.size == c.signed.Size {
		c.rep.ProvenUntil = e.Time
		if c.fits = c.tree.root() == c.signed.Root; !c.fits {
			c.wrong = true
			c.problem(-1, "its first %d entries are not the ones that were signed%s", c.signed.Size, c.orBefore())
			c.edge()
		}
	}
	c.keep()
}

func (c *check) meaning(r record, e *Entry) {
	if e.Sequence != r.index {
		c.problem(r.index, "it says that it is entry %d", e.Sequence)
	}
	if e.Time.Before(c.rep.Last) {
		c.problem(r.index, "its time is before that of the entry before")
	}
	if c.name != lifecycleName && (e.Time.Before(c.begins) || !e.Time.Before(c.ends)) {
		c.problem(r.index, "its time is not in the month")
	}
	if c.rep.First.IsZero() {
		c.rep.First = e.Time
	}
	c.rep.Last = e.Time
	for _, f := range c.v.followers {
		f.entry(c, e)
	}
	c.draw(e)
}

// tile compares a full tile with the one on disk, which has to be there when it
// is under a checkpoint.
func (c *check) tile(t tile) {
	if (t.n+1)<<(tileHeight*(t.level+1)) > c.signed.Size {
		return
	}
	have, err := readTile(c.dir, t.level, t.n, tileWidth)
	if err != nil {
		c.problem(-1, "%s: %v", t.path(), err)
		return
	}
	c.compareTile(t, have)
}

// edge compares the tiles that were not full when the checkpoint was signed, to name
// the entries that are not the ones signed. They may be gone where the log went on.
func (c *check) edge() {
	for _, t := range c.tree.edge() {
		if have, err := readTile(c.dir, t.level, t.n, len(t.hashes)); err == nil {
			c.compareTile(t, have)
		}
	}
}

func (c *check) compareTile(t, have tile) {
	for i, h := range t.hashes {
		if have.hashes[i] == h {
			continue
		}
		if t.level == 0 {
			c.problem(t.n*tileWidth+int64(i), "it is not the entry in the tree: %s has another hash", t.path())
		} else {
			c.problem(-1, "%s does not fit the entries", t.path())
			return
		}
	}
}

// conclude compares the whole log with its checkpoint and with its seal.
func (c *check) conclude() {
	c.rep.Entries = c.next
	if !c.broken {
		c.rep.Root = c.tree.root().String()
	}
	switch {
	case c.signed.Size > c.next:
		c.problem(-1, "it has %d entries, and %d were signed: the others are gone", c.next, c.signed.Size)
	case c.fits && !c.broken:
		c.rep.Proven, c.rep.Verified = c.signed.Size, c.sig.Verified
	case c.signed.Size > 0 && !c.wrong:
		c.problem(-1, "it cannot be compared with its checkpoint of %d entries", c.signed.Size)
	}
	for _, k := range c.kept {
		if k.Size > c.next || k.Origin != c.rep.Origin {
			c.problem(-1, "it has %d entries, and the checkpoint kept of %s has %d", c.next, k.Origin, k.Size)
		}
	}
	for _, f := range c.v.followers {
		f.log(c)
	}
	c.rep.Unsigned = c.rep.Entries - c.rep.Proven
	if c.rep.Proven == 0 {
		c.rep.ProvenUntil = time.Time{}
	}
}
