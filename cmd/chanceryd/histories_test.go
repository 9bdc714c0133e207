package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer"
	"chancery/signer/api"
	"chancery/signer/client"
)

// A past is a key set and the entries of its life, for a test.
type past struct {
	t     *testing.T
	set   *keystore.KeySet
	lives *audit.KeyLives
	now   time.Time
	rev   int64
}

func newPast(t *testing.T) *past {
	return &past{
		t: t, set: &keystore.KeySet{Name: "web", Purpose: keystore.PurposeJWT, Algorithm: keystore.EdDSA},
		lives: audit.NewKeyLives(), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
	}
}

// version adds a version in a state, and has the log tell how it came to it.
func (p *past) version(state keystore.State, steps ...keystore.Action) *keystore.Version {
	p.t.Helper()
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	v := keystore.Version{Number: len(p.set.Versions) + 1, State: state, Algorithm: keystore.EdDSA, PublishedAt: p.now, Keystore: "hsm"}
	if v.SPKI, err = keystore.MarshalPublic(pub); err != nil {
		p.t.Fatal(err)
	}
	if v.KID, err = keystore.Thumbprint(pub); err != nil {
		p.t.Fatal(err)
	}
	p.set.Versions = append(p.set.Versions, v)
	for _, action := range steps {
		p.tell(v.Number, action)
	}
	return &p.set.Versions[v.Number-1]
}

// tell has the log tell of a step, a minute after the one before.
func (p *past) tell(number int, action keystore.Action) {
	v, _ := p.set.Version(number)
	rec := keystore.Record{Principal: "operator", Action: action, Outcome: keystore.OutcomeDone, KeySet: p.set.Name, Version: number, KID: v.KID, State: v.State.String(), Reason: "secret words"}
	p.lives.Add(&rec, p.now, fmt.Sprintf("log#%d", p.now.Unix()))
	p.now = p.now.Add(time.Minute)
}

// whole is the life of a version that signs no more.
var whole = []keystore.Action{keystore.ActKeyPublish, keystore.ActKeyActivate, keystore.ActKeyRetire, keystore.ActKeyRemove}

// histories returns one that signs nothing in earnest, and what it has signed.
func (p *past) histories() (h *histories, signed *[]string) {
	signed = new([]string)
	h = newHistories(&views{leases: new(leases)}, func() {}, func() time.Time { return p.now }, slog.New(slog.DiscardHandler))
	h.lives = func(context.Context, string) (*audit.KeyLives, error) { return p.lives, nil }
	h.sign = func(_ context.Context, keyset string, keys []byte) (signer.SignedHistory, error) {
		active, _ := p.set.Active()
		*signed = append(*signed, string(keys))
		return signer.SignedHistory{Token: fmt.Sprintf("%s %d", keyset, len(*signed)), KID: active.KID}, nil
	}
	return h, signed
}

// pass has h look at the set as it is now.
func (p *past) pass(h *histories) {
	p.rev++
	h.views.Install(keystore.NewView(p.rev, p.now, []*keystore.KeySet{p.set.Clone()}), instant{})
	h.pass(p.t.Context())
}

// A history is made when one is due, and stays when none can be made.
func TestWhenAHistoryIsMade(t *testing.T) {
	p := newPast(t)
	first := p.version(keystore.Active, keystore.ActKeyPublish, keystore.ActKeyActivate).Number
	second := p.version(keystore.Published, keystore.ActKeyPublish).Number
	h, signed := p.histories()
	version := func(number int) *keystore.Version { v, _ := p.set.Version(number); return v }
	for _, c := range []struct {
		what  string
		do    func()
		made  int
		serve string // the document; empty: none
	}{
		{"no version has left", func() {}, 0, ""},
		{"one signs no more", func() { version(first).State, version(second).State = keystore.Retiring, keystore.Active }, 0, ""},
		{"it has left, and the log lags", func() { version(first).State = keystore.Retired }, 0, ""},
		{"the log has it", func() { p.tell(first, keystore.ActKeyRemove) }, 1, "web 1"},
		{"nothing new", func() {}, 1, "web 1"},
		{"a day later", func() { p.now = p.now.Add(historyEvery) }, 2, "web 2"},
		{"it is destroyed, which nobody outside minds", func() { version(first).State = keystore.Destroyed }, 2, "web 2"},
		{"suspended, a day later", func() {
			version(second).Suspended = &keystore.Fact{}
			p.now = p.now.Add(historyEvery)
		}, 2, "web 2"},
		{"resumed", func() { version(second).Suspended = nil }, 3, "web 3"},
		{"compromised", func() {
			version(first).Compromised = &keystore.Fact{}
			p.tell(first, keystore.ActCompromise)
		}, 4, "web 4"},
		{"who signed it is compromised, and nobody else signs", func() {
			version(second).Compromised, version(second).State = &keystore.Fact{}, keystore.Retired
			p.tell(second, keystore.ActCompromise)
		}, 4, "withheld"},
		{"another signs", func() { p.version(keystore.Active, keystore.ActKeyPublish, keystore.ActKeyActivate) }, 5, "web 5"},
	} {
		c.do()
		p.pass(h)
		doc, _ := h.Document(p.set)
		got := string(doc.Body)
		if doc.Withheld != "" {
			got = "withheld"
		}
		if len(*signed) != c.made || got != c.serve {
			t.Errorf("%s: %d made, %q served; want %d and %q", c.what, len(*signed), got, c.made, c.serve)
		}
	}
	if last := (*signed)[len(*signed)-1]; strings.Count(last, `"reason":"compromised"`) != 2 || strings.Contains(last, "secret") {
		t.Errorf("signed: %s", last)
	}
	if _, ok := (*histories)(nil).Document(p.set); ok {
		t.Error("served where none is made")
	}
}

