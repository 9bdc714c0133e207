package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/transit/transittest"
	"chancery/signer/api"
)

// again starts the daemon anew with another configuration.
func (f *faked) again(oldnew ...string) {
	f.t.Helper()
	f.others.stop()
	f.stop()
	edit(f.t, filepath.Join(f.dir, "config.yaml"), oldnew...)
	f.chanceryd = startDev(f.t, f.dir)
	f.begin()
}

// newManual starts a faked whose key set vaulted rotates when it is asked to, and
// may do so a second after it did.
func newManual(t *testing.T) *faked {
	t.Helper()
	windows := func(every, age, cache, skew, ttl string) string {
		return fmt.Sprintf("keystore: vault\n    rotate_every: %s\n    max_age: %s\n    cache_for: %s\n    skew: %s\n    max_ttl: %s\n    default_ttl: %s\n",
			every, age, cache, skew, ttl, ttl)
	}
	return newFakedWith(t, func(*faked) []string {
		return []string{windows("20s", "2s", "4s", "1s", "10s"), windows("1d", "1s", "1s", "500ms", "10s")}
	}, "--fast")
}

// versions returns the versions of vaulted.
func (f *faked) versions() []api.Version {
	f.t.Helper()
	return f.keySet(f.operator, "vaulted").Versions
}

// inState returns the last version of vaulted in a state; 0: none is.
func (f *faked) inState(state keystore.State) (number int) {
	f.t.Helper()
	for _, v := range f.versions() {
		if v.State == state.String() {
			number = v.Version
		}
	}
	return number
}

// awaitVersion waits until a version after another one is in a state.
func (f *faked) awaitVersion(after int, state keystore.State) (number int) {
	f.t.Helper()
	f.within(25*time.Second, fmt.Sprintf("a version after %d is %s", after, state), func() error {
		if number = f.inState(state); number <= after {
			time.Sleep(50 * time.Millisecond)
			return fmt.Errorf("versions %+v", f.versions())
		}
		return nil
	})
	return number
}

// rotateNow activates the successor as soon as that may be.
func (f *faked) rotateNow() {
	f.t.Helper()
	f.within(25*time.Second, "the successor signs", func() error {
		_, err := f.operator.Rotate(f.t.Context(), "vaulted", api.OperateRequest{Reason: "a drill", When: "now"})
		if p, ok := errors.AsType[*api.Problem](err); ok && p.Code != api.CodeTooEarly {
			f.t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		return err
	})
}

// makings are the keys that Vault was asked to make from a request on, by name, and
// how often.
func (f *faked) makings(from int) map[string]int {
	asked := make(map[string]int)
	for _, r := range f.fake.Requests()[from:] {
		if m := jwtKey.FindStringSubmatch(r.Path); m != nil && r.Method == "PUT" {
			asked[m[1]]++
		}
	}
	return asked
}

var jwtKey = regexp.MustCompile(`/keys/(chancery-jwt-[^/]+)$`)

// A vaultMaking is one row of the fault matrix about a key that is made.
type vaultMaking struct {
	row  string
	post transittest.Rule   // for the first request to make it
	then []transittest.Rule // from then on, where KEY is its name
	left int                // versions that come to nothing before one comes to be
}

var vaultMakings = []vaultMaking{
	{row: "V04 made, answered 502", post: transittest.Rule{StatusAfter: 502}},
	{row: "V04 made, the connection cut", post: transittest.Rule{Drop: true}},
	{row: "V04 not made, answered 502", post: transittest.Rule{Status: 502}, left: 1},
	{row: "V04 not made, the connection cut", post: transittest.Rule{Refuse: true}, left: 1},
	{row: "V07 unknown when it was just made", then: []transittest.Rule{unknown(4)}},
	{row: "V07 listed, and unknown for long", then: []transittest.Rule{unknown(11)}},
	{row: "V07 another key when it was just made", then: []transittest.Rule{anotherKey(1)}},
	{row: "V07 another key for a while", then: []transittest.Rule{anotherKey(5)}},
}

// unknown has the key that is made unknown to so many reads.
func unknown(times int) transittest.Rule {
	return transittest.Rule{Method: "GET", Path: "/keys/KEY$", Status: 404, Body: `{"errors":[]}`, Times: times}
}

// anotherKey has so many reads show another public key for the one that is made.
func anotherKey(times int) transittest.Rule {
	return transittest.Rule{Method: "GET", Path: "/keys/KEY$", Times: times, Mangle: func(reply map[string]any) {
		version := reply["data"].(map[string]any)["keys"].(map[string]any)["1"].(map[string]any)
		version["public_key"] = stranger
	}}
}

// stranger is the public key of nobody here.
var stranger = func() string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}()

