package audit

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chancery/keystore"
)

// A told is an entry of lifecycle, some minutes after noon.
type told struct {
	minute int
	rec    keystore.Record
}

func step(minute int, action keystore.Action, state keystore.State) told {
	rec := keystore.Record{
		Principal: "chancery", Action: action, Outcome: keystore.OutcomeDone, KeySet: "web", Version: 1, KID: "kid", State: state.String(),
	}
	if action == keystore.ActKeyGenerate {
		rec.KID, rec.Detail = "", map[string]string{"algorithm": "ES256", "keystore": "hsm"}
		rec.Outcome = keystore.OutcomeIntent
	}
	return told{minute, rec}
}

// said is a step that an operator said some minutes after noon, and that was
// entered later.
func said(minute, at int, action keystore.Action, state keystore.State) told {
	s := step(minute, action, state)
	s.rec.Principal, s.rec.Reason = "operator", "why"
	s.rec.Detail = map[string]string{"at": after(at).Format(time.RFC3339Nano)}
	return s
}

func after(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }

func lives(entries ...told) *KeyLives {
	k := NewKeyLives()
	for i, e := range entries {
		k.Add(&e.rec, after(e.minute), fmt.Sprintf("lifecycle#%d", i))
	}
	return k
}

// describe tells a standing in a line.
func describe(s Standing) string {
	words := []string{"unknown"}
	if s.State != 0 {
		words[0] = s.State.String()
	}
	if s.Suspended != nil {
		words = append(words, "suspended")
	}
	if s.Compromised != nil {
		words = append(words, "compromised")
	}
	return strings.Join(words, " ")
}

func TestWhatWasKnownOfAKey(t *testing.T) {
	begun := []told{
		step(0, keystore.ActKeyGenerate, keystore.Pending),
		step(1, keystore.ActKeyPublish, keystore.Published),
		step(2, keystore.ActKeyServed, keystore.Published),
		step(10, keystore.ActKeyActivate, keystore.Active),
	}
	with := func(more ...told) []told { return append(slices.Clone(begun), more...) }
	for _, c := range []struct {
		what    string
		entries []told
		known   map[int]string // by minute
	}{
		{"a whole life", with(
			step(20, keystore.ActKeyRetire, keystore.Retiring),
			step(30, keystore.ActKeyRemove, keystore.Retired),
			step(40, keystore.ActKeyDestroy, keystore.Destroyed),
		), map[int]string{
			-1: "unknown", 0: "pending", 1: "published", 9: "published", 10: "active", 19: "active",
			20: "retiring", 30: "retired", 39: "retired", 40: "destroyed", 1000: "destroyed",
		}},
		{"a key that never came to be", []told{
			step(0, keystore.ActKeyGenerate, keystore.Pending), step(5, keystore.ActKeyAbandon, keystore.Abandoned),
		}, map[int]string{4: "pending", 5: "abandoned"}},
		{"a suspension counts from when it was said", with(
			said(15, 12, keystore.ActSuspend, keystore.Active),
			said(18, 18, keystore.ActResume, keystore.Active),
			said(19, 19, keystore.ActSuspend, keystore.Active),
		), map[int]string{11: "active", 12: "active suspended", 17: "active suspended", 18: "active", 19: "active suspended"}},
		{"a suspension that is told twice ends once", with(
			said(12, 12, keystore.ActSuspend, keystore.Active),
			said(13, 13, keystore.ActSuspend, keystore.Active),
			said(18, 18, keystore.ActResume, keystore.Active),
		), map[int]string{14: "active suspended", 18: "active"}},
		{"a resumption of what was not suspended", with(said(12, 12, keystore.ActResume, keystore.Active)), map[int]string{12: "active"}},
		{"a compromise ends it when it was said", with(
			said(25, 12, keystore.ActCompromise, keystore.Retired),
		), map[int]string{11: "active", 12: "retired compromised", 30: "retired compromised"}},
		{"a compromise of a destroyed key", with(
			step(20, keystore.ActKeyRetire, keystore.Retiring),
			step(30, keystore.ActKeyRemove, keystore.Retired),
			step(40, keystore.ActKeyDestroy, keystore.Destroyed),
			said(50, 50, keystore.ActCompromise, keystore.Destroyed),
		), map[int]string{12: "active", 45: "destroyed", 50: "destroyed compromised"}},
		{"an attempt is no step", with(
			told{20, keystore.Record{Action: keystore.ActKeyDestroy, Outcome: keystore.OutcomeIntent, KeySet: "web", Version: 1, KID: "kid", State: "retired"}},
			told{21, keystore.Record{Action: keystore.ActCompromise, Outcome: keystore.OutcomeRefused, KeySet: "web", Version: 1, KID: "kid", State: "active"}},
		), map[int]string{22: "active"}},
	} {
		l, ok := lives(c.entries...).Version("web", 1)
		if !ok {
			t.Errorf("%s: no such version", c.what)
			continue
		}
		for minute, want := range c.known {
			if got := describe(l.At(after(minute))); got != want {
				t.Errorf("%s: after %d minutes %q, want %q", c.what, minute, got, want)
			}
		}
		if len(l.Problems) > 0 {
			t.Errorf("%s: %v", c.what, l.Problems)
		}
	}
}

