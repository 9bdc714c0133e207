package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// checkClaims holds the limits of g against the members in their order.
func checkClaims(g Grant, members ...string) error {
	text := "{" + strings.Join(members, ",") + "}"
	check, err := g.CheckClaims(len(text))
	if err != nil {
		return err
	}
	for _, m := range members {
		name, value, _ := strings.Cut(m, ":")
		var s string
		if err := json.Unmarshal([]byte(name), &s); err != nil {
			panic(err)
		}
		if err := check.Member([]byte(s), []byte(strings.TrimSpace(value))); err != nil {
			return err
		}
	}
	return check.Done()
}

func limitOf(err error) Limit {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Limit
	}
	if err != nil {
		return "none"
	}
	return ""
}

func edgeGrant(t testing.TB, change func(*Rule)) Grant {
	t.Helper()
	g, err := mustNew(t, with(change)).Authorize(who(t, issuer), SignJWT, Target{KeySet: "edge"})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestLimitsRefuseClaims(t *testing.T) {
	aud := func(r *Rule) { r.Audiences = []string{"api", "https://b.test/ü"} }
	scope := func(r *Rule) { r.Scopes = []string{"read", "write"} }
	rules := func(c ClaimRules) func(*Rule) { return func(r *Rule) { r.Claims = c } }
	forced := rules(ClaimRules{Forced: map[string]any{"tenant": "a\"b", "level": int64(3), "ok": true}})
	for _, c := range []struct {
		name    string
		change  func(*Rule)
		members string // with ; between them
		want    Limit
	}{
		{"no limits", func(*Rule) {}, `"aud":1;"scope":[]`, ""},
		{"aud", aud, `"aud":"api"`, ""},
		{"aud escaped", aud, `"aud":"\u0061pi"`, ""},
		{"aud with escapes", aud, `"aud":["https:\/\/b.test\/\u00fc"]`, ""},
		{"aud array", aud, `"aud": [ "api" , "https://b.test/ü" ]`, ""},
		{"aud array with another", aud, `"aud":["api","x"]`, LimitAudience},
		{"aud array with quotes in it", aud, `"aud":["api","\",\"api"]`, LimitAudience},
		{"aud another", aud, `"aud":"apix"`, LimitAudience},
		{"aud other case", aud, `"aud":"API"`, LimitAudience},
		{"aud absent", aud, `"sub":"x"`, LimitMissing},
		{"aud empty array", aud, `"aud":[]`, LimitAudience},
		{"aud spaced empty array", aud, `"aud":[ ]`, LimitAudience},
		{"aud null", aud, `"aud":null`, LimitAudience},
		{"aud array of null", aud, `"aud":[null]`, LimitAudience},
		{"aud nested", aud, `"aud":[["api"]]`, LimitAudience},
		{"aud object", aud, `"aud":{"api":"api"}`, LimitAudience},
		{"aud empty", aud, `"aud":""`, LimitAudience},
		{"Aud", aud, `"Aud":"x"`, LimitClaim},
		{"scope", scope, `"scope":"write read"`, ""},
		{"scope absent", scope, `"sub":"x"`, ""},
		{"scope another", scope, `"scope":"read admin"`, LimitScope},
		{"scope array", scope, `"scope":["read"]`, LimitScope},
		{"scope empty", scope, `"scope":""`, LimitScope},
		{"scope two spaces", scope, `"scope":"read  write"`, LimitScope},
		{"scope space at the end", scope, `"scope":"read "`, LimitScope},
		{"scope tab", scope, `"scope":"read\twrite"`, LimitScope},
		{"scope other spelling of the name", scope, "\"\u017fcope\":\"admin\"", LimitClaim},
		{"required", rules(ClaimRules{Required: []string{"sub"}}), `"sub":null`, LimitMissing},
		{"required absent", rules(ClaimRules{Required: []string{"sub"}}), `"a":1`, LimitMissing},
		{"required in other case", rules(ClaimRules{Required: []string{"sub"}}), `"SUB":1`, LimitClaim},
		{"forbidden", rules(ClaimRules{Forbidden: []string{"admin"}}), `"admin":false`, LimitClaim},
		{"forbidden in other case", rules(ClaimRules{Forbidden: []string{"admin"}}), `"Admin":false`, LimitClaim},
		{"forbidden absent", rules(ClaimRules{Forbidden: []string{"admin"}}), `"admins":1`, ""},
		{"forced", forced, `"tenant":"a\u0022b";"level":3;"ok":true`, ""},
		{"forced string", forced, `"tenant":"a";"level":3;"ok":true`, LimitClaim},
		{"forced number", forced, `"tenant":"a\"b";"level":3.0;"ok":true`, LimitClaim},
		{"forced number as text", forced, `"tenant":"a\"b";"level":"3";"ok":true`, LimitClaim},
		{"forced bool", forced, `"tenant":"a\"b";"level":3;"ok":"true"`, LimitClaim},
		{"forced absent", forced, `"tenant":"a\"b";"level":3`, LimitMissing},
		{"as many as may be", func(r *Rule) { r.MaxClaims = 2 }, `"a":1;"b":1`, ""},
		{"one more", func(r *Rule) { r.MaxClaims = 2 }, `"a":1;"b":1;"c":1`, LimitSize},
		{"as long as may be", func(r *Rule) { r.MaxBytes = 7 }, `"a":1`, ""},
		{"one byte more", func(r *Rule) { r.MaxBytes = 7 }, `"a":12`, LimitSize},
	} {
		err := checkClaims(edgeGrant(t, c.change), strings.Split(c.members, ";")...)
		if limitOf(err) != c.want {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
}

func TestAGrantWithoutLimitsChecksNothingAndAllocatesNothing(t *testing.T) {
	g := edgeGrant(t, func(*Rule) {})
	name, value := []byte("aud"), []byte(`["x"]`)
	if n := testing.AllocsPerRun(100, func() {
		check, err := g.CheckClaims(1 << 20)
		if err != nil || check.Member(name, value) != nil || check.Done() != nil {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestHowManyNamesACertificateMayHave(t *testing.T) {
	for most, want := range map[int]bool{0: true, 1: false, 2: true, 3: true} {
		cfg := example()
		cfg.Rules[2].MaxNames = most
		g, err := mustNew(t, cfg).Authorize(who(t, ca), SignCSR, Target{Authority: "devices", Profile: "tls"})
		if err != nil || g.AllowsCount(2) != want {
			t.Errorf("max_names %d: %v, %v", most, g.AllowsCount(2), err)
		}
	}
}

func TestFaultsOfFactsAndLimits(t *testing.T) {
	for _, c := range []struct {
		change func(*Rule)
		want   string
	}{
		{func(r *Rule) { r.Require.UIDs = []int64{} }, "rules[1].require.uids: the list is empty"},
		{func(r *Rule) { r.Require.UIDs = []int64{1, 1} }, "rules[1].require.uids[1]: 1 is there twice"},
		{func(r *Rule) { r.Require.GIDs = []int64{1<<32 - 1} }, "rules[1].require.gids[0]: 4294967295 is no number"},
		{func(r *Rule) { r.Require.GIDs = []int64{-1} }, "rules[1].require.gids[0]: -1 is no number"},
		{func(r *Rule) { r.Require.PINs = []string{"AB"} }, `rules[1].require.pins[0]: "AB": want the SHA-256`},
		{func(r *Rule) { r.Audiences = []string{} }, "rules[1].audiences: the list is empty"},
		{func(r *Rule) { r.Scopes = []string{"a b"} }, `rules[1].scopes[0]: "a b": a scope has`},
		{func(r *Rule) { r.Claims.Required = []string{"ISS"} }, `rules[1].claims.required[0]: "ISS": the claim is the signer's own`},
		{func(r *Rule) { r.Claims.Forced = map[string]any{"x": 1.5} }, "rules[1].claims.forced.x: want a string, a whole number, true or false"},
		{func(r *Rule) { r.Claims.Forced = map[string]any{"exp": 1} }, `rules[1].claims.forced.exp: "exp": the claim is the signer's own`},
		{func(r *Rule) { r.Claims.Required, r.Claims.Forbidden = []string{"a"}, []string{"a"} }, "rules[1].claims.forbidden[0]: \"a\": the rule asks for this claim"},
		{func(r *Rule) { r.Audiences, r.Claims.Forbidden = []string{"a"}, []string{"aud"} }, "rules[1].claims.forbidden[0]: \"aud\": the rule asks for this claim"},
		{func(r *Rule) { r.Claims.Required, r.Claims.Forbidden = []string{"a"}, []string{"A"} }, `rules[1].claims: "a" and "A" differ in letter case only`},
		{func(r *Rule) { r.MaxClaims = -1 }, "rules[1].max_claims: -1 is negative"},
		{func(r *Rule) { r.Claims.Required, r.MaxClaims = []string{"a", "b"}, 1 }, "rules[1].max_claims: 2 claims have to be there, more than 1"},
		{func(r *Rule) { r.Audiences, r.Claims.Forced = []string{"a"}, map[string]any{"aud": "b"} }, "rules[1].claims.forced.aud: no request is within the rule's other limits then"},
		{func(r *Rule) { r.Scopes, r.Claims.Forced = []string{"a"}, map[string]any{"scope": "a b"} }, "rules[1].claims.forced.scope: no request is within"},
		{func(r *Rule) { r.MaxNames = 1 }, "rules[1].max_names: only a rule for csr.sign has this limit"},
		{func(r *Rule) {
			for i := range maxLimited + 1 {
				r.Claims.Required = append(r.Claims.Required, fmt.Sprint("c", i))
			}
		}, "rules[1].claims: the rule has limits for 65 claims, more than 64"},
	} {
		if _, err := New(with(c.change)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v; want %q", err, c.want)
		}
	}
	cfg := example()
	cfg.Rules[3].MaxClaims = 1
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "rules[3].max_claims: only a rule for jwt.sign has this limit") {
		t.Error(err)
	}
}

// What a policy without the newer members says is hashed as it was before them, so
// that logs name it by the same hash.
func TestMembersThatAreNotSaidDoNotChangeTheHash(t *testing.T) {
	text := string(mustNew(t, example()).Text())
	for _, member := range []string{"require", "when", "audiences", "scopes", "claims", "max_claims", "max_bytes", "max_names"} {
		if strings.Contains(text, `"`+member+`"`) {
			t.Errorf("%s is in %s", member, text)
		}
	}
}

// A rule with more limits never allows what the same rule with fewer refuses.
func TestMoreLimitsNeverAllowMore(t *testing.T) {
	names := []string{"aud", "scope", "sub", "tenant", "Sub"}
	values := []string{`"a"`, `"b"`, `["a","b"]`, `"a b"`, `1`, `true`, `null`, `[]`}
	subset := func(t *rapid.T, of []string, label string) []string {
		var some []string
		for _, s := range of {
			if rapid.Bool().Draw(t, label+s) {
				some = append(some, s)
			}
		}
		return some
	}
	changes := func(t *rapid.T) []func(*Rule) {
		some := func(of ...string) []string { return append(subset(t, of, "of"), of[0]) }
		audiences, scopes := slices.Compact(slices.Sorted(slices.Values(some("a", "b")))), slices.Compact(slices.Sorted(slices.Values(some("b", "a"))))
		required, n, size := subset(t, []string{"sub", "tenant"}, "required"), rapid.IntRange(0, 4).Draw(t, "n"), rapid.IntRange(0, 60).Draw(t, "size")
		forced := rapid.SampledFrom([]any{"a", 1, true}).Draw(t, "forced")
		uids, condition := []int64{rapid.Int64Range(0, 2).Draw(t, "uid")}, rapid.SampledFrom([]string{"ttl < 10", "has(claims.sub)", "claims.sub == 'a'", "true"}).Draw(t, "when")
		return []func(*Rule){
			func(r *Rule) { r.Audiences = audiences },
			func(r *Rule) { r.Scopes = scopes },
			func(r *Rule) { r.Claims.Required = required },
			func(r *Rule) { r.Claims.Forced = map[string]any{"tenant": forced} },
			func(r *Rule) { r.Claims.Forbidden = []string{"group"} },
			func(r *Rule) { r.MaxClaims = n },
			func(r *Rule) { r.MaxBytes = size },
			func(r *Rule) { r.Require.UIDs = uids },
			func(r *Rule) { r.When = condition },
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		var few, many Rule
		for i, change := range changes(rt) {
			switch rapid.IntRange(0, 2).Draw(rt, fmt.Sprint("limit", i)) {
			case 1:
				change(&many)
			case 2:
				change(&few)
				change(&many)
			}
		}
		claims := map[string]string{}
		for _, name := range subset(rt, append(names, "group"), "claim ") {
			claims[name] = rapid.SampledFrom(values).Draw(rt, name)
		}
		if claims["Sub"] != "" {
			delete(claims, "sub")
		}
		allows := func(limits Rule) bool {
			cfg := example()
			limits.Name, limits.Principals, limits.Actions, limits.KeySets, limits.MaxTTL = "r", []string{issuer}, []Action{SignJWT}, []string{"web"}, cfg.Rules[0].MaxTTL
			cfg.Rules = []Rule{limits}
			p, err := New(cfg)
			if err != nil && strings.Contains(err.Error(), "rules[0].max_claims: ") && strings.Contains(err.Error(), "have to be there") {
				return false // refused at load: it would allow nothing
			}
			if err != nil {
				rt.Fatal(err)
			}
			x := p.Explain(Question{Who: who(t, issuer).Principal, Unix: &Unix{UID: 1}, Action: SignJWT, Target: Target{KeySet: "web"}, Request: requestOf(claims, 5)})
			return x.Allowed
		}
		if allows(many) && !allows(few) {
			rt.Fatalf("%+v allows what %+v refuses", many, few)
		}
	})
}

// requestOf returns a request with these claims, by the JSON of their values.
func requestOf(claims map[string]string, ttl int64) Request {
	var members []string
	names := slices.Sorted(maps.Keys(claims))
	for _, name := range names {
		members = append(members, fmt.Sprintf("%q:%s", name, claims[name]))
	}
	return Request{
		TTL: ttl, Typ: DefaultType, Body: []byte("{" + strings.Join(members, ",") + "}"),
		Object: func(_ []byte, each func(name, value []byte) error) error {
			for _, name := range names {
				if err := each([]byte(name), []byte(claims[name])); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
