package catalog

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/keystore"
)

func TestARevisionIsForTheWholeCatalog(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.open(t)
		if got := mustCreate(t, c, keySet("web")); got.Revision != 1 || len(got.Outbox) != 1 {
			t.Errorf("create: %+v", got)
		}
		mustCreate(t, c, keySet("edge"))
		if got := step(t, c, "web", 1, keystore.Pending); got.Revision != 3 {
			t.Errorf("update: %+v", got)
		}
		view, err := c.View(t.Context())
		if err != nil || view.Revision() != 3 || !view.ReadAt().Equal(epoch) {
			t.Errorf("view at %d, %v, %v", view.Revision(), view.ReadAt(), err)
		}
		if web, edge := set(t, c, "web").Revision, set(t, c, "edge").Revision; web != 3 || edge != 2 {
			t.Errorf("web at %d, edge at %d", web, edge)
		}
	})
}

func TestANameIsNeverReused(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.open(t)
		mustCreate(t, c, keySet("web"))
		other := keySet("web")
		other.Purpose = keystore.PurposeCA
		if _, err := c.Create(t.Context(), other); !errors.Is(err, keystore.ErrExists) {
			t.Errorf("got %v", err)
		}
	})
}

func TestUpdateWithoutAChangeWritesNothing(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		rows, _ := c.Outbox(t.Context())
		nothing := func(keystore.Moment, *keystore.KeySet) ([]keystore.Record, error) { return nil, nil }
		if got, err := c.Update(t.Context(), "web", -1, nothing); err != nil || got.Revision != 4 || got.Outbox != nil {
			t.Errorf("nothing: %+v, %v", got, err)
		}
		onlyRecord := func(keystore.Moment, *keystore.KeySet) ([]keystore.Record, error) {
			return []keystore.Record{record(keystore.ActKeyGenerate)}, nil
		}
		if got, err := c.Update(t.Context(), "web", 4, onlyRecord); err != nil || got.Revision != 4 || len(got.Outbox) != 1 {
			t.Errorf("a record alone: %+v, %v", got, err)
		}
		if after, _ := c.Outbox(t.Context()); len(after) != len(rows)+1 {
			t.Errorf("%d rows, then %d", len(rows), len(after))
		}
		refused := errors.New("not now")
		_, err := c.Update(t.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			ks.Keystore = "elsewhere"
			return nil, refused
		})
		if !errors.Is(err, refused) || set(t, c, "web").Keystore != "hsm" {
			t.Errorf("got %v", err)
		}
		if _, err := c.Update(t.Context(), "none", -1, nothing); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAPanicInAnUpdateLeavesTheCatalogOpen(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		func() {
			defer func() { _ = recover() }()
			_, _ = c.Update(t.Context(), "web", -1, func(keystore.Moment, *keystore.KeySet) ([]keystore.Record, error) { panic("f") })
		}()
		step(t, c, "web", 1, keystore.Retiring)
	})
}

func TestS02OfTwoRotatorsOneWins(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		for round := range 20 {
			revision := set(t, c, "web").Revision
			var wins, overtaken int
			var mu sync.Mutex
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					_, err := c.Update(t.Context(), "web", revision, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
						ks.Versions = append(ks.Versions, pending(len(ks.Versions)+1))
						return []keystore.Record{record(keystore.ActKeyGenerate)}, nil
					})
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil:
						wins++
					case errors.Is(err, keystore.ErrOvertaken):
						overtaken++
					default:
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if wins != 1 || overtaken != 1 || len(set(t, c, "web").Versions) != round+2 {
				t.Fatalf("round %d: %d won, %d were overtaken", round, wins, overtaken)
			}
		}
	})
}

