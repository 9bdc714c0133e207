package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/rotation"
	"chancery/signer/api"
)

// Whatever someone with the PIN puts on the token, or takes from it, is told by
// its kind, is entered once, and is neither used nor deleted.
func TestP19A32ReconcileTellsWhatIsOnTheToken(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	operator := d.client("operator")
	d.keySets() // every successor is published
	d.wantFindings(operator)

	const ec = "EC:prime256v1"
	d.pkcs11Tool("--keypairgen", "--key-type", ec, "--usage-sign", "--label", "chancery/jwt/ES256", "--id", "0a01")
	d.pkcs11Tool("--keypairgen", "--key-type", "rsa:2048", "--usage-decrypt", "--label", "vpn", "--id", "0a02")
	d.pkcs11Tool("--keypairgen", "--key-type", ec, "--usage-sign", "--label", "chancery/jwt/ES256", "--id", "0a03")
	d.pkcs11Tool("--delete-object", "--type", "pubkey", "--id", "0a03")
	d.pkcs11Tool("--keygen", "--key-type", "aes:32", "--usage-wrap", "--label", "backup", "--id", "0a05")
	public := filepath.Join(tempDir(t), "public.der")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(public, der, 0o600); err != nil {
		t.Fatal(err)
	}
	d.pkcs11Tool("--write-object", public, "--type", "pubkey", "--label", "chancery/jwt/ES256", "--id", "0a04")
	d.deletePrivateKey("edge", keystore.Active)
	d.within(10*time.Second, "the token is up again", d.servedFor(0))

	// SoftHSM's keys decrypt and unwrap unless it is told otherwise.
	kinds := []string{"orphan", "unknown", "unknown", "attributes", "attributes", "attributes", "attributes", "half_pair", "half_pair", "missing"}
	d.wantFindings(operator, kinds...)
	found := d.wantFindings(operator, kinds...)
	whose := make(map[string]string)
	for _, f := range found.Findings {
		name := f.KeyID
		if f.Version != 0 {
			name = f.KeySet
		}
		whose[f.Kind] += name + " "
		if f.Entry == "" || f.What == "" || f.Todo == "" {
			t.Errorf("%+v", f)
		}
	}
	for kind, want := range map[string]string{"orphan": "0a01 ", "unknown": "0a02 0a05 ", "missing": "edge "} {
		if whose[kind] != want {
			t.Errorf("%s is %q, want %q", kind, whose[kind], want)
		}
	}
	if halves := strings.Fields(whose["half_pair"]); !slices.Contains(halves, "0a03") || !slices.Contains(halves, "0a04") {
		t.Errorf("halves: %q", halves)
	}
	if _, metrics := d.get(d.endpoints.Admin + "/metrics"); !strings.Contains(metrics, "chancery_orphan_keys 5\n") || !strings.Contains(metrics, "chancery_missing_keys 1\n") {
		t.Error("the metrics are not 5 orphans and 1 missing")
	}
	if last, err := d.client("auditor").Reconciled(t.Context()); err != nil || len(last.Findings) != len(kinds) {
		t.Errorf("an auditor reads %+v, %v", last, err)
	}
	_, err = operator.Reconcile(t.Context(), "other")
	wantCode(t, err, api.CodeNotFound)
	_, err = d.client("auditor").Reconcile(t.Context(), "")
	wantCode(t, err, api.CodeForbidden)
	said := d.pkcs11Tool("--list-objects")
	for _, id := range []string{"0a01", "0a02", "0a03", "0a04", "0a05"} {
		if !strings.Contains(said, "ID:         "+id) {
			t.Errorf("%s is not there any more:\n%s", id, said)
		}
	}
	d.sign(d.client("issuer"), "web", `{}`)
	t.Attr("provoked", "pkcs11-tool makes an orphan, half pairs, keys that decrypt and wrap, and deletes a private key")
	t.Attr("seen", "each is told by its kind and with what to do, entered once, and left as it is")
	d.stop()
	d.proven()
	for action, want := range map[keystore.Action]int{keystore.ActKeyOrphan: 5, keystore.ActKeyAttributes: 4, keystore.ActKeyMissing: 1} {
		if n := len(d.logged(audit.Filter{Log: "lifecycle", Action: action})); n != want {
			t.Errorf("%d entries of %s, want %d", n, action, want)
		}
	}
	if n := len(d.logged(audit.Filter{Action: keystore.ActReconcile})); n < 3 {
		t.Errorf("%d entries of comparisons that were asked for", n)
	}
}

// lying is a keystore that does whatever it is asked.
type lying struct{ keystore.Provider }

func (lying) Generate(context.Context, keystore.KeyID, keystore.Purpose, keystore.Algorithm) ([]byte, error) {
	return nil, nil
}

func (lying) Find(context.Context, keystore.KeyID, keystore.Purpose, keystore.Algorithm) ([]byte, error) {
	return nil, nil
}

func (lying) Open(context.Context, keystore.KeyRef, keystore.Purpose) (keystore.Key, error) {
	return lyingKey{sign: func() {}}, nil
}
func (lying) List(context.Context) ([]keystore.Object, error) { return nil, nil }
func (lying) Destroy(context.Context, keystore.KeyRef) error  { return nil }
func (lying) Status() []keystore.TokenStatus {
	return []keystore.TokenStatus{{Keystore: "hsm", State: keystore.TokenReady}}
}

type lyingKey struct {
	keystore.Key
	sign func()
}

