package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A Fetch returns what a server has under a path below a node's audit URL, such
// as "lifecycle/checkpoint" or "acts/2026-11/tile/0/000". The error wraps
// fs.ErrNotExist if it has nothing there. It may be called concurrently.
type Fetch func(ctx context.Context, path string) ([]byte, error)

// monthsMissing is how many months without acts, one after the other, end the
// search for older ones: nobody lists the months of a server.
const monthsMissing = 12

// mostMonths is how many months are looked for at most: a server has something under
// every name if it likes.
const mostMonths = 100 * 12

// tilesAhead is how many tiles are fetched at once.
const tilesAhead = 8

// VerifyPublished checks what a node publishes of its logs (C2SP tlog-tiles):
// lifecycle, and the months of acts from that of now back to where a year has
// none. Each checkpoint has to be signed by one of opt.Keys, its tiles have to be
// the tree that it signs, and that tree has to go on from the checkpoints of
// opt.Kept and from what opt.Witnesses cosigned, of which opt.Cosigned may have
// more than is published. Entries are not published: what they say, and that lifecycle closes
// the months as they are, only Verify sees. In the report Entries is what the
// checkpoint says, times are zero, and nothing is Unsigned. opt.Progress is told
// of tiles, as if they were all full. The error is for what could not be
// fetched, a bad key, and the end of ctx.
func VerifyPublished(ctx context.Context, fetch Fetch, opt Options, now time.Time) (*Report, error) {
	p := publication{ctx: ctx, fetch: fetch, opt: opt, kept: slices.Clone(opt.Kept), report: &Report{Problems: []Problem{}}}
	for _, k := range opt.Keys {
		key, err := ParseVKey(k)
		if err != nil {
			return nil, err
		}
		p.keys = append(p.keys, key)
	}
	there, err := p.log(lifecycleName)
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, fmt.Errorf("no audit log is published there: %w", fs.ErrNotExist)
	}
	if p.node == "" { // what answers there publishes no log, whatever it has under other names
		p.conclude()
		return p.report, nil
	}
	first := time.Date(now.UTC().Year(), now.UTC().Month(), 1, 0, 0, 0, 0, time.UTC)
	for n, missing := 0, 0; n < mostMonths && missing < monthsMissing; n, first = n+1, first.AddDate(0, -1, 0) {
		there, err := p.log(actsName + "/" + first.Format(monthLayout))
		if err != nil {
			return nil, err
		}
		if missing++; there && p.report.Logs[len(p.report.Logs)-1].Origin != "" {
			missing = 0
		}
	}
	p.conclude()
	return p.report, nil
}

// A publication is the verification of what one node publishes.
type publication struct {
	ctx    context.Context
	fetch  Fetch
	opt    Options
	keys   []note.Verifier
	kept   []Checkpoint // whose log was not met yet
	node   string       // the name of its keys
	report *Report
	done   int64 // tiles
	total  int64
}

func (p *publication) problem(log, format string, args ...any) {
	p.report.Problems = append(p.report.Problems, Problem{log, -1, fmt.Sprintf(format, args...), Changed})
}

// log verifies one log, if it is there.
func (p *publication) log(name string) (there bool, err error) {
	var cosigned []byte
	if p.opt.Witnesses != nil { // before the checkpoint, which then is no older
		if cosigned, err = p.fetch(p.ctx, name+"/"+witnessedName); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("fetching what is cosigned of %s: %w", name, err)
		}
	}
	signed, err := p.fetch(p.ctx, name+"/checkpoint")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("fetching the checkpoint of %s: %w", name, err)
	}
	rep := LogReport{Name: name}
	defer func() { p.report.Logs = append(p.report.Logs, rep) }()
	opened, err := openProof(signed, p.keys, nil)
	if err != nil {
		p.problem(name, "%v", err)
		return true, nil
	}
	c := opened.Checkpoint
	node, log, _ := LogOf(c.Origin)
	if log != name || p.node != "" && node != p.node {
		p.problem(name, "its checkpoint is of %s", c.Origin)
		return true, nil
	}
	p.node = node
	rep.Origin, rep.Entries, rep.Root = c.Origin, c.Size, c.Root.String()
	rep.Key = strings.Join(append(slices.Clone(opened.Signed), opened.Others...), " ")
	if len(opened.Signed) > 0 {
		rep.Key = opened.Signed[0]
	}
	fits, err := p.tree(name, c)
	if err != nil {
		return true, err
	}
	if fits {
		rep.Proven, rep.Verified = c.Size, len(opened.Signed) > 0
	}
	if err := p.goesOn(name, c); err != nil {
		return true, err
	}
	rep.Witnessed, err = p.witnessed(name, c, signed, cosigned)
	return true, err
}