// What cannot be signed is tried again, and not at once.
func TestAHistoryThatCannotBeSignedIsTriedAgain(t *testing.T) {
	p := newPast(t)
	p.version(keystore.Retired, whole...)
	p.version(keystore.Active, keystore.ActKeyPublish, keystore.ActKeyActivate)
	h, signed := p.histories()
	works, asked := h.sign, 0
	h.sign = func(context.Context, string, []byte) (signer.SignedHistory, error) {
		asked++
		return signer.SignedHistory{}, errors.New("the token sleeps")
	}
	p.pass(h)
	p.pass(h)
	p.now = p.now.Add(historyRetry)
	p.pass(h)
	if asked != 2 {
		t.Errorf("asked %d times, want 2", asked)
	}
	h.sign = works
	p.now = p.now.Add(historyRetry)
	p.pass(h)
	if _, ok := h.Document(p.set); !ok || len(*signed) != 1 {
		t.Errorf("then %q", *signed)
	}
}

// A history has every key that has left, as the log tells it, or there is none.
func TestTheHistoryIsWhatTheLogSays(t *testing.T) {
	p := newPast(t)
	began := p.now
	gone := p.version(keystore.Destroyed, append(slices.Clone(whole), keystore.ActKeyDestroy)...)
	unused := p.version(keystore.Retired, keystore.ActKeyPublish)
	unused.Compromised = &keystore.Fact{}
	p.tell(unused.Number, keystore.ActCompromise)
	p.version(keystore.Retiring, keystore.ActKeyPublish)
	p.set.Versions = append(p.set.Versions, keystore.Version{Number: 4, State: keystore.Abandoned, Compromised: &keystore.Fact{}})
	keys, err := pastKeys(p.set, p.lives)
	if err != nil || len(keys) != 2 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	at := func(minutes int) time.Time { return began.Add(time.Duration(minutes) * time.Minute) }
	if k := keys[0]; k.KID != gone.KID && k.KID != p.set.Versions[0].KID || k.IssuedAt != at(0) || k.NotBefore != at(1) || k.Expires != at(3) || !k.Revoked.IsZero() {
		t.Errorf("%+v", k)
	}
	if k := keys[1]; k.IssuedAt != at(5) || !k.NotBefore.IsZero() || k.Expires != at(6) || k.Revoked != at(6) || k.Reason != "compromised" {
		t.Errorf("%+v", k)
	}
	p.set.Versions[0].KID = "another"
	if keys, err := pastKeys(p.set, p.lives); err == nil || errors.Is(err, errNotEntered) {
		t.Errorf("another kid than the log's: %v", keys)
	}
}

// A compromised key stands in the signed history that everyone may read; what is
// there is an entry, and no token to anyone.
func TestACompromiseIsInTheHistory(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t), "--fast")
	d.mayCompromise()
	if status, _ := d.get(d.issuer("web") + "/historical-keys.jwt"); status != http.StatusNotFound {
		t.Errorf("status %d before a version has left", status)
	}
	goOIDC := d.goOIDC()
	d.ripe("web")
	before := d.sign(d.client("issuer"), "web", `{"sub":"alice"}`)
	if _, err := d.client("operator").Compromise(t.Context(), "web", api.CompromiseRequest{Reason: "a drill"}); err != nil {
		t.Fatal(err)
	}
	var h *client.History
	url := d.issuer("web") + "/historical-keys.jwt"
	d.within(20*time.Second, "the history has it", func() (err error) {
		if h, err = d.verifier("web").FetchHistory(t.Context(), url); err == nil && h.Keys[before.KID].Revoked.IsZero() {
			err = fmt.Errorf("%+v", h)
		}
		return err
	})
	if k := h.Keys[before.KID]; k.Reason != "compromised" || k.Expires.Before(k.NotBefore) || h.Signer.KID == before.KID {
		t.Errorf("%+v, signed by %s", k, h.Signer.KID)
	}
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	signed, err := io.ReadAll(resp.Body)
	if err != nil || resp.Header.Get("Content-Type") != "application/jwk-set+jwt" || resp.Header.Get("ETag") == "" {
		t.Errorf("%v, %v", resp.Header, err)
	}
	if _, err := d.verifier("web").Verify(t.Context(), string(signed)); !errors.Is(err, client.ErrMalformed) {
		t.Errorf("our verifier: %v", err)
	}
	if err := goOIDC(d.issuer("web"), string(signed)); err == nil || errors.Is(err, errNoKeys) {
		t.Errorf("go-oidc takes it for a token: %v", err)
	}
	_, metadata := d.get(d.issuer("web") + "/.well-known/openid-configuration")
	var said struct {
		URL string `json:"federation_historical_keys_endpoint"`
	}
	if err := json.NewDecoder(bytes.NewReader([]byte(metadata))).Decode(&said); err != nil || said.URL != url {
		t.Errorf("discovery says %q, %v", said.URL, err)
	}
	d.stop()
	entries := d.logged(audit.Filter{Action: keystore.ActSignHistory, KeySet: "web", Outcome: keystore.OutcomeDone})
	if len(entries) == 0 || entries[0].Principal != "chancery" || string(entries[0].KID) == before.KID {
		t.Errorf("%+v", entries)
	}
}