func (k lyingKey) Sign(context.Context, []byte) ([]byte, error) {
	k.sign()
	return []byte("signature"), nil
}

// A keystore that is stopped makes and uses no key, also not one that was opened
// before, and can be looked at and cleaned.
func TestAStoppedKeystore(t *testing.T) {
	s := newStops(time.Now, func(keystore.TokenStatus) {})
	p := &stoppable{lying{}, "hsm", s}
	key, err := p.Open(t.Context(), keystore.KeyRef{}, keystore.PurposeJWT)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]func() error{
		"generate": func() error {
			_, err := p.Generate(t.Context(), keystore.KeyID{}, keystore.PurposeJWT, keystore.EdDSA)
			return err
		},
		"find": func() error {
			_, err := p.Find(t.Context(), keystore.KeyID{}, keystore.PurposeJWT, keystore.EdDSA)
			return err
		},
		"open": func() error { _, err := p.Open(t.Context(), keystore.KeyRef{}, keystore.PurposeJWT); return err },
		"sign": func() error { _, err := key.Sign(t.Context(), nil); return err },
	}
	for _, stopped := range []bool{false, true, false} {
		if stopped != s.Stop("hsm", "the destroyed key of web version 1 is there again") && stopped {
			t.Error("it was stopped already")
		}
		state := keystore.TokenStopped
		if !stopped {
			s.Lift("hsm")
			state = keystore.TokenReady
		}
		for name, do := range all {
			if err := do(); errors.Is(err, keystore.ErrUnavailable) != stopped {
				t.Errorf("%s, stopped %v: %v", name, stopped, err)
			}
		}
		if got := p.Status()[0]; got.State != state || (got.Err != "") != stopped {
			t.Errorf("stopped %v: %+v", stopped, got)
		}
		_, err := p.List(t.Context())
		if err := errors.Join(err, p.Destroy(t.Context(), keystore.KeyRef{})); err != nil {
			t.Errorf("stopped %v: %v", stopped, err)
		}
	}
	slow := stoppableKey{lyingKey{sign: func() { s.Stop("hsm", "x") }}, p}
	if sig, err := slow.Sign(t.Context(), nil); err == nil || sig != nil {
		t.Error("what was signed while it was stopped was released")
	}
	if s.Stop("hsm", "y") || !s.Lift("hsm") || s.Lift("hsm") {
		t.Error("a stop is told more than once")
	}
}

// Of two comparisons that end in another order than they began, the later one
// counts; one that saw nothing changes nothing.
func TestTheLaterComparisonCounts(t *testing.T) {
	s := newStops(time.Now, func(keystore.TokenStatus) {})
	c := &comparing{stops: s, turn: make(map[string]int64), stray: make(map[string]int), last: make(map[string]api.Reconciliation)}
	bad := []rotation.Mismatch{{Kind: rotation.KeyResurrected, Keystore: "hsm", KeySet: "web", Version: 1}}
	for _, step := range []struct {
		what    string
		turn    int64
		seen    bool
		found   []rotation.Mismatch
		stopped bool
		changed int
	}{
		{"the key is there", 2, true, bad, true, 1},
		{"an older one did not see it", 1, true, nil, true, 0},
		{"one could not look", 3, false, nil, true, 0},
		{"it is gone", 4, true, nil, false, 1},
		{"an older one saw it", 3, true, bad, false, 0},
		{"another keystore's", 5, true, []rotation.Mismatch{{Kind: rotation.KeyResurrected, Keystore: "other"}}, false, 0},
	} {
		changed := c.keep(rotation.Reconciliation{
			At: time.Now(), Keystores: []rotation.Compared{{Keystore: "hsm", Seen: step.seen, Turn: step.turn}}, Mismatches: step.found,
		}, true)
		if (s.Why("hsm") != nil) != step.stopped || len(changed) != step.changed {
			t.Errorf("%s: %v, changed %q", step.what, s.Why("hsm"), changed)
		}
	}
}

// What the log has of former processes: which keystore was stopped last, which
// destructions have no outcome, and what came from the catalog.
func TestWhatTheLogTells(t *testing.T) {
	token := func(name string, s keystore.TokenState) keystore.Record {
		return keystore.Record{Action: keystore.ActTokenState, State: string(s), Reason: "why", Detail: map[string]string{"keystore": name}}
	}
	destroy := func(id string, o keystore.Outcome) keystore.Record {
		return keystore.Record{ID: id, Action: keystore.ActKeyDestroy, Outcome: o}
	}
	have := remembered{proven: make(map[keystore.KID]bool), stopped: make(map[string]string)}
	for _, rec := range []keystore.Record{
		token("a", keystore.TokenStopped), token("b", keystore.TokenStopped), token("a", keystore.TokenReady), token("c", keystore.TokenReady),
		destroy("1", keystore.OutcomeIntent), destroy("2", keystore.OutcomeIntent), destroy("1", keystore.OutcomeDone),
		destroy("3", keystore.OutcomeIntent), destroy("3", keystore.OutcomeUnknown),
		{ID: "p", Action: keystore.ActKeyProven, KID: "k"}, {ID: "m", Action: keystore.ActKeyMissing}, {ID: "r", Action: keystore.ActKeyResurrected},
	} {
		have.add(rec)
	}
	if len(have.stopped) != 1 || have.stopped["b"] != "why" || len(have.open) != 1 || have.open[0].ID != "2" || have.last.ID != "3" || !have.proven["k"] {
		t.Errorf("%+v", have)
	}
}
