package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"chancery/keystore"
)

// torn is a log that ended in the middle of a write, in both of its parts.
func torn(t *testing.T) (r *rig, lifecycle, acts string) {
	r = newRig(t)
	r.lifecycle(keystore.Record{Principal: self, Action: keystore.ActStart, Outcome: keystore.OutcomeDone})
	for i := range 3 {
		r.act(i)
	}
	r.monthBegan()
	shards := []*shard{r.log.lifecycle.current(), r.log.acts.current()}
	r.crash()
	for _, s := range shards {
		b := readFile(t, s.journals[0].path)
		copy(b[s.off:], "torn")
		writeFile(t, s.journals[0].path, b)
	}
	return r, shards[0].journals[0].path, shards[1].journals[0].path
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
}

// repairs returns the origins that repairs are entered for.
func (r *rig) repairs() (origins []string) {
	r.Helper()
	for _, e := range r.all(Filter{Action: keystore.ActAuditRepair}) {
		origins = append(origins, e.Entry.Detail["origin"])
	}
	return origins
}

// It was: lifecycle's torn tail was cut before acts was found inconsistent. Open
// failed, and the next one, which found nothing to cut there, entered no repair.
func TestS13NothingIsCutWhereSomethingIsInconsistent(t *testing.T) {
	r, lifecycle, acts := torn(t)
	good := readFile(t, acts)
	bad := bytes.Clone(good)
	bad[headerSize+recordHead+100] ^= 1 // of an entry that later ones call durable
	writeFile(t, acts, bad)
	writeFile(t, acts+newSuffix, nil)
	before := readFile(t, lifecycle)
	if _, err := Open(t.Context(), r.cfg); !errors.Is(err, ErrInconsistent) {
		t.Fatalf("opened: %v", err)
	}
	for path, want := range map[string][]byte{lifecycle: before, acts: bad, acts + newSuffix: nil} {
		if !bytes.Equal(readFile(t, path), want) {
			t.Errorf("%s was changed", path)
		}
	}
	writeFile(t, acts, good)
	r.open()
	if got := r.repairs(); len(got) != 2 {
		t.Errorf("repairs are entered for %q, want both logs", got)
	}
	if exists(acts + newSuffix) {
		t.Error("what was never finished is still there")
	}
	r.close()
	r.sound()
}

// It was: a cut was entered when everything was open, and never if something
// after it could not be opened.
func TestS13ACutIsEnteredThoughOpenFails(t *testing.T) {
	r, _, acts := torn(t)
	d := newFaultyDisk()
	d.orderIn("acts", "write", syscall.EIO, true)
	cfg := r.cfg
	cfg.disk = d
	if _, err := Open(t.Context(), cfg); !errors.Is(err, syscall.EIO) {
		t.Fatalf("opened: %v", err)
	}
	if got := r.repairs(); len(got) != 1 {
		t.Errorf("repairs are entered for %q, want lifecycle", got)
	}
	if b := readFile(t, acts); !bytes.Contains(b, []byte("torn")) {
		t.Error("acts was cut")
	}
	r.open()
	if got := r.repairs(); len(got) != 2 {
		t.Errorf("repairs are entered for %q, want both logs", got)
	}
	r.close()
	r.sound()
}

// It was: a tile with a flipped byte, or a lost full one, stayed as it was, and
// the log did not verify until someone deleted the checkpoint too.
func TestTilesThatDoNotFitAreMadeAgain(t *testing.T) {
	r := newRig(t)
	for i := range 600 {
		r.act(i)
	}
	dir := r.log.acts.current().dir
	r.close()
	for _, name := range []string{"tile/0/000", "tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2"} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		good := readFile(t, path)
		for what, content := range map[string][]byte{
			"flipped": append(bytes.Clone(good[:40]), append([]byte{good[40] ^ 1}, good[41:]...)...),
			"cut":     good[:32],
			"empty":   nil,
		} {
			writeFile(t, path, content)
			if name == "tile/0/000" && r.verify().OK() {
				t.Errorf("%s %s: not told", name, what)
			}
			r.open()
			r.close()
			if !bytes.Equal(readFile(t, path), good) {
				t.Errorf("%s %s: not made again", name, what)
			}
			r.sound()
		}
	}
}

// Nobody looks at the tiles of a closed month at a start; see the package comment.
func TestTilesOfAClosedMonthAreMadeAgain(t *testing.T) {
	r := books(t)
	r.open() // closes October if that waited
	r.close()
	dir := filepath.Join(r.cfg.Dir, "acts", "2026-10")
	path := filepath.Join(dir, "tile", "0", "000")
	good := readFile(t, path)
	writeFile(t, path, good[:100])
	for _, name := range []string{"checkpoint", finalName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.open()
	r.close()
	if !bytes.Equal(readFile(t, path), good) || !exists(filepath.Join(dir, finalName)) {
		t.Error("it is not as it was closed")
	}
	r.sound()
}
