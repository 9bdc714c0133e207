package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/keystore"
)

func enrol(t testing.TB, c *Catalog, e Enrolment) keystore.Node {
	t.Helper()
	n, err := c.Enrol(t.Context(), e, record(keystore.ActNodeEnrol))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// holding is an enrolment that holds these versions of every key set.
func holding(node string, versions ...int) Enrolment {
	e := enrolment(node)
	e.Holds = func(_ string, v *keystore.Version) bool { return slices.Contains(versions, v.Number) }
	return e
}

func nodeNames(t testing.TB, c *Catalog) string {
	t.Helper()
	var names []string
	for _, n := range mustView(t, c).Nodes() {
		names = append(names, n.Name)
	}
	return strings.Join(names, " ")
}

func onPostgres(t *testing.T, f func(t *testing.T, at *place)) {
	t.Run("postgres", func(t *testing.T) { f(t, inPostgres(t)) })
}

func TestEveryEnrolmentIsALaterEpoch(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.open(t)
		last := int64(0)
		for i := range 3 {
			at.setClock(epoch.Add(time.Duration(i) * time.Minute))
			n := enrol(t, c, enrolment("a"))
			if n.Epoch <= last || !n.EnrolledAt.Equal(at.now()) || !n.SeenAt.Equal(at.now()) {
				t.Errorf("after epoch %d: %+v", last, n)
			}
			if got := mustView(t, c); !cmp.Equal(got.Nodes(), []keystore.Node{n}) || !got.Clock().Equal(at.now()) || got.Revision() != int64(i+1) {
				t.Errorf("view at %d, %v: %+v", got.Revision(), got.Clock(), got.Nodes())
			}
			last = n.Epoch
		}
		rows, err := c.Outbox(t.Context())
		if err != nil || len(rows) != 3 || rows[2].Node != "a" || !rows[2].At.Equal(at.now()) {
			t.Errorf("outbox: %+v, %v", rows, err)
		}
		if _, err := c.Enrol(t.Context(), enrolment("../a")); !errors.Is(err, ErrIllegal) {
			t.Errorf("no name: %v", err)
		}
	})
}

func TestInAFileLeasesLastUntilTheNodeStops(t *testing.T) {
	at := inFile(t)
	c := at.activated(t)
	n := enrol(t, c, enrolment("a"))
	if !n.SignsUntil.IsZero() || !n.PublishesUntil.IsZero() {
		t.Errorf("%+v", n)
	}
	at.setClock(epoch.Add(time.Hour))
	if got, err := c.Renew(t.Context(), 1); err != nil || !cmp.Equal(got, n) {
		t.Errorf("renewed: %+v, %v", got, err)
	}
	step(t, c, "web", 1, keystore.Retiring)
	if err := c.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := mustView(t, c).Node("a"); !got.StoppedAt.Equal(at.now()) {
		t.Errorf("stopped: %+v", got)
	}
}

func TestInAFileEveryOtherNodeHasStopped(t *testing.T) {
	at := inFile(t)
	enrol(t, at.open(t), enrolment("a"))
	at.setClock(epoch.Add(time.Minute))
	c := at.open(t)
	enrol(t, c, enrolment("b"))
	other := enrolment("b")
	other.Identity = [16]byte{9}
	enrol(t, c, other) // no other daemon can be there
	view := mustView(t, c)
	a, _ := view.Node("a")
	b, _ := view.Node("b")
	if until, over := a.ServedUntil(); !over || !until.Equal(at.now()) || !b.MaySign(at.now()) {
		t.Errorf("a: %+v, b: %+v", a, b)
	}
}

