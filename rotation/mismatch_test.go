package rotation

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
)

// What a keystore holds, and what is told of it: kind, whose, what an operator
// does. The texts are what people read.
func TestMismatches(t *testing.T) {
	const ours = "chancery/jwt/EdDSA"
	ids := map[string]keystore.KeyID{}
	id := func(name string) keystore.KeyID {
		if _, ok := ids[name]; !ok {
			ids[name] = keystore.NewKeyID()
		}
		return ids[name]
	}
	version := func(n int, s keystore.State) row {
		name := fmt.Sprint("v", n)
		return row{"web", &keystore.Version{Number: n, KID: keystore.KID(name), KeyID: id(name), SPKI: []byte(name), State: s}}
	}
	key := func(name string, missing ...string) keystore.Object {
		return keystore.Object{Token: "t", ID: id(name).String(), Label: ours, Type: "Ed25519", SPKI: []byte(name), Missing: missing}
	}
	labelled := func(o keystore.Object, label string) keystore.Object { o.Label = label; return o }
	with := func(o keystore.Object, spki []byte) keystore.Object { o.SPKI = spki; return o }
	for _, c := range []struct {
		what    string
		rows    []row
		newer   []row // after the keystore was asked; nil: the same
		objects []keystore.Object
		want    []string // "kind whose: what; todo"
	}{
		{"all is well", []row{version(1, keystore.Retired), version(2, keystore.Active), version(3, keystore.Published)}, nil,
			[]keystore.Object{key("v1"), key("v2"), key("v3"), key("probe")}, nil},
		{"P18: no version names it", nil, nil, []keystore.Object{key("x")},
			[]string{"orphan -: no version names it; nothing uses it here; if no backup of the catalog has it and no other Chancery uses the keystore, delete it with the keystore's own tool"}},
		{"an abandoned version's", []row{version(1, keystore.Abandoned)}, nil, []keystore.Object{key("v1")}, []string{"orphan -: no version names it"}},
		{"P19: someone else's", nil, nil, []keystore.Object{labelled(key("x"), "vpn")},
			[]string{"unknown -: it is not Chancery's; nothing uses it; find out whose it is: a token of its own is best for Chancery"}},
		{"P19: no label and no id", nil, nil, []keystore.Object{{Token: "t", Missing: []string{"CKA_ID"}}}, []string{"unknown -"}},
		{"P19: a public key alone", nil, nil, []keystore.Object{key("x", privateHalf)},
			[]string{"half_pair -: a public key without its private half, which no version names; nothing uses it; delete it with the keystore's own tool"}},
		{"P20: a private key alone", nil, nil, []keystore.Object{with(key("x"), nil)}, []string{"half_pair -: a private key without its public half, which no version names"}},
		{"P20: a version's private key alone", []row{version(2, keystore.Active)}, nil, []keystore.Object{with(key("v2"), nil)},
			[]string{"half_pair web 2: its public half is not there, or there are several; put the public half back from a backup of the token, or run `chancery rotation now web`"}},
		{"the active version's is gone", []row{version(2, keystore.Active)}, nil, nil,
			[]string{"missing web 2: its private key is not there; run `chancery rotation now web`, and find out who deleted it"}},
		{"its private half is", []row{version(2, keystore.Active)}, nil, []keystore.Object{key("v2", privateHalf)}, []string{"missing web 2"}},
		{"another key goes by its id", []row{version(2, keystore.Active)}, nil, []keystore.Object{with(key("v2"), []byte("other"))}, []string{"missing web 2"}},
		{"two keys go by its id", []row{version(2, keystore.Active)}, nil, []keystore.Object{key("v2"), key("v2")},
			[]string{"orphan -: it goes by the id of web version 2, beside that version's key"}},
		{"the next version's is gone", []row{version(3, keystore.Published)}, nil, nil,
			[]string{"missing web 3: its private key is not there; nothing: another one is made in its place; find out who deleted it"}},
		{"a retiring version's is gone", []row{version(1, keystore.Retiring)}, nil, nil,
			[]string{"missing web 1: its private key is not there; nothing: it does not sign any more; find out who deleted it"}},
		{"a destruction was cut short", []row{version(1, keystore.Retired)}, nil, nil,
			[]string{"missing web 1: its private key is not there; if a destruction was cut short, run `chancery keys destroy web 1 --reason WHY` again; if not, find out who deleted it"}},
		{"destroyed", []row{version(1, keystore.Destroyed)}, nil, nil, nil},
		{"and there again", []row{version(1, keystore.Destroyed)}, nil, []keystore.Object{key("v1")},
			[]string{"resurrected web 1: the private key was destroyed and is there again; its token is stopped: find out who put it back, then run `chancery keys destroy web 1 --reason WHY`"}},
		{"and there again by another id", []row{version(1, keystore.Destroyed)}, nil,
			[]keystore.Object{with(labelled(key("x"), "vpn"), []byte("v1"))}, []string{"resurrected web 1"}},
		{"its public half is left", []row{version(1, keystore.Destroyed)}, nil, []keystore.Object{key("v1", privateHalf)},
			[]string{"half_pair web 1: the public half of a destroyed key is left; run `chancery keys destroy web 1 --reason WHY` again"}},
		{"destroyed meanwhile", []row{version(1, keystore.Retired)}, []row{version(1, keystore.Destroyed)}, []keystore.Object{key("v1")}, nil},
		{"destroyed meanwhile, and seen so", []row{version(1, keystore.Retired)}, []row{version(1, keystore.Destroyed)}, nil, nil},
		{"made meanwhile", []row{}, []row{version(1, keystore.Published)}, []keystore.Object{key("v1")}, nil},
		{"published meanwhile", []row{version(1, keystore.Pending)}, []row{version(1, keystore.Published)}, nil, nil},
		{"pending", []row{version(1, keystore.Pending)}, nil, []keystore.Object{key("v1")}, nil},
		{"A32: a version's key can be copied", []row{version(2, keystore.Active)}, nil, []keystore.Object{key("v2", "CKA_EXTRACTABLE", "CKA_COPYABLE")},
			[]string{"attributes web 2: it lacks what is required: CKA_EXTRACTABLE, CKA_COPYABLE; find out who made it so, and run `chancery rotation now web`"}},
		{"A32: someone else's unwraps", nil, nil, []keystore.Object{labelled(key("x", "CKA_LOCAL", "CKA_UNWRAP", "CKA_DECRYPT"), "vpn")},
			[]string{"unknown -", "attributes -: it does more than sign: CKA_UNWRAP, CKA_DECRYPT; nothing uses it, but whoever can use the keystore can: find out whose it is, and delete it with the keystore's own tool"}},
		{"A32: the probe key", nil, nil, []keystore.Object{key("probe", "CKA_NEVER_EXTRACTABLE")}, []string{"attributes -: it lacks what is required: CKA_NEVER_EXTRACTABLE"}},
	} {
		byID := func(rows []row) map[string]row {
			m := map[string]row{}
			for _, r := range rows {
				m[r.version.KeyID.String()] = r
			}
			return m
		}
		if c.newer == nil {
			c.newer = c.rows
		}
		found := mismatches("hsm", byID(c.rows), byID(c.newer), c.objects, func(o keystore.Object) bool { return o.ID == id("probe").String() })
		var got []string
		for _, m := range found {
			whose := "-"
			if m.Version != 0 {
				whose = fmt.Sprint(m.KeySet, " ", m.Version)
			}
			got = append(got, fmt.Sprintf("%s %s: %s; %s", m.Kind, whose, m.What, m.Todo))
			if m.Keystore != "hsm" || mismatchRecord(&m).Action == "" {
				t.Errorf("%s: %+v is entered as %+v", c.what, m, mismatchRecord(&m))
			}
		}
		if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
			t.Errorf("%s:\nfound %q\nwant  %q", c.what, got, c.want)
		}
	}
}

