package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
)

var (
	unavailable = []api.Code{api.CodeBackendUnavailable}
	invalid     = []api.Code{api.CodeBackendUnavailable, api.CodeSignatureInvalid}
)

// The rows of the fault matrix that a client of the socket sees while they last
// and that pass of themselves. The three groups have a daemon each.
var faultGroups = map[string][]fault{
	"sessions and signatures": {
		{row: "P01 a session is lost", orders: []string{"C_SignInit rv CKR_SESSION_HANDLE_INVALID times=1"}},
		{row: "P01 all sessions are lost", orders: []string{"C_SignInit drop times=1"}},
		{row: "P03 signing fails and its operation stays active", orders: []string{"C_Sign rv CKR_DEVICE_ERROR times=1"}},
		{row: "P07 logged out, says the module", orders: []string{"C_SignInit rv CKR_USER_NOT_LOGGED_IN times=1"}},
		{row: "P07 logged out", orders: []string{"C_SignInit logout times=1"}},
		{row: "P13 a crash", orders: []string{"C_Sign segv times=1"}},
		{row: "P13 an abort", orders: []string{"C_Sign abort times=1"}},
		{row: "P13 an exit", orders: []string{"C_Sign exit 3 times=1"}},
		{row: "P12 one signature hangs", orders: []string{"C_Sign hang times=1"}, lasts: 3 * time.Second},
		{row: "P28 asking after sessions is slow", orders: []string{"C_GetSessionInfo delay 1000"}, lasts: 2 * time.Second},
		{row: "P23 one bad signature", orders: []string{"C_Sign corrupt times=1"}, want: invalid},
		{row: "P22 a signature in DER", orders: []string{"C_Sign der times=2"}, want: invalid, within: 5 * time.Second},
		{row: "P22 a short signature", orders: []string{"C_Sign cut 1 times=2"}, want: invalid, within: 5 * time.Second},
		{row: "P22 a signature of zeros", orders: []string{"C_Sign zeros 64 times=2"}, want: invalid, within: 5 * time.Second},
		{row: "P23 nothing but bad signatures", orders: []string{"C_Sign corrupt key=ONE"}, want: invalid, lasts: 3 * time.Second, within: 8 * time.Second},
	},
	"storms": {
		{row: "P04 a storm of device errors", orders: []string{"C_Sign rv CKR_DEVICE_ERROR"}, want: unavailable, lasts: 3 * time.Second, within: 7 * time.Second, during: atOnce},
		{row: "P04 a storm for one key", orders: []string{"C_Sign rv CKR_DEVICE_ERROR key=ONE from=4"}, want: unavailable, lasts: 3 * time.Second, within: 5 * time.Second},
		{row: "P13 a crash loop", orders: []string{"C_Sign segv"}, want: unavailable, lasts: 3 * time.Second, within: 7 * time.Second},
		{row: "P12 every signature hangs", orders: []string{"C_Sign hang"}, want: unavailable, lasts: 6 * time.Second, within: 5 * time.Second},
		{row: "P14 initialising hangs", orders: []string{"C_Initialize hang"}, fresh: true, want: unavailable, within: 12 * time.Second},
		{row: "P14 initialising fails", orders: []string{"C_Initialize rv CKR_GENERAL_ERROR"}, fresh: true, want: unavailable, lasts: 2 * time.Second, within: 7 * time.Second},
		{row: "P09 no session more", orders: []string{"C_OpenSession rv CKR_SESSION_COUNT"}, fresh: true, want: unavailable, lasts: 3 * time.Second, within: 7 * time.Second, during: fewSessions},
	},
	"tokens and keys": {
		{row: "P05 the token is gone", orders: []string{"hide token SERIAL"}, fresh: true, want: unavailable, within: 10 * time.Second},
		{row: "P06 a process sees the slots it saw first", orders: []string{"hide token SERIAL", "freeze slots"}, fresh: true, want: unavailable, within: 10 * time.Second},
		{row: "P02 a handle is another key's", orders: []string{"remap ONE TWO"}, fresh: true, want: invalid, lasts: 2 * time.Second, within: 10 * time.Second},
		{row: "P20 the public half is another pair's", orders: []string{"pubkey ONE TWO"}, fresh: true, want: unavailable, within: 5 * time.Second},
		{row: "P20 the public half is gone", orders: []string{"hide public ONE"}, fresh: true, want: unavailable, within: 5 * time.Second},
		{row: "P21 a raw point", orders: []string{"attribute public * CKA_EC_POINT raw"}, fresh: true},
		{row: "P21 a point in a BIT STRING", orders: []string{"attribute public * CKA_EC_POINT bit-string"}, fresh: true},
		{row: "P25 an extractable key", orders: []string{"attribute private ONE CKA_EXTRACTABLE true"}, fresh: true, want: unavailable, within: 5 * time.Second},
		{row: "P32 a PIN for each signature", orders: []string{"attribute private ONE CKA_ALWAYS_AUTHENTICATE true"}, fresh: true, want: unavailable, within: 5 * time.Second},
	},
}

