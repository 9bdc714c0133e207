package review

import (
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// A verdict of the table: how severe, by which rule, and a part of its text.
type judged struct {
	severity Severity
	rule     string
	text     string
}

// TestDeviations tells one history for each deviation, beside the sound one that
// differs in nothing else.
func TestDeviations(t *testing.T) {
	const (
		generate, publish, proven, served = keystore.ActKeyGenerate, keystore.ActKeyPublish, keystore.ActKeyProven, keystore.ActKeyServed
		activate, retire, remove, destroy = keystore.ActKeyActivate, keystore.ActKeyRetire, keystore.ActKeyRemove, keystore.ActKeyDestroy
		suspend, resume, compromise       = keystore.ActSuspend, keystore.ActResume, keystore.ActCompromise
		configure                         = keystore.ActKeySetConfigure
	)
	csr := func(seconds float64, h *history, id string, outcome keystore.Outcome) *history {
		return h.told(seconds, keystore.Record{ID: id, Action: keystore.ActSignCSR, Outcome: outcome, Principal: issuer,
			KeySet: "web", Version: 1, KID: kid("web", 1), Serial: id, NotAfter: h.at(seconds + 5).Unix()})
	}
	active := func() *history { return created().made(1, 1).of(2, 1, activate) }
	follows := func(h *history, seconds float64) *history { return h.of(seconds, 2, activate).of(seconds, 1, retire) }
	for _, c := range []struct {
		name string
		of   *history
		want []judged
	}{
		{"a whole life", sound(), nil},

		{"signed just after its activation", active().signed(2, 1, 10), nil},
		{"signed before its activation", active().signed(1.9, 1, 10), []judged{{Breach, "rotation/1", "before it was activated"}}},
		{"signed and never activated", created().made(1, 1).signed(2, 1, 10), []judged{{Breach, "rotation/1", "never activated"}}},
		{"activated A + S after it was served", follows(active().made(4, 2), 9), nil},
		{"activated too early", follows(active().made(4, 2), 7.9), []judged{{Breach, "rotation/1", "activated 3.9s after the last node had said that it serves it; A + S in force was 5s"}}},
		{"early by no more than entries take", follows(active().made(4, 2), 8), nil},
		{"served late as another node says", follows(active().made(4, 2).of(8, 2, served, "node", "b"), 9), []judged{{Breach, "rotation/1", "activated 1s after"}}},
		{"served by another node from then on", follows(active().made(4, 2), 9).of(9.5, 2, served, "node", "b"), nil},
		{"activated and never served", follows(active().made(4, 2).without(2, served), 20), []judged{{Breach, "rotation/1", "before any node had said"}}},
		{"the first need not wait", created().made(1, 1).of(1, 1, activate), nil},
		{"A was raised before", follows(active().configured(3, configure, "9s", "1s", "10s").made(4, 2), 12.9), []judged{{Breach, "rotation/1", "A + S in force was 10s"}}},
		{"A was raised and waited for", follows(active().configured(3, configure, "9s", "1s", "10s").made(4, 2), 14), nil},
		{"A was lowered, and the old one counts", follows(active().configured(5, configure, "1s", "1s", "10s").made(5, 2), 8.5), []judged{{Breach, "rotation/1", "A + S in force was 5s"}}},
		{"A was lowered long ago", follows(active().configured(5, configure, "1s", "1s", "10s").made(20, 2), 22), nil},
		{"activated early after a compromise", created().made(1, 1).of(2, 1, activate).of(9, 1, compromise).made(9, 2).told(10, early()), []judged{{Attention, "rotation/1", "on_gap: sign_early allows that"}}},
		{"early, and nothing was compromised", active().made(4, 2).told(5, early()).of(5, 1, retire), []judged{{Breach, "rotation/1", "activated 1s after"}}},
		{"served long before its late entry", follows(active().made(4, 2).without(2, served).of(8, 2, served, "node", "a", "at", "2026-03-01T12:00:04Z"), 9), nil},

		{"removed when all had expired", follows(active().signed(19, 1, 10).made(4, 2), 20).of(30, 1, remove), nil},
		{"removed before that, by S", follows(active().signed(19, 1, 10).made(4, 2), 20).of(29.5, 1, remove), []judged{{Breach, "rotation/2", "removed 500ms before"}}},
		{"removed because it was compromised", follows(active().signed(19, 1, 10).made(4, 2), 20).of(21, 1, compromise), nil},
		{"an authority left before its certificates", csr(19, follows(active().made(4, 2), 20), "c1", keystore.OutcomeDone).of(24.9, 1, remove), []judged{{Breach, "rotation/10", "removed 100ms before"}}},
		{"lives as long as L", active().signed(3, 1, 10), nil},
		{"lives longer than L", active().signed(3, 1, 12), []judged{{Breach, "rotation/2", "longer than L in force, 10s"}}},
		{"L was lowered, and the old one counts", active().configured(3, configure, "4s", "1s", "5s").signed(4, 1, 10), nil},
		{"L was lowered long ago", active().configured(3, configure, "4s", "1s", "5s").signed(14, 1, 10), []judged{{Breach, "rotation/2", "longer than L in force, 5s"}}},

		{"one after the other", follows(active().made(4, 2), 20), nil},
		{"two at once", active().made(4, 2).of(20, 2, activate), []judged{{Breach, "rotation/4", "while version 1 was active, which no entry ever ended"}}},
		{"two for a while", active().made(4, 2).of(20, 2, activate).of(23, 1, retire), []judged{{Breach, "rotation/4", "for 3s more"}}},
		{"signed within a lease of its end", follows(active().made(4, 2), 20).signed(25, 1, 10), nil},
		{"signed after that, maybe in flight", follows(active().made(4, 2), 20).signed(27, 1, 10), []judged{{Attention, "rotation/4", "may have been made before"}}},
		{"signed long after", follows(active().made(4, 2), 20).signed(50, 1, 10), []judged{{Breach, "rotation/4", "after it was retired and its lease was over"}}},

		{"suspended and resumed", active().of(10, 1, suspend).of(60, 1, resume).signed(61, 1, 10), nil},
		{"signed while suspended", active().of(10, 1, suspend).signed(50, 1, 10).of(60, 1, resume), []judged{{Breach, "rotation/6", "while it was suspended"}}},
		{"signed while still suspended", active().of(10, 1, suspend).signed(50, 1, 10), []judged{{Breach, "rotation/6", "while it was suspended"}}},
		{"signed once compromised", active().of(10, 1, compromise).signed(50, 1, 10), []judged{{Breach, "rotation/6", "compromised"}}},
		{"many are told once", active().of(10, 1, compromise).signed(50, 1, 10).signed(51, 1, 10).signed(52, 1, 10), []judged{{Breach, "rotation/6", "(3 times, until 2026-03-01T12:00:52Z)"}}},

		{"published and never generated", created().made(1, 1).without(1, generate), []judged{{Breach, "rotation/8", "before an entry said that its key was made"}, {Breach, "rotation/9", "published though it was nothing"}}},
		{"activated and never proven", created().made(1, 1).without(1, proven).of(2, 1, activate), []judged{{Breach, "rotation/8", "seen to sign"}}},
		{"its key changed", active().told(3, keystore.Record{Action: proven, KeySet: "web", Version: 1, KID: "other"}), []judged{{Breach, "rotation/8", "its key is other here"}}},
		{"signed by nobody's key", active().told(3, keystore.Record{Action: keystore.ActSignJWT, KeySet: "web", Version: 9, KID: "nobody's"}), []judged{{Breach, "rotation/8", "no lifecycle entry tells"}}},

		{"destroyed when removed", sound().of(40, 1, destroy), nil},
		{"destroyed before", follows(active().made(4, 2), 20).of(30, 1, destroy), []judged{{Breach, "rotation/9", "destroyed though it was retiring"}}},
		{"activated once more", sound().of(40, 1, activate).of(40, 1, retire), []judged{
			{Breach, "rotation/9", "activated though it was retired"}, {Breach, "rotation/9", "retired though it was retired"}}},
		{"retired and never active", created().made(1, 1).of(2, 1, retire), []judged{{Breach, "rotation/9", "retired though it was published"}}},
		{"there again", sound().told(50, keystore.Record{Action: keystore.ActKeyResurrected, KeySet: "web", Version: 1, Reason: "found"}), []judged{{Breach, "rotation/9", "on its token again: found"}}},
		{"an orphan", sound().told(50, keystore.Record{Action: keystore.ActKeyOrphan}), []judged{{Attention, "", "does not know"}}},

		{"begun and done", csr(4, csr(3, active(), "c1", keystore.OutcomeIntent), "c1", keystore.OutcomeDone), nil},
		{"begun and never told of", csr(3, active(), "c1", keystore.OutcomeIntent), []judged{{Attention, "", "csr.sign was begun"}}},
		{"outcome unknown", csr(4, csr(3, active(), "c1", keystore.OutcomeIntent), "c1", keystore.OutcomeUnknown), []judged{{Attention, "", "nobody knows how csr.sign went"}}},
		{"uses nobody knows of", active().told(9, keystore.Record{Action: keystore.ActKeyUse, KID: kid("web", 1), Outcome: keystore.OutcomeUnknown, Detail: map[string]string{"uses": "17-19,23"}}), []judged{{Attention, "", "(4 times"}}},
		{"a step begun and never told of", sound().told(40, keystore.Record{ID: "d1", Action: destroy, Outcome: keystore.OutcomeIntent, KeySet: "web", Version: 1}).
			told(90, keystore.Record{Action: keystore.ActStart}), []judged{{Attention, "", "key.destroy was begun"}}},
		{"a step in its last moments", sound().told(40, keystore.Record{ID: "d1", Action: destroy, Outcome: keystore.OutcomeIntent, KeySet: "web", Version: 1}), nil},
		{"a witness contradicts", sound().told(40, keystore.Record{Action: keystore.ActAuditWitness, Outcome: keystore.OutcomeFailed}), []judged{{Breach, "", "a witness contradicts"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := report(t, Options{}, c.of)
			if len(r.Deviations) != len(c.want) {
				t.Fatalf("%d deviations, want %d: %+v", len(r.Deviations), len(c.want), r.Deviations)
			}
			for i, w := range c.want {
				d := r.Deviations[i]
				if d.Severity != w.severity || d.Rule != w.rule || !strings.Contains(d.Text, w.text) {
					t.Errorf("%s %s %q, want %+v", d.Severity, d.Rule, d.Text, w)
				}
				if len(d.Entries) == 0 || d.At.IsZero() {
					t.Errorf("nothing proves it: %+v", d)
				}
			}
		})
	}
}

// TestWhatAnotherNodeHasIsNoBreach: an entry that is missing may stand in a log
// that was not given, and one that two nodes have counts once.
func TestWhatAnotherNodeHasIsNoBreach(t *testing.T) {
	half := func() *history { // node b did the rest
		return created().of(1, 1, keystore.ActKeyServed, "node", "b").of(2, 1, keystore.ActKeyActivate).signed(3, 1, 10)
	}
	r := report(t, Options{}, half())
	if r.Count(Breach) != 0 || r.Count(Attention) == 0 || len(r.Absent) != 1 || r.Absent[0] != "b" {
		t.Errorf("without the other log: %d breaches, absent %v: %+v", r.Count(Breach), r.Absent, r.Deviations)
	}
	other := &history{node: "b"}
	other.of(1, 1, keystore.ActKeyGenerate).of(1, 1, keystore.ActKeyPublish).of(1, 1, keystore.ActKeyProven)
	if r := report(t, Options{}, half(), other); len(r.Deviations) != 0 || len(r.Absent) != 0 {
		t.Errorf("with both: absent %v: %+v", r.Absent, r.Deviations)
	}

	// A node says that it shares its catalog before another one has been heard of.
	enrolled := keystore.Record{Action: keystore.ActNodeEnrol, Detail: map[string]string{"node": "a", "catalog": "shared"}}
	lone := created().told(0, enrolled).of(2, 1, keystore.ActKeyRetire)
	if r := report(t, Options{}, lone); r.Count(Breach) != 0 || r.Count(Attention) != 1 || !r.Lone {
		t.Errorf("one log of several: %+v", r.Deviations)
	}
	if r := report(t, Options{}, lone, (&history{node: "b"}).told(1, keystore.Record{Action: keystore.ActStart})); r.Count(Breach) != 1 || r.Lone {
		t.Errorf("all logs there are: %+v", r.Deviations)
	}

	twice, slow := active2(), &history{node: "b"}
	slow.told(2.5, twice.lifecycle[len(twice.lifecycle)-1].Entry.Record)
	if r := report(t, Options{}, twice, slow); len(r.Deviations) != 0 {
		t.Errorf("one step in two logs: %+v", r.Deviations)
	}
}

// early is an activation that ends a gap before rule 1 allows it.
func early() keystore.Record {
	rec := new(history).step(2, keystore.ActKeyActivate)
	rec.Rule = "rotation/6"
	return rec
}

// active2 is a version whose activation has a name of its own, as each step has.
func active2() *history {
	h := created().made(1, 1)
	rec := h.step(1, keystore.ActKeyActivate)
	rec.ID = "0123"
	return h.told(2, rec)
}

// TestNodesClocksDiffer: steps that two nodes entered within moments of each other
// may stand in the wrong order, and signatures of one before the other's entry.
func TestNodesClocksDiffer(t *testing.T) {
	a, b := created(), &history{node: "b"}
	b.made(1.4, 1)
	a.of(1.2, 1, keystore.ActKeyActivate)
	b.signed(1.1, 1, 10)
	if r := report(t, Options{}, a, b); len(r.Deviations) != 0 {
		t.Errorf("%+v", r.Deviations)
	}
}

// TestOnlyThePeriodIsTold: what was before counts for what comes in it.
func TestOnlyThePeriodIsTold(t *testing.T) {
	h := sound().signed(40, 1, 10)
	all := report(t, Options{}, h)
	if all.Verdict != Deviating || all.Count(Breach) != 1 || all.Acts.Done != 4 {
		t.Fatalf("all: %s, %d acts, %+v", all.Verdict, all.Acts.Done, all.Deviations)
	}
	early := report(t, Options{Until: h.at(35)}, h)
	if len(early.Deviations) != 0 || early.Acts.Done != 3 || early.KeySets[0].Versions[0].State != "retired" {
		t.Errorf("before it: %+v", early)
	}
	if r := report(t, Options{Until: h.at(15)}, h); r.KeySets[0].Versions[0].State != "active" || !r.KeySets[0].Versions[0].Removed.IsZero() {
		t.Errorf("what was to come is told: %+v", r.KeySets[0].Versions[0])
	}
	// The token that proves the removal too early was signed before the period.
	h = created().made(1, 1).of(2, 1, keystore.ActKeyActivate).made(4, 2).signed(19, 1, 10).
		of(20, 2, keystore.ActKeyActivate).of(20, 1, keystore.ActKeyRetire).of(25, 1, keystore.ActKeyRemove)
	r := report(t, Options{Since: h.at(24)}, h)
	if r.Count(Breach) != 1 || r.Acts.Done != 0 {
		t.Errorf("%d acts, %+v", r.Acts.Done, r.Deviations)
	}
	if len(r.KeySets[0].Versions) != 2 {
		t.Errorf("%d versions lived in it", len(r.KeySets[0].Versions))
	}
	if r := report(t, Options{Since: h.at(1000), Until: h.at(2000)}, h); len(r.KeySets[0].Versions) != 1 {
		t.Errorf("of two, one lived on: %+v", r.KeySets[0].Versions)
	}
}

// TestWitnessesAreTold: unwitnessed is said of every log that no witness knows.
func TestWitnessesAreTold(t *testing.T) {
	known, unknown, empty := verified(true), verified(true), verified(true)
	known.Logs[0].Witnessed = &audit.Witnessed{Size: 12, Time: born}
	empty.Logs[0].Entries = 0
	behind, oneBehind := verified(true), verified(true)
	behind.Logs[0].Witnessed, oneBehind.Logs[0].Witnessed = &audit.Witnessed{Size: 5, Time: born}, &audit.Witnessed{Size: 11, Time: born}
	const node = "localhost/audit/a"
	for _, c := range []struct {
		logs []Checked
		want string
	}{
		{nil, "unwitnessed"},
		{[]Checked{{Node: node}}, "unwitnessed"},
		{[]Checked{{node, unknown}}, "unwitnessed"},
		{[]Checked{{node, known}}, "witnessed as it was at 2026-03-01 12:00:00 UTC"},
		{[]Checked{{node, known}, {node, behind}}, "witnessed as it was at 2026-03-01 12:00:00 UTC, 7 entries since are not"},
		{[]Checked{{node, oneBehind}}, "witnessed as it was at 2026-03-01 12:00:00 UTC, 1 entry since is not"},
		{[]Checked{{node, known}, {node, empty}}, "witnessed as it was at 2026-03-01 12:00:00 UTC"},
		{[]Checked{{node, known}, {node, unknown}}, "unwitnessed in part: a/lifecycle"},
		{[]Checked{{node, known}, {Node: node}}, "unwitnessed"},
	} {
		if got := report(t, Options{Checked: c.logs}, sound()).Witnessed; got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// TestVerdicts: what verification says weighs more than what entries say.
func TestVerdicts(t *testing.T) {
	proven := Checked{Node: "localhost/audit/a", Report: verified(true)}
	changed := Checked{Node: "localhost/audit/a", Report: verified(true, "gone")}
	keyless := Checked{Node: "localhost/audit/a", Report: verified(false)}
	foreign := Checked{Node: "localhost/audit/b", Report: verified(false, "no key of localhost/audit/b was given (hint: ask)")}
	foreign.Report.Problems[0].Kind = audit.KeyUnknown
	bad := sound().signed(50, 1, 10)
	open := sound().told(50, keystore.Record{Action: keystore.ActKeyOrphan})
	for _, c := range []struct {
		name    string
		of      *history
		checked []Checked
		want    Verdict
		weighs  bool
	}{
		{"sound", sound(), []Checked{proven}, Sound, false},
		{"something open", open, []Checked{proven}, Unclear, false},
		{"a rule broken", bad, []Checked{proven}, Deviating, true},
		{"changed", bad, []Checked{proven, changed}, Broken, true},
		{"changed, and another of an unknown key", sound(), []Checked{foreign, changed}, Broken, true},
		{"an unknown key", sound(), []Checked{proven, foreign}, Unjudged, true},
		{"an unknown key, and a rule broken", bad, []Checked{proven, foreign}, Deviating, true},
		{"no key", sound(), []Checked{keyless}, Unverified, true},
		{"not asked", sound(), []Checked{{}}, Unverified, true},
		{"one of two not asked", sound(), []Checked{proven, {}}, Unverified, true},
		{"nothing at all", sound(), nil, Unverified, true},
	} {
		r := report(t, Options{Checked: c.checked}, c.of)
		if r.Verdict != c.want || r.Verdict.Weighs() != c.weighs || r.Witnessed != Unwitnessed {
			t.Errorf("%s: %s, %s; want %s", c.name, r.Verdict, r.Witnessed, c.want)
		}
	}
	r := report(t, Options{Checked: []Checked{proven, foreign}}, sound())
	if got := r.Logs[1].Words(); got != "cannot be judged: no key of localhost/audit/b was given (hint: ask)" {
		t.Errorf("%q", got)
	}
	page := string(pageOf(t, r))
	if strings.Contains(page, Broken.Words()) || !strings.Contains(page, Unjudged.Words()) ||
		!strings.Contains(page, `<p class="open">cannot be judged: lifecycle: `) || strings.Contains(page, `<p class="bad">`) {
		t.Errorf("%s", page)
	}
	if d := report(t, Options{Now: born.Add(time.Minute)}, sound()).MadeAt; !d.Equal(born.Add(time.Minute)) {
		t.Errorf("made at %v", d)
	}
}
