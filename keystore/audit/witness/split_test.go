package witness

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestASplitStandsUntilItIsTakenAway: the log that showed another tree once, and then
// the one that was cosigned again, was not spoken of any more, and what had been
// cosigned of that size was overwritten.
func TestASplitStandsUntilItIsTakenAway(t *testing.T) {
	l := newTestLog(t).add(5, "entry")
	split := newTestLog(t).add(3, "another entry")
	split.signers = l.signers
	s := newServer(t, l)
	post(s, l.request(0, 3).Bytes())
	if splits, err := s.Splits(); len(splits) != 0 || err != nil {
		t.Fatalf("before any: %v, %v", splits, err)
	}
	post(s, split.request(0, 3).Bytes())
	if w := post(s, l.request(3, 5).Bytes()); w.Code != 200 {
		t.Fatalf("what was cosigned goes on: %d", w.Code)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenServer(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	splits, err := again.Splits()
	if err != nil || len(splits) != 1 || splits[0].Origin != l.origin() || splits[0].Size != 3 {
		t.Fatalf("it has %v, %v", splits, err)
	}
	for path, want := range map[string][]byte{splits[0].Cosigned: l.checkpoint(3), splits[0].Other: split.checkpoint(3)} {
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s holds %q (%v), want %q", path, got, err, want)
		}
	}
	// Of what was kept before there was a copy, the memory is what there is.
	if err := os.Remove(splits[0].Cosigned); err != nil {
		t.Fatal(err)
	}
	old, err := again.Splits()
	if err != nil || len(old) != 1 || old[0].Cosigned != strings.TrimSuffix(splits[0].Other, ".split") {
		t.Errorf("without a copy: %v, %v", old, err)
	}
	if err := os.Remove(splits[0].Other); err != nil {
		t.Fatal(err)
	}
	if splits, err := again.Splits(); len(splits) != 0 || err != nil {
		t.Errorf("after it was taken away: %v, %v", splits, err)
	}
}

// TestADamagedSplitHidesNoOther and is told of itself.
func TestADamagedSplitHidesNoOther(t *testing.T) {
	l := newTestLog(t).add(3, "entry")
	split := newTestLog(t).add(3, "another entry")
	split.signers = l.signers
	s := newServer(t, l)
	post(s, l.request(0, 3).Bytes())
	post(s, split.request(0, 3).Bytes())
	for _, name := range []string{"0.split", "z.split"} {
		if err := os.WriteFile(filepath.Join(s.cfg.Dir, "logs", name), []byte("rubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	splits, err := s.Splits()
	if !slices.ContainsFunc(splits, func(x Split) bool { return x.Origin == l.origin() }) {
		t.Errorf("it has %v", splits)
	}
	if err == nil || !strings.Contains(err.Error(), "0.split: ") || !strings.Contains(err.Error(), "z.split: ") {
		t.Errorf("of rubbish it says %v", err)
	}
}