func TestANameIsOneNodesUntilItsLeaseToPublishIsOver(t *testing.T) {
	onPostgres(t, func(t *testing.T, at *place) {
		first, second := at.open(t), at.open(t)
		n := enrol(t, first, enrolment("a"))
		other := enrolment("a")
		other.Identity = [16]byte{9}
		at.setClock(n.PublishesUntil.Add(-time.Microsecond))
		_, err := second.Enrol(t.Context(), other)
		if !errors.Is(err, keystore.ErrExists) || !strings.Contains(err.Error(), "choose another name") {
			t.Errorf("another node's name: %v", err)
		}
		at.setClock(n.PublishesUntil)
		enrol(t, second, other)
		if _, err := first.Renew(t.Context(), 1); !errors.Is(err, ErrFenced) {
			t.Errorf("the node whose name was taken: %v", err)
		}
		if err := second.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		enrol(t, first, enrolment("a"))
	})
}

func TestLeasesAreRenewedAndNeverShortened(t *testing.T) {
	onPostgres(t, func(t *testing.T, at *place) {
		c := at.open(t)
		n := enrol(t, c, enrolment("a"))
		if !n.SignsUntil.Equal(epoch.Add(30*time.Second)) || !n.PublishesUntil.Equal(epoch.Add(5*time.Minute)) {
			t.Errorf("enrolled: %+v", n)
		}
		for _, m := range []struct{ clock, signs, publishes time.Duration }{
			{time.Minute, 90 * time.Second, 6 * time.Minute},
			{50 * time.Second, 90 * time.Second, 6 * time.Minute}, // the clock was set back
			{2 * time.Minute, 150 * time.Second, 7 * time.Minute},
		} {
			at.setClock(epoch.Add(m.clock))
			n, err := c.Renew(t.Context(), 7)
			if err != nil || !n.SignsUntil.Equal(epoch.Add(m.signs)) || !n.PublishesUntil.Equal(epoch.Add(m.publishes)) || n.Revision != 7 {
				t.Errorf("at %v: %+v, %v", m.clock, n, err)
			}
			if got, _ := mustView(t, c).Node("a"); !cmp.Equal(*got, n) {
				t.Errorf("at %v: %s", m.clock, cmp.Diff(n, *got))
			}
		}
	})
}

// writes are one write of each kind.
func writes(t *testing.T, c *Catalog) map[string]func() error {
	ctx := t.Context()
	kid := set(t, c, "web").Versions[0].KID
	key := IdempotencyKey{"p", "devices", "tls", "k"}
	return map[string]func() error{
		"create":  func() error { _, err := c.Create(ctx, keySet("edge")); return err },
		"horizon": func() error { return c.RaiseHorizon(ctx, kid, epoch.Add(time.Hour)) },
		"update": func() error {
			_, err := c.Update(ctx, "web", -1, func(keystore.Moment, *keystore.KeySet) ([]keystore.Record, error) {
				return []keystore.Record{record(keystore.ActRotate)}, nil
			})
			return err
		},
		"acknowledge": func() error { _, err := c.Acknowledge(ctx, "a", "web", []int{1}, epoch); return err },
		"opened":      func() error { _, err := c.Opened(ctx, "web", []int{1}); return err },
		"certificate": func() error { return c.AddCertificate(ctx, certificate("0a")) },
		"request":     func() error { _, err := c.BeginIdempotent(ctx, key, [32]byte{1}, epoch); return err },
		"head":        func() error { return c.Remember(ctx, "log", 1, [32]byte{}) },
		"secret":      func() error { _, err := c.Secret(ctx, "salt"); return err },
		"forget":      func() error { _, err := c.Forget(ctx, "b", keystore.Fact{By: "op"}); return err },
		"mark":        func() error { return c.Mark(ctx, 1, "log#1") },
	}
}