// witnessed compares the log with what witnesses cosigned of it, and returns how
// far a quorum knows it.
func (p *publication) witnessed(name string, c Checkpoint, signed, cosigned []byte) (known *Witnessed, err error) {
	if p.opt.Witnesses == nil {
		return nil, nil
	}
	w := &witnesses{p.opt.Witnesses, map[string][]cosignedNote{}, map[string][]string{}}
	w.add(name, "checkpoint", signed)
	if cosigned != nil {
		w.add(name, witnessedName, cosigned)
	}
	for _, b := range p.opt.Cosigned {
		if k, _, err := OpenCosigned(b, nil); err == nil && NameOf(k.Origin) == name {
			w.add(name, "a cosigned checkpoint that was given", b)
		}
	}
	for _, what := range w.wrong[name] {
		p.problem(name, "%s", what)
	}
	for _, n := range w.notes[name] {
		fits, err := p.begins(name, c, n.Checkpoint)
		if err != nil {
			return nil, err
		}
		if !fits {
			p.problem(name, "it does not go on from the %d entries of %s that %s cosigned at %s",
				n.Size, n.Origin, n.by[0].Key, n.by[0].Time.Format(time.RFC3339))
			continue
		}
		if at, enough := w.met(n.by); enough {
			known = &Witnessed{n.Size, at, n.by}
		}
	}
	return known, nil
}

// tree reports whether the tiles are the tree c speaks of, and tells which are
// not.
func (p *publication) tree(name string, c Checkpoint) (bool, error) {
	before := len(p.report.Problems)
	p.total += c.Size>>tileHeight + 1
	above := tree{} // of the hashes that the tiles of level 0 add up to
	for t, err := range p.full(name, c.Size>>tileHeight) {
		if err != nil {
			return p.unread(name, err)
		}
		p.progress()
		for _, want := range above.add(subtree(t.hashes), nil) {
			have, err := p.tile(name, want.level+1, want.n, tileWidth)
			if err != nil {
				return p.unread(name, err)
			}
			if !slices.Equal(have.hashes, want.hashes) {
				p.problem(name, "%s does not fit the tiles below it", tilePath(want.level+1, want.n, tileWidth))
			}
		}
	}
	edge, err := restoreTree(c.Size, func(level int, n int64, width int) (tile, error) { return p.tile(name, level, n, width) })
	if err != nil {
		return p.unread(name, err)
	}
	p.progress()
	for level, hashes := range edge.levels[min(1, len(edge.levels)):] {
		if level >= len(above.levels) || !slices.Equal(hashes, above.levels[level]) {
			p.problem(name, "%s does not fit the tiles below it", tilePath(level+1, c.Size>>(tileHeight*(level+2)), len(hashes)))
		}
	}
	if edge.root() != c.Root {
		p.problem(name, "its tiles are not the tree of %d entries that was signed", c.Size)
	}
	return len(p.report.Problems) == before, nil
}

// unread tells of a tile that is not there, or is none; any other error ends the
// verification.
func (p *publication) unread(name string, err error) (bool, error) {
	if _, bad := errors.AsType[*badTile](err); !bad {
		return false, err
	}
	p.problem(name, "%v", err)
	return false, nil
}

