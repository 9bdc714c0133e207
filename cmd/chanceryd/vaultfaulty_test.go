package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/transit/transittest"
	"chancery/signer/api"
)

// A faked is a vaulted whose Vault answers badly on demand.
type faked struct {
	*vaulted
	fake *transittest.FakeServer
}

// newFaked starts the daemon of a faked, with three clients on web.
func newFaked(t *testing.T, args ...string) *faked {
	t.Helper()
	fake := transittest.Fake(t)
	return &faked{newVaulted(t, fake.Server, args...), fake}
}

// abreast runs tests beside each other, each with a daemon of its own, whatever
// -parallel says: they wait nearly all the time.
func abreast(t *testing.T, tests map[string]func(*testing.T)) {
	t.Helper()
	t.Parallel()
	var all sync.WaitGroup
	for name, test := range tests {
		all.Go(func() { t.Run(name, test) })
	}
	all.Wait()
}

// prepared makes the directory of a faked with a configuration that was changed. Its
// daemon has not started.
func prepared(t *testing.T, change func(*faked) []string, args ...string) *faked {
	t.Helper()
	fake := transittest.Fake(t)
	f := &faked{&vaulted{vault: fake.Server, mount: fake.Mount(t), chanceryd: &chanceryd{t: t, dir: tempDir(t)}}, fake}
	f.file = filepath.Join(f.dir, "token")
	f.giveToken(t, leastToken(t, fake.Server, f.mount, nil))
	f.chanceryd = launch(t, f.dir, append([]string{"dev", "--dir", f.dir, "--transit", fake.Address(), "--transit-token-file", f.file,
		"--transit-ca", fake.CAFile(), "--transit-mount", f.mount}, args...)...)
	f.within(60*time.Second, "the configuration is there", func() error {
		_, err := os.Stat(filepath.Join(f.dir, "dev.json"))
		return err
	})
	f.kill()
	if !f.portsFree() { // somebody took one before it was used
		return prepared(t, change, args...)
	}
	edit(t, filepath.Join(f.dir, "config.yaml"), change(f)...)
	return f
}

