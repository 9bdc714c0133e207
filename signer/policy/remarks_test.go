package policy

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A rule whose condition is false whatever is asked passed in silence, and one that
// only may be false is nobody's business.
func TestAConditionThatIsNeverTrue(t *testing.T) {
	for when, never := range map[string]bool{
		"false": true, "1 > 2": true, "false && claims.x == 1": true, "claims.x == 1 && false": true,
		"'a' in ['b']": true, "!(true || claims.x)": true, "principal.kind == 'dns' && false": true, "unix.uid == 5 ? false : false": false,
		"true": false, "claims.x == 1": false, "ttl < 0": false, "principal.kind == 'pin'": false, "false || keyset == 'web'": false,
		"has(claims.x)": false, "1/0 == 1": false, "[1, 2].exists(i, i == ttl)": false,
	} {
		p := ruled(t, Rule{Name: "web", Actions: []Action{SignJWT}, KeySets: []string{"web"}, When: when})
		got := p.Remarks()
		if (len(got) == 1) != never || never && got[0].Path != "rules[0].when" {
			t.Errorf("%s: %v", when, got)
		}
	}
}

// A rule that an earlier one keeps everything from passed in silence.
func TestARuleBehindAWiderOne(t *testing.T) {
	jwt := func(name string, change func(*Rule)) Rule {
		r := Rule{Name: name, Actions: []Action{SignJWT}, KeySets: []string{"web"}}
		change(&r)
		return r
	}
	same := func(*Rule) {}
	for _, c := range []struct {
		name         string
		first, later func(*Rule)
		idle         bool
	}{
		{"the same", same, same, true},
		{"narrower limits change nothing", same, func(r *Rule) { r.Audiences, r.MaxClaims = []string{"a"}, 3 }, true},
		{"narrower limits of the first neither", func(r *Rule) { r.Audiences = []string{"a"} }, same, true},
		{"any key set", func(r *Rule) { r.KeySets = []string{Any} }, same, true},
		{"another key set", same, func(r *Rule) { r.KeySets = []string{"web", "edge"} }, false},
		{"every key set", same, func(r *Rule) { r.KeySets = []string{Any} }, false},
		{"another action", same, func(r *Rule) { r.Actions = []Action{SignJWT, ReadKeySets} }, false},
		{"of more actions", func(r *Rule) { r.Actions = []Action{ReadKeySets, SignJWT} }, same, true},
		{"a condition of the later", same, func(r *Rule) { r.When = "ttl < 5" }, true},
		{"a condition of the first", func(r *Rule) { r.When = "ttl < 5" }, same, false},
		{"a user of the first", func(r *Rule) { r.Require.UIDs = []int64{1} }, same, false},
		{"fewer users", func(r *Rule) { r.Require.UIDs = []int64{1, 2} }, func(r *Rule) { r.Require.UIDs, r.Require.GIDs = []int64{2}, []int64{3} }, true},
		{"other users", func(r *Rule) { r.Require.UIDs = []int64{1} }, func(r *Rule) { r.Require.UIDs = []int64{1, 2} }, false},
		{"another profile", same, func(r *Rule) { r.Profiles = []string{"at+jwt"} }, false},
		{"any profile", func(r *Rule) { r.Profiles = []string{Any} }, func(r *Rule) { r.Profiles = []string{"at+jwt"} }, true},
		{"every profile", same, func(r *Rule) { r.Profiles = []string{Any} }, false},
		{"none named, where the first has no usual one", func(r *Rule) { r.Profiles = []string{"at+jwt", "id_token"} }, func(r *Rule) { r.Profiles = []string{"at+jwt"} }, false},
		{"neither has a usual one", func(r *Rule) { r.Profiles = []string{"at+jwt", "id_token", "receipt"} }, func(r *Rule) { r.Profiles = []string{"at+jwt", "id_token"} }, true},
	} {
		got := ruled(t, jwt("first", c.first), jwt("later", c.later)).Remarks()
		if (len(got) == 1) != c.idle || c.idle && got[0].Path != "rules[1]" {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// A rule that a remark is about never decides, whatever is asked.
func TestNoRemarkIsAFalseAlarm(t *testing.T) {
	pick := func(t *rapid.T, label string, all ...string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(all), 1, 2, rapid.ID).Draw(t, label)
	}
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{Anchors: []Anchor{{Name: "dev", DNS: []string{"a.test", "b.test"}}}}
		for i := range 4 {
			r := Rule{Name: string(rune('a' + i)), MaxTTL: time.Hour,
				Principals: pick(t, "principals", "dev:dns:a.test", "dev:dns:b.test"),
				KeySets:    pick(t, "keysets", "web", "edge", Any),
				When:       rapid.SampledFrom([]string{"", "", "ttl < 5", "false", "claims.x && false"}).Draw(t, "when")}
			r.Actions = []Action{SignJWT}
			if r.When == "" && rapid.Bool().Draw(t, "reads") {
				r.Actions = append(r.Actions, ReadKeySets)
			}
			if rapid.Bool().Draw(t, "profiles") {
				r.Profiles = pick(t, "profile", "jwt", "at+jwt", "id_token", Any)
			}
			if rapid.Bool().Draw(t, "require") {
				r.Require.UIDs = rapid.SliceOfNDistinct(rapid.Int64Range(1, 3), 1, 2, rapid.ID).Draw(t, "uids")
			}
			cfg.Rules = append(cfg.Rules, r)
		}
		p, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		remarked := map[string]bool{}
		for _, f := range p.Remarks() {
			remarked[cfg.Rules[f.Path[len("rules[")]-'0'].Name] = true
		}
		for _, name := range []string{"a.test", "b.test"} {
			for _, action := range []Action{SignJWT, ReadKeySets} {
				for _, profile := range []string{"", "jwt", "at+jwt", "id_token", "receipt"} {
					for _, keyset := range []string{"web", "edge", "x"} {
						for _, uid := range []uint32{0, 1, 2, 3} {
							x := p.Explain(Question{
								Who: Principal{"dev", KindDNS, name}, Unix: &Unix{UID: uid}, Action: action,
								Target: Target{KeySet: keyset, Profile: profile}, Request: requestOf(map[string]string{"x": "true"}, 3),
							})
							if remarked[x.Rule] || slices.ContainsFunc(x.Rules, func(v RuleView) bool { return remarked[v.Rule] && v.Decides }) {
								t.Fatalf("%+v decides", x)
							}
						}
					}
				}
			}
		}
	})
}