// making has the next successor be made under a fault, and judges what came of it:
// Vault is asked once for each key, and one that it made is taken.
func (f *faked) making(t *testing.T, v vaultMaking) {
	t.Helper()
	f.in(t)
	before, last, from := len(f.others.all()), len(f.versions()), len(f.fake.Requests())
	post := v.post
	post.Method, post.Path, post.Times, post.Delay = "PUT", jwtKey.String(), 1, 500*time.Millisecond
	f.fake.Script(post)
	f.rotateNow()
	var name string
	f.within(10*time.Second, "a key is asked for", func() error {
		for name = range f.makings(from) {
			return nil
		}
		return errors.New("it is not")
	})
	var then []transittest.Rule
	for _, r := range v.then {
		r.Path = strings.ReplaceAll(r.Path, "KEY", name)
		then = append(then, r)
	}
	if len(then) > 0 { // the request is under way, and keeps its rule
		f.fake.Script(then...)
	}
	began := time.Now()
	next := f.awaitVersion(last, keystore.Published)
	took := time.Since(began)
	if want := last + 1 + v.left; next != want {
		t.Errorf("version %d came to be, want %d", next, want)
	}
	asked := f.makings(from)
	for name, n := range asked {
		if n != 1 {
			t.Errorf("key %s was asked for %d times", name, n)
		}
	}
	if len(asked) != 1+v.left {
		t.Errorf("%d keys were asked for, want %d", len(asked), 1+v.left)
	}
	f.fake.Script()
	if err := f.signs(); err != nil {
		t.Error(err)
	}
	f.othersUnharmed(t, before)
	post.Path = "/keys/KEY"
	how := []string{ruleWords(post)}
	for _, r := range v.then {
		how = append(how, ruleWords(r))
	}
	t.Attr("provoked", strings.Join(how, "; "))
	t.Attr("seen", fmt.Sprintf("%d keys, each asked for once; version %d is published", len(asked), next))
	t.Attr("recovered", took.Round(time.Millisecond).String())
	t.Attr("promises", "I5 I16")
}

// The rows about keys.
func TestVaultKeys(t *testing.T) {
	groups := map[string]func(*testing.T){
		"successors":                   spoiltSuccessors,
		"lost":                         lostKeys,
		"V05 somebody rotates the key": somebodyRotatesTheKey,
		"V13 no room for another key":  noRoomForAnotherKey,
	}
	for lane := range 2 {
		groups[fmt.Sprint("made and destroyed ", lane+1)] = func(t *testing.T) { madeAndDestroyed(t, lane) }
	}
	abreast(t, groups)
}

// madeAndDestroyed is every other one of the rows about keys that are made, and of
// those about keys that are destroyed.
func madeAndDestroyed(t *testing.T, lane int) {
	f := newManual(t)
	for i, v := range vaultMakings {
		if i%2 == lane {
			t.Run(v.row, func(t *testing.T) { f.making(t, v) })
		}
	}
	for i, v := range vaultEnds {
		if i%2 == lane {
			t.Run(v.row, func(t *testing.T) { f.ending(t, v) })
		}
	}
	f.wantNoStrays()
	f.end()
}

// wantNoStrays demands that every key of the mount is a version's.
func (f *faked) wantNoStrays() {
	f.t.Helper()
	found, err := f.operator.Reconcile(f.t.Context(), "vault")
	if err != nil || len(found.Findings) > 0 {
		f.t.Errorf("the comparison found %+v, %v", found, err)
	}
}
