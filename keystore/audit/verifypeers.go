package audit

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/keystore"
)

// A PeerReport tells what the log says last of another node's lifecycle log.
type PeerReport struct {
	Origin string    `json:"origin"`
	Size   int64     `json:"size"`
	Root   string    `json:"root"`  // in base64
	Index  int64     `json:"index"` // of the entry of lifecycle that says so
	Time   time.Time `json:"time"`  // of that entry
	// Compared is the directory of Options.Peers that was compared with all that
	// the log says of that origin; empty: none was.
	Compared string `json:"compared,omitempty"`
}

// peerFollower checks what the entries say of other nodes' logs: that those
// never went back, and, where a log is given, that it is the one that was seen;
// and what the given logs say of this one.
type peerFollower struct {
	peerHeads
	Dirs   map[string]string         // by origin: Options.Peers
	Claims map[string][]peerSeenHead // by origin: what those say of others and of themselves, by size
	tells  map[string][]string       // by origin: of which others it says anything
}

// peerHeads are what the entries say of other nodes' logs.
type peerHeads struct {
	Notes map[string][]seenHead `json:"notes"` // by origin, of those to compare with: all
	Last  map[string]PeerReport `json:"last"`  // by origin
}

type peerSeenHead struct {
	Entry string // of the other log
	Size  int64
	Root  tlog.Hash
}

// newPeerFollower reads the lifecycle logs in dirs.
func newPeerFollower(ctx context.Context, dirs []string) (*peerFollower, error) {
	f := &peerFollower{
		peerHeads: peerHeads{Notes: map[string][]seenHead{}, Last: map[string]PeerReport{}},
		Dirs:      map[string]string{}, Claims: map[string][]peerSeenHead{}, tells: map[string][]string{},
	}
	for _, dir := range dirs {
		origin, err := f.read(ctx, dir)
		if err == nil && origin == "" {
			err = fmt.Errorf("no entries in its %s log", lifecycleName)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the peer's log in %s: %w", dir, err)
		}
		if twice, ok := f.Dirs[origin]; ok {
			return nil, fmt.Errorf("the logs in %s and %s are both of %s: give one", twice, dir, origin)
		}
		f.Dirs[origin] = dir
	}
	for _, claims := range f.Claims {
		slices.SortFunc(claims, func(a, b peerSeenHead) int { return cmp.Or(cmp.Compare(a.Size, b.Size), cmp.Compare(a.Entry, b.Entry)) })
	}
	return f, nil
}

// read draws from the log in dir what it says of others, and of itself how far it
// has come: it may be a copy of the log that is verified.
func (f *peerFollower) read(ctx context.Context, dir string) (origin string, err error) {
	var t tree
	hasher := newLeafHasher()
	defer func() {
		if err == nil && origin != "" {
			f.Claims[origin] = append(f.Claims[origin], peerSeenHead{"the copy in " + dir, t.size, t.root()})
		}
	}()
	for at, err := range entries(filepath.Join(dir, lifecycleName), 0) {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return "", err
		}
		origin = at.origin
		t.add(hasher.sum(at.entry), nil)
		e, err := ParseEntry(at.entry)
		if err != nil {
			return "", fmt.Errorf("%s: %w", entryName(origin, at.index), err)
		}
		if h, ok := headIn(&e); ok && e.Action == keystore.ActAuditPeer {
			f.Claims[h.Origin] = append(f.Claims[h.Origin], peerSeenHead{entryName(origin, at.index), h.Size, h.Root})
			f.tells[origin] = append(f.tells[origin], h.Origin)
		}
	}
	return origin, nil
}

func (f *peerFollower) entry(c *check, e *Entry) {
	if c.name != lifecycleName {
		return
	}
	f.compare(c, e.Sequence) // the tree as it is before e
	if e.Action == keystore.ActAuditPeer {
		f.peer(c, e)
	}
}

