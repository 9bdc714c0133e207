package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"chancery/keystore"
)

// longestUnsigned is how long a log that goes on may have entries behind its
// newest checkpoint: one is made each second, and a round of them has ten.
const longestUnsigned = time.Minute

// newest follows whether the checkpoint of each log is its newest: an older one is
// as true, and has the entries behind it under no signature. That there was a newer
// one, files beside it and signed entries tell.
type newest struct {
	logKeys   *logKeys
	months    *months
	heads     *headFollower
	witnessed map[string][]byte   // by the log's name
	signed    map[string]seenHead // by origin: what signed entries of lifecycle say last of acts
}

// newNewest reads what is beside the checkpoints before they are read, so that a
// running daemon cannot have put something newer there.
func newNewest(dir string, keys *logKeys, gathered *State) *newest {
	f := &newest{keys, gathered.Months, gathered.Heads, map[string][]byte{}, map[string]seenHead{}}
	names, _ := LogNames(dir) // Verify tells
	for _, name := range names {
		if b, err := readPlain(filepath.Join(dir, filepath.FromSlash(name), witnessedName)); err == nil {
			f.witnessed[name] = b
		}
	}
	for origin, h := range f.heads.Last { // a state has nothing that is not signed
		f.signed[origin] = h
	}
	return f
}

func (f *newest) entry(c *check, e *Entry) {
	if e.Sequence == c.signed.Size {
		c.rep.UnsignedSince = e.Time
	}
	if h, ok := headIn(e); ok && c.name == lifecycleName && e.Action == keystore.ActAuditHead && e.Sequence < c.signed.Size {
		f.signed[h.Origin] = seenHead{e.Sequence, h.Size, h.Root}
	}
}

func (f *newest) log(c *check) {
	if !c.fits || c.broken {
		return // which was told
	}
	for _, k := range c.kept {
		if k.Origin == c.rep.Origin && k.Size <= c.next {
			c.older(k.Size, "the one kept is")
		}
	}
	if b, ok := f.witnessed[c.name]; ok {
		f.beside(c, b)
	}
	if c.name == lifecycleName {
		f.handedOver(c)
		return
	}
	if s, ok := f.months.Seals[c.rep.Origin]; ok && s.Size <= c.next {
		c.older(s.Size, fmt.Sprintf("the last one, in lifecycle entry %d, is", s.Index))
	}
	// In each round acts are signed before lifecycle is.
	if h, ok := f.signed[c.rep.Origin]; ok && h.Size <= c.next && h.Index < c.v.report.Logs[0].Proven {
		c.older(h.Size, fmt.Sprintf("lifecycle entry %d, signed since, is", h.Index))
	}
}

// beside looks at the checkpoint that witnesses have cosigned, as what the log's
// key signed.
func (f *newest) beside(c *check, signed []byte) {
	w, sig, err := OpenCheckpoint(signed, c.v.keys)
	switch {
	case err != nil || !sig.Verified || w.Origin != c.rep.Origin: // what is wrong is told to who names witnesses
	case w.Size <= c.next:
		c.older(w.Size, fmt.Sprintf("the one in %s is", witnessedName))
	case c.v.opt.Witnesses == nil:
		c.problem(-1, "it has %d entries, and %s, which %s signed, %d: the others are gone", c.next, witnessedName, sig.Key, w.Size)
	}
}

// handedOver looks at the last checkpoints of log keys that sign no more: that of
// the log is no older than any.
func (f *newest) handedOver(c *check) {
	for _, p := range f.logKeys.Points {
		if _, sig, err := OpenCheckpoint(p.Signed, c.v.keys); err == nil && sig.Verified && p.Fits {
			c.older(p.Size, p.File+" is")
		}
	}
}

// older tells that the log's checkpoint is not its newest, if it has fewer entries
// than size, which another is of.
func (c *check) older(size int64, other string) {
	if c.outdated || c.signed.Size == 0 || size <= c.signed.Size || c.v.goneOn(c.name, size, tornLooks) {
		return
	}
	c.outdated = true
	c.problem(-1, "its checkpoint is of %d entries, up to %s, and %s of %d: an older one was put back",
		c.signed.Size, c.rep.ProvenUntil.Format(time.RFC3339), other, size)
}

// goneOn reports whether a log has a checkpoint of at least size entries meanwhile:
// beside a running daemon what was read is old soon.
func (v *verification) goneOn(name string, size int64, looks int) bool {
	for look := 0; ; look++ {
		b, err := readPlain(filepath.Join(v.dir, filepath.FromSlash(name), checkpointFile))
		if err != nil {
			return false
		}
		if c, _, err := OpenCheckpoint(b, nil); err == nil && c.Size >= size {
			return true
		}
		if look == looks || pause(v.ctx, v.pause) != nil {
			return false
		}
	}
}

// conclude tells of the logs whose entries stand under no signature for long, while
// there were newer ones anywhere.
func (f *newest) conclude(v *verification) {
	var last time.Time
	for _, l := range v.report.Logs {
		last = later(last, l.Last)
	}
	for i := range v.report.Logs {
		l := &v.report.Logs[i]
		if l.Unsigned == 0 || l.Proven == 0 {
			l.UnsignedSince = time.Time{}
		}
		if l.UnsignedSince.IsZero() || last.Sub(l.UnsignedSince) <= longestUnsigned || v.goneOn(l.Name, l.Proven+1, checkpointLooks) {
			continue
		}
		text := fmt.Sprintf("%d of its entries are after the newest checkpoint, which is of the first %d, up to %s, and the log went on until %s",
			l.Unsigned, l.Proven, l.ProvenUntil.Format(time.RFC3339), last.Format(time.RFC3339))
		if size := signedByTiles(filepath.Join(v.dir, filepath.FromSlash(l.Name)), l.Proven); size > 0 {
			v.problem(l.Name, -1, fmt.Sprintf("%s; its tiles are of a checkpoint of %d entries: an older one was put back", text, size))
			continue
		}
		v.tell(Problem{l.Name, -1, text + " (hint: it is so while the log key is away; otherwise an older checkpoint was put back)", Unsigned})
	}
}

// signedByTiles returns the size of a checkpoint above size that tiles in dir are
// of, or 0: tiles that are not full are written when their checkpoint is signed.
func signedByTiles(dir string, size int64) (newer int64) {
	for n := size / tileWidth; ; n++ {
		full := filepath.Join(dir, tilePath(0, n, tileWidth))
		parts, err := os.ReadDir(full + ".p")
		for _, p := range parts {
			width, _ := strconv.ParseInt(p.Name(), 10, 64)
			if at := n*tileWidth + width; at > size {
				newer = max(newer, at)
			}
		}
		if err != nil && !exists(full) {
			return newer
		}
	}
}
