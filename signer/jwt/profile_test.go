package jwt

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// leave is a grant for a JWT of a profile by the key set web.
func leave(t testing.TB, profile string, change func(r *policy.Rule)) policy.Grant {
	t.Helper()
	r := policy.Rule{
		Name: "issuers", Principals: []string{"dev:dns:issuer.test"}, Actions: []policy.Action{policy.SignJWT},
		KeySets: []string{"web"}, MaxTTL: time.Hour, Profiles: []string{policy.Any},
	}
	if change != nil {
		change(&r)
	}
	p, err := policy.New(policy.Config{Anchors: []policy.Anchor{{Name: "dev", DNS: []string{"issuer.test"}}}, Rules: []policy.Rule{r}})
	if err != nil {
		t.Fatal(err)
	}
	who := policy.Caller{Principal: policy.Principal{Anchor: "dev", Kind: policy.KindDNS, Value: "issuer.test"}}
	g, err := p.Authorize(who, policy.SignJWT, policy.Target{KeySet: "web", Profile: profile})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func profileOf(t testing.TB, cfg ProfileConfig) *Profile {
	t.Helper()
	p, err := NewProfile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// under prepares claims under a profile.
func under(t testing.TB, p *Profile, req Request) (*Prepared, error) {
	t.Helper()
	req.KeySet = "web"
	env := environment()
	env.Profile = p
	return Prepare(leave(t, p.Name(), nil), req, env)
}

func codeOf(err error) api.Code {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e.Code
	}
	return ""
}

// Each kind: claims that are right, and then every way in which they are not, as a
// change of one member. The refusal names the claim.
func TestA06EachKindHasItsClaims(t *testing.T) {
	svid := ProfileConfig{Name: policy.ProfileJWTSVID, TrustDomains: []string{"example.org", "example.net"}}
	hash := strings.Repeat("A", 22)
	for _, kind := range []struct {
		cfg   ProfileConfig
		right map[string]string // claims by name
		typ   string
		also  []map[string]string // changes that are right too; an empty value takes the claim out
		wrong map[string][]string // by the claim that is named: values; an empty one takes it out
	}{
		{
			cfg:   ProfileConfig{Name: policy.ProfileAccessToken},
			right: map[string]string{"aud": `"https://api.test"`, "sub": `"alice"`, "client_id": `"app"`},
			typ:   "at+jwt",
			also: []map[string]string{
				{"aud": `["a","b"]`, "scope": `"read write"`, "auth_time": `1772366400`, "acr": `"0"`, "amr": `["pwd","otp"]`},
				{"groups": `["a","b"]`, "roles": `[{"value":"a"},{"value":"b","display":"B"}]`, "entitlements": `[]`},
				{"cnf": `{"jkt":"` + strings.Repeat("A", 43) + `"}`}, {"nonce": `1`},
			},
			wrong: map[string][]string{
				"aud":       {"", `""`, `[]`, `["a",""]`, `["a","a"]`, `[["a"]]`, `1`, `{}`, `null`, `[1]`},
				"sub":       {"", `""`, `1`, `["alice"]`, `null`},
				"client_id": {"", `""`, `7`, `"\u00fc"`, `"a\nb"`},
				"auth_time": {`"1772366400"`, `-1`, `0`, `1.5`, `1e9`, `1772366400000`},
				"acr":       {`1`, `""`, `["a"]`},
				"amr":       {`"pwd"`, `[]`, `[1]`, `[""]`},
				"scope":     {`""`, `" read"`, `"read  write"`, `["read"]`, `"a\"b"`, `"a\\b"`, `"a\tb"`},
				"groups":    {`"a"`, `[1]`, `[{"display":"a"}]`, `["a",{"value":"b"}]`, `[""]`},
				"roles":     {`{}`},
				"events":    {`{}`},
				"cnf":       {`{}`, `"x"`, `{"x5t#S256":"short"}`, `{"unknown":"x"}`},
			},
		},
		{
			cfg:   ProfileConfig{Name: policy.ProfileIDToken},
			right: map[string]string{"sub": `"alice"`, "aud": `"client"`},
			typ:   "JWT",
			also: []map[string]string{
				{"sub": `"` + strings.Repeat("x", 255) + `"`}, {"aud": `["client"]`}, {"aud": `["a","b"]`, "azp": `"a"`},
				{"nonce": `"n-0S6_WzA2Mj"`, "auth_time": `1772366400`, "acr": `"urn:x"`, "amr": `["pwd"]`, "at_hash": `"` + hash + `"`, "c_hash": `"` + strings.Repeat("A", 43) + `"`},
			},
			wrong: map[string][]string{
				"sub":     {"", `"` + strings.Repeat("x", 256) + `"`, `"\u00fc"`, `"ü"`, `""`},
				"aud":     {"", `[]`},
				"azp":     {`""`, `["a"]`},
				"nonce":   {`1`, `""`},
				"at_hash": {`"` + hash + `="`, `"` + hash[1:] + `"`, `"` + hash[1:] + `B"`, `"` + hash[:11] + `\n` + hash[11:] + `"`, `1`},
				"c_hash":  {`"x"`},
				"events":  {`{}`},
			},
		},
		{
			cfg:   ProfileConfig{Name: policy.ProfileLogoutToken},
			right: map[string]string{"aud": `"client"`, "sub": `"alice"`, "events": `{"http://schemas.openid.net/event/backchannel-logout":{}}`},
			typ:   "logout+jwt",
			also:  []map[string]string{{"sub": "", "sid": `"s1"`}, {"sid": `"s1"`}},
			wrong: map[string][]string{
				"aud":          {""},
				`sub" or "sid`: nil, // below
				"sid":          {`""`, `1`},
				"nonce":        {`"n"`, `null`},
				"events":       {"", `{}`, `[]`, `{"http://schemas.openid.net/event/backchannel-logout":true}`, `{"http://schemas.openid.net/event/backchannel-Logout":{}}`},
			},
		},
		{
			cfg:   svid,
			right: map[string]string{"sub": `"spiffe://example.org/web"`, "aud": `["db"]`},
			typ:   "JWT",
			also:  []map[string]string{{"sub": `"spiffe://example.net/a/b"`, "aud": `"db"`}},
			wrong: map[string][]string{
				"sub": {"", `"alice"`, `"spiffe://example.com/web"`, `"spiffe://example.org"`, `"spiffe://Example.org/web"`, `"spiffe://example.org/web/"`, `"SPIFFE://example.org/web"`, `"spiffe://example.org/%61"`, `["spiffe://example.org/web"]`},
				"aud": {"", `[]`, `""`},
			},
		},
	} {
		p := profileOf(t, kind.cfg)
		ask := func(change map[string]string) (*Prepared, error) {
			var members []string
			for name, value := range kind.right {
				if _, other := change[name]; !other {
					members = append(members, `"`+name+`":`+value)
				}
			}
			for name, value := range change {
				if value != "" {
					members = append(members, `"`+name+`":`+value)
				}
			}
			slices.Sort(members)
			return under(t, p, Request{Claims: []byte("{" + strings.Join(members, ",") + "}")})
		}
		for _, change := range append(kind.also, nil) {
			if got, err := ask(change); err != nil || got.Typ() != kind.typ {
				t.Errorf("%s with %v: %v", p.Name(), change, err)
			}
		}
		refused := func(claim string, change map[string]string) {
			_, err := ask(change)
			if codeOf(err) != api.CodeClaimInvalid || !strings.Contains(err.Error(), `the claim "`+claim+`" `) {
				t.Errorf("%s with %v: %v, want claim_invalid of %s", p.Name(), change, err, claim)
			}
		}
		for claim, values := range kind.wrong {
			for _, value := range values {
				refused(claim, map[string]string{claim: value})
			}
			if values != nil { // a verifier that folds letters reads it all the same
				other := strings.ToUpper(claim[:1]) + claim[1:]
				refused(claim, map[string]string{claim: "", other: values[len(values)-1]})
			}
		}
		switch p.Name() {
		case policy.ProfileLogoutToken:
			refused(`sub" or "sid`, map[string]string{"sub": ""})
		case policy.ProfileIDToken:
			refused("azp", map[string]string{"aud": `["a","b"]`})
		}
	}
}

// A profile has its typ, whatever the rule lists, and nobody has another's.
func TestA06AProfileFixesTheTyp(t *testing.T) {
	claims := map[string]string{
		policy.ProfileAccessToken: `{"aud":"a","sub":"s","client_id":"c"}`,
		policy.ProfileIDToken:     `{"aud":"a","sub":"s"}`,
		policy.ProfileLogoutToken: `{"aud":"a","sub":"s","events":{"http://schemas.openid.net/event/backchannel-logout":{}}}`,
		policy.ProfileJWTSVID:     `{"aud":"a","sub":"spiffe://example.org/web"}`,
		"receipt":                 `{"aud":"a"}`,
	}
	fixed := map[string][]string{
		policy.ProfileAccessToken: {"at+jwt"}, policy.ProfileIDToken: {"JWT"}, policy.ProfileLogoutToken: {"logout+jwt"},
		policy.ProfileJWTSVID: {"JWT", "JOSE"}, "receipt": {"receipt+jwt"},
	}
	for name, text := range claims {
		cfg := ProfileConfig{Name: name}
		switch name {
		case policy.ProfileJWTSVID:
			cfg.TrustDomains = []string{"example.org"}
		case "receipt":
			cfg.Typ = "receipt+jwt"
		}
		p := profileOf(t, cfg)
		if got := p.Types(); !slices.Equal(got, fixed[name]) {
			t.Errorf("%s: types %q", name, got)
		}
		for _, typ := range []string{"", "JWT", "at+jwt", "logout+jwt", "JOSE", "receipt+jwt", "AT+JWT", "application/at+jwt", TypeKeySet} {
			got, err := under(t, p, Request{Claims: []byte(text), Typ: typ})
			if may := typ == "" || slices.Contains(fixed[name], typ); may != (err == nil) || !may && codeOf(err) != api.CodeTypNotAllowed {
				t.Errorf("%s as %q: %v", name, typ, err)
			}
			if err == nil && got.Typ() != cmpOr(typ, fixed[name][0]) {
				t.Errorf("%s as %q became %q", name, typ, got.Typ())
			}
		}
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Nobody has a token of a profile without a grant for that one.
func TestA06AGrantIsForOneProfile(t *testing.T) {
	at := BuiltIns()[policy.ProfileAccessToken]
	for _, c := range []struct {
		granted string
		profile *Profile
	}{{"jwt", at}, {"at+jwt", nil}, {"id_token", at}} {
		env := environment()
		env.Profile = c.profile
		_, err := Prepare(leave(t, c.granted, nil), Request{KeySet: "web", Claims: []byte(`{"aud":"a","sub":"s","client_id":"c"}`)}, env)
		if !errors.Is(err, policy.ErrForbidden) {
			t.Errorf("a grant for %s: %v", c.granted, err)
		}
	}
}

func TestLifetimeOfAProfile(t *testing.T) {
	ttl := func(n int64) *int64 { return &n }
	receipt := profileOf(t, ProfileConfig{Name: "receipt", Typ: "receipt+jwt", Lifetime: 90 * time.Second})
	logout := BuiltIns()[policy.ProfileLogoutToken]
	text := `{"aud":"a","sub":"s","events":{"http://schemas.openid.net/event/backchannel-logout":{}}}`
	for _, c := range []struct {
		p    *Profile
		ttl  *int64
		want int64 // 0: refused
	}{
		{receipt, nil, 90}, {receipt, ttl(90), 90}, {receipt, ttl(91), 0}, {receipt, ttl(10), 10},
		{logout, nil, 120}, {logout, ttl(120), 120}, {logout, ttl(121), 0},
	} {
		got, err := under(t, c.p, Request{Claims: []byte(text), TTL: c.ttl})
		if c.want == 0 {
			if codeOf(err) != api.CodeTTLTooLong {
				t.Errorf("%s, %d s: %v", c.p.Name(), *c.ttl, err)
			}
			continue
		}
		if err != nil || got.Exp().Unix()-now.Unix() != c.want {
			t.Errorf("%s: %v", c.p.Name(), err)
		}
	}
}

// SPIFFE has no Ed25519 (JWT-SVID Section 2.1).
func TestASVIDIsSignedByWhatSPIFFEHas(t *testing.T) {
	p, err := under(t, profileOf(t, ProfileConfig{Name: "jwt_svid", TrustDomains: []string{"example.org"}}),
		Request{Claims: []byte(`{"sub":"spiffe://example.org/web","aud":"db"}`)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Redeem(kid, keystore.EdDSA); !errors.Is(err, policy.ErrForbidden) {
		t.Errorf("by EdDSA: %v", err)
	}
	if _, err := p.Redeem(kid, keystore.ES256); err != nil {
		t.Errorf("what may not be did it no harm: %v", err)
	}
}

// A profile of one's own narrows what its kind has, and widens nothing.
func TestAProfileOfOnesOwn(t *testing.T) {
	partner := profileOf(t, ProfileConfig{
		Name: "partner", Kind: policy.ProfileAccessToken, Required: []string{"scope", "tenant"}, Forbidden: []string{"roles"},
		Audiences: []string{"https://a.test", "https://b.test"}, Claims: map[string]Form{"tenant": FormInteger, "flags": FormArray, "on": FormBoolean, "n": FormNumber, "o": FormObject, "tags": FormStrings},
	})
	if partner.Kind() != "at+jwt" || partner.Types()[0] != "at+jwt" {
		t.Errorf("kind %s, types %v", partner.Kind(), partner.Types())
	}
	const ok = `"aud":"https://a.test","sub":"s","client_id":"c","scope":"x"`
	for claims, fault := range map[string]string{
		`{` + ok + `,"tenant":7}`: "",
		`{` + ok + `,"tenant":7,"flags":[],"on":true,"n":1.5e3,"o":{},"tags":["a"]}`: "",
		`{` + ok + `}`:                             "tenant",
		`{` + ok + `,"tenant":"7"}`:                "tenant",
		`{` + ok + `,"tenant":7.0}`:                "tenant",
		`{` + ok + `,"tenant":7,"Roles":["root"]}`: "roles",
		`{` + ok + `,"tenant":7,"flags":{}}`:       "flags",
		`{` + ok + `,"tenant":7,"on":"true"}`:      "on",
		`{` + ok + `,"tenant":7,"n":"1"}`:          "n",
		`{` + ok + `,"tenant":7,"o":null}`:         "o",
		`{` + ok + `,"tenant":7,"tags":"a"}`:       "tags",
		`{"aud":["https://a.test","https://c.test"],"sub":"s","client_id":"c","scope":"x","tenant":7}`: "aud",
		`{"aud":"https:\/\/b.test","client_id":"c","scope":"x","tenant":7}`:                            "sub",
	} {
		_, err := under(t, partner, Request{Claims: []byte(claims)})
		if fault == "" && err != nil || fault != "" && (codeOf(err) != api.CodeClaimInvalid || !strings.Contains(err.Error(), `"`+fault+`"`)) {
			t.Errorf("%s: %v, want %q", claims, err, fault)
		}
	}
}

func TestFaultyProfiles(t *testing.T) {
	many := make([]string, maxKnown)
	for i := range many {
		many[i] = strings.Repeat("c", i+1)
	}
	for _, c := range []struct {
		path string
		cfg  ProfileConfig
	}{
		{"name", ProfileConfig{Typ: "x"}},
		{"name", ProfileConfig{Name: "jwt"}},
		{"typ", ProfileConfig{Name: "x"}},
		{"typ", ProfileConfig{Name: "x", Typ: "a b"}},
		{"typ", ProfileConfig{Name: "x", Typ: "application/x"}},
		{"typ", ProfileConfig{Name: "x", Typ: "JWK-set+jwt"}},
		{"typ", ProfileConfig{Name: "x", Typ: "AT+jwt"}},
		{"typ", ProfileConfig{Name: "x", Typ: "logout+JWT"}},
		{"typ", ProfileConfig{Name: "x", Kind: "at+jwt", Typ: "at+jwt"}},
		{"kind", ProfileConfig{Name: "x", Kind: "jwt"}},
		{"kind", ProfileConfig{Name: "x", Kind: "y"}},
		{"kind", ProfileConfig{Name: "id_token", Kind: "at+jwt"}},
		{"trust_domains", ProfileConfig{Name: "jwt_svid"}},
		{"trust_domains", ProfileConfig{Name: "x", Typ: "x", TrustDomains: []string{"example.org"}}},
		{"trust_domains[0]", ProfileConfig{Name: "jwt_svid", TrustDomains: []string{"spiffe://example.org"}}},
		{"required[0]", ProfileConfig{Name: "x", Typ: "x", Required: []string{"Exp"}}},
		{"required[0]", ProfileConfig{Name: "x", Typ: "x", Required: []string{"cnf"}}},
		{"required[0]", ProfileConfig{Name: "x", Typ: "x", Required: []string{"AUD"}}},
		{"required[0]", ProfileConfig{Name: "x", Typ: "x", Required: []string{""}}},
		{"required[0]", ProfileConfig{Name: "x", Typ: "x", Required: []string{"ü"}}},
		{"required[1]", ProfileConfig{Name: "x", Typ: "x", Required: []string{"a", "a"}}},
		{"required[0]", ProfileConfig{Name: "id_token", Required: []string{"events"}}},
		{"forbidden[0]", ProfileConfig{Name: "x", Typ: "x", Forbidden: []string{"aud"}}},
		{"forbidden[1]", ProfileConfig{Name: "logout_token", Forbidden: []string{"sub", "sid"}}},
		{"audiences[0]", ProfileConfig{Name: "x", Typ: "x", Audiences: []string{""}}},
		{"audiences[1]", ProfileConfig{Name: "x", Typ: "x", Audiences: []string{"a", "a"}}},
		{"claims.a", ProfileConfig{Name: "x", Typ: "x", Claims: map[string]Form{"a": "text"}}},
		{"claims.sub", ProfileConfig{Name: "id_token", Claims: map[string]Form{"sub": FormString}}},
		{"", ProfileConfig{Name: "x", Typ: "x", Required: many}},
		{"lifetime", ProfileConfig{Name: "x", Typ: "x", Lifetime: 1500 * time.Millisecond}},
		{"lifetime", ProfileConfig{Name: "logout_token", Lifetime: 3 * time.Minute}},
		{"cnf", ProfileConfig{Name: "x", Typ: "x", CNF: "mine"}},
	} {
		_, err := NewProfile(c.cfg)
		fault, ok := errors.AsType[*Fault](err)
		if !ok || fault.Path != c.path {
			t.Errorf("%+v: %v, want a fault of %q", c.cfg, err, c.path)
		}
	}
}