func TestAKeyBelongsToOneVersionOfTheWholeCatalog(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		owner := set(t, c, "web").Versions[0]
		mustCreate(t, c, keySet("edge"))
		step(t, c, "edge", 1, keystore.Pending)
		_, err := c.Update(t.Context(), "edge", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			advance(&ks.Versions[0], keystore.Published, epoch)
			ks.Versions[0].KID, ks.Versions[0].SPKI = owner.KID, owner.SPKI
			return nil, nil
		})
		if !errors.Is(err, ErrIllegal) || !strings.Contains(err.Error(), "belongs to") {
			t.Errorf("the same public key: %v", err)
		}
		_, err = c.Update(t.Context(), "edge", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			v := pending(2)
			v.KeyID = owner.KeyID
			ks.Versions = append(ks.Versions, v)
			return nil, nil
		})
		if !errors.Is(err, ErrIllegal) || !strings.Contains(err.Error(), "belongs to") {
			t.Errorf("the same key id: %v", err)
		}
		if yes, err := c.IsOurKey(t.Context(), keystore.HashSPKI(owner.SPKI)); err != nil || !yes {
			t.Errorf("A10: our own key: %v, %v", yes, err)
		}
		if yes, err := c.IsOurKey(t.Context(), keystore.SPKIHash{1}); err != nil || yes {
			t.Errorf("A10: a stranger's key: %v, %v", yes, err)
		}
	})
}

func TestTheSwapOfActiveVersionsIsOneChange(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		step(t, c, "web", 2, keystore.Pending)
		step(t, c, "web", 2, keystore.Published)
		_, err := c.Update(t.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			advance(&ks.Versions[1], keystore.Active, epoch)
			return nil, nil
		})
		if !errors.Is(err, ErrIllegal) {
			t.Errorf("two active: %v", err)
		}
		_, err = c.Update(t.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			advance(&ks.Versions[0], keystore.Retiring, epoch)
			advance(&ks.Versions[1], keystore.Active, epoch)
			return nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := set(t, c, "web").Active(); !ok || v.Number != 2 {
			t.Errorf("active: %v", v)
		}
	})
}

func TestAHorizonIsOnlyRaisedAndOnlyForWhatSigns(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		kid := set(t, c, "web").Versions[0].KID
		ctx := t.Context()
		for _, m := range []struct{ to, want time.Duration }{{time.Hour, time.Hour}, {time.Minute, time.Hour}, {2 * time.Hour, 2 * time.Hour}} {
			if err := c.RaiseHorizon(ctx, kid, epoch.Add(m.to)); err != nil {
				t.Fatal(err)
			}
			if got := set(t, c, "web").Versions[0].ExpHorizon; !got.Equal(epoch.Add(m.want)) {
				t.Errorf("raised to %v: %v", m.to, got)
			}
		}
		if got := set(t, c, "web").Revision; got != 4 {
			t.Errorf("the revision advanced to %d", got)
		}
		if err := c.RaiseHorizon(ctx, "unknown", epoch); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("got %v", err)
		}
		step(t, c, "web", 1, keystore.Retiring)
		step(t, c, "web", 1, keystore.Retired)
		if err := c.RaiseHorizon(ctx, kid, epoch.Add(9*time.Hour)); !errors.Is(err, keystore.ErrOvertaken) {
			t.Errorf("a retired version: %v", err)
		}
	})
}