// A crash left pending versions: what became of each is told.
func TestReconcileTellsWhatItFinished(t *testing.T) {
	for _, c := range []struct {
		what  string
		there bool
		kind  MismatchKind
		todo  string
	}{
		{"its key is there", true, KeyAdopted, "nothing: rotation goes on with it"},
		{"its key never came to be", false, KeyFinished, "nothing: rotation makes another one if one is needed"},
	} {
		w := newWorld(t, fast)
		w.token.generate = func() error { return keystore.ErrUncertain }
		if c.there {
			w.token.generate, w.token.lose = nil, true
		}
		s, _, _ := w.of("web")
		if _, err := w.locked(t.Context(), "web", s); !errors.Is(err, keystore.ErrUncertain) {
			t.Fatal(err)
		}
		found, err := w.Reconcile(t.Context(), "hsm")
		if err != nil || len(found.Mismatches) != 1 {
			t.Fatalf("%s: %+v, %v", c.what, found, err)
		}
		if m := found.Mismatches[0]; m.Kind != c.kind || m.Version != 1 || m.KeySet != "web" || m.Todo != c.todo || m.Entry == "" {
			t.Errorf("%s: %+v", c.what, m)
		}
		if again, err := w.Reconcile(t.Context(), ""); err != nil || len(again.Mismatches) != 0 {
			t.Errorf("%s, again: %+v, %v", c.what, again, err)
		}
	}
}

