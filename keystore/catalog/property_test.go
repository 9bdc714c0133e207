package catalog

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"chancery/keystore"
	"chancery/keystore/catalog/postgrestest"
)

// A catalogModel is what the catalog should hold after random legal and illegal
// changes.
type catalogModel struct {
	at       *place
	c        *Catalog
	sets     map[string]*keystore.KeySet
	revision int64
	records  int
	kids     map[keystore.KID]string // where a KID was ever seen
}

func TestNoSequenceOfChangesBreaksTheCatalog(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		checkSequences(t, func() *place { return inFile(t) })
	})
	t.Run("postgres", func(t *testing.T) {
		url, name, s := postgrestest.Database(t)
		checkSequences(t, func() *place {
			s.Exec(name, "DROP SCHEMA IF EXISTS chancery CASCADE") // dearer than a schema is a database
			return &place{url: url, time: epoch}
		})
	})
}

func checkSequences(t *testing.T, empty func() *place) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &catalogModel{at: empty(), sets: make(map[string]*keystore.KeySet), kids: make(map[keystore.KID]string)}
		m.open(rt)
		defer func() { _ = m.c.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"":            m.check,
			"create":      m.create,
			"advance":     m.advance,
			"scramble":    m.scramble,
			"horizon":     m.horizon,
			"acknowledge": m.acknowledge,
			"reopen": func(rt *rapid.T) {
				if err := m.c.Close(); err != nil {
					rt.Fatal(err)
				}
				m.open(rt)
			},
		})
	})
}

func (m *catalogModel) open(rt *rapid.T) {
	var err error
	if m.c, err = Open(rt.Context(), m.at.config()); err != nil {
		rt.Fatal(err)
	}
}

func (m *catalogModel) name(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"web", "edge", "devices"}).Draw(rt, "name")
}

func (m *catalogModel) create(rt *rapid.T) {
	name := m.name(rt)
	change, err := m.c.Create(rt.Context(), keySet(name), record(keystore.ActKeySetCreate))
	if _, exists := m.sets[name]; exists {
		if !errors.Is(err, keystore.ErrExists) {
			rt.Fatalf("a name was reused: %v", err)
		}
		return
	}
	if err != nil {
		rt.Fatal(err)
	}
	m.sets[name] = keySet(name)
	m.accept(name, m.sets[name], change, 1)
}

// accept takes over a change the catalog made.
func (m *catalogModel) accept(name string, ks *keystore.KeySet, change Change, records int) {
	m.revision++
	m.records += records
	ks.Revision = change.Revision
	ks.Acks = slices.DeleteFunc(ks.Acks, func(a keystore.Ack) bool {
		v, _ := ks.Version(a.Version)
		return !v.State.Known()
	})
	if len(ks.Acks) == 0 {
		ks.Acks = nil
	}
	m.sets[name] = ks
}

// advance moves a random version to a random state, properly filled in. The
// catalog takes it exactly if the move is legal.
func (m *catalogModel) advance(rt *rapid.T) {
	name := m.name(rt)
	old, exists := m.sets[name]
	if !exists {
		return
	}
	next := old.Clone()
	number := rapid.IntRange(1, len(next.Versions)+1).Draw(rt, "number")
	legal := true
	if number > len(next.Versions) {
		next.Versions = append(next.Versions, pending(number))
	} else {
		v := &next.Versions[number-1]
		to := keystore.State(rapid.IntRange(1, 7).Draw(rt, "state"))
		if to == v.State {
			return
		}
		_, hasActive := old.Active()
		legal = v.State.MayBecome(to) && !(to == keystore.Active && (hasActive || v.Suspended != nil))
		advance(v, to, epoch)
	}
	m.update(rt, name, next, legal)
}

func (m *catalogModel) update(rt *rapid.T, name string, next *keystore.KeySet, legal bool) {
	expect := rapid.SampledFrom([]int64{-1, m.sets[name].Revision, m.sets[name].Revision - 1}).Draw(rt, "expect")
	change, err := m.c.Update(rt.Context(), name, expect, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
		*ks = *next.Clone()
		return []keystore.Record{record(keystore.ActRotate)}, nil
	})
	switch {
	case expect >= 0 && expect != m.sets[name].Revision:
		if !errors.Is(err, keystore.ErrOvertaken) {
			rt.Fatalf("a change against an old revision: %v", err)
		}
	case !legal:
		if !errors.Is(err, ErrIllegal) {
			rt.Fatalf("an illegal change: %v", err)
		}
	case err != nil:
		rt.Fatalf("a legal change: %v", err)
	default:
		m.accept(name, next, change, 1)
	}
}

