package rotation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
)

// A keystore that differs from the active version's is named by every step on
// the way there, and by none on a way that leads nowhere else.
func TestTimelineOfAMove(t *testing.T) {
	set := lives(fast, active(0), published(time.Second))
	set.Keystore = "vault"
	var got []string
	for _, p := range Timeline(Facts{Set: set}, fast, at(10*time.Second), at(45*time.Second)) {
		got = append(got, fmt.Sprintf("%s %s %d: %s", p.At.Format("05"), p.Kind, p.Version, p.HeldBy))
	}
	want := []string{
		"10 generate 3: schedule: the successor of version 1 is published ahead; the next version is made in vault",
		"10 publish 3: rule 8: its key is found and proven first",
		"10 remove 2: schedule: never used; the configuration asks for EdDSA in vault",
		"20 activate 3: schedule: version 1 signs until 12:00:20; version 3 is in vault",
		"20 retire 1: rule 4: one version signs at a time",
		"20 generate 4: schedule: the successor of version 3 is published ahead",
		"20 publish 4: rule 8: its key is found and proven first",
		"31 remove 1: rule 2: tokens it signed may be valid until 12:00:31",
		"40 activate 4: schedule: version 3 signs until 12:00:40",
		"40 retire 3: rule 4: one version signs at a time",
		"40 generate 5: schedule: the successor of version 4 is published ahead",
		"40 publish 5: rule 8: its key is found and proven first",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestPlanTellsWhatTheNextVersionIs(t *testing.T) {
	none, asked := (*keystore.Fact)(nil), &keystore.Fact{At: at(time.Second), By: "olga"}
	for _, c := range []struct {
		algorithm keystore.Algorithm
		keystore  string
		asked     *keystore.Fact
		want      string
	}{
		{keystore.EdDSA, "hsm", none, "published ahead"},
		{keystore.EdDSA, "vault", none, "published ahead; the next version is made in vault"},
		{keystore.ES256, "hsm", none, "published ahead; the next version is ES256"},
		{keystore.ES256, "vault", none, "published ahead; the next version is ES256 and made in vault"},
		{keystore.EdDSA, "vault", asked, "rule 7: an operator asked for a rotation; the next version is made in vault"},
	} {
		set := lives(fast, active(0))
		set.Algorithm, set.Keystore = c.algorithm, c.keystore
		if step, why := Plan(Facts{Set: set, Rotate: c.asked}, fast, at(2*time.Second)); step.Kind != Generate || !strings.HasSuffix(why.Text, c.want) {
			t.Errorf("%s in %s: %v, want %q", c.algorithm, c.keystore, why, c.want)
		}
	}
	if _, why := Plan(Facts{Set: lives(fast)}, fast, start); why.Text != "schedule: there is no version to sign" {
		t.Errorf("the first version: %v", why)
	}
}

// moving is keystores of which one is configured while another is asked.
type moving struct {
	stores map[string]*software
	asked  func(name string) // nil: nothing happens
}

func (m *moving) Provider(name string) (keystore.Provider, error) {
	if f := m.asked; f != nil {
		m.asked = nil
		f(name)
	}
	return m.stores[name], nil
}

// newMoving is a world whose key set moves to other when hsm is asked next.
func newMoving(t *testing.T) (w *world, other *software, moves func()) {
	t.Helper()
	w, other = newWorld(t, fast), newSoftware()
	m := &moving{stores: map[string]*software{"hsm": w.token, "other": other}}
	w.cfg.Keys = m
	return w, other, func() {
		m.asked = func(string) {
			spec := w.spec
			spec.Keystore = "other"
			if err := w.Ensure(t.Context(), []Spec{spec}); err != nil {
				t.Error(err)
			}
		}
	}
}

// A key that was to be made as the configuration changed was made in the
// keystore of before, and its row said the other one.
func TestAKeyIsMadeWhereItsRowSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, other, moves := newMoving(t)
		moves()
		w.settle(t)
		if w.token.generated != 0 || other.generated == 0 {
			t.Errorf("%d keys in the old keystore, %d in the new one", w.token.generated, other.generated)
		}
		for _, v := range w.catalog.set("web").Versions {
			if _, there := other.keys[v.KeyID]; v.Keystore != "other" || !there {
				t.Errorf("version %d, %v in %s, is there: %v", v.Number, v.State, v.Keystore, there)
			}
		}
	})
}

// A rotation that was asked for as the configuration changed was answered with a
// version that never signs.
func TestNoRotationToAVersionOfBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, other, moves := newMoving(t)
		w.settle(t)
		w.want(t, "1 active, 2 published")
		moves()
		if _, err := w.rotate(false); !errors.Is(err, keystore.ErrOvertaken) {
			t.Errorf("got %v", err)
		}
		if w.catalog.set("web").RotateBy != nil {
			t.Error("the rotation is recorded all the same")
		}
		answer, err := w.rotate(false)
		if err != nil || answer.To.Version != 3 {
			t.Fatalf("asked again: %+v, %v", answer, err)
		}
		w.settle(t)
		time.Sleep(fast.CacheFor + fast.Skew)
		w.settle(t)
		if v, _ := w.catalog.set("web").Active(); v.Number != 3 || v.Keystore != "other" || other.generated == 0 {
			t.Errorf("version %d in %s signs", v.Number, v.Keystore)
		}
	})
}

// Ensure that has run out of time leaves the rest of the key sets alone.
func TestEnsureEndsWithItsContext(t *testing.T) {
	w := newWorld(t, fast)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	spec := w.spec
	spec.Keystore = "other"
	if err := w.Ensure(ctx, []Spec{spec}); err == nil {
		t.Error("it is done")
	}
	if ks := w.catalog.set("web"); ks.Keystore != "hsm" {
		t.Errorf("the set is in %s", ks.Keystore)
	}
}