func TestFaults(t *testing.T) {
	for name, group := range faultGroups {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFaulty(t)
			logouts := f.module.Count("C_Logout")
			for _, v := range group {
				t.Run(v.row, func(t *testing.T) { f.provoke(t, v) })
			}
			if n := f.module.Count("C_Logout"); n != logouts {
				t.Errorf("P07: C_Logout was called %d times", n-logouts)
			}
			f.others.stop()
			f.stop()
			f.proven()
			f.wantRecorded(f.others.replies())
		})
	}
}

// atOnce judges that a token that signs nothing is left alone: its clients are
// refused without a wait, and the log has a change of state and not an entry for
// each error.
func atOnce(t *testing.T, f *faulty) {
	began := time.Now()
	f.awaitState(keystore.TokenUnavailable)
	var quick int
	for range 20 {
		asked := time.Now()
		if err := f.signs(); err == nil {
			t.Error("a token that signs nothing signed")
		}
		if time.Since(asked) < 50*time.Millisecond {
			quick++
		}
	}
	if quick < 10 {
		t.Errorf("%d of 20 were refused within 50 ms", quick)
	}
	if ready, words := f.readyz(); ready || !strings.Contains(words, "[-]keystore other") || !strings.Contains(words, "[+]keystore hsm") {
		t.Errorf("I14: ready %v:\n%s", ready, words)
	}
	if n := f.tokenStates(began); n > 6 {
		t.Errorf("I14: %d changes of state within %v", n, time.Since(began))
	}
	if _, metrics := f.get(f.endpoints.Admin + "/metrics"); !strings.Contains(metrics, `chancery_token_ready{keystore="other"} 0`) ||
		!strings.Contains(metrics, `chancery_token_ready{keystore="hsm"} 1`) {
		t.Error("I14: the metrics do not tell which token is ready")
	}
	t.Attr("promises", "I14")
}

// fewSessions judges that a device that has no sessions left is not asked for
// them without end.
func fewSessions(t *testing.T, f *faulty) {
	before := f.module.Count("C_OpenSession")
	time.Sleep(2 * time.Second)
	if n := f.module.Count("C_OpenSession") - before; n > 30 {
		t.Errorf("%d sessions were asked for in two seconds", n)
	}
}

// P27, P28: nothing is searched and no session is asked after on the way of a
// signature. (The bindings ask each time how long it will be.)
func TestP27P28NothingButSigningToSign(t *testing.T) {
	t.Parallel()
	f := newFaulty(t)
	for range 8 { // both workers hold the key
		if err := f.signs(); err != nil {
			t.Fatal(err)
		}
	}
	c := f.crowd(8, 0, "remote")
	c.atLeast(50)
	var odd []string
	for range 5 { // the clerk of the start may go meanwhile, once
		if odd = f.askedToSign(c, 200); len(odd) == 0 {
			break
		}
	}
	c.stop()
	for _, what := range odd {
		t.Errorf("while 200 signatures were made %s", what)
	}
	t.Attr("seen", "C_SignInit and C_Sign alone")
}

// askedToSign returns what was called of the module beside what signs, while a crowd
// had n more answers.
func (f *faulty) askedToSign(c *crowd, n int) (odd []string) {
	f.t.Helper()
	counts := func() map[string]uint64 {
		all, err := f.module.Counts()
		if err != nil {
			f.t.Fatal(err)
		}
		return all
	}
	before := counts()
	c.atLeast(len(c.replies()) + n)
	after := counts()
	for name, m := range after {
		// A probe looks after one session of each of two workers now and then.
		if m -= before[name]; name != "C_Sign" && name != "C_Sign:size" && name != "C_SignInit" && m > 0 && !(name == "C_GetSessionInfo" && m <= 2) {
			odd = append(odd, fmt.Sprintf("%s was called %d times", name, m))
		}
	}
	if m := after["C_Sign"] - before["C_Sign"]; m < uint64(n-8) { // eight may have been under way
		odd = append(odd, fmt.Sprintf("C_Sign was called %d times", m))
	}
	return odd
}

