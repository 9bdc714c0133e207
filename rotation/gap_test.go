package rotation

import (
	"cmp"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
)

// What is said of a gap, and what its end waits for. A caller that came before the
// successor was acknowledged or proven was told to wait a minute, ten times as
// long as the gap.
func TestGapOf(t *testing.T) {
	const s = time.Second
	taken := func(v keystore.Version, when time.Duration) keystore.Version {
		v.Compromised = &keystore.Fact{At: at(when), By: "olga"}
		v.State, v.StoppedAt, v.RetiredAt = keystore.Retired, at(when), at(when)
		return v
	}
	early := fast
	early.SignEarly = true
	authority := func(ks *keystore.KeySet) *keystore.KeySet { ks.Purpose = keystore.PurposeCA; return ks }
	for _, c := range []struct {
		name string
		sch  Schedule
		set  *keystore.KeySet
		now  time.Duration
		ends time.Duration // after the start; 0: no gap; -1: unknown
		soon time.Duration // as ends; 0: the same
		text string
	}{
		{"a set that never signed", fast, lives(fast, unserved()), 0, 0, 0, ""},
		{"a version signs", fast, lives(fast, taken(active(0), s), active(2*s)), 3 * s, 0, 0, ""},
		{"a served successor", fast, lives(fast, taken(active(0), 2*s), published(s)), 2 * s, 6 * s, 0, "rule 1: caches may hold the old set"},
		{"one that may sign", fast, lives(fast, taken(active(0), 9*s), published(s)), 9 * s, 6 * s, 0, "rule 1"},
		{"one that no node serves", fast, lives(fast, taken(active(0), 2*s), unserved()), 2 * s, -1, 7 * s, "no node has said that it serves version 2"},
		{"one that is suspended", fast, lives(fast, taken(active(0), 2*s), suspended(published(s), s)), 9 * s, -1, 0, "version 2 is suspended itself"},
		{"none", fast, lives(fast, taken(active(0), 2*s)), 3 * s, 8 * s, 0, "no version to sign"},
		{"one that is being made", fast, lives(fast, taken(active(0), 2*s), pending()), 3 * s, 8 * s, 0, "rule 8"},
		{"sign_early, none", early, lives(early, taken(active(0), 2*s)), 3 * s, 3 * s, 0, "no version to sign"},
		{"sign_early, a served successor", early, lives(early, taken(active(0), 2*s), published(s)), 2 * s, s, 0, "verifiers may reject its tokens until 12:00:06"},
		{"sign_early, one that no node serves", early, lives(early, taken(active(0), 2*s), unserved()), 2 * s, -1, 2 * s, "no node has said"},
		{"an authority without a successor", fast, authority(lives(fast, taken(active(0), 2*s))), 3 * s, -1, 0, "waits for `rotation now`"},
		{"an authority", fast, authority(lives(fast, taken(active(0), 2*s), published(s))), 9 * s, -1, 0, "waits for `rotation now`"},
	} {
		gap, ok := GapOf(Facts{Set: c.set}, c.sch, at(c.now))
		soon := cmp.Or(c.soon, c.ends)
		switch {
		case soon == -1 && !gap.Soonest.IsZero(), soon > 0 && !gap.Soonest.Equal(at(soon)):
			t.Errorf("%s: not before %v, want %v after the start", c.name, gap.Soonest, soon)
		case ok != (c.ends != 0) || !strings.Contains(gap.Text, c.text):
			t.Errorf("%s: %+v, %v", c.name, gap, ok)
		case c.ends == -1 && !gap.Until.IsZero(), c.ends > 0 && !gap.Until.Equal(at(c.ends)):
			t.Errorf("%s: until %v, want %v after the start", c.name, gap.Until, c.ends)
		}
	}
}

// While another node has not acknowledged the successor a gap ends when its publishing
// lease is over, at the latest, and callers were told to wait that long; it may
// acknowledge at any moment, unless it has been forgotten.
func TestGapOfAnotherNode(t *testing.T) {
	const s, lease = time.Second, time.Minute
	taken := active(0)
	taken.Compromised = &keystore.Fact{At: at(2 * s), By: "olga"}
	taken.State, taken.StoppedAt, taken.RetiredAt = keystore.Retired, at(2*s), at(2*s)
	set := lives(fast, taken, published(s))
	other := keystore.Node{Name: "b", Epoch: 1, SeenAt: at(0), SignsUntil: at(s), PublishesUntil: at(lease)}
	forgotten := other
	forgotten.Forgotten = &keystore.Fact{At: at(2 * s), By: "olga"}
	early := fast
	early.SignEarly = true
	for _, c := range []struct {
		name string
		sch  Schedule
		node keystore.Node
		soon time.Duration
	}{
		{"it lives", fast, other, 3*s + 5*s},
		{"it lives, sign_early", early, other, 3 * s},
		{"it does not come back", fast, forgotten, lease + 5*s},
	} {
		gap, ok := GapOf(Facts{Set: set, Nodes: []keystore.Node{c.node}, Self: "a"}, c.sch, at(3*s))
		if !ok || gap.Until.Before(at(lease)) || !gap.Soonest.Equal(at(c.soon)) {
			t.Errorf("%s: not before %v, want %v after the start; until %v (%s)", c.name, gap.Soonest, c.soon, gap.Until, gap.Text)
		}
	}
}