// What is known now is not what was known then: both are there.
func TestACompromiseSaidLater(t *testing.T) {
	k := lives(
		step(1, keystore.ActKeyPublish, keystore.Published), step(10, keystore.ActKeyActivate, keystore.Active),
		said(61, 60, keystore.ActCompromise, keystore.Retired),
	)
	l, ok := k.ByKID("kid")
	if !ok || l.At(after(30)).Compromised != nil || l.At(after(30)).Entry != "lifecycle#1" {
		t.Errorf("then: %+v", l.At(after(30)))
	}
	want := KeyFact{At: after(60), By: "operator", Reason: "why", Entered: after(61), Entry: "lifecycle#2"}
	if l.Compromised == nil || *l.Compromised != want {
		t.Errorf("now: %+v", l.Compromised)
	}
}

func publishing(version int, kid keystore.KID, detail map[string]string) told {
	s := step(1, keystore.ActKeyPublish, keystore.Published)
	s.rec.Version, s.rec.KID, s.rec.Detail = version, kid, detail
	return s
}

func TestThePublicKeyIsThatOfTheKID(t *testing.T) {
	pub := newSoftKey(t, keystore.ES256).Public()
	spki, err := keystore.MarshalPublic(pub)
	if err != nil {
		t.Fatal(err)
	}
	kid, err := keystore.Thumbprint(pub)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString(spki)
	good := map[string]string{"purpose": "jwt", "algorithm": "ES256", "public": text}
	l, _ := lives(publishing(1, kid, good)).ByKID(kid)
	if l == nil || string(l.Public) != string(spki) || l.Purpose != keystore.PurposeJWT || l.Algorithm != keystore.ES256 || len(l.Problems) > 0 {
		t.Errorf("%+v", l)
	}
	for what, entries := range map[string][]told{
		"another key":                    {publishing(1, "kid", good)},
		"no key":                         {publishing(1, kid, map[string]string{"public": "AAAA"})},
		"no base64":                      {publishing(1, kid, map[string]string{"public": text + "="})},
		"another kid of the version":     {publishing(1, kid, good), publishing(1, "kid", nil)},
		"another algorithm":              {publishing(1, kid, good), publishing(1, kid, map[string]string{"algorithm": "RS256"})},
		"another purpose":                {publishing(1, kid, good), publishing(1, kid, map[string]string{"purpose": "ca"})},
		"a kid that another version has": {publishing(2, kid, good), publishing(1, kid, nil)},
	} {
		l, _ := lives(entries...).Version("web", 1)
		if l == nil || len(l.Problems) != 1 {
			t.Errorf("%s: %+v", what, l)
		}
	}
}

// Entries that are told twice, or in whatever order nodes with different clocks
// enter them, make the same steps.
func TestStepsDoNotDependOnTheirOrder(t *testing.T) {
	all := []told{
		step(0, keystore.ActKeyGenerate, keystore.Pending), step(1, keystore.ActKeyPublish, keystore.Published),
		step(10, keystore.ActKeyActivate, keystore.Active), step(20, keystore.ActKeyRetire, keystore.Retiring),
		step(30, keystore.ActKeyRemove, keystore.Retired), step(40, keystore.ActKeyDestroy, keystore.Destroyed),
	}
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.IntRange(0, len(all)-1), 1, 20).Draw(t, "which")
		k, has := NewKeyLives(), map[int]bool{}
		for _, i := range some {
			k.Add(&all[i].rec, after(all[i].minute), "entry")
			has[i] = true
		}
		l, ok := k.Version("web", 1)
		if !ok || len(l.Steps) != len(has) {
			t.Fatalf("%d steps of %d: %+v", len(l.Steps), len(has), l)
		}
		for i := 1; i < len(l.Steps); i++ {
			if l.Steps[i].State <= l.Steps[i-1].State || !l.Steps[i].At.After(l.Steps[i-1].At) {
				t.Fatalf("%+v", l.Steps)
			}
		}
	})
}

// Reading goes on where it stopped.
func TestLivesAreReadOn(t *testing.T) {
	r := newRig(t)
	k := NewKeyLives()
	for _, s := range []struct {
		action keystore.Action
		state  keystore.State
	}{{keystore.ActKeyPublish, keystore.Published}, {keystore.ActKeyActivate, keystore.Active}, {keystore.ActKeyRetire, keystore.Retiring}} {
		receipt := r.lifecycle(step(0, s.action, s.state).rec)
		if err := k.Read(t.Context(), r.cfg.Dir); err != nil {
			t.Fatal(err)
		}
		l, _ := k.ByKID("kid")
		if l == nil || l.Steps[len(l.Steps)-1].Entry != receipt.Entry || l.Steps[len(l.Steps)-1].State != s.state {
			t.Fatalf("after %s: %+v", s.action, l)
		}
	}
	if all := k.All(); len(all) != 1 || len(all[0].Steps) != 3 {
		t.Errorf("%+v", all)
	}
}
