package simulation

import (
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/rotation"
)

// script makes actions out of words: a node's name and what it does, in order.
// "make" is what it takes to make a version: record, generate, publish.
func script(t *testing.T, lines ...string) (all []Action) {
	t.Helper()
	kind := map[string]Kind{}
	for k := Advance; k < kinds; k++ {
		kind[k.String()] = k
	}
	for _, line := range lines {
		words := strings.Fields(line)
		if d, err := time.ParseDuration(words[0]); err == nil {
			all = append(all, Action{Advance, 0, int64(d)})
			continue
		}
		who := uint8(strings.Index("abc", words[0]))
		for _, word := range words[1:] {
			switch {
			case word == "make":
				all = append(all, Action{Pass, who, 0}, Action{Pass, who, 0}, Action{Pass, who, 0})
			case word == "token":
				all = append(all, Action{Sign, who, 1}, Action{Release, who, 0})
			case word == "longer":
				all = append(all, Action{Configure, who, 6})
			case kind[word] == 0:
				t.Fatalf("no word %q", word)
			default:
				all = append(all, Action{kind[word], who, 0})
			}
		}
	}
	return all
}

// first is a first version that signs, on one node, and a verifier that has the
// set; second is its successor, published, served and acknowledged.
const (
	first  = "a refresh make prove ack pass token"
	second = "a make ack"
)

// naive returns an engine that decides by itself, or by the real one's plan if it
// says NoStep.
func naive(decide func(n int, ks *keystore.KeySet, now time.Time) rotation.Step) func(*engine) {
	return func(e *engine) {
		e.plan = func(w *World, n int, ks *keystore.KeySet, now time.Time) (rotation.Step, rotation.Why) {
			if step := decide(n, ks, now); step != rotation.NoStep {
				return step, rotation.Why{Text: "the naive engine says so"}
			}
			return planned(w, n, ks, now)
		}
	}
}

// atOnce activates a version as soon as it is published.
func atOnce(_ int, ks *keystore.KeySet, _ time.Time) rotation.Step {
	active, ok := ks.Active()
	for _, v := range ks.InState(keystore.Published) {
		if ok && !v.ServedAt.IsZero() {
			return rotation.Step{Kind: rotation.Activate, Version: v.Number, From: active.Number}
		}
	}
	return rotation.NoStep
}

// after removes a version so long after it stopped signing, whatever it signed.
func after(age time.Duration) func(int, *keystore.KeySet, time.Time) rotation.Step {
	return func(_ int, ks *keystore.KeySet, now time.Time) rotation.Step {
		for _, v := range ks.InState(keystore.Retiring) {
			if !now.Before(v.StoppedAt.Add(age)) {
				return rotation.Step{Kind: rotation.Remove, Version: v.Number}
			}
		}
		return rotation.NoStep
	}
}

// own makes a key for each node, and has the node sign with that.
func own(n int, ks *keystore.KeySet, _ time.Time) rotation.Step {
	for i := range ks.Versions {
		v := &ks.Versions[i]
		switch {
		case v.Maker != nodeNames[n]:
		case v.State == keystore.Published && !v.ServedAt.IsZero():
			return rotation.Step{Kind: rotation.Activate, Version: v.Number}
		default:
			return rotation.NoStep
		}
	}
	return rotation.Step{Kind: rotation.Generate, Version: len(ks.Versions) + 1}
}

// TestIncidents has what went wrong elsewhere happen once more: to an engine that
// does as was done there, which breaks a rule, and to this one, which does not.
func TestIncidents(t *testing.T) {
	for _, c := range []struct {
		name   string
		nodes  int
		naive  func(*engine)
		script []string
		rule   int // that the naive engine breaks
		keys   int // that this one has made by then
	}{
		{
			"dexidp/dex#2759, hashicorp/vault#9201, ory/hydra#2535: a key signs the moment it exists",
			1, naive(atOnce), []string{first, "a fetch", second, "a pass token"}, 1, 2,
		},
		{
			"hashicorp/vault#11441: a token outlives its published key",
			1, naive(after(0)), []string{first, second, "20s", "a token refresh pass", "1s", "a refresh pass"}, 2, 3,
		},
		{
			"OpenBao: two manual rotations in a row",
			1, func(e *engine) { e.eager = true },
			[]string{first, second, "5s", "a refresh rotate-now", second, "a rotate-now token"}, 1, 3,
		},
		{
			"DuendeArchive/Support#1241: three replicas make three keys",
			3, naive(own),
			[]string{"a refresh", "b refresh", "c refresh", "a pass", "b pass", "c pass", "a pass pass prove ack pass", "b refresh pass pass prove ack pass", "c refresh pass pass prove ack pass"}, 5, 1,
		},
		{
			"spiffe/spire#6083: a bundle without the active key",
			1, func(e *engine) { e.partial = true },
			[]string{first, "a lose-key make", "a crash start refresh prove"}, 8, 2,
		},
		{
			"spiffe/spire#5497: a crash loop makes a heap of orphan keys",
			1, func(e *engine) { e.keyFirst = true },
			[]string{"a refresh pass crash start refresh pass crash start refresh pass crash start refresh pass pass"}, 8, 2,
		},
		{
			"Azure AD, March 2021: a key that is to be retained is removed by age",
			1, naive(after(12 * time.Second)),
			[]string{first, second, "a longer", "19s", "a token", "1s", "a pass", "12s", "a refresh pass"}, 2, 3,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := fast
			cfg.Nodes = c.nodes
			cfg, err := cfg.checked()
			if err != nil {
				t.Fatal(err)
			}
			actions := script(t, c.script...)
			straw := newWorld(cfg, false)
			c.naive(&straw.engine)
			for _, a := range actions {
				straw.Do(a)
			}
			if straw.violation == nil || straw.violation.Rule != c.rule {
				t.Errorf("the naive engine: %v, want rule %d broken", straw.violation, c.rule)
			} else {
				t.Logf("the naive engine: %v", straw.violation)
			}
			ours := replay(cfg, false, actions, nil)
			if ours.violation != nil || ours.keys != c.keys {
				t.Errorf("this one: %v, %d keys tried, want %d\n%s", ours.violation, ours.keys, c.keys, strings.Join(tell(cfg, false, actions), "\n"))
			}
		})
	}
}
