package jwt

import (
	"encoding/json"
	"testing"

	"chancery/keystore"
	"chancery/signer/policy"
)

// What a profile lets through is of its forms for encoding/json as well, which folds
// the case of letters.
func FuzzAccessToken(f *testing.F) {
	for _, seed := range []string{
		`{"aud":"a","sub":"s","client_id":"c"}`,
		`{"aud":["a","b"],"sub":"s","client_id":"c","scope":"x y","amr":["pwd"],"groups":[{"value":"g"}],"cnf":{"jkt":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}}`,
		`{"Aud":"a","sub":"s","client_id":"c"}`, `{"aud":[ "a" , "b,\"]" ],"sub":"\u0073","client_id":"c","auth_time":1}`,
		"{\"aud\":\"a\",\"\u017fub\":\"s\",\"client_id\":\"c\"}", `{"aud":[],"sub":"s","client_id":"c"}`, `{"aud":"a","sub":"s","client_id":"c","EVENTS":{}}`,
	} {
		f.Add([]byte(seed))
	}
	p := profileOf(f, ProfileConfig{Name: policy.ProfileAccessToken, Audiences: []string{"a", "b", `b,"]`}})
	grant, env := leave(f, p.Name(), nil), environment()
	env.Profile = p
	f.Fuzz(func(t *testing.T, claims []byte) {
		if _, err := Prepare(grant, Request{KeySet: "web", Claims: claims}, env); err != nil {
			return
		}
		var got struct {
			Aud      any
			Sub      string
			ClientID string `json:"client_id"`
			Scope    *string
			AuthTime int64 `json:"auth_time"`
			AMR      []string
			Groups   []any
			Events   json.RawMessage
			CNF      *struct {
				JKT, JKU, JWE, KID *string
				X5T                *string `json:"x5t#S256"`
				JWK                map[string]any
			}
		}
		if err := json.Unmarshal(claims, &got); err != nil {
			t.Fatalf("%s: %v", claims, err)
		}
		list, several := got.Aud.([]any)
		if !several {
			list = []any{got.Aud}
		}
		for _, a := range list {
			if a != "a" && a != "b" && a != `b,"]` {
				t.Fatalf("%s is for %v", claims, got.Aud)
			}
		}
		c := got.CNF
		if len(list) == 0 || got.Sub == "" || got.ClientID == "" || got.Events != nil || got.Scope != nil && *got.Scope == "" || got.AuthTime < 0 {
			t.Fatalf("%s is read as %+v", claims, got)
		}
		if c != nil && c.JKT == nil && c.JKU == nil && c.JWE == nil && c.KID == nil && c.X5T == nil && c.JWK == nil {
			t.Fatalf("%s confirms nothing", claims)
		}
	})
}

// The plain profile pays nothing for the others.
func TestThePlainProfileCostsNothing(t *testing.T) {
	claims := []byte(`{"sub":"someone","aud":["a","b"],"client_id":"c","scope":"read write"}`)
	cost := func(p *Profile) float64 {
		grant, env := leave(t, p.Name(), nil), environment()
		env.Profile = p
		return testing.AllocsPerRun(100, func() {
			if _, err := Prepare(grant, Request{KeySet: "web", Claims: claims}, env); err != nil {
				t.Fatal(err)
			}
		})
	}
	plain, token := cost(nil), cost(BuiltIns()[policy.ProfileAccessToken])
	if plain > 5 {
		t.Errorf("%v allocations", plain)
	}
	if token > plain+2 {
		t.Errorf("%v allocations for an access token, %v for a plain one", token, plain)
	}
}

func BenchmarkAccessToken(b *testing.B) {
	p := BuiltIns()[policy.ProfileAccessToken]
	grant, env := leave(b, p.Name(), nil), environment()
	env.Profile = p
	claims := []byte(`{"sub":"someone","aud":["a","b"],"client_id":"c","scope":"read write"}`)
	b.ReportAllocs()
	for b.Loop() {
		prepared, err := Prepare(grant, Request{KeySet: "web", Claims: claims}, env)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := prepared.Redeem(kid, keystore.ES256); err != nil {
			b.Fatal(err)
		}
	}
}
