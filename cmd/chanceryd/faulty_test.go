package main

import (
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
	"chancery/signer/client"
	"chancery/softhsm"
	"chancery/softhsm/faultmodule"
	"chancery/softhsm/softhsmtest"
)

// requestWithin is what the daemon gives a request, and what is added to it by
// promise I6.
const requestWithin = 10*time.Second + 100*time.Millisecond

// A faulty is a daemon with two tokens: the key sets web, legacy and edge are on
// one that works, the key set remote is on one behind the fault module.
type faulty struct {
	*chanceryd
	token  *softhsm.Token
	module *faultmodule.Module
	issuer *client.Client
	others *crowd // who sign with web all the while
}

// faultyConfig makes the directory of a faulty, whose daemon has not started.
func faultyConfig(t *testing.T) *faulty {
	t.Helper()
	dir := tempDir(t)
	startDev(t, dir).stop()
	token, err := softhsm.Create(t.Context(), filepath.Join(dir, "second"), "second")
	if err != nil {
		t.Fatal(err)
	}
	softhsmtest.Watch(t, token)
	module, err := faultmodule.New(filepath.Join(dir, "second"), token.Module)
	if err != nil {
		t.Fatal(err)
	}
	env := []string{fmt.Sprintf("SOFTHSM2_CONF: '%s'", token.Conf)}
	for name, value := range module.Env() {
		env = append(env, fmt.Sprintf("%s: '%s'", name, value))
	}
	edit(t, filepath.Join(dir, "config.yaml"), "listeners:\n", fmt.Sprintf(`  other:
    pkcs11:
      module: '%s'
      token: '%s'
      env: {%s}
      confine: {write: ['%s']}

listeners:
`, module.Path, token.URI(), strings.Join(env, ", "), filepath.Join(dir, "second")),
		"keysets:\n  # rotate_every", "keysets:\n  remote: {purpose: jwt, algorithm: ES256, keystore: other, rotate_every: 30d}\n  # rotate_every",
		"keysets: [web, legacy, edge]", "keysets: [web, legacy, edge, remote]")
	return &faulty{token: token, module: module, chanceryd: &chanceryd{t: t, dir: dir}}
}

// newFaulty starts the daemon of a faulty, with three clients on web.
func newFaulty(t *testing.T) *faulty {
	t.Helper()
	f := faultyConfig(t)
	f.chanceryd = startDev(t, f.dir)
	f.begin()
	return f
}

func (f *faulty) begin() {
	f.t.Helper()
	f.issuer = f.client("issuer")
	f.within(30*time.Second, "remote signs", f.signs)
	f.within(30*time.Second, "remote has a successor", func() error {
		if n := len(f.published("remote")); n < 2 {
			return fmt.Errorf("%d keys published", n)
		}
		return nil
	})
	f.others = f.crowd(3, othersPause, "web")
}

// signs signs with remote once.
func (f *faulty) signs() error {
	began := time.Now()
	reply, err := f.issuer.SignJWT(f.t.Context(), api.SignJWTRequest{KeySet: "remote", Claims: []byte(`{"sub":"fault"}`)})
	if took := time.Since(began); took > requestWithin {
		f.t.Errorf("I6: a request took %v", took)
	}
	if err != nil {
		return err
	}
	if _, err := f.verifier("remote").Verify(f.t.Context(), reply.Token); err != nil {
		f.t.Errorf("I2: what was released does not verify: %v", err)
	}
	return nil
}

// order gives the module its orders.
func (f *faulty) order(lines ...string) {
	f.t.Helper()
	for i := range lines {
		lines[i] = strings.ReplaceAll(lines[i], "SERIAL", f.token.Serial)
	}
	if err := f.module.Order(lines...); err != nil {
		f.t.Fatal(err)
	}
}

// remoteWorkers returns the workers that have the fault module loaded.
func (f *faulty) remoteWorkers() []int {
	return slices.DeleteFunc(f.workers(), func(pid int) bool {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		return err != nil || !strings.Contains(string(maps), f.module.Path)
	})
}

// keyID returns the CKA_ID of a version of remote, in hexadecimal.
func (f *faulty) keyID(version int) string {
	f.t.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(f.dir, "catalog.db")+"?mode=ro&_busy_timeout=10000")
	if err != nil {
		f.t.Fatal(err)
	}
	defer db.Close()
	var id []byte
	if err := db.QueryRowContext(f.t.Context(), "SELECT key_id FROM version WHERE keyset = 'remote' AND number = ?", version).Scan(&id); err != nil {
		f.t.Fatalf("version %d of remote: %v", version, err)
	}
	return hex.EncodeToString(id)
}

