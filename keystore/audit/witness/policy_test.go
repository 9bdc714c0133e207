package witness

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"testing"

	"chancery/keystore/audit"
)

// examplePolicy is that of C2SP tlog-policy, with keys.
func examplePolicy(t testing.TB) (text string, keys map[string]audit.WitnessKey) {
	keys = map[string]audit.WitnessKey{}
	text = "log " + newLogKey(t).vkey + " https://log.example/\n\n"
	for _, name := range []string{"X1", "X2", "X3"} {
		keys[name] = newCosigner(t, "x.example/"+name).Key
		text += "witness " + name + " " + keys[name].VKey() + "\n"
	}
	text += "group X-witnesses 2 X1 X2 X3\n\n"
	for _, name := range []string{"Y1", "Y2", "Y3"} {
		keys[name] = newCosigner(t, "y.example/"+name).Key
		text += "\t witness " + name + "\t" + keys[name].VKey() + " https://y.example/" + name + " \n"
	}
	return text + "# both\ngroup Y-witnesses any Y1 Y2 Y3\ngroup X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n", keys
}

func TestAPolicySaysWhoIsEnough(t *testing.T) {
	text, keys := examplePolicy(t)
	p, err := ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Logs) != 1 || p.Logs[0].URL != "https://log.example/" || len(p.Known) != 6 || p.Known[5].URL != "https://y.example/Y3" {
		t.Errorf("parsed %+v", p)
	}
	for _, c := range []struct {
		by     []string
		enough bool
	}{
		{nil, false},
		{[]string{"X1", "X2"}, false},
		{[]string{"X1", "Y1", "Y2", "Y3"}, false},
		{[]string{"X1", "X3", "Y2"}, true},
		{[]string{"X1", "X2", "X3", "Y1", "Y2", "Y3"}, true},
	} {
		got := p.Met(func(k audit.WitnessKey) bool {
			return slices.ContainsFunc(c.by, func(name string) bool { return keys[name].String() == k.String() })
		})
		if got != c.enough {
			t.Errorf("%v: enough is %v, want %v", c.by, got, c.enough)
		}
	}
	again, err := ParsePolicy([]byte(p.String()))
	if err != nil || again.String() != p.String() {
		t.Errorf("its own spelling: %v\n%s\n%s", err, p, again)
	}
}

func TestAPolicyMayWantNoWitness(t *testing.T) {
	p, err := ParsePolicy([]byte("quorum none\n"))
	if err != nil || !p.Met(func(audit.WitnessKey) bool { return false }) {
		t.Errorf("quorum none: %v", err)
	}
}

func TestAllOf(t *testing.T) {
	a, b := newCosigner(t, "a").Key, newCosigner(t, "b").Key
	p := AllOf([]audit.WitnessKey{a, b})
	if p.Met(func(k audit.WitnessKey) bool { return k.Name() == "a" }) || !p.Met(func(audit.WitnessKey) bool { return true }) {
		t.Error("all of two is not both of them")
	}
	if again, err := ParsePolicy([]byte(p.String())); err != nil || again.String() != p.String() {
		t.Errorf("its own spelling: %v", err)
	}
}