func (f *peerFollower) peer(c *check, e *Entry) {
	h, ok := headIn(e)
	if !ok || h.Origin == c.rep.Origin || !strings.HasSuffix(h.Origin, "/"+lifecycleName) {
		c.problem(e.Sequence, "it does not tell how far the lifecycle log of another node had come")
		return
	}
	before, known := f.Last[h.Origin]
	switch {
	case known && h.Size < before.Size:
		c.problem(e.Sequence, "%s went back to %d entries: it had %d, as lifecycle entry %d says", h.Origin, h.Size, before.Size, before.Index)
	case known && h.Size == before.Size && h.Root.String() != before.Root:
		c.problem(e.Sequence, "%s was rewritten: its %d entries are others than those that lifecycle entry %d tells of", h.Origin, h.Size, before.Index)
	}
	f.Last[h.Origin] = PeerReport{
		Origin: h.Origin, Size: h.Size, Root: h.Root.String(), Index: e.Sequence, Time: e.Time,
	}
	if _, given := f.Dirs[h.Origin]; given {
		f.Notes[h.Origin] = append(f.Notes[h.Origin], seenHead{e.Sequence, h.Size, h.Root})
	}
}

// compare compares c's tree, which has the given size, with what others say of
// it.
func (f *peerFollower) compare(c *check, size int64) {
	claims := f.Claims[c.rep.Origin]
	for len(claims) > 0 && claims[0].Size <= size {
		h := claims[0]
		if fits, known := c.had(h.Size, h.Root); known && !fits {
			c.problem(-1, "its first %d entries are not the ones that %s tells of", h.Size, h.Entry)
		}
		claims = claims[1:]
		f.Claims[c.rep.Origin] = claims
	}
}

func (f *peerFollower) log(c *check) {
	if c.name != lifecycleName {
		return
	}
	f.compare(c, c.next)
	for _, h := range f.Claims[c.rep.Origin] {
		c.problem(-1, "it has %d entries, and %s says that it had %d: it was cut, or is an older copy than that log", c.next, h.Entry, h.Size)
	}
}

func (f *peerFollower) conclude(v *verification) {
	for _, origin := range slices.Sorted(maps.Keys(f.Last)) {
		r := f.Last[origin]
		r.Compared = f.Dirs[origin]
		v.report.Peers = append(v.report.Peers, r)
	}
	for _, origin := range slices.Sorted(maps.Keys(f.Notes)) {
		f.given(v, origin)
	}
	ours := v.report.Logs[0].Origin
	for _, origin := range slices.Sorted(maps.Keys(f.Dirs)) {
		if _, seen := f.Last[origin]; !seen && origin != ours && !slices.Contains(f.tells[origin], ours) {
			v.tell(Problem{lifecycleName, -1, fmt.Sprintf("neither this log nor that of %s in %s says anything of the other: nothing was compared "+
				"(hint: give the log of a node with the same catalog)", origin, f.Dirs[origin]), Nothing})
		}
	}
}

// given compares a log of another node with all that is said of it.
func (f *peerFollower) given(v *verification, origin string) {
	notes := slices.Clone(f.Notes[origin])
	slices.SortStableFunc(notes, func(a, b seenHead) int { return cmp.Compare(a.Size, b.Size) })
	var t tree
	hasher := newLeafHasher()
	differs := func(n seenHead) bool { return t.size == n.Size && t.root() != n.Root }
	for at, err := range entries(filepath.Join(f.Dirs[origin], lifecycleName), 0) {
		if err == nil {
			err = context.Cause(v.ctx)
		}
		if err != nil {
			v.problem(lifecycleName, -1, fmt.Sprintf("the log of %s in %s cannot be read: %v", origin, f.Dirs[origin], err))
			break
		}
		t.add(hasher.sum(at.entry), nil)
		for len(notes) > 0 && notes[0].Size <= t.size {
			if differs(notes[0]) {
				v.problem(lifecycleName, notes[0].Index, fmt.Sprintf("%s was rewritten: its first %d entries in %s are not the ones seen then",
					origin, t.size, f.Dirs[origin]))
			}
			notes = notes[1:]
		}
	}
	for _, n := range notes {
		v.problem(lifecycleName, n.Index, fmt.Sprintf("%s had %d entries then, and has %d in %s: it was cut, or that is an older copy than this log",
			origin, n.Size, t.size, f.Dirs[origin]))
	}
}
