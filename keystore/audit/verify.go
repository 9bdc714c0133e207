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
	Peers    []string                // audit directories of other nodes, to compare with; their signatures are not checked

	Witnesses Quorum   // nil: none is known, and everything is told to be unwitnessed
	Cosigned  [][]byte // cosigned checkpoints from elsewhere than dir; only for Witnesses
}

// A Report is what Verify found. The log is as its keys signed it if there are
// no Problems and KeyVerified; the entries of a log beyond its Proven are in
// order but under no signature yet.
type Report struct {
	KeyVerified bool        `json:"key_verified"` // every log that has entries is proven by one of the keys, or one they announced
	Logs        []LogReport `json:"logs"`
	LogKeys     []LogKey    `json:"log_keys"` // that were trusted: those given, then those announced, in the order they were
	Pruned      []Pruned    `json:"pruned,omitempty"`
	Problems    []Problem   `json:"problems"`
	Unwitnessed []string    `json:"unwitnessed"` // names of logs of which no quorum of witnesses has cosigned a checkpoint

	Uses  []UseReport  `json:"uses,omitempty"`  // of each key whose uses are numbered, by kid
	Peers []PeerReport `json:"peers,omitempty"` // of each other node whose log was seen, by origin
}

// A LogReport tells of one log.
type LogReport struct {
	Name        string    `json:"name"` // "lifecycle" or "acts/YYYY-MM"
	Origin      string    `json:"origin"`
	Entries     int64     `json:"entries"`
	Proven      int64     `json:"proven"`   // entries under the checkpoint, if they are what it signs
	Unsigned    int64     `json:"unsigned"` // entries behind it
	First       time.Time `json:"first"`    // time of the first entry
	Last        time.Time `json:"last"`
	ProvenUntil time.Time `json:"proven_until"` // time of the last proven entry
	Root        string    `json:"root"`         // of all entries, in base64
	Key         string    `json:"key"`          // NAME+ID of the key that signed; empty: no checkpoint
	Verified    bool      `json:"verified"`     // signed by a given or announced key, or closed in a lifecycle that is
	Closed      string    `json:"closed,omitempty"`
	Announced   string    `json:"announced,omitempty"`   // the entry that announced Key, if it was not given
	Compromised string    `json:"compromised,omitempty"` // the entry that says that Key was compromised before it signed this

	Witnessed *Witnessed `json:"witnessed,omitempty"` // how far a quorum of witnesses knows it; nil: it is unwitnessed
}

// A Problem is something that is not as it was written.
type Problem struct {
	Log   string `json:"log"`   // its name
	Index int64  `json:"index"` // of the entry, or -1
	What  string `json:"what"`
}

// String returns the problem as one line.
func (p Problem) String() string {
	if p.Index < 0 {
		return p.Log + ": " + p.What
	}
	return fmt.Sprintf("%s: entry %d: %s", p.Log, p.Index, p.What)
}

// Entries returns how many entries all logs have.
func (r *Report) Entries() (n int64) {
	for _, l := range r.Logs {
		n += l.Entries
	}
	return n
}

// Proven returns how many entries of all logs are proven.
func (r *Report) Proven() (n int64) {
	for _, l := range r.Logs {
		n += l.Proven
	}
	return n
}

// OK reports whether everything is as it was signed by one of the keys.
func (r *Report) OK() bool { return r.KeyVerified && len(r.Problems) == 0 }

// Verify reads everything under dir, an audit directory, and checks it: that no
// entry was changed, lost, added or moved, that times ascend, that tiles fit,
// and that the checkpoints sign exactly these entries. A cut is found up to the
// last checkpoint. It needs no daemon, takes no lock, and is right beside a
// running one. What is wrong with the log is in the report; the error is for
// what could not be read, a bad key, and the end of ctx.
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
	v.followers = []follower{v.logKeys, newMonths(), newUseFollower(), newHeadFollower(), newWitnesses(dir, opt), peers}
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
	return v.report, nil
}