func TestPoliciesRefused(t *testing.T) {
	log, w, v := newLogKey(t).vkey, newCosigner(t, "w").Key, newCosigner(t, "v").Key
	renamed, err := audit.NewWitnessKey("another-name", w.Public())
	if err != nil {
		t.Fatal(err)
	}
	one := "witness w " + w.VKey()
	for _, c := range []struct{ text, want string }{
		{"", "without a quorum"},
		{one + "\n", "without a quorum"},
		{one + "\nquorum w", "line 2: it does not end in a newline"},
		{lines(one, "quorum w", "quorum w"), "line 3: a second quorum"},
		{lines("quorum w", one), `line 1: "w" is no witness or group above`},
		{lines(one, "quorum w v"), "line 2: want quorum NAME"},
		{lines(one, one, "quorum w"), "line 2: a witness with this key is above"},
		{lines(one, "witness other "+renamed.VKey(), "quorum w"), "line 2: a witness with this key is above"},
		{lines(one, "witness w "+v.VKey(), "quorum w"), `line 2: the name "w" is taken above`},
		{lines("witness none "+v.VKey(), "quorum none"), "line 1: the name none"},
		{lines(one, "group none any w", "quorum none"), "line 2: the name none"},
		{lines(one, "group w any w", "quorum w"), `the name "w" is taken`},
		{lines(one, "group g 2 w", "quorum g"), `line 2: "2" is not all, any, or a number from 1 to 1`},
		{lines(one, "group g 0 w", "quorum g"), `"0" is not all`},
		{lines(one, "group g 01 w", "quorum g"), `"01" is not all`},
		{lines(one, "group g any", "quorum g"), "want group"},
		{lines(one, "group g any none", "quorum g"), `"none" is no witness or group above`},
		{lines(one, "group g any g", "quorum g"), `"g" is no witness or group above`},
		{lines(one, "group g any w w", "quorum g"), `"w" is member of a group already`},
		{lines(one, "group g any w", "group h any w g", "quorum h"), `line 3: "w" is member of a group already`},
		{lines("log "+log, "log "+log+" https://other.example", "quorum none"), "line 2: a log with this key is above"},
		{lines("log "+w.VKey(), "quorum none"), "line 1: log key: "},
		{lines("witness w "+log, "quorum none"), "line 1: witness key: verifier key of type 0x01"},
		{lines("witness w", "quorum none"), "line 1: want witness"},
		{lines("log", "quorum none"), "line 1: want log"},
		{lines("Quorum none"), `line 1: it begins with "Quorum"`},
		{lines("quorum none\r"), "line 1: control character 0x0d"},
		{lines("quorum none", "# a\x00b"), "line 2: control character 0x00"},
		{strings.Repeat("#\n", largestPolicy), "is over"},
	} {
		if _, err := ParsePolicy([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.200q: %v, want %q", c.text, err, c.want)
		}
	}
}

func TestAPolicyIsAsLargeAsTheSpecificationAsks(t *testing.T) {
	var b strings.Builder
	for i := range 32 {
		fmt.Fprintf(&b, "log %s\nwitness w%d %s\ngroup g%d any w%d\n", newLogKey(t).vkey, i, newCosigner(t, "w").Key.VKey(), i, i)
	}
	if _, err := ParsePolicy([]byte(b.String() + "quorum g31\n")); err != nil {
		t.Error(err)
	}
}

// A key in base64 may hold a plus, and two that end alike behind it are two keys.
func TestKeysThatHoldAPlus(t *testing.T) {
	var b strings.Builder
	for i := range byte(2) {
		pub := bytes.Repeat([]byte{i + 1}, ed25519.PublicKeySize)
		copy(pub[26:], []byte{0xfb, 0xef, 0xbe, 0xfb, 0xef, 0xbe}) // ++++++++ at its end
		key, err := audit.NewWitnessKey("w", pub)
		if err != nil || !strings.HasSuffix(key.VKey(), "+") {
			t.Fatal(key.VKey(), err)
		}
		fmt.Fprintf(&b, "witness w%d %s\n", i, key.VKey())
	}
	if _, err := ParsePolicy([]byte(b.String() + "quorum w1\n")); err != nil {
		t.Error(err)
	}
}

// FuzzParsePolicy: what parses has one spelling, and its quorum can be asked.
func FuzzParsePolicy(f *testing.F) {
	text, _ := examplePolicy(f)
	f.Add([]byte(text))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePolicy(data)
		if err != nil {
			return
		}
		p.Met(func(audit.WitnessKey) bool { return false })
		if !p.Met(func(audit.WitnessKey) bool { return true }) {
			t.Error("everyone is not enough")
		}
		again, err := ParsePolicy([]byte(p.String()))
		if err != nil || again.String() != p.String() {
			t.Errorf("its own spelling: %v\n%s", err, p)
		}
	})
}
