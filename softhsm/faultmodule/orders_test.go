package faultmodule_test

import (
	"crypto/elliptic"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"chancery/softhsm"
	"chancery/softhsm/softhsmtest"
)

func TestSlots(t *testing.T) {
	token := softhsmtest.NewFaulty(t)
	other, err := softhsm.Create(t.Context(), token.Dir, "other")
	if err != nil {
		t.Fatal(err)
	}
	d := ready(t, token)
	d.want("ok", "open s2 other rw")
	slot := d.one("slotof other")
	present := d.one("slotflags " + slot)

	order(t, token, "hide token other")
	d.want("ok test", "labels")
	d.want("0xe0", "tokenflags "+slot)
	d.want("0xe0", "open s3 "+slot+" ro")
	d.want("0x32", "sessioninfo s2")
	d.want("ok", "sessioninfo s1")
	if all := d.get("slots all"); !strings.Contains(strings.Join(all, " "), slot) {
		t.Errorf("the slot is gone with its token: %v", all)
	}
	if absent := d.one("slotflags " + slot); number(t, absent) != number(t, present)&^1 {
		t.Errorf("slot flags %s, with the token %s", absent, present)
	}
	order(t, token, "hide token "+other.Serial)
	d.want("ok test", "labels")
	order(t, token)
	d.want("ok other test", "labels")
	d.want("0xb3", "sessioninfo s2") // it closed when its token went
	d.want("ok", "open s3 other ro")
	d.want("ok", "sessioninfo s3")
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The first list of a process is its last one, whatever it initialises.
func TestFrozenSlots(t *testing.T) {
	token := softhsmtest.NewFaulty(t)
	order(t, token, "freeze slots")
	d := start(t, token)
	d.want("ok", "init")
	d.want("ok test", "labels")
	if _, err := softhsm.Create(t.Context(), token.Dir, "new"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		d.want("ok", "finalize")
		d.want("ok", "init")
		d.want("ok test", "labels")
	}
	fresh := start(t, token)
	fresh.want("ok", "init")
	fresh.want("ok new test", "labels")
	slots := fresh.do("slots present")
	order(t, token, "freeze slots", "hide token new")
	fresh.want(slots, "slots present")
	fresh.want("ok test", "labels") // though it knows no label any more
	order(t, token)
	d.want("ok new test", "labels")
}

func TestTokenFlags(t *testing.T) {
	token := softhsmtest.NewFaulty(t)
	d := ready(t, token)
	before := number(t, d.one("tokenflags test"))
	order(t, token, "flags test +CKF_USER_PIN_FINAL_TRY +0x40000 -CKF_LOGIN_REQUIRED")
	if got, want := number(t, d.one("tokenflags test")), before&^4|0x60000; got != want {
		t.Errorf("flags %#x, want %#x", got, want)
	}
	order(t, token, "flags other +CKF_USER_PIN_LOCKED")
	if got := number(t, d.one("tokenflags test")); got != before {
		t.Errorf("flags %#x, want %#x", got, before)
	}
}

func TestSessionLimit(t *testing.T) {
	token := softhsmtest.NewFaulty(t)
	if _, err := softhsm.Create(t.Context(), token.Dir, "other"); err != nil {
		t.Fatal(err)
	}
	d := ready(t, token) // s1 is open
	order(t, token, "sessions 2 token=test")
	d.want("ok", "open s2 test ro")
	d.want("0xb1", "open s3 test ro")
	d.want("ok", "open s4 other ro")
	d.want("ok", "close s2")
	d.want("ok", "open s2 test ro")
	d.want("0xb1", "open s3 test ro")
	order(t, token, "sessions 3")
	d.want("0xb1", "open s3 other ro")
	d.want("ok", "closeall test")
	d.want("ok", "open s3 other ro")
	d.want("ok", "finalize")
	d.want("ok", "init")
	for _, s := range []string{"s1", "s2", "s3"} {
		d.want("ok", "open "+s+" test ro")
	}
	d.want("0xb1", "open s4 test ro")
}

func TestHiddenObjects(t *testing.T) {
	token, d, _ := keyed(t)
	d.want("ok", "generate s1 "+id2)
	for _, test := range []struct {
		order                              string
		private1, public1, private2, total int
	}{
		{"", 1, 1, 1, 4},
		{"hide object " + id1, 0, 0, 1, 2},
		{"hide public " + id1, 1, 0, 1, 3},
		{"hide private *", 0, 1, 0, 2},
		{"hide object *", 0, 0, 0, 0},
		{"hide object * token=other", 1, 1, 1, 4},
	} {
		order(t, token, test.order)
		all := len(d.get("find s1 private")) + len(d.get("find s1 public"))
		got := [4]int{len(d.get("find s1 private " + id1)), len(d.get("find s1 public " + id1)), len(d.get("find s1 private " + id2)), all}
		if want := [4]int{test.private1, test.public1, test.private2, test.total}; got != want {
			t.Errorf("%q: found %v, want %v", test.order, got, want)
		}
	}
}

func TestAHandleOfAnotherKey(t *testing.T) {
	token, d, key := keyed(t)
	d.want("ok", "generate s1 "+id2)
	pub1, pub2 := public(t, d, id1), public(t, d, id2)
	key2 := d.one("find s1 private " + id2)
	order(t, token, "remap "+id1+" "+id2)
	if sig := unhex(t, d.one("sign s1 "+key)); verifies(pub1, sig) || !verifies(pub2, sig) {
		t.Error("the first key's handle did not sign with the second")
	}
	if sig := unhex(t, d.one("sign s1 "+key2)); !verifies(pub2, sig) {
		t.Error("the second key's handle was not its own")
	}
	order(t, token, "remap "+id1+" "+id2, "remap "+id2+" "+id1)
	if sig := unhex(t, d.one("sign s1 "+key2)); !verifies(pub1, sig) {
		t.Error("the keys were not exchanged")
	}
	order(t, token, "remap "+id1+" dd")
	d.want("init 0x5", "sign s1 "+key)
	if !strings.Contains(d.said(), "line 1: there is no such other key") {
		t.Errorf("standard error: %s", d.said())
	}
}

func TestAnotherPairsPublicKey(t *testing.T) {
	token, d, _ := keyed(t)
	d.want("ok", "generate s1 "+id2)
	pub1, pub2 := public(t, d, id1), public(t, d, id2)
	order(t, token, "pubkey "+id1+" "+id2)
	if got := public(t, d, id1); !got.Equal(pub2) {
		t.Error("it is not the other pair's")
	}
	if got := public(t, d, id2); !got.Equal(pub2) {
		t.Error("the other pair has changed as well")
	}
	d.want("ok "+id1, "attribute s1 "+d.one("find s1 public "+id1)+" CKA_ID")
	order(t, token)
	if got := public(t, d, id1); !got.Equal(pub1) {
		t.Error("it stayed changed")
	}
}

func TestAttributes(t *testing.T) {
	token, d, private := keyed(t)
	pub := d.one("find s1 public " + id1)
	octets := d.one("attribute s1 " + pub + " CKA_EC_POINT")
	point := unhex(t, octets)[2:]
	if len(point) != 65 || elliptic.P256().Params().BitSize != 256 {
		t.Fatalf("point of %d bytes", len(point))
	}
	raw := hex.EncodeToString(point)
	for _, test := range []struct{ order, object, attribute, want string }{
		{"attribute public * CKA_EC_POINT raw", pub, "CKA_EC_POINT", "ok " + raw},
		{"attribute public * CKA_EC_POINT octet-string", pub, "CKA_EC_POINT", "ok " + octets},
		{"attribute public " + id1 + " 0x181 bit-string", pub, "CKA_EC_POINT", "ok 034200" + raw},
		{"attribute public " + id1 + " CKA_EC_POINT 041e00", pub, "CKA_EC_POINT", "ok 041e00"},
		{"attribute public " + id2 + " CKA_EC_POINT 041e00", pub, "CKA_EC_POINT", "ok " + octets},
		{"attribute private " + id1 + " CKA_ALWAYS_AUTHENTICATE true", private, "CKA_ALWAYS_AUTHENTICATE", "ok 01"},
		{"attribute private * CKA_EXTRACTABLE true", private, "CKA_EXTRACTABLE", "ok 01"},
		{"attribute object * CKA_SIGN false", private, "CKA_SIGN", "ok 00"},
		{"attribute public * CKA_SIGN false", private, "CKA_SIGN", "ok 01"},
		{"attribute private * CKA_SIGN invalid", private, "CKA_SIGN", "0x12"},
		{"attribute private * CKA_SIGN sensitive", private, "CKA_SIGN", "0x11"},
		{"attribute private * CKA_SIGN invalid token=other", private, "CKA_SIGN", "ok 01"},
		{"C_GetAttributeValue rv CKR_ATTRIBUTE_VALUE_INVALID key=" + id1, private, "CKA_SIGN", "0x13"},
	} {
		order(t, token, test.order)
		if got := d.do("attribute s1 " + test.object + " " + test.attribute); got != test.want {
			t.Errorf("%q: %s is %s, want %s", test.order, test.attribute, got, test.want)
		}
	}
}

// Each of these is refused whole, and the orders that stood stay.
func TestMistakes(t *testing.T) {
	token := softhsmtest.NewFaulty(t)
	d := ready(t, token)
	order(t, token, "C_GetInfo rv 0x30")
	for _, line := range []string{
		"C_Sing hang", "hang", "C_Sign", "C_Sign hang hang", "C_Sign  hang", " C_Sign hang", "C_Sign hang ",
		"c_sign hang", "C_Sign hang\t", "C_Sign hang\r", "C_Sign hang \xff", "C_Sign:sizes hang", "C_Login:size hang",
		"*:size hang", "C_Sign rv", "C_Sign rv CKR_NONE", "C_Sign rv 0x", "C_Sign rv -1", "C_Sign rv 030",
		"C_Sign rv 99999999999999999999", "C_Sign delay", "C_Sign delay 1s", "C_Sign exit", "C_Sign bytes", "C_Sign bytes 0",
		"C_Sign bytes 0g", "C_Sign cut", "C_Sign cut 1000", "C_Login corrupt", "* corrupt", "C_Sign:size corrupt",
		"C_Sign after", "C_Sign after corrupt", "C_Sign after after hang", "C_Sign after drop", "C_GetInfo drop", "C_OpenSession logout",
		"C_Sign hang nth=0", "C_Sign hang nth=", "C_Sign hang nth=1 nth=2", "C_Sign hang nth=1 to=2", "C_Sign hang nth=1 from=2",
		"C_Sign hang nth", "C_Sign hang all=1", "C_GetInfo hang token=a", "C_Sign hang token=", "C_Sign hang token=%2", "C_Sign hang token=a token=b",
		"C_Login hang key=a1", "C_Sign hang key=a", "C_Sign hang key=", "C_Sign hang mode=wr", "C_GetInfo hang mode=rw", "C_OpenSession hang idle=5",
		"hide", "hide token", "hide token a b", "hide token a token=b", "hide objects a1", "hide object", "hide object a", "hide object a1 b2",
		"freeze", "freeze tokens", "freeze slots token=a", "freeze slots nth=1", "remap a1", "remap a1 *", "remap a1 b2 c3", "pubkey",
		"attribute", "attribute public", "attribute public a1", "attribute public a1 CKA_NONE 00", "attribute public a1 CKA_SIGN",
		"attribute public a1 CKA_SIGN yes", "attribute a1 CKA_SIGN true", "flags", "flags a", "flags a CKF_RNG", "flags a +CKF_NONE", "flags a +",
		"flags a +CKF_RNG token=b", "sessions", "sessions many", "sessions 4 nth=1", "hide object " + strings.Repeat("ab", 256),
		strings.Repeat("a ", 20) + "a", strings.Repeat("a", 70000), "C_Sign hang\n\nC_Sign bang",
	} {
		if err := token.Faults.Order("C_GetInfo rv 0x31", line); err == nil {
			t.Errorf("%.60q was taken for an order", line)
		}
	}
	if err := token.Faults.Order(strings.Split(strings.Repeat("C_Sign hang\n", 257), "\n")...); err == nil {
		t.Error("257 orders were taken")
	}
	err := token.Faults.Order("# one", "", "C_Sign hang", "C_Sing hang")
	if err == nil || !strings.Contains(err.Error(), `line 4: no order or function is called "C_Sing"`) {
		t.Errorf("a mistake in the fourth line: %v", err)
	}
	d.want("0x30", "info")
}

// A mistake in a file that was written some other way is told at each call.
func TestAMistakeIsNotPassedOver(t *testing.T) {
	token := softhsmtest.NewFaulty(t)
	d := ready(t, token)
	control := token.Faults.Env()["FAULTMODULE_CONTROL"]
	for _, text := range []string{"C_GetInfo bang\n", "C_GetInfo hang", "\x00\n"} {
		if err := os.WriteFile(control+".mine", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(control+".mine", control); err != nil {
			t.Fatal(err)
		}
		for _, call := range []string{"info", "info", "random s1"} {
			d.want("0x5", call)
		}
		fresh := start(t, token)
		fresh.want("0x5", "init")
		order(t, token)
		d.want("ok", "info")
	}
	if n := strings.Count(d.said(), "faultmodule: "+control+": line 1: "); n != 3 {
		t.Errorf("%d lines on standard error, want 3:\n%s", n, d.said())
	}
	if err := os.Remove(control); err != nil {
		t.Fatal(err)
	}
	d.want("ok", "info")
	if err := os.Mkdir(control, 0o700); err != nil {
		t.Fatal(err)
	}
	d.want("0x5", "info")
	d.want("0x5", "info")
	if n := strings.Count(d.said(), "\n"); n != 4 {
		t.Errorf("%d lines on standard error, want 4:\n%s", n, d.said())
	}
}

// Orders that follow each other as fast as they can be given are all seen.
func TestManyChanges(t *testing.T) {
	token := softhsmtest.NewFaulty(t)
	d := ready(t, token)
	for i := range 150 {
		code := "0x" + strconv.FormatInt(int64(0x30+i%3), 16)
		order(t, token, "C_GetInfo rv "+code)
		d.want(code, "info")
	}
}

// sanitized builds what reads orders with the compiler's checks.
func sanitized(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "check")
	args := []string{"-std=c11", "-D_GNU_SOURCE", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
		"-o", out, "module/check.c", "module/orders.c", "module/names.c"}
	if text, err := exec.Command("cc", args...).CombinedOutput(); err != nil {
		t.Skipf("the compiler has no sanitizers: %s", text)
	}
	return out
}

// Whatever stands in the file is either orders or a mistake.
func TestGarbage(t *testing.T) {
	check := sanitized(t)
	random := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("C_Sign C_GetInfo * C_Sign:size hang rv delay bytes after corrupt der cut zeros 0x30 7 CKR_DEVICE_ERROR " +
		"nth=3 times=2 token=%20a key=a1 mode=ro idle=5 hide token object public private a1 b2c3 freeze slots remap pubkey attribute " +
		"CKA_EC_POINT raw true flags +CKF_RNG -0x4 sessions # = : % 0x : \x00 \x80 \n \n \n")
	taken := 0
	for i := range 400 {
		var text []byte
		for range random.IntN(60) {
			switch {
			case i%4 == 0:
				text = append(text, byte(random.UintN(256)))
			case random.IntN(12) == 0:
				text = append(text, '\n')
			default:
				text = append(append(text, words[random.IntN(len(words))]...), ' ')
			}
		}
		cmd := exec.Command(check)
		cmd.Stdin = strings.NewReader(string(append(text, '\n')))
		out, err := cmd.CombinedOutput()
		if err == nil {
			taken++
			continue
		}
		if cmd.ProcessState.ExitCode() != 1 || !strings.HasPrefix(string(out), "line ") || strings.Contains(string(out), "ERROR") {
			t.Fatalf("%q: %v\n%s", text, err, out)
		}
	}
	if taken > 200 {
		t.Errorf("%d of 400 files were taken for orders", taken)
	}
}

func TestOrdersOfTheREADME(t *testing.T) {
	token := softhsmtest.NewFaulty(t)
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```orders\n")[1:]
	for _, block := range blocks {
		orders, _, _ := strings.Cut(block, "\n```")
		if err := token.Faults.Order(strings.Split(orders, "\n")...); err != nil {
			t.Errorf("%v in:\n%s", err, orders)
		}
	}
	if len(blocks) != 2 {
		t.Errorf("%d blocks of orders, want 2", len(blocks))
	}
}