// A keystore that is down is named, and holds up no other; one that nobody knows
// is an error; a catalog that cannot be read is one as well.
func TestReconcileGoesOn(t *testing.T) {
	w := newWorld(t, fast)
	w.settle(t)
	w.cfg.Keystores = []string{"hsm", "spare"}
	good, bad := w.token, newSoftware()
	bad.down = fmt.Errorf("no such slot: %w", keystore.ErrUnavailable)
	w.cfg.Keys = several{"hsm": good, "spare": bad}
	found, err := w.Reconcile(t.Context(), "")
	if err != nil || len(found.Keystores) != 2 {
		t.Fatalf("%+v, %v", found, err)
	}
	if k := found.Keystores[0]; k.Keystore != "hsm" || k.Objects != 2 || !k.Seen || k.Err != nil {
		t.Errorf("%+v", k)
	}
	if k := found.Keystores[1]; k.Keystore != "spare" || k.Seen || !errors.Is(k.Err, keystore.ErrUnavailable) || !errors.Is(found.Err(), keystore.ErrUnavailable) {
		t.Errorf("%+v", k)
	}
	if found, err := w.Reconcile(t.Context(), "hsm"); err != nil || len(found.Keystores) != 1 || found.Err() != nil {
		t.Errorf("%+v, %v", found, err)
	}
	if _, err := w.Reconcile(t.Context(), "other"); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("no such keystore: %v", err)
	}
	w.catalog.full = errors.New("disk full")
	delete(good.keys, w.catalog.set("web").Versions[0].KeyID)
	found, err = w.Reconcile(t.Context(), "hsm")
	if err != nil || len(found.Mismatches) != 1 || found.Mismatches[0].Entry != "" || found.Err() == nil || !found.Keystores[0].Seen {
		t.Errorf("while the log is full: %+v, %v", found, err)
	}
	w.catalog.down = keystore.ErrUnavailable
	if _, err := w.Reconcile(t.Context(), ""); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("while the catalog is down: %v", err)
	}
}

type several map[string]*software

func (s several) Provider(name string) (keystore.Provider, error) {
	if p, ok := s[name]; ok {
		return p, nil
	}
	return nil, keystore.ErrNotFound
}

// A destroyed key that is there again is told, is entered once, and can be
// destroyed again, though its token is stopped.
func TestResurrected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := retired(t)
		v := w.catalog.set("web").Versions[0]
		backup := ed25519.PrivateKey(slices.Clone(w.token.keys[v.KeyID]))
		if _, err := w.destroy(1); err != nil {
			t.Fatal(err)
		}
		w.token.keys[v.KeyID] = backup
		for range 2 {
			found, err := w.Reconcile(t.Context(), "")
			if err != nil || len(found.Mismatches) != 1 || found.Mismatches[0].Kind != KeyResurrected || found.Mismatches[0].Entry == "" {
				t.Fatalf("%+v, %v", found, err)
			}
		}
		n := 0
		for _, e := range w.catalog.entries() {
			if e.Record.Action == keystore.ActKeyResurrected {
				n++
			}
		}
		if n != 1 {
			t.Errorf("it was entered %d times", n)
		}
		w.token.state = keystore.TokenStopped
		if _, err := w.destroy(1); err != nil {
			t.Fatal(err)
		}
		if found, err := w.Reconcile(t.Context(), ""); err != nil || len(found.Mismatches) != 0 {
			t.Errorf("%+v, %v", found, err)
		}
		checkEntries(t, w.catalog.entries())
	})
}

// A key that is being destroyed is not compared meanwhile, and who waits for a
// comparison that hangs does so no longer than its context.
func TestDestroyAndCompareTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := retired(t)
		leave, err := w.enterKeystore(t.Context(), "hsm")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = w.Destroy(ctx, Destroying{By: "olga", KeySet: "web", Version: 1, Reason: "r"})
		if !errors.Is(err, keystore.ErrUnavailable) || w.destructions() != "" {
			t.Errorf("%v, %q", err, w.destructions())
		}
		found, err := w.Reconcile(t.Context(), "")
		if err != nil || !errors.Is(found.Err(), keystore.ErrUnavailable) {
			t.Errorf("%+v, %v", found, err)
		}
		leave()
		if _, err := w.destroy(1); err != nil {
			t.Error(err)
		}
	})
}

// A comparison used to take back that a key cannot be used when it was listed, also
// with what it cannot be used for.
func TestAComparisonTakesBackWhatItSees(t *testing.T) {
	w := newWorld(t, fast)
	w.settle(t)
	set := w.catalog.set("web")
	v := &set.Versions[0]
	rows := map[string]row{v.KeyID.String(): {set.Name, v}}
	for _, kind := range []MismatchKind{KeyAttributes, KeyHalfPair, KeyMissing, ""} {
		w.Lost(v.KID, keystore.ErrAttributes)
		var found []Mismatch
		if kind != "" {
			found = []Mismatch{{Kind: kind, Version: v.Number, KID: v.KID}}
		}
		w.tellLost("hsm", rows, found)
		if told := w.Trouble(v.KID) != ""; told != (kind != "") {
			t.Errorf("found %q: it cannot be used: %v", kind, told)
		}
	}
}
