package faultmodule_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/hex"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"chancery/softhsm"
	"chancery/softhsm/softhsmtest"
)

const id1, id2 = "a1", "b2"

// order gives orders or ends the test.
func order(t *testing.T, token *softhsmtest.FaultyToken, lines ...string) {
	t.Helper()
	if err := token.Faults.Order(lines...); err != nil {
		t.Fatal(err)
	}
}

// keyed is ready on a new token with a key of id1; it returns its handle too.
func keyed(t *testing.T) (*softhsmtest.FaultyToken, *driver, string) {
	t.Helper()
	token := softhsmtest.NewFaulty(t)
	d := ready(t, token)
	d.want("ok", "generate s1 "+id1)
	return token, d, d.one("find s1 private " + id1)
}

// public reads the public key of an id.
func public(t *testing.T, d *driver, id string) *ecdsa.PublicKey {
	t.Helper()
	point := unhex(t, d.one("attribute s1 "+d.one("find s1 public "+id)+" CKA_EC_POINT"))
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point[2:])
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func verifies(key *ecdsa.PublicKey, rs []byte) bool {
	r, s := new(big.Int).SetBytes(rs[:len(rs)/2]), new(big.Int).SetBytes(rs[len(rs)/2:])
	return ecdsa.Verify(key, digest, r, s)
}

func TestWithoutOrdersNothingChanges(t *testing.T) {
	token, d, key := keyed(t)
	if sig := unhex(t, d.one("sign s1 "+key)); !verifies(public(t, d, id1), sig) {
		t.Error("the signature does not verify")
	}
	d.want("ok", "signmany test "+key+" 8 50")
	if got := token.Faults.Count("C_Sign"); got != 401 {
		t.Errorf("C_Sign counted %d times, want 401", got)
	}
	counts, err := token.Faults.Counts()
	if err != nil {
		t.Fatal(err)
	}
	for name := range counts {
		if strings.HasSuffix(name, ":ordered") {
			t.Errorf("%s is not zero", name)
		}
	}
	if counts["C_Sign:size"] != 401 || counts["C_GetSessionInfo"] != 0 {
		t.Errorf("counts %v", counts)
	}
	if d.said() != "" {
		t.Errorf("standard error: %s", d.said())
	}
}

func TestACallReturnsWhatIsOrdered(t *testing.T) {
	token, d, key := keyed(t)
	for _, test := range []struct{ order, call, want string }{
		{"C_Sign rv CKR_DEVICE_ERROR", "sign s1 " + key, "0x30"},
		// It was not called through: the operation is active still.
		{"", "signinit s1 " + key, "0x90"},
		{"C_Sign after rv 0x31", "finish s1", "0x31"},
		{"C_SignInit rv 0xB3", "sign s1 " + key, "init 0xb3"},
		{"C_SignInit rv 0x101", "sign s1 " + key, "init 0x101"},
		{"C_OpenSession rv CKR_TOKEN_NOT_PRESENT", "open s2 test ro", "0xe0"},
		{"C_OpenSession rv CKR_SESSION_READ_ONLY mode=ro", "open s2 test ro", "0xb5"},
		{"C_OpenSession rv CKR_SESSION_READ_ONLY mode=ro", "open s2 test rw", "ok"},
		{"C_GetSessionInfo rv CKR_SESSION_CLOSED mode=ro", "sessioninfo s2", "ok"},
		{"C_GetSessionInfo rv CKR_SESSION_CLOSED mode=rw", "sessioninfo s2", "0xb0"},
		{"C_Login rv CKR_PIN_INCORRECT", "login s2 " + token.PINFile, "0xa0"},
		{"C_GetSlotList:size rv 0x5", "slots present", "0x5"},
		{"C_Sign:size rv 0x6", "sign s1 " + key, "0x6"},
		{"* rv 0x2", "info", "0x2"},
		{"C_Digest rv 0x30", "info", "ok"},
		{"C_GetInfo exit 9 from=2", "info", "ok"},
		{"# nothing", "info", "ok"},
		{"C_GetInfo rv 0x5 token", "", ""},
	} {
		if test.call == "" {
			if err := token.Faults.Order(test.order); err == nil {
				t.Errorf("%q was taken for an order", test.order)
			}
			continue
		}
		order(t, token, test.order)
		if got := d.do(test.call); got != test.want {
			t.Errorf("under %q, %s: %s, want %s", test.order, test.call, got, test.want)
		}
	}
	order(t, token)
	d.want("ok", "info")
}