func TestAFencedNodeWritesNothing(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		for name, fence := range map[string]func(t *testing.T, other *Catalog){
			"an older epoch": func(t *testing.T, other *Catalog) { enrol(t, other, enrolment("a")) },
			"a forgotten node": func(t *testing.T, other *Catalog) {
				if _, err := other.Forget(t.Context(), "a", keystore.Fact{By: "op", Reason: "gone"}); err != nil {
					t.Fatal(err)
				}
			},
		} {
			t.Run(name, func(t *testing.T) {
				at := at.another(t)
				c, other := at.activated(t), at.open(t)
				enrol(t, c, enrolment("a"))
				do := writes(t, c)
				fence(t, other)
				before := mustView(t, other)
				for what, write := range do {
					if err := write(); !errors.Is(err, ErrFenced) || !strings.Contains(err.Error(), "hint") {
						t.Errorf("%s: %v", what, err)
					}
				}
				if _, err := c.Renew(t.Context(), 1); !errors.Is(err, ErrFenced) {
					t.Errorf("renew: %v", err)
				}
				if err := c.Leave(t.Context()); !errors.Is(err, ErrFenced) {
					t.Errorf("leave: %v", err)
				}
				if after := mustView(t, c); after.Revision() != before.Revision() {
					t.Errorf("revision %d, then %d", before.Revision(), after.Revision())
				}
			})
		}
	})
}

func TestS18AStoppedNodeRenewsBeforeItWrites(t *testing.T) {
	onPostgres(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		n := enrol(t, c, enrolment("a"))
		enrol(t, at.open(t), enrolment("b"))
		do := writes(t, c)
		at.setClock(n.SignsUntil)
		for what, write := range do {
			if err := write(); !errors.Is(err, keystore.ErrOvertaken) || errors.Is(err, ErrFenced) || !strings.Contains(err.Error(), "renews") {
				t.Errorf("%s, after the lease: %v", what, err)
			}
		}
		if _, err := c.Renew(t.Context(), mustView(t, c).Revision()); err != nil {
			t.Fatal(err)
		}
		for what, write := range do {
			if err := write(); err != nil {
				t.Errorf("%s, renewed: %v", what, err)
			}
		}
		// A start that took longer than the lease failed at the secret, which it had.
		at.setClock(n.SignsUntil.Add(time.Hour))
		if _, err := c.Secret(t.Context(), "salt"); err != nil {
			t.Errorf("a secret that is there, after the lease: %v", err)
		}
	})
}

