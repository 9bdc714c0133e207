package policy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	issuer   = "dev:spiffe:spiffe://chancery.dev/issuer"
	ca       = "dev:spiffe:spiffe://chancery.dev/ca"
	operator = "dev:spiffe:spiffe://chancery.dev/operator"
	runner   = "ci:dns:runner-7.ci.example.com"
)

func example() Config {
	return Config{
		Anchors: []Anchor{
			{Name: "dev", SPIFFE: []string{"chancery.dev"}},
			{Name: "ci", DNS: []string{".ci.example.com", "one.example.com"}, URI: []string{"https://ci.example.com"}},
		},
		Rules: []Rule{
			{Name: "short-web", Principals: []string{issuer}, Actions: []Action{SignJWT},
				KeySets: []string{"web"}, MaxTTL: time.Minute, Types: []string{"JWT", "at+jwt"}},
			{Name: "issuers", Principals: []string{issuer, runner}, Actions: []Action{SignJWT, ReadKeySets},
				KeySets: []string{"web", "edge"}, MaxTTL: time.Hour},
			{Name: "devices", Principals: []string{ca}, Actions: []Action{SignCSR}, Authorities: []string{"devices"},
				Profiles: []string{"tls"}, MaxTTL: 24 * time.Hour, Names: []string{".devices.test", "hub.test"}},
			{Name: "operators", Principals: []string{operator}, KeySets: []string{Any},
				Actions: []Action{Rotate, Suspend, Resume, Compromise, Destroy, Reconcile, ReadKeySets, ReadAudit, ManageTokens, ConfirmClock, ManageNodes}},
		},
	}
}