// begins reports whether the log of c begins with the one of k. Its tiles may be
// others each time they are asked for: the proof speaks for itself.
func (p *publication) begins(name string, c, k Checkpoint) (bool, error) {
	if k.Origin != c.Origin || k.Size > c.Size {
		return false, nil
	}
	if k.Size == 0 {
		return true, nil
	}
	proof, err := tlog.ProveTree(c.Size, k.Size, tileHashes(c.Size, func(level int, n int64, width int) (tile, error) {
		return p.tile(name, level, n, width)
	}))
	if _, bad := errors.AsType[*badTile](err); bad {
		return false, nil
	}
	return err == nil && tlog.CheckTree(proof, c.Size, c.Root, k.Size, k.Root) == nil, err
}

// goesOn tells if the log of c does not go on from the checkpoints kept of it.
func (p *publication) goesOn(name string, c Checkpoint) error {
	for _, k := range slices.Clone(p.kept) {
		if NameOf(k.Origin) != name {
			continue
		}
		p.kept = slices.DeleteFunc(p.kept, func(o Checkpoint) bool { return o == k })
		if k.Origin != c.Origin || k.Size > c.Size {
			p.problem(name, "it has %d entries, and the checkpoint kept of %s has %d", c.Size, k.Origin, k.Size)
			continue
		}
		fits, err := p.begins(name, c, k)
		if err != nil {
			return err
		}
		if !fits {
			p.problem(name, "its first %d entries are not the ones of the checkpoint kept", k.Size)
		}
	}
	return nil
}

func (p *publication) conclude() {
	for _, k := range p.kept {
		p.problem(NameOf(k.Origin), "it is not published, and the checkpoint kept of %s has %d entries", k.Origin, k.Size)
	}
	p.report.KeyVerified, p.report.Unwitnessed = len(p.keys) > 0, []string{}
	for _, l := range p.report.Logs {
		if l.Witnessed == nil && l.Entries > 0 {
			p.report.Unwitnessed = append(p.report.Unwitnessed, l.Name)
		}
		p.report.KeyVerified = p.report.KeyVerified && l.Verified
		if len(p.keys) > 0 && l.Proven > 0 && !l.Verified {
			p.report.Problems = append(p.report.Problems, Problem{l.Name, -1, unknownHere(p.keys, l.Key), KeyUnknown})
		}
	}
}

func (p *publication) progress() {
	p.done++
	if p.opt.Progress != nil {
		p.opt.Progress(p.done*tileWidth*tlog.HashSize, p.total*tileWidth*tlog.HashSize)
	}
}

// A badTile is a tile that has to be there and is not, or is none.
type badTile struct {
	path string
	err  error
}

func (e *badTile) Error() string { return e.path + ": " + e.err.Error() }
func (e *badTile) Unwrap() error { return e.err }

// tile fetches a tile, or the full one that replaced it.
func (p *publication) tile(name string, level int, n int64, width int) (tile, error) {
	path := tilePath(level, n, width)
	b, err := p.fetch(p.ctx, name+"/"+path)
	if errors.Is(err, fs.ErrNotExist) && width < tileWidth {
		b, err = p.fetch(p.ctx, name+"/"+tilePath(level, n, tileWidth))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return tile{}, &badTile{path, err}
	}
	if err != nil {
		return tile{}, fmt.Errorf("fetching %s of %s: %w", path, name, err)
	}
	t, err := parseTile(b, level, n, width)
	if err != nil {
		return tile{}, &badTile{path, err}
	}
	return t, nil
}

// full yields the first count tiles of level 0 in their order, some fetched
// ahead. Nothing is being fetched when it ends.
func (p *publication) full(name string, count int64) iter.Seq2[tile, error] {
	type fetched struct {
		tile tile
		err  error
	}
	return func(yield func(tile, error) bool) {
		var ahead []chan fetched
		defer func() {
			for _, c := range ahead {
				<-c
			}
		}()
		for next := int64(0); next < count || len(ahead) > 0; {
			if next < count && len(ahead) < tilesAhead {
				c := make(chan fetched, 1)
				go func(n int64) {
					t, err := p.tile(name, 0, n, tileWidth)
					c <- fetched{t, err}
				}(next)
				ahead = append(ahead, c)
				next++
				continue
			}
			got := <-ahead[0]
			ahead = ahead[1:]
			if !yield(got.tile, got.err) || got.err != nil {
				return
			}
		}
	}
}
