package policy

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"strings"
	"testing"
)

// called is a client certificate with one alternative name of a tag, which
// crypto/x509 might refuse to parse: a name is judged by its bytes.
func called(t *testing.T, tag, name string) *x509.Certificate {
	t.Helper()
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: int(tag[0] & 0x1f), Bytes: []byte(name)}})
	if err != nil {
		t.Fatal(err)
	}
	return &x509.Certificate{
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, Extensions: []pkix.Extension{{Id: subjectAltName, Value: san}},
	}
}

// A18: a name counts in one spelling, the one that is compared byte by byte. Each
// of these is another spelling of a name that a rule has, or looks like it, and is
// nobody's: in a certificate, and in a rule.
func TestA18ANameHasOneSpelling(t *testing.T) {
	p := mustNew(t, example())
	const spiffe, dev, ci = "spiffe://chancery.dev/issuer", "dev", "ci"
	for _, right := range []struct{ anchor, kind, tag, name string }{
		{dev, "spiffe", "\x86", spiffe}, {ci, "dns", "\x82", "one.example.com"}, {ci, "uri", "\x86", "https://ci.example.com/jobs/build"},
	} {
		if who, err := p.Identify(right.anchor, called(t, right.tag, right.name)); err != nil {
			t.Fatalf("%s, as it is written: %v, %v", right.name, who, err)
		}
	}
	for _, c := range []struct{ anchor, kind, tag, name string }{
		// Many names in one.
		{dev, "spiffe", "\x86", spiffe + ",spiffe://chancery.dev/ca"},
		{dev, "spiffe", "\x86", spiffe + " " + spiffe},
		{dev, "spiffe", "\x86", spiffe + "\n" + spiffe},
		{ci, "dns", "\x82", "one.example.com,two.ci.example.com"},
		// Users and ports.
		{dev, "spiffe", "\x86", "spiffe://chancery.dev@evil.test/issuer"},
		{dev, "spiffe", "\x86", "spiffe://evil.test@chancery.dev/issuer"},
		{dev, "spiffe", "\x86", "spiffe://@chancery.dev/issuer"},
		{dev, "spiffe", "\x86", "spiffe://chancery.dev:/issuer"},
		{dev, "spiffe", "\x86", "spiffe://chancery.dev:0/issuer"},
		{ci, "uri", "\x86", "https://ci.example.com:@evil.test/jobs/build"},
		{ci, "uri", "\x86", "https://ci.example.com:/jobs/build"},
		{ci, "dns", "\x82", "one.example.com:443"},
		// Percent-encoding, of what needs it and of what does not.
		{dev, "spiffe", "\x86", "spiffe://chancery%2Edev/issuer"},
		{dev, "spiffe", "\x86", "spiffe://chancery.dev/issue%72"},
		{dev, "spiffe", "\x86", "spiffe://chancery.dev/issuer%2F"},
		{dev, "spiffe", "\x86", "spiffe://chancery.dev/issuer%00"},
		{dev, "spiffe", "\x86", "spiffe://chancery.dev/x%2F..%2Fissuer"},
		{ci, "uri", "\x86", "https://ci.example.com/jobs/%62uild"},
		{ci, "uri", "\x86", "https://ci.example.com/jobs%2Fbuild"},
		{ci, "dns", "\x82", "one%2eexample.com"},
		// Slashes, dots, and paths that are none.
		{dev, "spiffe", "\x86", spiffe + "/"},
		{dev, "spiffe", "\x86", "spiffe://chancery.dev//issuer"},
		{dev, "spiffe", "\x86", "spiffe://chancery.dev/./issuer"},
		{dev, "spiffe", "\x86", "spiffe://chancery.dev/a/../issuer"},
		{dev, "spiffe", "\x86", "spiffe://chancery.dev/"},
		{dev, "spiffe", "\x86", "spiffe://chancery.dev"},
		{dev, "spiffe", "\x86", "spiffe:/chancery.dev/issuer"},
		{dev, "spiffe", "\x86", "spiffe:chancery.dev/issuer"},
		{dev, "spiffe", "\x86", "spiffe:///issuer"},
		{dev, "spiffe", "\x86", `spiffe:\\chancery.dev\issuer`},
		{dev, "spiffe", "\x86", `spiffe://chancery.dev\issuer`},
		{ci, "uri", "\x86", "https://ci.example.com/jobs//build"},
		{ci, "uri", "\x86", "https://ci.example.com/jobs/build/."},
		{ci, "uri", "\x86", "//ci.example.com/jobs/build"},
		{ci, "uri", "\x86", "/jobs/build"},
		{ci, "dns", "\x82", "one.example.com."},
		{ci, "dns", "\x82", ".one.example.com"},
		{ci, "dns", "\x82", "one..example.com"},
		// Letter case.
		{dev, "spiffe", "\x86", "Spiffe://chancery.dev/issuer"},
		{dev, "spiffe", "\x86", "spiffe://chancery.DEV/issuer"},
		{ci, "uri", "\x86", "HTTPS://ci.example.com/jobs/build"},
		{ci, "uri", "\x86", "https://ci.example.COM/jobs/build"},
		{ci, "dns", "\x82", "ONE.example.com"},
		// Queries and fragments, also empty.
		{dev, "spiffe", "\x86", spiffe + "?"},
		{dev, "spiffe", "\x86", spiffe + "#"},
		{ci, "uri", "\x86", "https://ci.example.com/jobs/build?"},
		{ci, "uri", "\x86", "https://ci.example.com/jobs/build#x"},
		// Other scripts: letters that look like ours, or that lower-case to them.
		{dev, "spiffe", "\x86", "spiffe://\u0441hancery.dev/issuer"}, // Cyrillic es
		{dev, "spiffe", "\x86", "spiffe://chancery.dev/\u0456ssuer"}, // Ukrainian i
		{dev, "spiffe", "\x86", "spiffe://chancery\u3002dev/issuer"}, // ideographic full stop
		{dev, "spiffe", "\x86", "\u017fpiffe://chancery.dev/issuer"}, // long s
		{dev, "spiffe", "\x86", spiffe + "\u200b"},                   // zero-width space
		{ci, "dns", "\x82", "b\u00fccher.ci.example.com"},
		{ci, "dns", "\x82", "one\uff0eexample.com"},
		{ci, "dns", "\x82", "o\u200dne.example.com"},
		// Control characters, white space, and what ends a string in C.
		{dev, "spiffe", "\x86", spiffe + "\x00"},
		{dev, "spiffe", "\x86", spiffe + "\x00.evil.test"},
		{dev, "spiffe", "\x86", "spiffe://chancery.dev\x00.evil.test/issuer"},
		{dev, "spiffe", "\x86", " " + spiffe},
		{dev, "spiffe", "\x86", spiffe + "\r\n"},
		{dev, "spiffe", "\x86", "spiffe://chancery.dev/iss\tuer"},
		{ci, "uri", "\x86", "https://ci.example.com/jobs/build\x00"},
		{ci, "dns", "\x82", "one.example.com\x00"},
		{ci, "dns", "\x82", "one.example.com "},
		{ci, "dns", "\x82", "one.example.com\n"},
		{ci, "dns", "\x82", "one.example\xff.com"},
		// Addresses for names, and names that match others.
		{ci, "dns", "\x82", "127.0.0.1"},
		{ci, "dns", "\x82", "[::1]"},
		{ci, "dns", "\x82", "*.ci.example.com"},
		{ci, "dns", "\x82", "-a.ci.example.com"},
		{ci, "dns", "\x82", "a_b.ci.example.com"},
		{ci, "uri", "\x86", "https://[::1]/jobs/build"},
		{ci, "uri", "\x86", "https://127.0.0.1/jobs/build"},
		// Length.
		{dev, "spiffe", "\x86", "spiffe://chancery.dev/" + strings.Repeat("a", 3000)},
		{ci, "dns", "\x82", strings.Repeat("a", 64) + ".ci.example.com"},
		{ci, "dns", "\x82", strings.Repeat("a.", 130) + "ci.example.com"},
		{ci, "dns", "\x82", ""},
		{dev, "spiffe", "\x86", ""},
	} {
		if who, err := p.Identify(c.anchor, called(t, c.tag, c.name)); !errors.Is(err, ErrNobody) {
			t.Errorf("a certificate of %.80q is %v, %v", c.name, who, err)
		}
		if who, err := ParsePrincipal(c.anchor + ":" + c.kind + ":" + c.name); err == nil {
			t.Errorf("%s %.80q in a rule is read as %v", c.kind, c.name, who)
		}
	}
}