func mustNew(t testing.TB, cfg Config) *Policy {
	t.Helper()
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func who(t testing.TB, s string) Caller {
	t.Helper()
	p, err := ParsePrincipal(s)
	if err != nil {
		t.Fatal(err)
	}
	return Caller{Principal: p}
}

func TestAuthorizeDeniesByDefault(t *testing.T) {
	p := mustNew(t, example())
	for _, c := range []struct {
		who    string
		action Action
		target Target
		rule   string // empty: forbidden
	}{
		{issuer, SignJWT, Target{KeySet: "web"}, "short-web"},
		{issuer, SignJWT, Target{KeySet: "edge"}, "issuers"},
		{issuer, ReadKeySets, Target{KeySet: "web"}, "issuers"},
		{runner, SignJWT, Target{KeySet: "web"}, "issuers"},
		{ca, SignCSR, Target{Authority: "devices", Profile: "tls"}, "devices"},
		{operator, Rotate, Target{KeySet: "web"}, "operators"},
		{operator, Suspend, Target{KeySet: "anything"}, "operators"},
		{operator, ReadAudit, Target{}, "operators"},
		{operator, ManageTokens, Target{}, "operators"},
		{operator, ConfirmClock, Target{}, "operators"},
		{operator, ManageNodes, Target{}, "operators"},
		{issuer, ConfirmClock, Target{}, ""},
		{issuer, ManageNodes, Target{}, ""},
		{operator, Destroy, Target{KeySet: "web"}, "operators"},
		{operator, Compromise, Target{KeySet: "web"}, "operators"},
		{issuer, Compromise, Target{KeySet: "web"}, ""},
		{operator, Reconcile, Target{}, "operators"},

		{issuer, SignJWT, Target{KeySet: "legacy"}, ""},
		{issuer, SignJWT, Target{KeySet: "Web"}, ""},
		{issuer, SignJWT, Target{}, ""},
		{issuer, Rotate, Target{KeySet: "web"}, ""},
		{issuer, ReadAudit, Target{}, ""},
		{issuer, SignCSR, Target{KeySet: "web"}, ""},
		{issuer, "", Target{KeySet: "web"}, ""},
		{ca, SignCSR, Target{Authority: "devices"}, ""},
		{ca, SignCSR, Target{Authority: "devices", Profile: "code"}, ""},
		{ca, SignCSR, Target{Authority: "others", Profile: "tls"}, ""},
		{ca, SignJWT, Target{KeySet: "devices"}, ""},
		{operator, Rotate, Target{}, ""},
		{operator, Destroy, Target{}, ""},
		{issuer, Destroy, Target{KeySet: "web"}, ""},
		{issuer, Reconcile, Target{}, ""},
		{operator, SignJWT, Target{KeySet: "web"}, ""},
		{"ci:spiffe:spiffe://chancery.dev/issuer", SignJWT, Target{KeySet: "web"}, ""},
		{"dev:spiffe:spiffe://chancery.dev/issuer2", SignJWT, Target{KeySet: "web"}, ""},
	} {
		grant, err := p.Authorize(who(t, c.who), c.action, c.target)
		if grant.Rule() != c.rule || (err == nil) != (c.rule != "") {
			t.Errorf("%s %s %+v: rule %q, %v; want %q", c.who, c.action, c.target, grant.Rule(), err, c.rule)
		}
		if err != nil && !errors.Is(err, ErrForbidden) {
			t.Errorf("%s %s %+v: %v is not ErrForbidden", c.who, c.action, c.target, err)
		}
	}
	if _, err := p.Authorize(Caller{}, ReadAudit, Target{}); err == nil {
		t.Error("nobody may read the log")
	}
}

// A24: a key set that exists and one that does not are refused in the same words.
func TestA24ForbiddenAndUnknownAreAlike(t *testing.T) {
	p := mustNew(t, example())
	_, exists := p.Authorize(who(t, runner), Rotate, Target{KeySet: "web"})
	_, unknown := p.Authorize(who(t, runner), Rotate, Target{KeySet: "no-such-set"})
	if exists == nil || unknown == nil || exists.Error() != unknown.Error() {
		t.Errorf("%v; %v", exists, unknown)
	}
}

func TestGrantHasTheLimitsOfTheRuleThatDecided(t *testing.T) {
	p := mustNew(t, example())
	web, _ := p.Authorize(who(t, issuer), SignJWT, Target{KeySet: "web"})
	edge, _ := p.Authorize(who(t, issuer), SignJWT, Target{KeySet: "edge"})
	if web.MaxTTL() != time.Minute || !web.AllowsType("at+jwt") || web.AllowsType("AT+JWT") || web.AllowsType("") {
		t.Error("the first rule's limits do not hold")
	}
	if edge.MaxTTL() != time.Hour || !edge.AllowsType("JWT") || edge.AllowsType("at+jwt") {
		t.Error("a rule without types allows JWT alone")
	}
	if web.AllowsName("hub.test") || web.Target().KeySet != "web" || web.Caller() != who(t, issuer) || web.Principal() != who(t, issuer).Principal ||
		web.PolicyHash() != p.Hash() || web.Action() != SignJWT || !web.Allows(SignJWT) || web.Allows(SignCSR) {
		t.Errorf("grant %+v", web)
	}

	csr, _ := p.Authorize(who(t, ca), SignCSR, Target{Authority: "devices", Profile: "tls"})
	for name, want := range map[string]bool{
		"a.devices.test": true, "a.b.devices.test": true, "hub.test": true,
		"devices.test": false, ".devices.test": false, "xdevices.test": false, "a.hub.test": false,
		"*.devices.test": false, "A.devices.test": false, "a.devices.test.": false, "a..devices.test": false,
		"a.devices.test\x00": false, "": false, "ä.devices.test": false, "a_b.devices.test": false,
	} {
		if csr.AllowsName(name) != want {
			t.Errorf("AllowsName(%q) = %v", name, !want)
		}
	}

	var zero Grant
	if zero.Allows(SignJWT) || zero.AllowsType("JWT") || zero.AllowsName("hub.test") || zero.MaxTTL() != 0 || zero.Rule() != "" {
		t.Error("the zero grant allows something")
	}
}

func TestHashTellsPoliciesApart(t *testing.T) {
	one, same := mustNew(t, example()), mustNew(t, example())
	cfg := example()
	cfg.Rules[0].MaxTTL = 2 * time.Minute
	if one.Hash() != same.Hash() || len(one.Hash()) != 64 || one.Hash() == mustNew(t, cfg).Hash() {
		t.Error("the hash does not tell policies apart")
	}
	empty := example()
	empty.Anchors[0].DNS, empty.Revoked.SPKI = []string{}, []string{}
	if one.Hash() != mustNew(t, empty).Hash() {
		t.Error("an empty list and none differ")
	}
}

func TestNewNamesEveryFault(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		fault  string
	}{
		{"anchor twice", func(c *Config) { c.Anchors[1].Name = "dev" }, "anchors[1].name"},
		{"anchor with a colon", func(c *Config) { c.Anchors[1].Name = "a:b" }, "anchors[1].name"},
		{"trust domain as ID", func(c *Config) { c.Anchors[0].SPIFFE[0] = "spiffe://chancery.dev" }, "anchors[0].spiffe[0]"},
		{"wildcard", func(c *Config) { c.Anchors[1].DNS[0] = "*.example.com" }, "anchors[1].dns[0]"},
		{"origin with a slash", func(c *Config) { c.Anchors[1].URI[0] = "https://ci.example.com/" }, "anchors[1].uri[0]"},
		{"pin", func(c *Config) { c.Anchors[1].PINs = []string{"AB"} }, "anchors[1].pins[0]"},
		{"rule without name", func(c *Config) { c.Rules[0].Name = "" }, "rules[0].name"},
		{"rule twice", func(c *Config) { c.Rules[1].Name = "short-web" }, "rules[1].name"},
		{"no principals", func(c *Config) { c.Rules[0].Principals = nil }, "rules[0].principals"},
		{"principal twice", func(c *Config) { c.Rules[0].Principals = []string{issuer, issuer} }, "rules[0].principals[1]"},
		{"principal of no anchor", func(c *Config) { c.Rules[0].Principals[0] = "x:dns:a.b" }, "rules[0].principals[0]"},
		{"principal the anchor does not speak for", func(c *Config) { c.Rules[0].Principals[0] = "ci:dns:example.com" }, "rules[0].principals[0]"},
		{"principal by common name", func(c *Config) { c.Rules[0].Principals[0] = "ci:cn:bob" }, "rules[0].principals[0]"},
		{"no actions", func(c *Config) { c.Rules[0].Actions = nil }, "rules[0].actions"},
		{"unknown action", func(c *Config) { c.Rules[0].Actions[0] = "jwt" }, "rules[0].actions[0]"},
		{"no key sets", func(c *Config) { c.Rules[0].KeySets = nil }, "rules[0].keysets"},
		{"no limit", func(c *Config) { c.Rules[0].MaxTTL = 0 }, "rules[0].max_ttl"},
		{"half a second", func(c *Config) { c.Rules[0].MaxTTL = 1500 * time.Millisecond }, "rules[0].max_ttl"},
		{"a limit no one uses", func(c *Config) { c.Rules[3].MaxTTL = time.Hour }, "rules[3].max_ttl"},
		{"type with a quote", func(c *Config) { c.Rules[0].Types[0] = `J"` }, "rules[0].types[0]"},
		{"types no one uses", func(c *Config) { c.Rules[3].Types = []string{"JWT"} }, "rules[3].types"},
		{"no names", func(c *Config) { c.Rules[2].Names = nil }, "rules[2].names"},
		{"names no one uses", func(c *Config) { c.Rules[0].Names = []string{"a.b"} }, "rules[0].names"},
		{"name with a star", func(c *Config) { c.Rules[2].Names[0] = "*.devices.test" }, "rules[2].names[0]"},
		{"signs and operates", func(c *Config) { c.Rules[3].Principals = []string{operator, issuer} }, "both sign and operate"},
		{"signs and audits", func(c *Config) { c.Rules[3].Principals = []string{ca} }, "both sign and read the log"},
		{"revoked key", func(c *Config) { c.Revoked.SPKI = []string{strings.Repeat("A", 64)} }, "revoked.spki[0]"},
		{"revoked serial", func(c *Config) { c.Revoked.Serials = []string{"1", "0A:3B"} }, "revoked.serials[1]"},
		{"negative serial", func(c *Config) { c.Revoked.Serials = []string{"-1"} }, "revoked.serials[0]"},
	} {
		cfg := example()
		c.change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	cfg := example()
	cfg.Rules[0].Name, cfg.Rules[2].Names, cfg.Anchors[0].SPIFFE[0] = "", nil, ""
	_, err := New(cfg)
	if joined, ok := err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) < 3 {
		t.Errorf("not every fault at once: %v", err)
	}
	if f, ok := errors.AsType[*Fault](err); !ok || f.Path == "" {
		t.Errorf("no Fault in %v", err)
	}
	if _, err := New(Config{}); err != nil {
		t.Errorf("a policy that allows nothing: %v", err)
	}
}

