package audit

import (
	"bytes"
	"errors"
	"os"
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