// P31: a module that hangs or crashes as it is finalised does not keep the
// daemon from ending well.
func TestP31FinalisingHangsOrCrashes(t *testing.T) {
	t.Parallel()
	f := newFaulty(t)
	for i, order := range []string{"C_Finalize hang", "C_Finalize segv", "C_Finalize abort"} {
		if i > 0 {
			f.chanceryd = startDev(t, f.dir)
			f.begin()
		}
		f.order(order)
		f.others.stop()
		began := time.Now()
		f.stop() // and expects exit status 0
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: ending took %v", order, took)
		}
		f.proven()
		f.order()
	}
}

// P08: a device that drops sessions after a while of disuse. They are looked
// after before that, and nobody notices.
func TestP08IdleSessionsAreKeptAlive(t *testing.T) {
	t.Parallel()
	f := newFaulty(t)
	f.order("* rv CKR_SESSION_HANDLE_INVALID idle=15000 token=SERIAL")
	time.Sleep(18 * time.Second)
	for range 8 {
		if err := f.signs(); err != nil {
			t.Error(err)
		}
	}
	if n := f.module.Count("C_SignInit:ordered") + f.module.Count("C_GetSessionInfo:ordered"); n != 0 {
		t.Errorf("%d calls met a session that had been dropped", n)
	}
	f.others.stop()
	f.stop()
	f.proven()
	t.Attr("provoked", "sessions are dropped after 15 s without use")
	t.Attr("seen", "no session was lost in 18 s")
}

// P14, I13: with a module that hangs from the start the daemon starts, serves
// what it has published and the other token's keys, and says that it is not
// ready; when the module answers, no restart is needed.
func TestP14TheModuleHangsFromTheStart(t *testing.T) {
	t.Parallel()
	f := newFaulty(t)
	f.others.stop()
	f.stop()
	f.order("C_Initialize hang")
	f.chanceryd = launch(t, f.dir, "dev", "--dir", f.dir)
	f.awaitServing()
	f.issuer = f.client("issuer")
	if len(f.published("remote")) == 0 {
		t.Error("the key set of the token that hangs is empty")
	}
	f.sign(f.issuer, "web", `{}`)
	wantCode(t, f.signs(), api.CodeBackendUnavailable)
	if ready, words := f.readyz(); ready || !strings.Contains(words, "[-]keystore other") {
		t.Errorf("ready %v:\n%s", ready, words)
	}
	if code, _ := f.get(f.endpoints.Admin + "/livez"); code != 200 {
		t.Errorf("livez: %d", code)
	}
	f.order()
	ended := time.Now()
	f.within(15*time.Second, "remote signs", f.signs)
	t.Attr("provoked", "C_Initialize hang")
	t.Attr("recovered", time.Since(ended).Round(time.Millisecond).String())
	f.stop()
	f.proven()
}

// P11: with a PIN that the token says is nearly or wholly locked nobody tries.
func TestP11ATokenThatIsNearlyLockedIsNotTried(t *testing.T) {
	t.Parallel()
	f := newFaulty(t)
	operator := f.client("operator")
	for _, flag := range []string{"CKF_USER_PIN_FINAL_TRY", "CKF_USER_PIN_LOCKED"} {
		f.order("flags SERIAL +" + flag)
		killAll(f.remoteWorkers()) // those that had looked at the flags before, too
		logins := f.module.Count("C_Login")
		f.awaitState(keystore.TokenPINLocked)
		wantCode(t, f.signs(), api.CodeBackendUnavailable)
		if _, err := operator.TokenRetry(t.Context(), "other"); err == nil {
			t.Error("a retry succeeded")
		}
		if n := f.module.Count("C_Login"); n != logins {
			t.Errorf("%s: C_Login was called %d times", flag, n-logins)
		}
		f.order()
		ended := time.Now()
		if _, err := operator.TokenRetry(t.Context(), "other"); err != nil {
			t.Errorf("a retry when the token is well again: %v", err)
		}
		f.within(5*time.Second, "remote signs", f.signs)
		t.Attr("recovered", time.Since(ended).Round(time.Millisecond).String())
	}
	f.othersUnharmed(t, 0)
	t.Attr("provoked", "CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED")
	t.Attr("seen", "pin_locked, C_Login not called; signs after token retry")
	f.others.stop()
	f.stop()
	f.proven()
}