// certificate returns a parsed certificate as a client would show it.
func certificate(t testing.TB, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0xabc), Subject: pkix.Name{CommonName: "one.example.com"},
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func uris(list ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		for _, s := range list {
			u, err := url.Parse(s)
			if err != nil {
				panic(err)
			}
			c.URIs = append(c.URIs, u)
		}
	}
}

func dns(list ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames = list }
}

// sans returns one SAN extension with the given tags and values.
func sans(parts ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: subjectAltName, Value: sanDER(parts...)}}
	}
}

func sanDER(parts ...string) []byte {
	var names []byte
	for _, p := range parts {
		names = append(append(names, p[0], byte(len(p)-1)), p[1:]...)
	}
	return append([]byte{0x30, byte(len(names))}, names...)
}

func TestA18A19Identify(t *testing.T) {
	p := mustNew(t, example())
	const u, d, other = "\x86", "\x82", "\xa0"
	for _, c := range []struct {
		name, anchor string
		change       func(*x509.Certificate)
		want         string // empty: nobody
	}{
		{"SPIFFE ID", "dev", uris("spiffe://chancery.dev/issuer"), issuer},
		{"SPIFFE path in upper case is its own", "dev", uris("spiffe://chancery.dev/Issuer"), "dev:spiffe:spiffe://chancery.dev/Issuer"},
		{"DNS under", "ci", dns("runner-7.ci.example.com"), runner},
		{"DNS exact", "ci", dns("one.example.com"), "ci:dns:one.example.com"},
		{"URI", "ci", uris("https://ci.example.com/jobs/build"), "ci:uri:https://ci.example.com/jobs/build"},
		{"A-label", "ci", dns("xn--bcher-kva.ci.example.com"), "ci:dns:xn--bcher-kva.ci.example.com"},

		{"common name only", "ci", dns(), ""},
		{"two DNS names", "ci", dns("one.example.com", "two.ci.example.com"), ""},
		{"the same DNS name twice", "ci", dns("one.example.com", "one.example.com"), ""},
		{"two URIs", "dev", uris("spiffe://chancery.dev/issuer", "spiffe://chancery.dev/ca"), ""},
		{"DNS and URI", "dev", func(c *x509.Certificate) {
			uris("spiffe://chancery.dev/issuer")(c)
			dns("one.example.com")(c)
		}, ""},
		{"DNS and IP", "ci", func(c *x509.Certificate) { dns("one.example.com")(c); c.IPAddresses = []net.IP{{1, 2, 3, 4}} }, ""},
		{"DNS and email", "ci", func(c *x509.Certificate) { dns("one.example.com")(c); c.EmailAddresses = []string{"a@b.c"} }, ""},
		{"DNS and a name Go leaves out", "ci", sans(d+"one.example.com", other+"\x06\x01\x01"), ""},
		{"IP alone", "ci", func(c *x509.Certificate) { c.IPAddresses = []net.IP{{1, 2, 3, 4}} }, ""},
		{"email alone", "ci", func(c *x509.Certificate) { c.EmailAddresses = []string{"a@one.example.com"} }, ""},
		{"anchor unknown", "nowhere", dns("one.example.com"), ""},
		{"another anchor's domain", "ci", uris("spiffe://chancery.dev/issuer"), ""},
		{"another trust domain", "dev", uris("spiffe://other.dev/issuer"), ""},
		{"trust domain itself", "dev", uris("spiffe://chancery.dev"), ""},
		{"DNS not declared", "ci", dns("ci.example.com"), ""},
		{"DNS upper case", "ci", dns("One.example.com"), ""},
		{"DNS wildcard", "ci", dns("*.ci.example.com"), ""},
		{"DNS dot at the end", "ci", sans(d + "one.example.com."), ""},
		{"DNS with NUL", "ci", sans(d + "one.example.com\x00.evil.test"), ""},
		{"DNS empty", "ci", sans(d), ""},
		{"DNS that is an IP", "ci", dns("10.0.0.1"), ""},
		{"URI upper-case scheme", "dev", sans(u + "SPIFFE://chancery.dev/issuer"), ""},
		{"URI upper-case domain", "dev", sans(u + "spiffe://Chancery.dev/issuer"), ""},
		{"SPIFFE port", "dev", uris("spiffe://chancery.dev:443/issuer"), ""},
		{"SPIFFE user", "dev", uris("spiffe://x@chancery.dev/issuer"), ""},
		{"SPIFFE query", "dev", uris("spiffe://chancery.dev/issuer?a"), ""},
		{"SPIFFE fragment", "dev", uris("spiffe://chancery.dev/issuer#a"), ""},
		{"SPIFFE slash at the end", "dev", uris("spiffe://chancery.dev/issuer/"), ""},
		{"SPIFFE empty segment", "dev", uris("spiffe://chancery.dev//issuer"), ""},
		{"SPIFFE dots", "dev", uris("spiffe://chancery.dev/x/../issuer"), ""},
		{"SPIFFE percent-encoding", "dev", sans(u + "spiffe://chancery.dev/%69ssuer"), ""},
		{"SPIFFE IDN", "dev", sans(u + "spiffe://chancery.dev/iss%C3%BCer"), ""},
		{"URI port", "ci", uris("https://ci.example.com:443/jobs"), ""},
		{"URI user", "ci", uris("https://a@ci.example.com/jobs"), ""},
		{"URI without path", "ci", uris("https://ci.example.com"), ""},
		{"URI slash", "ci", uris("https://ci.example.com/"), ""},
		{"URI slash at the end", "ci", uris("https://ci.example.com/jobs/"), ""},
		{"URI upper-case host", "ci", sans(u + "https://CI.example.com/jobs"), ""},
		{"URI percent-encoding", "ci", sans(u + "https://ci.example.com/j%6fbs"), ""},
		{"URI query", "ci", uris("https://ci.example.com/jobs?x=1"), ""},
		{"URI other scheme", "ci", uris("http://ci.example.com/jobs"), ""},
		{"URI other host", "ci", uris("https://xci.example.com/jobs"), ""},
		{"URN", "ci", uris("urn:uuid:0"), ""},
		{"CA certificate", "ci", func(c *x509.Certificate) { dns("one.example.com")(c); c.IsCA = true }, ""},
		{"server certificate", "ci", func(c *x509.Certificate) {
			dns("one.example.com")(c)
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}, ""},
		{"for anything", "ci", func(c *x509.Certificate) { dns("one.example.com")(c); c.ExtKeyUsage = nil }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := p.Identify(c.anchor, certificate(t, c.change))
			if got.String() != c.want || (err == nil) != (c.want != "") {
				t.Errorf("identified as %q, %v; want %q", got, err, c.want)
			}
			if err != nil && !errors.Is(err, ErrNobody) {
				t.Errorf("%v is not ErrNobody", err)
			}
		})
	}
}