// It was: a catalog restored from a copy knew horizons that tokens signed since
// outlive, and nothing could raise them before their keys were retired.
func TestARestoredCatalogAssumesTheWorst(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t) // web: 1 active
		ctx := t.Context()
		for _, to := range []keystore.State{keystore.Pending, keystore.Published} {
			step(t, c, "web", 2, to)
		}
		_, err := c.Update(ctx, "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			advance(&ks.Versions[0], keystore.Retiring, epoch)
			advance(&ks.Versions[1], keystore.Active, epoch)
			return nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		step(t, c, "web", 3, keystore.Pending)
		step(t, c, "web", 3, keystore.Published)
		ca := keySet("devices")
		ca.Purpose = keystore.PurposeCA
		mustCreate(t, c, ca)
		for _, to := range []keystore.State{keystore.Pending, keystore.Published, keystore.Active} {
			step(t, c, "devices", 1, to)
		}
		if err := c.RaiseHorizon(ctx, set(t, c, "web").Versions[0].KID, epoch.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		revision := set(t, c, "web").Revision
		raise := func(what string, to map[int]time.Time, want ...time.Duration) {
			t.Helper()
			asked := 0
			err := c.RaiseHorizons(ctx, func(ks *keystore.KeySet, v *keystore.Version) time.Time {
				asked++
				if ks.Name != "web" || v.Number > 2 {
					t.Errorf("%s: asked about %s version %d", what, ks.Name, v.Number)
				}
				at := to[v.Number]
				v.Number, v.State, ks.Name = 9, keystore.Destroyed, "mine" // it is given copies
				return at
			})
			if err != nil || asked != 2 {
				t.Errorf("%s: asked %d times, %v", what, asked, err)
			}
			ks := set(t, c, "web")
			for i, d := range want {
				at := time.Time{}
				if d != 0 {
					at = epoch.Add(d)
				}
				if got := ks.Versions[i].ExpHorizon; !got.Equal(at) {
					t.Errorf("%s: version %d: %v, want %v", what, i+1, got, at)
				}
			}
			if ks.Revision != revision {
				t.Errorf("%s: the revision advanced to %d", what, ks.Revision)
			}
		}
		raise("nothing", nil, time.Hour, 0, 0)
		raise("lower, and from none", map[int]time.Time{1: epoch.Add(time.Minute), 2: epoch.Add(time.Minute)}, time.Hour, time.Minute, 0)
		raise("both, rounded up", map[int]time.Time{1: epoch.Add(2*time.Hour - 1), 2: epoch.Add(2 * time.Hour)}, 2*time.Hour, 2*time.Hour, 0)
		if got := set(t, c, "devices").Versions[0].ExpHorizon; !got.IsZero() {
			t.Errorf("an authority's key has the horizon %v", got)
		}

		lost := errors.New("lost")
		c.commit = func(context.Context, *sql.Conn) error { return lost }
		err = c.RaiseHorizons(ctx, func(*keystore.KeySet, *keystore.Version) time.Time { return epoch.Add(9 * time.Hour) })
		if !errors.Is(err, lost) {
			t.Errorf("got %v", err)
		}
		for i := range 2 {
			if got := set(t, c, "web").Versions[i].ExpHorizon; !got.Equal(epoch.Add(2 * time.Hour)) {
				t.Errorf("half of it happened: %v", got)
			}
		}
	})
}

func TestAnAcknowledgementCountsOnce(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		step(t, c, "web", 2, keystore.Pending)
		if _, err := at.acknowledge(t, c, "dev", []int{2}, epoch); !errors.Is(err, ErrIllegal) {
			t.Errorf("a pending version was served: %v", err)
		}
		step(t, c, "web", 2, keystore.Published)
		first, err := at.acknowledge(t, c, "dev", []int{1, 2}, epoch.Add(time.Minute), record(keystore.ActKeyServed))
		if err != nil || len(first.Outbox) != 1 {
			t.Fatalf("%+v, %v", first, err)
		}
		for range 2 {
			again, err := at.acknowledge(t, c, "dev", []int{1, 2}, epoch.Add(time.Hour), record(keystore.ActKeyServed))
			if err != nil || again.Revision != first.Revision || again.Outbox != nil {
				t.Fatalf("%+v, %v", again, err)
			}
		}
		ks := set(t, c, "web")
		want := epoch.Add(time.Minute)
		if ks.ServedAt != want || ks.Versions[0].ServedAt != want || ks.Versions[1].ServedAt != want || ks.Revision != first.Revision {
			t.Errorf("served at %v, %v, %v", ks.ServedAt, ks.Versions[0].ServedAt, ks.Versions[1].ServedAt)
		}
		if _, err := at.acknowledge(t, c, "second", []int{2}, epoch.Add(2*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if ks := set(t, c, "web"); ks.ServedAt != want || ks.Versions[1].ServedAt != epoch.Add(2*time.Hour) {
			t.Errorf("after a second node: %v, %v", ks.ServedAt, ks.Versions[1].ServedAt)
		}
		step(t, c, "web", 1, keystore.Retiring)
		step(t, c, "web", 1, keystore.Retired)
		if got, err := at.acknowledge(t, c, "third", []int{1}, epoch.Add(3*time.Hour)); err != nil || got.Outbox != nil {
			t.Errorf("a version that left meanwhile: %+v, %v", got, err)
		}
	})
}

