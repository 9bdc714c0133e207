package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fewest is the Quorum of at least n of some witnesses.
type fewest struct {
	n    int
	keys []WitnessKey
}

func (q fewest) Witnesses() []WitnessKey { return q.keys }

func (q fewest) Met(cosigned func(WitnessKey) bool) bool {
	n := 0
	for _, k := range q.keys {
		if cosigned(k) {
			n++
		}
	}
	return n >= q.n
}

// witnessRig is a log and three witnesses, of which two are enough.
type witnessRig struct {
	*rig
	who    []*Cosigner
	quorum fewest
	begun  bool // lifecycle has its first entry
}

func newWitnessRig(t *testing.T, change ...func(*Config)) *witnessRig {
	w := &witnessRig{rig: newRig(t, change...), quorum: fewest{n: 2}}
	for i := range 3 {
		c := newTestCosigner(t, fmt.Sprintf("w%d", i+1))
		w.who, w.quorum.keys = append(w.who, c), append(w.quorum.keys, c.Key)
	}
	return w
}

// act waits for the month's beginning too: it is entered in lifecycle beside the
// first act, and until then lifecycle is empty.
func (w *witnessRig) act(n int) Receipt {
	w.Helper()
	receipt := w.rig.act(n)
	if !w.begun {
		w.monthBegan()
		w.begun = true
	}
	return receipt
}

// published returns the checkpoint of a log after one has been made.
func (w *witnessRig) published(name string) []byte {
	w.Helper()
	if err := w.log.Checkpoint(w.Context()); err != nil {
		w.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(w.cfg.Dir, filepath.FromSlash(name), "checkpoint"))
	if err != nil {
		w.Fatal(err)
	}
	return b
}

// cosign returns signed with cosignatures by the witnesses, each a minute after
// the one before.
func (w *witnessRig) cosign(signed []byte, by ...int) []byte {
	w.Helper()
	text := string(signed[:bytes.Index(signed, []byte("\n\n"))+1])
	signed = bytes.Clone(signed)
	for i, n := range by {
		line, err := w.who[n].Cosign(text, cosignedAt.Add(time.Duration(i)*time.Minute))
		if err != nil {
			w.Fatal(err)
		}
		signed = append(signed, line...)
	}
	return signed
}

var cosignedAt = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func (w *witnessRig) keep(name string, signed []byte) {
	w.Helper()
	if err := w.log.KeepWitnessed(name, signed); err != nil {
		w.Fatal(err)
	}
}

func (w *witnessRig) report(more ...[]byte) *Report {
	w.Helper()
	rep, err := Verify(w.Context(), w.cfg.Dir, Options{Keys: []string{w.key.vkey(w)}, Witnesses: w.quorum, Cosigned: more})
	if err != nil {
		w.Fatal(err)
	}
	return rep
}

func (r *Report) of(name string) *LogReport {
	for i := range r.Logs {
		if r.Logs[i].Name == name {
			return &r.Logs[i]
		}
	}
	return &LogReport{}
}

func TestALogIsUnwitnessedUntilAQuorumCosigned(t *testing.T) {
	w := newWitnessRig(t)
	w.act(1)
	month := actsOf(w.rig)
	checkpoint := w.published(month)
	if rep := w.report(); !slices.Equal(rep.Unwitnessed, []string{"lifecycle", month}) || len(rep.Problems) > 0 {
		t.Errorf("unwitnessed %q, problems %v", rep.Unwitnessed, rep.Problems)
	}
	w.keep(month, w.cosign(checkpoint, 0))
	if rep := w.report(); rep.of(month).Witnessed != nil {
		t.Errorf("one of two is enough: %+v", rep.of(month).Witnessed)
	}
	w.keep(month, w.cosign(checkpoint, 2, 0, 1))
	w.act(2)
	rep := w.report()
	got := rep.of(month).Witnessed
	if got == nil || got.Size != 1 || !got.Time.Equal(cosignedAt.Add(time.Minute)) || len(got.By) != 3 || got.By[0].Key != w.who[2].Key.String() {
		t.Errorf("witnessed %+v, want one entry since a minute after the first", got)
	}
	if !slices.Equal(rep.Unwitnessed, []string{"lifecycle"}) || !rep.OK() {
		t.Errorf("unwitnessed %q, problems %v", rep.Unwitnessed, rep.Problems)
	}
	// Who names no witness learns that none is known.
	if rep := w.sound(); !slices.Equal(rep.Unwitnessed, []string{"lifecycle", month}) || rep.of(month).Witnessed != nil {
		t.Errorf("without witnesses: %q", rep.Unwitnessed)
	}
}

