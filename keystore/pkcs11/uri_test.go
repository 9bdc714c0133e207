package pkcs11

import (
	"strings"
	"testing"
)

func TestURI(t *testing.T) {
	for _, v := range []struct {
		uri  string
		want URI
		err  string // part of it
	}{
		{"pkcs11:serial=0a1b?pin-source=/run/pin", URI{Serial: "0a1b", PINFile: "/run/pin"}, ""},
		{"pkcs11:token=signing%20one?pin-source=file:/run/pin", URI{Label: "signing one", PINFile: "/run/pin"}, ""},
		{"pkcs11:token=t;manufacturer=M;model=x;serial=1?pin-source=file:///run/pin",
			URI{Label: "t", Manufacturer: "M", Model: "x", Serial: "1", PINFile: "/run/pin"}, ""},
		{"pkcs11:token=t?pin-source=/run/a%20b", URI{Label: "t", PINFile: "/run/a b"}, ""},
		{"pkcs11:token=t?pin-source=file:/run/a%2520b", URI{Label: "t", PINFile: "/run/a b"}, ""},
		{"pkcs11:token=t?pin-source=credential:pin.hsm", URI{Label: "t", Credential: "pin.hsm"}, ""},
		{"pkcs11:token=t?pin-source=credential:../pin", URI{}, "names no credential"},
		{"pkcs11:token=t?pin-source=credential:", URI{}, "names no credential"},
		{"pkcs11:token=t?pin-source=fd:3", URI{Label: "t", Descriptor: 3}, ""},
		{"pkcs11:token=t?pin-source=fd:0", URI{}, "names no descriptor"},
		{"pkcs11:token=t?pin-source=fd:03", URI{}, "names no descriptor"},
		{"pkcs11:token=t?pin-source=fd:-3", URI{}, "names no descriptor"},
		{"pkcs11:token=t?pin-source=fd:9999999", URI{}, "names no descriptor"},
		{"pkcs11:token=t?pin-source=%7Ccat%20/run/pin", URI{}, "runs a command"},
		{"pkcs11:token=t?pin-source=|cat", URI{}, "runs a command"},
		{"pkcs11:token=t?pin-source=run/pin", URI{}, "must be /path"},
		{"pkcs11:token=t?pin-source=file:run/pin", URI{}, "must be /path"},
		{"pkcs11:token=t?pin-source=file://host/pin", URI{}, "must be /path"},
		{"pkcs11:token=t?pin-source=https://host/pin", URI{}, "must be /path"},
		{"pkcs11:token=t?pin-value=1234", URI{}, "pin-value is refused"},
		{"pkcs11:slot-id=0?pin-source=/run/pin", URI{}, "slots change"},
		{"pkcs11:token=t;object=k?pin-source=/run/pin", URI{}, "object"},
		{"pkcs11:token=t?module-path=/lib/m.so&pin-source=/run/pin", URI{}, "setting of its own"},
		{"pkcs11:token=t", URI{}, "pin-source"},
		{"pkcs11:?pin-source=/run/pin", URI{}, "names no token"},
		{"pkcs11:token=?pin-source=/run/pin", URI{}, "token must have"},
		{"pkcs11:token=t;token=u?pin-source=/run/pin", URI{}, "not of the form"},
		{"pkcs11:serial=12345678901234567?pin-source=/run/pin", URI{}, "1 to 16"},
		{"pkcs11:token=a%00b?pin-source=/run/pin", URI{}, "control characters"},
		{"pkcs11:token=a b?pin-source=/run/pin", URI{}, "percent-encode"},
		{"http://token", URI{}, "not of the form"},
	} {
		got, err := ParseURI(v.uri)
		switch {
		case v.err != "" && (err == nil || !strings.Contains(err.Error(), v.err)):
			t.Errorf("%s: %v, want it to say %q", v.uri, err, v.err)
		case v.err == "" && (err != nil || got != v.want):
			t.Errorf("%s: %+v, %v", v.uri, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "1234") && strings.Contains(v.uri, "pin-value") {
			t.Errorf("the PIN is in the error: %v", err)
		}
	}
}

// What parses is written in one spelling, which parses to the same.
func FuzzURI(f *testing.F) {
	f.Add("pkcs11:serial=0a1b;token=signing%20one?pin-source=file:///run/a%2520b")
	f.Add("pkcs11:token=t?pin-source=credential:pin")
	f.Add("pkcs11:token=t?pin-source=fd:3")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		if err != nil {
			return
		}
		again, err := ParseURI(u.String())
		if err != nil {
			t.Fatalf("%q was written as %q: %v", s, u, err)
		}
		if again != u || again.String() != u.String() {
			t.Fatalf("%+v came back as %+v", u, again)
		}
	})
}