// conclude judges what is told by several logs together.
func (v *verification) conclude() {
	for _, f := range v.followers {
		f.conclude(v)
	}
	for _, k := range v.kept {
		v.problem(nameOf(k.Origin), -1, fmt.Sprintf("it is not there, and the checkpoint kept of %s has %d entries "+
			"(hint: restore the directory from a backup that has this log; if its removal was decided, verify without that checkpoint)", k.Origin, k.Size))
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
			v.problem(l.Name, -1, "its checkpoint is signed by "+l.Key+v.logKeys.unknown(l.Key))
		}
	}
}

// nameOf returns the name of the log with the given origin.
func nameOf(origin string) string {
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

	ahead     map[string][]byte // checkpoints that were read ahead, by the names of their logs
	logKeys   *logKeys          // one of the followers
	followers []follower
}

// A follower draws from the entries of all logs together what no single one
// shows. It meets lifecycle first, then the months of acts in their order.
type follower interface {
	entry(c *check, e *Entry) // the next entry of c's log, whose record is sound
	log(c *check)             // c has been read to its end
	conclude(v *verification) // everything has
}

func (v *verification) problem(log string, index int64, what string) {
	n := 0
	for _, p := range v.report.Problems {
		if p.Log == log {
			n++
		}
	}
	switch {
	case n < maxProblems:
		v.report.Problems = append(v.report.Problems, Problem{log, index, what})
	case n == maxProblems:
		v.report.Problems = append(v.report.Problems, Problem{log, -1, "and more"})
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
			if info, err := os.Stat(journalPath(at, k)); err == nil {
				n += info.Size()
			}
		}
		if info, err := os.Stat(packPath(at)); err == nil {
			n += info.Size()
		}
	}
	return n
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
		return nil
	}
	if unreachable != nil {
		v.away[name] = true
		v.problem(name, -1, fmt.Sprintf("it cannot be read: %v (hint: it was moved; bring the storage it was moved to back)", unreachable))
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
	if err := v.logKeys.begin(&c); err != nil {
		return err
	}
	if err := c.entries(); err != nil {
		return err
	}
	c.conclude()
	v.report.Logs = append(v.report.Logs, c.rep)
	return nil
}

// A check is the verification of one log.
type check struct {
	v      *verification
	name   string
	dir    string
	signed Checkpoint // Size 0: none
	note   []byte     // signed, as it was published
	sig    Signature
	hasher leafHasher
	rep    LogReport

	tree    tree
	next    int64        // index of the next entry
	durable int64        // of the last record
	broken  bool         // the tree cannot be known any more
	fits    bool         // the tree had the signed root at the signed size
	wrong   bool         // a tree comparison failed, which was told
	kept    []Checkpoint // of this log; they have to fit
}

func (c *check) problem(index int64, format string, args ...any) {
	c.v.problem(c.name, index, fmt.Sprintf(format, args...))
}

func (c *check) readCheckpoint() (Checkpoint, error) {
	b, err := c.awaitCheckpoint()
	if errors.Is(err, fs.ErrNotExist) {
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
		b, err := os.ReadFile(path)
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
			c.problem(-1, "its first %d entries are not the ones that were signed", c.signed.Size)
			c.edge()
		}
	}
}

func (c *check) meaning(r record, e *Entry) {
	if e.Sequence != r.index {
		c.problem(r.index, "it says that it is entry %d", e.Sequence)
	}
	if e.Time.Before(c.rep.Last) {
		c.problem(r.index, "its time is before that of the entry before")
	}
	if c.name != lifecycleName && actsName+"/"+e.Time.Format(monthLayout) != c.name {
		c.problem(r.index, "its time is not in the month")
	}
	if c.rep.First.IsZero() {
		c.rep.First = e.Time
	}
	c.rep.Last = e.Time
	for _, f := range c.v.followers {
		f.entry(c, e)
	}
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