func TestTheFirstOrderThatMatchesIsObeyed(t *testing.T) {
	token, d, _ := keyed(t)
	order(t, token, "C_GetInfo rv 0x30 nth=2", "C_GetInfo rv 0x31 nth=2", "* rv 0x32")
	for _, want := range []string{"0x32", "0x30", "0x31", "0x32"} {
		d.want(want, "info")
	}
}

func TestTurns(t *testing.T) {
	token, d, _ := keyed(t)
	for _, test := range []struct{ turn, want string }{
		{"nth=3", "..x....."},
		{"from=4", "...xxxxx"},
		{"to=2", "xx......"},
		{"from=2 to=3", ".xx....."},
		{"every=3", "..x..x.."},
		{"every=2 from=5", ".....x.x"},
		{"times=2", "xx......"},
		{"every=2 times=1", ".x......"},
	} {
		order(t, token, "C_GetInfo rv 0x30 "+test.turn)
		got := ""
		for range test.want {
			if d.do("info") == "ok" {
				got += "."
			} else {
				got += "x"
			}
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", test.turn, got, test.want)
		}
	}
}

// n counts in one process, times in all of them, and counters are shared.
func TestTwoProcesses(t *testing.T) {
	token := softhsmtest.NewFaulty(t)
	a, b := ready(t, token), ready(t, token)
	order(t, token, "C_GetInfo rv 0x30 nth=2")
	for _, d := range []*driver{a, b} {
		d.want("ok", "info")
		d.want("0x30", "info")
	}
	order(t, token, "C_GetInfo rv 0x31 times=3")
	for i, d := range []*driver{a, b, b, a, b} {
		want := "0x31"
		if i > 2 {
			want = "ok"
		}
		d.want(want, "info")
	}
	order(t, token, "C_GetInfo rv 0x31 times=3") // given anew, counted anew
	b.want("0x31", "info")
	if calls, hurt := token.Faults.Count("C_GetInfo"), token.Faults.Count("C_GetInfo:ordered"); calls != 10 || hurt != 6 {
		t.Errorf("%d calls, %d of them ordered, want 10 and 6", calls, hurt)
	}
	if n := token.Faults.Count("C_Login"); n != 2 {
		t.Errorf("C_Login counted %d times, want 2", n)
	}
}

func TestCrashes(t *testing.T) {
	token, d, _ := keyed(t)
	for _, test := range []struct{ action, want string }{
		{"kill", "signal: killed"},
		{"segv", "exit status 2"}, // the Go runtime ends by itself
		{"abort", "exit status 2"},
		{"exit 7", "exit status 7"},
		{"after kill", "signal: killed"},
		{"after exit 8", "exit status 8"},
	} {
		order(t, token, "C_GetInfo "+test.action)
		if got := d.do("info"); got != test.want {
			t.Errorf("%s: %s, want %s", test.action, got, test.want)
		}
		if test.action == "segv" && !strings.Contains(d.said(), "SIGSEGV") ||
			test.action == "abort" && !strings.Contains(d.said(), "SIGABRT") {
			t.Errorf("%s: %s", test.action, firstOf(d.said()))
		}
		order(t, token)
		d = ready(t, token)
	}
	if n := token.Faults.Count("C_GetInfo:ordered"); n != 6 {
		t.Errorf("%d calls were ordered, want 6: a crash is counted before it happens", n)
	}
}

