package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"chancery/keystore"
)

// A shelf is what a server publishes, in memory.
type shelf struct {
	mu    sync.Mutex
	files map[string][]byte
	asked int
	err   error // of everything
}

func (s *shelf) fetch(ctx context.Context, path string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked++; s.err != nil {
		return nil, s.err
	}
	b, ok := s.files[path]
	if !ok || !IsPublic(path) {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return b, context.Cause(ctx)
}

// publish puts everything under an audit directory on a shelf.
func publish(t *testing.T, dir string) *shelf {
	t.Helper()
	s := &shelf{files: map[string][]byte{}}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		s.files[filepath.ToSlash(name)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// put puts a whole tree on a shelf as lifecycle, signed by key.
func (s *shelf) put(t *testing.T, f *forest, key *softKey) {
	t.Helper()
	for path, tile := range f.tiles {
		s.files["lifecycle/"+path] = tile.bytes()
	}
	s.files["lifecycle/checkpoint"] = f.checkpoint(t, key)
}

func (f *forest) checkpoint(t *testing.T, key *softKey) []byte {
	t.Helper()
	return signedBy(t, Checkpoint{proofOrigin, f.tree.size, f.tree.root()}, key)
}

func TestWhatANodePublishesIsVerified(t *testing.T) {
	c := newClock(noon)
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	for n := range 600 {
		if n == 300 {
			c.set(noon.AddDate(0, 2, 0)) // and a month without acts
		}
		r.act(n)
	}
	r.monthBegan()
	if err := r.log.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := publish(t, r.cfg.Dir)
	verify := func(opt Options) *Report {
		t.Helper()
		report, err := VerifyPublished(t.Context(), s.fetch, opt, c.Now())
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	keys := []string{r.key.vkey(t)}
	var done, total int64
	report := verify(Options{Keys: keys, Progress: func(d, t int64) { done, total = d, t }})
	if !report.OK() || len(report.Logs) != 3 {
		t.Fatalf("%d logs, problems %v", len(report.Logs), report.Problems)
	}
	if report.Proven() < 600 || done != total || done == 0 {
		t.Errorf("%d proven, %d of %d read", report.Proven(), done, total)
	}
	if report := verify(Options{}); report.OK() || report.KeyVerified || len(report.Problems) != 0 {
		t.Errorf("without a key: %+v", report)
	}
	stranger := newSoftKey(t, keystore.EdDSA).vkey(t)
	if report := verify(Options{Keys: []string{stranger}}); report.OK() || len(report.Problems) != 3 {
		t.Errorf("under a stranger's key: %v", report.Problems)
	}
	s.err = errors.New("the line is dead")
	if _, err := VerifyPublished(t.Context(), s.fetch, Options{Keys: keys}, c.Now()); !errors.Is(err, s.err) {
		t.Errorf("%v", err)
	}
	none := &shelf{}
	if _, err := VerifyPublished(t.Context(), none.fetch, Options{Keys: keys}, c.Now()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
}

func TestTilesThatAreNotTheTreeAreNamed(t *testing.T) {
	key := newSoftKey(t, keystore.EdDSA)
	keys := []string{key.vkey(t)}
	var f forest
	f.grow(66_000)
	fresh := func() *shelf {
		s := &shelf{files: map[string][]byte{}}
		s.put(t, &f, key)
		return s
	}
	problems := func(s *shelf, kept ...Checkpoint) string {
		t.Helper()
		report, err := VerifyPublished(t.Context(), s.fetch, Options{Keys: keys, Kept: kept}, noon)
		if err != nil {
			t.Fatal(err)
		}
		if report.OK() != (len(report.Problems) == 0) {
			t.Errorf("OK is %v with %v", report.OK(), report.Problems)
		}
		var texts []string
		for _, p := range report.Problems {
			texts = append(texts, p.String())
		}
		return strings.Join(texts, "\n")
	}
	if got := problems(fresh()); got != "" {
		t.Fatal(got)
	}
	flip := func(path string) func(*shelf) {
		return func(s *shelf) {
			b := append([]byte{}, s.files[path]...)
			b[len(b)/2] ^= 1
			s.files[path] = b
		}
	}
	for name, c := range map[string]struct {
		change func(*shelf)
		want   string
	}{
		"a full tile":           {flip("lifecycle/tile/0/007"), "tile/1/000 does not fit"},
		"the last full tile":    {flip("lifecycle/tile/0/256"), "tile/1/001.p/1 does not fit"},
		"the tile at the edge":  {flip("lifecycle/tile/0/257.p/208"), "not the tree of 66000"},
		"a tile of level 1":     {flip("lifecycle/tile/1/000"), "tile/1/000 does not fit"},
		"the edge of level 1":   {flip("lifecycle/tile/1/001.p/1"), "tile/1/001.p/1 does not fit"},
		"the edge of level 2":   {flip("lifecycle/tile/2/000.p/1"), "tile/2/000.p/1 does not fit"},
		"a tile that is gone":   {func(s *shelf) { delete(s.files, "lifecycle/tile/0/100") }, "tile/0/100: "},
		"an edge that is gone":  {func(s *shelf) { delete(s.files, "lifecycle/tile/1/001.p/1") }, "tile/1/001.p/1: "},
		"a tile cut short":      {func(s *shelf) { s.files["lifecycle/tile/0/100"] = make([]byte, 32) }, "tile/0/100: tile of 32 bytes"},
		"a signature":           {flip("lifecycle/checkpoint"), "lifecycle: "},
		"no checkpoint at all":  {func(s *shelf) { s.files["lifecycle/checkpoint"] = []byte("hello") }, "malformed"},
		"the log of other acts": {func(s *shelf) { s.files["acts/2026-11/checkpoint"] = s.files["lifecycle/checkpoint"] }, "its checkpoint is of"},
	} {
		s := fresh()
		c.change(s)
		if got := problems(s); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	// A narrow tile that a full one replaced is read from that.
	var grown forest
	grown.grow(400)
	before := Checkpoint{proofOrigin, grown.tree.size, grown.tree.root()}
	s := &shelf{files: map[string][]byte{}}
	s.put(t, &grown, key)
	checkpoint := s.files["lifecycle/checkpoint"]
	grown.grow(200)
	s.put(t, &grown, key)
	delete(s.files, "lifecycle/tile/0/001.p/144")
	s.files["lifecycle/checkpoint"] = checkpoint
	if got := problems(s); got != "" {
		t.Errorf("from a wider tile: %s", got)
	}
	// It has to go on from what was kept.
	s.put(t, &grown, key)
	if got := problems(s, before); got != "" {
		t.Errorf("it went on: %s", got)
	}
	if got := problems(fresh(), before); got != "" {
		t.Errorf("the same entries, later: %s", got)
	}
	bent := before
	bent.Root[0] ^= 1
	if got := problems(s, bent); !strings.Contains(got, "not the ones of the checkpoint kept") {
		t.Errorf("another beginning: %q", got)
	}
	longer := before
	longer.Size = 1000
	if got := problems(s, longer); !strings.Contains(got, "the checkpoint kept of") {
		t.Errorf("it was cut: %q", got)
	}
	elsewhere := before
	elsewhere.Origin = host + "/audit/" + node + "/acts/2020-01"
	if got := problems(s, elsewhere); !strings.Contains(got, "it is not published") {
		t.Errorf("a month that is not there: %q", got)
	}
}

// A server that answers everything, such as the page of a hotel's network, was asked
// for older and older months without end.
func TestAServerThatAnswersEverything(t *testing.T) {
	r := newRig(t)
	r.act(1)
	r.checkpoint()
	published := publish(t, r.cfg.Dir)
	for what, lifecycle := range map[string][]byte{"a page": nil, "a log, and a page else": published.files["lifecycle/checkpoint"]} {
		asked := 0
		fetch := func(ctx context.Context, path string) ([]byte, error) {
			if asked++; asked > 100 {
				return nil, errors.New("asked without end")
			}
			if b, ok := published.files[path]; ok && lifecycle != nil {
				return b, nil
			}
			return []byte("<html>please log in</html>\n"), nil
		}
		report, err := VerifyPublished(t.Context(), fetch, Options{Keys: []string{r.key.vkey(t)}}, noon)
		if err != nil || report.OK() {
			t.Errorf("%s: %+v, %v", what, report, err)
		}
	}
}