func actsOf(r *rig) string { return r.log.acts.current().name }

func TestTheCheckpointItselfMayBeCosigned(t *testing.T) {
	w := newWitnessRig(t)
	w.act(1)
	month := actsOf(w.rig)
	path := filepath.Join(w.cfg.Dir, filepath.FromSlash(month), "checkpoint")
	signed := w.cosign(w.published(month), 0, 1)
	if err := os.WriteFile(path, signed, 0o640); err != nil {
		t.Fatal(err)
	}
	if rep := w.report(); rep.of(month).Witnessed == nil || !rep.OK() {
		t.Errorf("unwitnessed: %v", rep.Problems)
	}
	if err := os.WriteFile(path, bytes.Replace(signed, []byte("— w1 "), []byte("— w2 "), 1), 0o640); err != nil {
		t.Fatal(err) // w1's line under w2's name is by nobody known
	}
	if rep := w.report(); rep.of(month).Witnessed != nil || !rep.OK() {
		t.Errorf("witnessed %+v by one: %v", rep.of(month).Witnessed, rep.Problems)
	}
}

// TestWhatWitnessesKnowHasToFit: a log that does not is told, also when one
// witness alone knows better.
func TestWhatWitnessesKnowHasToFit(t *testing.T) {
	w := newWitnessRig(t)
	for n := range 5 {
		w.act(n + 1)
	}
	month := actsOf(w.rig)
	checkpoint := w.published(month)
	other := newWitnessRig(t)
	other.who, other.key = w.who, w.key
	for n := range 7 {
		other.act(n + 100)
	}
	longer := other.published(month)
	stranger := newWitnessRig(t, func(cfg *Config) { cfg.Node = "other" })
	stranger.who = w.who
	stranger.act(1)

	for _, c := range []struct {
		what   string
		signed []byte
		want   string
	}{
		{"an honest one", w.cosign(checkpoint, 0, 1), ""},
		{"more entries", w.cosign(longer, 1), "it has 5 entries, and w2+"},
		{"of another node", w.cosign(stranger.published(month), 0, 1), "cosigned a checkpoint of localhost:8443/audit/other/"},
		{"none by a witness", longer, ""},
		{"garbage", []byte("garbage"), "witnessed: cosigned checkpoint: "},
		{"a wrong signature", bytes.Replace(w.cosign(checkpoint, 0, 1), []byte("\n5\n"), []byte("\n4\n"), 1), "invalid signature for key w1+"},
	} {
		path := filepath.Join(w.cfg.Dir, filepath.FromSlash(month), "witnessed")
		if err := os.WriteFile(path, c.signed, 0o640); err != nil {
			t.Fatal(err)
		}
		wantProblem(t, c.what, w.report(), month, c.want)
	}
	// Of five entries, other ones.
	rewritten := newWitnessRig(t)
	rewritten.who, rewritten.key = w.who, w.key
	for n := range 5 {
		rewritten.act(n + 100)
	}
	theirs := w.cosign(rewritten.published(month), 2)
	os.Remove(filepath.Join(w.cfg.Dir, filepath.FromSlash(month), "witnessed"))
	wantProblem(t, "rewritten", w.report(theirs), month, "its first 5 entries are not the ones that w3+")
	gone := bytes.Replace(theirs, []byte(month), []byte("acts/2020-01"), 1)
	text := string(gone[:bytes.Index(gone, []byte("\n\n"))+1])
	line, err := w.who[0].Cosign(text, cosignedAt)
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, "gone", w.report([]byte(text+"\n"+line)), "acts/2020-01", "it is not there, and w1+")
}

func wantProblem(t *testing.T, what string, rep *Report, log, want string) {
	t.Helper()
	if want == "" {
		if len(rep.Problems) > 0 {
			t.Errorf("%s: %v", what, rep.Problems)
		}
		return
	}
	if len(rep.Problems) != 1 || rep.Problems[0].Log != log || !strings.Contains(rep.Problems[0].What, want) {
		t.Errorf("%s: %v, want %q of %s", what, rep.Problems, want, log)
	}
}