// A version of which a forgotten node had said nothing signed as soon as that
// node's lease to publish was over, though caches may have had a set without it
// from the lease's last moment.
func TestAForgottenNodeCountsByItsLease(t *testing.T) {
	onPostgres(t, func(t *testing.T, at *place) {
		a, b := at.activated(t), at.open(t)
		n := enrol(t, a, enrolment("a"))
		enrol(t, b, enrolment("b"))
		for name, c := range map[string]*Catalog{"a": a, "b": b} {
			if _, err := c.Acknowledge(t.Context(), name, "web", []int{1}, epoch); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.AddCertificate(t.Context(), certificate("0a")); err != nil {
			t.Fatal(err)
		}
		at.setClock(epoch.Add(time.Second))
		by := keystore.Fact{At: epoch.Add(-time.Hour), By: "op", Reason: "its disk is gone"}
		change, err := b.Forget(t.Context(), "a", by, record(keystore.ActNodeForget))
		if err != nil || len(change.Outbox) != 1 {
			t.Fatalf("%+v, %v", change, err)
		}
		if again, err := b.Forget(t.Context(), "a", by, record(keystore.ActNodeForget)); err != nil || again.Outbox != nil || again.Revision != change.Revision {
			t.Errorf("again: %+v, %v", again, err)
		}
		forgotten, _ := mustView(t, b).Node("a")
		if want := (&keystore.Fact{At: at.now(), By: "op", Reason: "its disk is gone"}); !cmp.Equal(forgotten.Forgotten, want) {
			t.Errorf("forgotten: %+v", forgotten.Forgotten)
		}
		if until, known := forgotten.ServedUntil(); !known || !until.Equal(n.PublishesUntil) {
			t.Errorf("it served until %v", until)
		}
		if got, err := b.Certificate(t.Context(), "0a"); err != nil || got.Status != StatusUnknown {
			t.Errorf("what it left open: %q, %v", got.Status, err)
		}
		at.setClock(n.PublishesUntil.Add(-time.Microsecond))
		fresh := enrolment("a")
		fresh.Identity = [16]byte{9}
		if _, err := a.Enrol(t.Context(), fresh); !errors.Is(err, keystore.ErrExists) {
			t.Errorf("its name, while it may serve: %v", err)
		}
		if got := nodeNames(t, b); got != "a b" || len(set(t, b, "web").Acks) != 2 {
			t.Errorf("within its lease: %s, %v", got, set(t, b, "web").Acks)
		}
		at.setClock(n.PublishesUntil)
		forgotten, _ = mustView(t, b).Node("a") // what caches hold counts from then
		if until, over := forgotten.ServedUntil(); !over || !until.Equal(n.PublishesUntil) || len(set(t, b, "web").Acks) != 2 {
			t.Errorf("after it: served until %v, %v", until, set(t, b, "web").Acks)
		}
		for what, tc := range map[string]struct {
			name string
			want error
		}{"itself": {"b", ErrIllegal}, "nobody": {"c", keystore.ErrNotFound}} {
			if _, err := b.Forget(t.Context(), tc.name, by); !errors.Is(err, tc.want) && !errors.Is(err, keystore.ErrOvertaken) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := a.Enrol(t.Context(), enrolment("a")); !errors.Is(err, keystore.ErrExists) || !strings.Contains(err.Error(), "another name") {
			t.Errorf("it comes back: %v", err)
		}
		enrol(t, a, fresh)
	})
}

func TestANodeDoesNotForgetItselfOrNobody(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.open(t)
		enrol(t, c, enrolment("a"))
		for name, want := range map[string]error{"a": ErrIllegal, "b": keystore.ErrNotFound} {
			if _, err := c.Forget(t.Context(), name, keystore.Fact{By: "op"}); !errors.Is(err, want) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestWhatANodeDoesNotHoldIsWithdrawn(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		step(t, c, "web", 2, keystore.Pending)
		step(t, c, "web", 2, keystore.Published)
		enrol(t, c, enrolment("a"))
		if _, err := at.acknowledge(t, c, "a", []int{1, 2}, epoch.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		before := set(t, c, "web")
		at.setClock(epoch.Add(2 * time.Second))
		enrol(t, c, holding("a", 1, 2))
		if after := set(t, c, "web"); !cmp.Equal(before, after) {
			t.Errorf("it holds both: %s", cmp.Diff(before, after))
		}
		enrol(t, c, holding("a", 2))
		want := before.Clone()
		want.Acks, want.Revision = want.Acks[1:], mustView(t, c).Revision()
		if after := set(t, c, "web"); !cmp.Equal(want, after) {
			t.Errorf("it holds the second: %s", cmp.Diff(want, after))
		}
		change, err := at.acknowledge(t, c, "a", []int{1, 2}, epoch.Add(3*time.Second), record(keystore.ActKeyServed))
		if err != nil || len(change.Outbox) != 1 {
			t.Errorf("said again: %+v, %v", change, err)
		}
		if v := set(t, c, "web").Versions[0]; !v.ServedAt.Equal(epoch.Add(3 * time.Second)) {
			t.Errorf("served at %v", v.ServedAt)
		}
	})
}

// What one node has said of a version, the others see, and each counts.
func TestAcknowledgementsArePerNode(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		for i, node := range []string{"b", "a"} {
			if _, err := at.acknowledge(t, c, node, []int{1}, epoch.Add(time.Duration(i+1)*time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		ks := set(t, c, "web")
		want := []keystore.Ack{{Node: "a", Version: 1, At: epoch.Add(2 * time.Second)}, {Node: "b", Version: 1, At: epoch.Add(time.Second)}}
		if !cmp.Equal(ks.Acks, want) || !ks.Versions[0].ServedAt.Equal(want[0].At) || !ks.ServedAt.Equal(want[1].At) {
			t.Errorf("%+v", ks)
		}
		_, err := c.Update(t.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			if !cmp.Equal(ks.Acks, want) {
				t.Errorf("inside a change: %v", ks.Acks)
			}
			return nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		step(t, c, "web", 1, keystore.Retiring)
		step(t, c, "web", 1, keystore.Retired)
		if acks := set(t, c, "web").Acks; acks != nil {
			t.Errorf("of a version that left: %v", acks)
		}
	})
}

func TestAChangeIsDecidedByTheNodesOfItsMoment(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		n := enrol(t, c, enrolment("a"))
		at.setClock(epoch.Add(time.Second))
		_, err := c.Update(t.Context(), "web", -1, func(m keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			if !m.Now.Equal(at.now()) || !cmp.Equal(m.Nodes, []keystore.Node{n}) {
				t.Errorf("%+v", m)
			}
			return nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// A clock that is set back stands still for the catalog.
func TestAMomentIsNeverBeforeTheLastChange(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		for _, m := range []struct{ clock, want time.Duration }{{time.Hour, time.Hour}, {time.Minute, time.Hour}, {0, time.Hour}, {2 * time.Hour, 2 * time.Hour}} {
			at.setClock(epoch.Add(m.clock))
			_, err := c.Update(t.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
				if !at.Now.Equal(epoch.Add(m.want)) {
					t.Errorf("clock at %v: %v", m.clock, at.Now)
				}
				ks.RotateBy = &keystore.Fact{At: at.Now, By: fmt.Sprint(m)}
				return nil, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := mustView(t, c).Clock(); !got.Equal(epoch.Add(m.want)) {
				t.Errorf("clock at %v: a view says %v", m.clock, got)
			}
		}
	})
}

func TestASetIsOpenedWithAllThatIsKnown(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		step(t, c, "web", 2, keystore.Pending)
		step(t, c, "web", 2, keystore.Published)
		at.setClock(epoch.Add(time.Minute))
		for _, versions := range [][]int{nil, {1}, {2}, {1, 2, 3}, {1, 1}} {
			if _, err := c.Opened(t.Context(), "web", versions); !errors.Is(err, keystore.ErrOvertaken) {
				t.Errorf("%v: %v", versions, err)
			}
		}
		change, err := c.Opened(t.Context(), "web", []int{2, 1})
		if ks := set(t, c, "web"); err != nil || !ks.ServedAt.Equal(at.now()) || ks.Revision != change.Revision {
			t.Errorf("%+v, %v: %+v", change, err, ks)
		}
		at.setClock(epoch.Add(time.Hour))
		again, err := c.Opened(t.Context(), "web", []int{1})
		if err != nil || again.Revision != change.Revision || !set(t, c, "web").ServedAt.Equal(epoch.Add(time.Minute)) {
			t.Errorf("again: %+v, %v", again, err)
		}
		if _, err := c.Opened(t.Context(), "none", []int{1}); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("no such key set: %v", err)
		}
	})
}

func TestAVersionKeepsItsMaker(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		make := func(by string) error {
			_, err := c.Update(t.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
				if len(ks.Versions) == 1 {
					ks.Versions = append(ks.Versions, pending(2))
				}
				ks.Versions[1].Maker = by
				return nil, nil
			})
			return err
		}
		if err := make("a"); err != nil {
			t.Fatal(err)
		}
		step(t, c, "web", 2, keystore.Published)
		if err := make("b"); !errors.Is(err, ErrIllegal) {
			t.Errorf("another maker: %v", err)
		}
		if got := set(t, c, "web").Versions; got[0].Maker != "" || got[1].Maker != "a" {
			t.Errorf("made by %q and %q", got[0].Maker, got[1].Maker)
		}
	})
}
