package review

import (
	"strings"
	"testing"

	"chancery/keystore"
)

// digested enters the intent and the outcome of a digest.
func (h *history) digested(seconds float64, version int, id string, outcome keystore.Outcome) *history {
	rec := keystore.Record{
		ID: id, Principal: issuer, Action: keystore.ActSignDigest, Outcome: keystore.OutcomeIntent, KeySet: "web", Version: version,
		KID: kid("web", version), Policy: "policy-1", Detail: map[string]string{"format": "der"},
	}
	h.told(seconds, rec)
	if outcome == keystore.OutcomeIntent {
		return h
	}
	rec.Outcome = outcome
	if outcome == keystore.OutcomeDone {
		rec.Detail = map[string]string{"format": "der", "signature": "hash of " + id}
	}
	return h.told(seconds, rec)
}

// The impact of a digest key is every signature, each by its entry: none has an end.
func TestImpactOfADigestKey(t *testing.T) {
	h := sound().digested(22, 2, "d1", keystore.OutcomeDone).digested(23, 2, "d2", keystore.OutcomeUnknown).
		digested(24, 2, "d3", keystore.OutcomeFailed).digested(25, 2, "d4", keystore.OutcomeIntent).digested(26, 2, "d5", keystore.OutcomeDone)
	var all []Signed
	i, err := Trace([]Log{h.log()}, kid("web", 2), Options{Now: h.at(300)}, func(s Signed) bool { all = append(all, s); return true })
	if err != nil {
		t.Fatal(err)
	}
	if i.Endless != 4 || i.Live != 0 || len(i.Open) != 2 || i.Acts.Failed != 1 {
		t.Errorf("%+v", i)
	}
	var signed []string
	for _, s := range all {
		if s.Action == keystore.ActSignDigest {
			signed = append(signed, s.Signature)
			if !s.Expires.IsZero() || s.Live || s.Entry == "" {
				t.Errorf("%+v", s)
			}
		}
	}
	if strings.Join(signed, ",") != "hash of d1,,hash of d5," {
		t.Errorf("listed %q", signed)
	}
}

// Rule 2 of a digest key: it is known for as long as its signatures are to be retained
// after they were made, which is what L says.
func TestRule2OfADigestKey(t *testing.T) {
	digests := func() *history {
		return created().made(1, 1).of(2, 1, keystore.ActKeyActivate).digested(3, 1, "d1", keystore.OutcomeDone).made(4, 2).
			of(20, 2, keystore.ActKeyActivate).of(20, 1, keystore.ActKeyRetire)
	}
	for _, c := range []struct {
		removed float64
		held    bool
	}{{12, false}, {13.9, false}, {14, true}, {31, true}} { // at 3, for 10 and S
		r := report(t, Options{}, digests().of(c.removed, 1, keystore.ActKeyRemove))
		broken := false
		for _, d := range r.Deviations {
			broken = broken || d.Rule == "rotation/2" && strings.Contains(d.Text, "retention")
		}
		if broken == c.held {
			t.Errorf("removed at %v: %+v", c.removed, r.Deviations)
		}
	}
}