func TestPinIdentifiesAKey(t *testing.T) {
	nameless := certificate(t, dns())
	named := certificate(t, dns("undeclared.test"))
	two := certificate(t, dns("one.example.com", "two.ci.example.com"))
	pin := PinOf
	cfg := example()
	cfg.Anchors[1].PINs = []string{pin(nameless), pin(named), pin(two)}
	p := mustNew(t, cfg)
	for _, c := range []struct {
		name, anchor string
		cert         *x509.Certificate
		want         string
	}{
		{"no name", "ci", nameless, "ci:pin:" + pin(nameless)},
		{"a name", "ci", named, "ci:pin:" + pin(named)},
		{"two names", "ci", two, ""},
		{"another anchor", "dev", nameless, ""},
	} {
		if got, err := p.Identify(c.anchor, c.cert); got.String() != c.want {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}

func TestA16Revoked(t *testing.T) {
	a, b := certificate(t, dns("one.example.com")), certificate(t, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(1) })
	sum := sha256.Sum256(a.RawSubjectPublicKeyInfo)
	for _, c := range []struct {
		list Revoked
		a, b bool
	}{
		{Revoked{}, false, false},
		{Revoked{SPKI: []string{hex.EncodeToString(sum[:])}}, true, false},
		{Revoked{Serials: []string{"abc"}}, true, false},
		{Revoked{Serials: []string{"0abc", "01"}}, true, true},
	} {
		cfg := example()
		cfg.Revoked = c.list
		p := mustNew(t, cfg)
		if p.Revoked(a) != c.a || p.Revoked(b) != c.b {
			t.Errorf("%+v: %v, %v", c.list, p.Revoked(a), p.Revoked(b))
		}
	}
}

func TestPrincipalHasOneSpelling(t *testing.T) {
	for _, s := range []string{issuer, runner, "ci:uri:https://ci.example.com/a/B_~.-", "x:pin:" + strings.Repeat("0a", 32)} {
		if got := who(t, s).String(); got != s {
			t.Errorf("%q becomes %q", s, got)
		}
	}
	for _, s := range []string{"", "dev", "dev:dns", ":dns:a.b", "dev:DNS:a.b", "dev:dns:A.b", " dev:dns:a.b", "dev:uri:spiffe://a/b",
		"dev:spiffe:https://a/b", "dev:spiffe:spiffe://a", "d v:dns:a.b", "dev:pin:" + strings.Repeat("0A", 32), "dev:email:a@b"} {
		if p, err := ParsePrincipal(s); err == nil {
			t.Errorf("%q is read as %v", s, p)
		}
	}
}

// Whoever Identify finds has exactly one name, which the certificate spells as
// the principal does, and the principal has one spelling.
func FuzzIdentify(f *testing.F) {
	for _, der := range [][]byte{
		sanDER("\x86spiffe://chancery.dev/issuer"), sanDER("\x82one.example.com"), sanDER("\x86https://ci.example.com/a"),
		sanDER("\x82one.example.com", "\xa0\x06\x01\x01"), sanDER(), {0x30, 0x80}, {0x30, 0x03, 0x82, 0x81, 0x00},
		sanDER("\x86spiffe://chancery.dev/%69"), sanDER("\x82a.ci.example.com\x00"),
	} {
		f.Add(der)
	}
	cfg := example()
	cfg.Anchors[0].DNS, cfg.Anchors[0].URI = cfg.Anchors[1].DNS, cfg.Anchors[1].URI
	p := mustNew(f, cfg)
	f.Fuzz(func(t *testing.T, der []byte) {
		cert := &x509.Certificate{
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			Extensions:  []pkix.Extension{{Id: subjectAltName, Value: der}},
		}
		who, err := p.Identify("dev", cert)
		if err != nil {
			if !errors.Is(err, ErrNobody) || who != (Principal{}) {
				t.Fatalf("%v, %v", who, err)
			}
			return
		}
		tag := byte(0x86)
		if who.Kind == KindDNS {
			tag = 0x82
		}
		if len(who.Value) < 100 && !slices.Equal(der, sanDER(string([]byte{tag})+who.Value)) {
			t.Fatalf("%x is %v", der, who)
		}
		if again, err := ParsePrincipal(who.String()); err != nil || again != who {
			t.Fatalf("%v is read as %v, %v", who, again, err)
		}
	})
}

func BenchmarkIdentifyAndAuthorize(b *testing.B) {
	cfg := example()
	cfg.Revoked.Serials = []string{"1"}
	p, cert := mustNew(b, cfg), certificate(b, uris("spiffe://chancery.dev/issuer"))
	b.ReportAllocs()
	for b.Loop() {
		who, err := p.Identify("dev", cert)
		if err != nil || p.Revoked(cert) {
			b.Fatal(err)
		}
		if _, err := p.Authorize(Caller{Principal: who}, SignJWT, Target{KeySet: "edge"}); err != nil {
			b.Fatal(err)
		}
	}
}
