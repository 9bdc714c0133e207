package audit

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

// A proof is under what witnesses cosigned as soon as that covers the entry.
func TestAProofCarriesCosignatures(t *testing.T) {
	w := newWitnessRig(t)
	for n := range 3 {
		w.act(n)
	}
	month := actsOf(w.rig)
	w.keep(month, w.cosign(w.published(month), 0, 2))
	for n := range 300 { // its partial tile becomes a full one
		w.act(3 + n)
	}
	w.published(month)
	var witnesses []note.Verifier
	for _, k := range w.quorum.keys {
		witnesses = append(witnesses, k)
	}
	for index, want := range map[int64]struct {
		size     int64
		cosigned int
	}{0: {3, 2}, 2: {3, 2}, 3: {303, 0}, 302: {303, 0}} {
		p, err := Prove(t.Context(), w.cfg.Dir, month, index)
		if err != nil {
			t.Fatal(err)
		}
		proven, err := Check(p, nil, verifierOf(t, w.key), witnesses)
		if err != nil || len(proven.Signed) != 1 {
			t.Fatalf("entry %d: signed by %v, %v", index, proven.Signed, err)
		}
		if proven.Checkpoint.Size != want.size || len(proven.Cosigned) != want.cosigned || len(proven.Others) != 0 {
			t.Errorf("entry %d: %d entries, cosigned by %v, others %v", index, proven.Checkpoint.Size, proven.Cosigned, proven.Others)
		}
	}
	p, err := Prove(t.Context(), w.cfg.Dir, month, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Who does not know the witnesses sees that there are others.
	if proven, err := Check(p, nil, verifierOf(t, w.key), nil); err != nil || len(proven.Others) != 2 {
		t.Errorf("others %v, %v", proven.Others, err)
	}
	// A cosignature of another tree is a lie.
	p.Checkpoint = slices.Concat(p.Checkpoint[:0:0], p.Checkpoint)
	other := w.cosign(w.published(month), 1)
	line := other[strings.LastIndex(strings.TrimSuffix(string(other), "\n"), "\n")+1:]
	p.Checkpoint = append(p.Checkpoint, line...)
	if _, err := Check(p, nil, verifierOf(t, w.key), witnesses); err == nil {
		t.Error("a cosignature of another checkpoint counts")
	}
}

func TestWhatWitnessesKnowIsComparedWithWhatIsPublished(t *testing.T) {
	w := newWitnessRig(t)
	w.act(0)
	month := actsOf(w.rig)
	early := w.published(month)
	w.act(1)
	w.published(month)
	verify := func(cosigned ...[]byte) *Report {
		t.Helper()
		opt := Options{Keys: []string{w.key.vkey(t)}, Witnesses: w.quorum, Cosigned: cosigned}
		report, err := VerifyPublished(t.Context(), publish(t, w.cfg.Dir).fetch, opt, w.all(Filter{Log: month})[0].Entry.Time)
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	if rep := verify(); !rep.OK() || !slices.Equal(rep.Unwitnessed, []string{"lifecycle", month}) {
		t.Errorf("unwitnessed %q, problems %v", rep.Unwitnessed, rep.Problems)
	}
	if rep := verify(w.cosign(early, 0, 1)); !rep.OK() || rep.of(month).Witnessed == nil || rep.of(month).Witnessed.Size != 1 {
		t.Errorf("kept elsewhere: %+v, problems %v", rep.of(month).Witnessed, rep.Problems)
	}
	w.keep(month, w.cosign(early, 0, 1))
	if rep := verify(); !rep.OK() || rep.of(month).Witnessed == nil || !slices.Equal(rep.Unwitnessed, []string{"lifecycle"}) {
		t.Errorf("published: unwitnessed %q, problems %v", rep.Unwitnessed, rep.Problems)
	}
	// Another log, of the same key and name.
	o := newWitnessRig(t)
	o.who, o.quorum, o.key = w.who, w.quorum, w.key
	o.act(7)
	if rep := verify(o.cosign(o.published(month), 2)); rep.OK() || len(rep.Problems) != 1 || !strings.Contains(rep.Problems[0].What, "does not go on from the 1 entries") {
		t.Errorf("another log was cosigned: %v", rep.Problems)
	}
}