// state returns the state of the token behind the fault module.
func (f *faulty) state() keystore.TokenState {
	f.t.Helper()
	list, err := f.client("operator").Tokens(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, token := range list.Tokens {
		if token.Keystore == "other" {
			return keystore.TokenState(token.State)
		}
	}
	f.t.Fatal("the keystore is not listed")
	return ""
}

// awaitState waits until the token is in a state.
func (f *faulty) awaitState(want keystore.TokenState) {
	f.t.Helper()
	f.within(30*time.Second, "the token is "+string(want), func() error {
		if got := f.state(); got != want {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
}

// A fault is one row of the fault matrix.
type fault struct {
	row    string   // and what it is, in a few words
	orders []string // SERIAL stands for the token's serial number, ONE and TWO for the first two versions' CKA_ID
	fresh  bool     // the workers are killed once it is ordered, since it hits those that start
	// want is what a client sees: its answers within the fault, at least one of
	// which has to be of the last kind. nil: every answer is a token.
	want []api.Code
	// during is done while the fault lasts, after the first answers.
	during func(t *testing.T, f *faulty)
	lasts  time.Duration // at least; many requests are made meanwhile, four at a time
	within time.Duration // from its end to the first token; 0: a second
}

// provoke has a fault happen, while others sign with another token, and judges
// what is seen: what clients of the broken token are told, and when; that its
// keys stay published; that nobody else notices; and that it passes of itself
// when its cause has gone.
func (f *faulty) provoke(t *testing.T, v fault) {
	t.Helper()
	outer := f.t
	f.t = t
	defer func() { f.t = outer }()
	one, two := f.keyID(1), f.keyID(2)
	var orders []string
	for _, o := range v.orders {
		orders = append(orders, strings.NewReplacer("ONE", one, "TWO", two).Replace(o))
	}
	before, began := len(f.others.all()), time.Now()
	f.order(orders...)
	if v.fresh {
		killAll(f.remoteWorkers())
	}
	c := f.crowd(4, 20*time.Millisecond, "remote")
	f.within(30*time.Second, "the fault is seen", func() error {
		if len(v.want) == 0 {
			if n := len(c.all()); n < 8 {
				return fmt.Errorf("%d answers", n)
			}
			return nil
		}
		for _, a := range c.all() {
			if p, ok := errors.AsType[*api.Problem](a.err); ok && p.Code == v.want[len(v.want)-1] {
				return nil
			}
		}
		return fmt.Errorf("%d answers, no %v", len(c.all()), v.want)
	})
	if v.during != nil {
		v.during(t, f)
	}
	time.Sleep(v.lasts - time.Since(began))
	if code, _ := f.get(f.issuerURL() + "/jwks.json"); code != http.StatusOK {
		t.Errorf("I13: the key set is answered with %d", code)
	}
	f.order()
	ended := time.Now()
	within := v.within
	if within == 0 {
		within = time.Second
	}
	recovered := c.successAfter(ended, max(within, 20*time.Second))
	if recovered > within {
		t.Errorf("the first token came %v after the fault, want %v", recovered, within)
	}
	c.stop()
	answers := c.all()
	c.problems(false) // every answer is one of the daemon
	seen := map[string]int{}
	for _, a := range answers {
		if took := a.answered.Sub(a.sent); took > requestWithin {
			t.Errorf("I6: a request took %v", took)
		}
		if a.err == nil {
			seen["200"]++
			continue
		}
		p := problem(t, a.err)
		seen[fmt.Sprintf("%d %s", p.Status, p.Code)]++
		if !slices.Contains(v.want, p.Code) || p.Status == http.StatusServiceUnavailable && p.RetryAfter < 1 ||
			strings.Contains(p.Detail, "CKR") || strings.Contains(p.Detail, "PIN") {
			t.Errorf("%d %s, Retry-After %d: %s", p.Status, p.Code, p.RetryAfter, p.Detail)
		}
	}
	f.wantVerified(c.replies())
	f.othersUnharmed(t, before)
	t.Attr("provoked", strings.Join(v.orders, "; "))
	t.Attr("seen", spell(seen))
	t.Attr("recovered", recovered.Round(time.Millisecond).String())
	t.Attr("promises", "I2 I6 I13 I16")
}

func (f *faulty) issuerURL() string { return f.chanceryd.issuer("remote") }

// othersUnharmed judges the answers that the clients of the other token had
// from the given one on.
func (f *faulty) othersUnharmed(t *testing.T, from int) {
	t.Helper()
	f.others.atLeast(len(f.others.replies()) + 3)
	answers := f.others.all()[from:]
	var took []time.Duration
	for _, a := range answers {
		if a.err != nil {
			t.Errorf("a client of the other token: %v", a.err)
		}
		took = append(took, a.answered.Sub(a.sent))
	}
	slices.Sort(took)
	t.Logf("the other token: %d tokens, p50 %v, p99 %v", len(took), took[len(took)/2], took[len(took)*99/100])
}

func spell(seen map[string]int) string {
	var parts []string
	for _, what := range sortedKeys(seen) {
		parts = append(parts, fmt.Sprintf("%d × %s", seen[what], what))
	}
	return strings.Join(parts, ", ")
}

func killAll(pids []int) {
	for _, pid := range pids {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// tokenStates returns how often the state of the token was entered since.
func (f *faulty) tokenStates(since time.Time) (n int) {
	f.t.Helper()
	for _, e := range f.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActTokenState}) {
		if e.Detail["keystore"] == "other" && e.Time.After(since) {
			n++
		}
	}
	return n
}