func TestS04ACommitWhoseAnswerWasLostIsLookedUp(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		lost := errors.New("the answer was lost")
		publish := func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			ks.Versions = append(ks.Versions, pending(len(ks.Versions)+1))
			return []keystore.Record{record(keystore.ActKeyGenerate)}, nil
		}
		for _, tc := range []struct {
			name     string
			happened bool
			blind    bool // nor can it be looked up
			want     error
		}{
			{"it happened", true, false, nil},
			{"it did not happen", false, false, lost},
			{"nobody can tell", true, true, keystore.ErrUncertain},
		} {
			t.Run(tc.name, func(t *testing.T) {
				c := at.another(t).activated(t)
				c.commit = func(ctx context.Context, conn *sql.Conn) error {
					if tc.happened {
						if err := execCommit(ctx, conn); err != nil {
							t.Error(err)
						}
					}
					if tc.blind {
						blind(c)
					}
					return lost
				}
				change, err := c.Update(t.Context(), "web", -1, publish)
				if !errors.Is(err, tc.want) || tc.want != nil && err == nil {
					t.Fatalf("got %v", err)
				}
				if tc.want == lost && (errors.Is(err, keystore.ErrUncertain) || !strings.Contains(err.Error(), "did not happen")) {
					t.Errorf("got %v", err)
				}
				if tc.blind {
					return
				}
				if got := len(set(t, c, "web").Versions) == 2; got != tc.happened {
					t.Errorf("it happened: %v", got)
				}
				if tc.happened && (change.Revision != 5 || len(change.Outbox) != 1) {
					t.Errorf("got %+v", change)
				}
				c.commit = execCommit
				if _, err := c.Update(t.Context(), "web", -1, publish); err != nil {
					t.Errorf("the next change: %v", err)
				}
			})
		}
	})
}

func TestAChangeCutOffByItsCallerLeavesTheOldState(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		was := set(t, c, "web")
		ctx, cancel := context.WithCancel(t.Context())
		_, err := c.Update(ctx, "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			ks.Keystore = "elsewhere"
			cancel()
			return nil, nil
		})
		if !errors.Is(err, context.Canceled) || !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if diff := cmp.Diff(was, set(t, c, "web")); diff != "" {
			t.Error(diff)
		}
		step(t, c, "web", 1, keystore.Retiring)
	})
}

func TestAViewNeverSeesHalfAChange(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.activated(t)
		done := make(chan struct{})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for last := int64(0); ; {
					select {
					case <-done:
						return
					default:
					}
					view, err := c.View(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					ks, _ := view.KeySet("web")
					if n := len(ks.InState(keystore.Active)); n != 1 || ks.Revision != view.Revision() || view.Revision() < last {
						t.Errorf("revision %d after %d, set at %d: %d active", view.Revision(), last, ks.Revision, n)
					}
					last = view.Revision()
				}
			})
		}
		for n := 2; n < 12; n++ {
			step(t, c, "web", n, keystore.Pending)
			step(t, c, "web", n, keystore.Published)
			_, err := c.Update(t.Context(), "web", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
				advance(&ks.Versions[n-1], keystore.Active, epoch)
				advance(&ks.Versions[n-2], keystore.Retiring, epoch)
				return nil, nil
			})
			if err != nil {
				t.Error(err)
			}
		}
		close(done)
		wg.Wait()
	})
}