// portsFree reports whether nobody listens where the daemon is to.
func (f *faked) portsFree() bool {
	for _, at := range regexp.MustCompile(`tcp: (127\.0\.0\.1:\d+)`).FindAllStringSubmatch(readOrEmpty(f.configFile()), -1) {
		l, err := net.Listen("tcp", at[1])
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

// newFakedWith starts the daemon of a faked with a configuration that was changed.
func newFakedWith(t *testing.T, change func(*faked) []string, args ...string) *faked {
	t.Helper()
	f := prepared(t, change, args...)
	f.chanceryd = startDev(t, f.dir)
	f.begin()
	return f
}

// in has f be of a subtest until that ends.
func (f *faked) in(t *testing.T) {
	outer := f.t
	f.t = t
	t.Cleanup(func() { f.t = outer })
}

// A vaultFault is one row of the fault matrix that lasts for a while.
type vaultFault struct {
	row   string // and what it is, in a few words
	rules []transittest.Rule
	begin func(f *faked) // beside the rules
	end   func(f *faked)
	how   string // begin, in a few words
	// state is what the mount comes to, and says what its error has; "": it is
	// ready all the while, and every answer is a token. Otherwise clients are told
	// backend_unavailable, at once, and Vault is left alone.
	state keystore.TokenState
	says  string
	lasts time.Duration // at least, from when it is seen
}

// provoke has a fault happen, while others sign with the token, and judges what
// is seen: what clients of the mount are told, and when; how the state is told, and
// that it is entered once; that Vault is asked once a second whether it is back;
// that the keys stay published; that nobody else notices; and that it passes of
// itself, within two seconds, when its cause has gone.
func (f *faked) provoke(t *testing.T, v vaultFault) {
	t.Helper()
	f.in(t)
	before, began := len(f.others.all()), time.Now()
	f.fake.Script(v.rules...)
	if v.begin != nil {
		v.begin(f)
	}
	c := f.crowd(4, 20*time.Millisecond, "vaulted")
	if v.state != "" {
		f.awaitState(v.state)
		f.down(t, v)
	} else {
		time.Sleep(v.lasts)
	}
	if code, _ := f.get(f.chanceryd.issuer("vaulted") + "/jwks.json"); code != http.StatusOK {
		t.Errorf("I13: the key set is answered with %d", code)
	}
	f.fake.Script()
	if v.end != nil {
		v.end(f)
	}
	ended := time.Now()
	recovered := c.successAfter(ended, 20*time.Second)
	if slow := f.slowest(ended); recovered > backWithin+slow {
		t.Errorf("the first token came %v after the fault, want %v, where others wait for up to %v", recovered, backWithin, slow)
	}
	c.stop()
	seen := f.judge(t, c, v.state != "")
	if v.state != "" {
		f.wantStates(began, string(v.state), string(keystore.TokenReady))
	}
	f.wantVerified(c.replies())
	f.othersUnharmed(t, before)
	how := []string{v.how}
	for _, r := range v.rules {
		how = append(how, ruleWords(r))
	}
	t.Attr("provoked", strings.Trim(strings.Join(how, "; "), "; "))
	t.Attr("seen", spell(seen))
	t.Attr("recovered", recovered.Round(time.Millisecond).String())
	t.Attr("promises", "I2 I6 I13 I14 I16")
}

// backWithin is how long it may take until a mount whose Vault is back signs.
const backWithin = 2 * time.Second

// slowest is how long others have waited for an answer at most, from a time on: so
// slow is the machine.
func (f *faked) slowest(from time.Time) (worst time.Duration) {
	for _, a := range f.others.all() {
		if a.answered.After(from) {
			worst = max(worst, a.answered.Sub(a.sent))
		}
	}
	return worst
}

// judge judges the answers of clients of the mount, and counts them by kind.
func (f *faked) judge(t *testing.T, c *crowd, refused bool) map[string]int {
	t.Helper()
	c.problems(false) // every answer is one of the daemon
	seen := map[string]int{}
	for _, a := range c.all() {
		if took := a.answered.Sub(a.sent); took > requestWithin {
			t.Errorf("I6: a request took %v", took)
		}
		if a.err == nil {
			seen["200"]++
			continue
		}
		p, ok := errors.AsType[*api.Problem](a.err)
		if !ok {
			continue
		}
		seen[fmt.Sprintf("%d %s", p.Status, p.Code)]++
		if !refused || p.Code != api.CodeBackendUnavailable || p.Status != http.StatusServiceUnavailable || p.RetryAfter < 1 || strings.Contains(p.Detail, "ault") {
			t.Errorf("%d %s, Retry-After %d: %s", p.Status, p.Code, p.RetryAfter, p.Detail)
		}
	}
	if refused == (len(seen) == 1) {
		t.Errorf("answers: %s", spell(seen))
	}
	return seen
}

// down judges a mount whose Vault serves nobody.
func (f *faked) down(t *testing.T, v vaultFault) {
	t.Helper()
	time.Sleep(200 * time.Millisecond) // what was under way when it was seen
	asked, from := len(f.fake.Requests()), time.Now()
	quick := 0
	for range 20 {
		sent := time.Now()
		wantCode(t, f.signs(), api.CodeBackendUnavailable)
		if time.Since(sent) < 500*time.Millisecond { // half of what any wait for Vault takes
			quick++
		}
	}
	if quick < 18 {
		t.Errorf("%d of 20 were refused at once", quick)
	}
	if ready, words := f.readyz(); ready || !strings.Contains(words, fmt.Sprintf("[-]keystore vault failed: \"token %s is %s", f.mount, v.state)) || !strings.Contains(words, "[+]keystore hsm") {
		t.Errorf("I14: ready %v:\n%s", ready, words)
	}
	if _, metrics := f.get(f.endpoints.Admin + "/metrics"); !strings.Contains(metrics, `chancery_token_ready{keystore="vault"} 0`) ||
		!strings.Contains(metrics, `chancery_token_ready{keystore="hsm"} 1`) {
		t.Error("I14: the metrics do not tell which keystore is ready")
	}
	time.Sleep(v.lasts - time.Since(from))
	if s := f.status(); s.State != string(v.state) || !strings.Contains(s.Error, v.says) {
		t.Errorf("the mount is %s: %s; want %s: …%s…", s.State, s.Error, v.state, v.says)
	}
	took := time.Since(from)
	if n := len(f.fake.Requests()) - asked; n > int(took/time.Second)+1 {
		t.Errorf("%d requests in %v reached a Vault that serves nobody", n, took)
	}
}

// states returns the states of the mount that were entered since, one after the
// other.
func (f *faked) states(since time.Time) (states []string) {
	f.t.Helper()
	for _, e := range f.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActTokenState}) {
		if e.Detail["keystore"] == "vault" && e.Time.After(since) {
			states = append(states, e.State)
		}
	}
	return states
}

// wantStates demands that these states were entered since, and no other. Where the
// machine is so slow that a look at a Vault takes longer than it may, there may be a
// few between.
func (f *faked) wantStates(since time.Time, want ...string) {
	f.t.Helper()
	f.within(5*time.Second, "the log has the states", func() error {
		got := f.states(since)
		if slices.Equal(got, want) {
			return nil
		}
		if n := len(got); f.slowest(since) > time.Second/2 && n <= 6 && n > 1 && got[n-1] == want[len(want)-1] {
			f.t.Logf("the states are %q, on a slow machine", got)
			return nil
		}
		return fmt.Errorf("it has %q, want %q", got, want)
	})
}

// ruleWords is what a rule does, for the table.
func ruleWords(r transittest.Rule) string {
	what := strings.TrimSpace(r.Method + " " + r.Path)
	if what == "" {
		what = "everything"
	}
	for _, c := range []struct {
		on   bool
		does string
	}{
		{r.Hang, "hangs"},
		{r.Refuse, "is cut, not done"},
		{r.Status != 0, fmt.Sprintf("is answered %d", r.Status)},
		{r.Mangle != nil, "is answered otherwise"},
		{r.Drop, "is cut, done"},
		{r.StatusAfter != 0, fmt.Sprintf("is answered %d, done", r.StatusAfter)},
		{r.Times != 0, fmt.Sprintf("%d ×", r.Times)},
	} {
		if c.on {
			what += " " + c.does
		}
	}
	return what
}

// othersUnharmed judges the answers that the clients of the token had from the
// given one on.
func (v *vaulted) othersUnharmed(t *testing.T, from int) {
	t.Helper()
	v.others.atLeast(len(v.others.replies()) + 3)
	for _, a := range v.others.all()[from:] {
		if a.err != nil {
			t.Errorf("a client of the token: %v", a.err)
		}
	}
}