// scramble makes one change that is always illegal.
func (m *catalogModel) scramble(rt *rapid.T) {
	name := m.name(rt)
	old, exists := m.sets[name]
	if !exists || len(old.Versions) == 0 {
		return
	}
	next := old.Clone()
	v := &next.Versions[rapid.IntRange(0, len(next.Versions)-1).Draw(rt, "index")]
	switch rapid.IntRange(0, 7).Draw(rt, "kind") {
	case 0:
		next.Purpose = keystore.PurposeCA
	case 1:
		next.Versions = next.Versions[:len(next.Versions)-1]
	case 2:
		v.KeyID = keystore.NewKeyID()
	case 3:
		v.KID += "x"
	case 4:
		v.CreatedAt = v.CreatedAt.Add(time.Second)
	case 5:
		v.ServedAt = epoch.Add(time.Hour)
	case 6:
		next.Promises = next.Promises[1:]
	case 7:
		v.Number++
	}
	m.update(rt, name, next, false)
}

func (m *catalogModel) horizon(rt *rapid.T) {
	ks, exists := m.sets[m.name(rt)]
	if !exists {
		return
	}
	v, ok := ks.Active()
	if !ok {
		return
	}
	to := epoch.Add(time.Duration(rapid.Int64Range(0, 1e6).Draw(rt, "horizon")) * time.Microsecond)
	if err := m.c.RaiseHorizon(rt.Context(), v.KID, to); err != nil {
		rt.Fatal(err)
	}
	if to.After(v.ExpHorizon) {
		v.ExpHorizon = to
	}
}

func (m *catalogModel) acknowledge(rt *rapid.T) {
	name := m.name(rt)
	ks, exists := m.sets[name]
	if !exists {
		return
	}
	at := epoch.Add(time.Minute)
	var numbers []int
	next := ks.Clone()
	isNew := false
	for _, v := range next.Known() {
		numbers = append(numbers, v.Number)
		if v.ServedAt.IsZero() {
			v.ServedAt, isNew = at, true
			next.Acks = append(next.Acks, keystore.Ack{Node: "dev", Version: v.Number, At: at})
		}
	}
	slices.SortFunc(next.Acks, func(a, b keystore.Ack) int { return a.Version - b.Version })
	m.at.setClock(at)
	change, err := m.c.Acknowledge(rt.Context(), "dev", name, numbers, at, record(keystore.ActKeyServed))
	if err != nil {
		rt.Fatal(err)
	}
	if !isNew {
		return
	}
	if next.ServedAt.IsZero() {
		next.ServedAt = at
	}
	m.accept(name, next, change, 1)
}

// check compares the catalog with the model and holds it against what must
// always be true.
func (m *catalogModel) check(rt *rapid.T) {
	view, err := m.c.View(rt.Context())
	if err != nil {
		rt.Fatal(err)
	}
	if view.Revision() != m.revision {
		rt.Fatalf("revision %d, want %d", view.Revision(), m.revision)
	}
	names := slices.Sorted(maps.Keys(m.sets))
	var got []string
	for _, ks := range view.KeySets() {
		got = append(got, ks.Name)
		if diff := cmp.Diff(m.sets[ks.Name], ks); diff != "" {
			rt.Fatalf("key set %s: %s", ks.Name, diff)
		}
		if active := len(ks.InState(keystore.Active)); active > 1 {
			rt.Fatalf("%d active", active)
		}
		for _, v := range ks.Versions {
			owner := fmt.Sprint(ks.Name, v.Number)
			if was, seen := m.kids[v.KID]; v.KID != "" && seen && was != owner {
				rt.Fatalf("KID of %s was %s's", owner, was)
			}
			m.kids[v.KID] = owner
		}
	}
	if !slices.Equal(got, names) {
		rt.Fatalf("key sets %v, want %v", got, names)
	}
	rows, err := m.c.Outbox(rt.Context())
	if err != nil || len(rows) != m.records {
		rt.Fatalf("%d records, want %d, %v", len(rows), m.records, err)
	}
}