func firstOf(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// What comes after the call happens when it is done.
func TestAfterTheCall(t *testing.T) {
	token, d, _ := keyed(t)
	order(t, token, "C_GenerateKeyPair after rv CKR_DEVICE_ERROR")
	d.want("0x30", "generate s1 c1")
	order(t, token, "C_GenerateKeyPair after kill")
	d.want("signal: killed", "generate s1 c2")
	order(t, token, "C_GenerateKeyPair rv CKR_DEVICE_ERROR")
	d = ready(t, token)
	d.want("0x30", "generate s1 c3")
	for id, want := range map[string]int{"c1": 1, "c2": 1, "c3": 0} {
		if n := len(d.get("find s1 private " + id)); n != want {
			t.Errorf("%d keys of id %s, want %d", n, id, want)
		}
	}
}

func TestAHangIsOneThreads(t *testing.T) {
	token, d, key := keyed(t)
	d.want("ok", "open s2 test ro")
	order(t, token, "C_Sign hang nth=1")
	d.want("ok", "beside sign s2 "+key)
	for token.Faults.Count("C_Sign:ordered") == 0 {
		time.Sleep(time.Millisecond)
	}
	d.get("sign s1 " + key)
	d.want("ok", "signmany test "+key+" 4 10")
	order(t, token)
	d.get("sign s1 " + key)
	// The one that hangs does so for ever: there is no answer of it.
	d.want("ok", "beside info")
	d.want("ok ok", "wait")
}

func TestADelay(t *testing.T) {
	token, d, _ := keyed(t)
	for _, action := range []string{"delay 300", "after delay 300"} {
		order(t, token, "C_GetSessionInfo "+action)
		began := time.Now()
		d.want("ok", "sessioninfo s1")
		if took := time.Since(began); took < 300*time.Millisecond || took > 5*time.Second {
			t.Errorf("%s took %v", action, took)
		}
	}
}

func TestBytesThatComeBack(t *testing.T) {
	token, d, key := keyed(t)
	pub := public(t, d, id1)
	long := strings.Repeat("ab", 200)
	for _, test := range []struct {
		action string
		ok     func(sig []byte) bool
	}{
		{"corrupt", func(sig []byte) bool {
			if len(sig) != 64 || verifies(pub, sig) {
				return false
			}
			sig[63] ^= 1
			return verifies(pub, sig)
		}},
		{"cut 1", func(sig []byte) bool { return len(sig) == 63 }},
		{"cut 200", func(sig []byte) bool { return len(sig) == 0 }},
		{"zeros 3", func(sig []byte) bool {
			return len(sig) == 67 && sig[0]|sig[1]|sig[2] == 0 && verifies(pub, sig[3:])
		}},
		{"der", func(sig []byte) bool { return ecdsa.VerifyASN1(pub, digest, sig) }},
		{"bytes 0102", func(sig []byte) bool { return string(sig) == "\x01\x02" }},
		{"bytes " + long, func(sig []byte) bool { return hex.EncodeToString(sig) == long }},
	} {
		order(t, token, "C_Sign "+test.action)
		for range 5 {
			if sig := d.get("sign s1 " + key); !test.ok(unhex(t, strings.Join(sig, ""))) {
				t.Errorf("%s: %s", test.action, sig)
			}
		}
	}
	order(t, token, "C_Sign corrupt key="+id2)
	if sig := unhex(t, d.one("sign s1 "+key)); !verifies(pub, sig) {
		t.Error("another key's order was obeyed")
	}
	order(t, token, "C_Sign corrupt key="+id1)
	if sig := unhex(t, d.one("sign s1 "+key)); verifies(pub, sig) {
		t.Error("the key's order was not obeyed")
	}
}

func TestDroppedSessions(t *testing.T) {
	token, d, key := keyed(t)
	d.want("ok", "open s2 test ro")
	order(t, token, "C_SignInit drop nth=1")
	d.want("init 0xb3", "sign s1 "+key)
	d.want("0xb3", "sessioninfo s2")
	order(t, token) // what was dropped stays so
	d.want("0xb3", "sessioninfo s2")
	d.want("ok", "open s3 test ro")
	d.want("ok", "sessioninfo s3")
	d.want("0xb3", "close s1")
	d.want("ok", "closeall test")
	d.want("ok", "open s1 test rw")
	d.want("ok", "login s1 "+token.PINFile)
	d.get("sign s1 " + d.one("find s1 private "+id1))
}

func TestAnIdleTokenLosesItsSessions(t *testing.T) {
	token, d, _ := keyed(t)
	d.want("ok", "open s2 test ro")
	order(t, token, "* drop idle=600")
	for range 5 { // use of one session keeps the token awake
		time.Sleep(200 * time.Millisecond)
		d.want("ok", "sessioninfo s1")
	}
	d.want("ok", "sessioninfo s2")
	time.Sleep(800 * time.Millisecond)
	d.want("0xb3", "sessioninfo s2")
	d.want("0xb3", "sessioninfo s1")
}

func TestLoggedOut(t *testing.T) {
	token, d, key := keyed(t)
	order(t, token, "C_SignInit logout nth=1")
	if got := d.do("sign s1 " + key); !strings.HasPrefix(got, "init 0x") {
		t.Errorf("signing after logout: %s", got)
	}
	d.want("ok", "login s1 "+token.PINFile)
	d.get("sign s1 " + d.one("find s1 private "+id1))
}

// Two tokens of one module, and one of them is hurt.
func TestOneOfTwoTokens(t *testing.T) {
	token := softhsmtest.NewFaulty(t)
	other, err := softhsm.Create(t.Context(), token.Dir, "other")
	if err != nil {
		t.Fatal(err)
	}
	d := ready(t, token)
	d.want("ok", "open s2 other rw")
	slot := d.one("slotof other")
	for _, name := range []string{"other", other.Serial} {
		order(t, token, "* rv 0x30 token="+name)
		d.want("0x30", "random s2")
		d.want("ok", "random s1")
		d.want("ok", "info")
		d.want("0x30", "open s3 "+slot+" ro")
		d.want("ok", "open s3 test ro")
	}
	order(t, token, "C_GetSessionInfo drop token=other nth=1")
	d.want("ok", "sessioninfo s1")
	d.want("0xb3", "sessioninfo s2")
	d.want("0xb3", "random s2")
	d.want("ok", "random s1")
	order(t, token, "* rv 0x30 token=o%74her")
	d.want("0x30", "tokenflags "+slot)
}

// A session that hangs or fails before the module is initialised, and at its end.
func TestTheEnds(t *testing.T) {
	token := softhsmtest.NewFaulty(t)
	order(t, token, "C_Initialize rv CKR_GENERAL_ERROR times=1")
	d := start(t, token)
	d.want("0x5", "init")
	d.want("ok", "init")
	order(t, token, "C_Finalize hang")
	d.want("ok", "beside finalize")
	d.want("ok", "info")
	order(t, token, "C_Finalize kill")
	d.want("signal: killed", "finalize")
}

func TestNoSecretIsWritten(t *testing.T) {
	token, d, key := keyed(t)
	order(t, token, "C_Sign corrupt", "C_Login after rv 0x100", "attribute private * CKA_SIGN false")
	d.get("sign s1 " + key)
	d.want("0x100", "login s1 "+token.PINFile)
	pin, err := os.ReadFile(token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	counts, err := os.ReadFile(token.Faults.Env()["FAULTMODULE_COUNTS"])
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"counters": string(counts), "standard error": d.said()} {
		if strings.Contains(text, strings.TrimSpace(string(pin))) {
			t.Errorf("the PIN is in the %s", where)
		}
	}
	if d.said() != "" {
		t.Errorf("standard error: %s", d.said())
	}
}