// TestAClosedMonthIsWitnessedThroughLifecycle, where its last checkpoint is a leaf.
func TestAClosedMonthIsWitnessedThroughLifecycle(t *testing.T) {
	now := newClock(time.Date(2026, 10, 31, 12, 0, 0, 0, time.UTC))
	w := newWitnessRig(t, func(cfg *Config) { cfg.Now = now.Now })
	w.act(1)
	w.monthBegan()
	early := w.cosign(w.published(lifecycleName), 0, 1)
	now.set(now.Now().AddDate(0, 0, 1))
	w.act(2)
	w.published(lifecycleName)
	w.keep(lifecycleName, early)
	if rep := w.report(); rep.of("acts/2026-10").Closed == "" || rep.of("acts/2026-10").Witnessed != nil {
		t.Errorf("before: %+v", rep.of("acts/2026-10"))
	}
	w.keep(lifecycleName, w.cosign(w.published(lifecycleName), 0, 1))
	rep := w.report()
	if got := rep.of("acts/2026-10").Witnessed; got == nil || got.Size != 1 || len(got.By) != 2 {
		t.Errorf("after: %+v, %v", got, rep.Problems)
	}
	if !slices.Equal(rep.Unwitnessed, []string{"acts/2026-11"}) || !rep.OK() {
		t.Errorf("unwitnessed %q, problems %v", rep.Unwitnessed, rep.Problems)
	}
}

func TestOnlyTheNewestOfThisLogIsKept(t *testing.T) {
	w := newWitnessRig(t)
	w.act(1)
	month := actsOf(w.rig)
	first := w.cosign(w.published(month), 0, 1)
	w.act(2)
	second := w.cosign(w.published(month), 0, 1)
	w.keep(month, second)
	w.keep(month, first)
	if got, err := os.ReadFile(filepath.Join(w.cfg.Dir, filepath.FromSlash(month), "witnessed")); err != nil || !bytes.Equal(got, second) {
		t.Errorf("kept %q, %v", got, err)
	}
	for name, signed := range map[string][]byte{lifecycleName: first, month: []byte("garbage"), "../" + month: first} {
		if err := w.log.KeepWitnessed(name, signed); err == nil {
			t.Errorf("%s: kept %q", name, signed)
		}
	}
	if !IsPublic(month+"/witnessed") || !IsPublic("lifecycle/witnessed") || IsPublic("witnessed") {
		t.Error("what witnesses cosigned is for everyone")
	}
}

// TestVerifyBesideWitnessesThatAnswer: what is cosigned while Verify reads is
// never more than it reads.
func TestVerifyBesideWitnessesThatAnswer(t *testing.T) {
	w := newWitnessRig(t)
	w.act(0)
	month := actsOf(w.rig)
	opt := Options{Keys: []string{w.key.vkey(w)}, Witnesses: w.quorum}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			rep, err := Verify(t.Context(), w.cfg.Dir, opt)
			if err != nil || len(rep.Problems) > 0 {
				t.Errorf("verifying: %+v, %v", rep, err)
				return
			}
		}
	}()
	for n := 1; ; n++ {
		select {
		case <-done:
			return
		default:
		}
		w.act(n)
		w.keep(month, w.cosign(w.published(month), 0, 1))
	}
}

func TestOriginsAndTheirLogs(t *testing.T) {
	for origin, want := range map[string]string{
		"localhost:8443/audit/dev/lifecycle":    "localhost:8443/audit/dev lifecycle",
		"localhost:8443/audit/dev/acts/2026-11": "localhost:8443/audit/dev acts/2026-11",
		"h/lifecycle":                           "h lifecycle",
		"/lifecycle":                            "", "lifecycle": "", "": "", "acts/2026-11": "", "h/acts/2026-13": "", "h/2026-11": "", "h/other": "",
		"h/acts/2026-11/": "", "h/lifecycle/": "", "h/xlifecycle": "",
	} {
		node, name, ok := LogOf(origin)
		if got := strings.TrimSpace(node + " " + name); got != want || ok != (want != "") {
			t.Errorf("%q is %q, want %q", origin, got, want)
		}
	}
}
