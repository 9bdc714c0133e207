package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"chancery/cmd/internal/config/policyfile"
	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
	"chancery/signer/client"
	"chancery/signer/policy"
)

// signAny lets the issuer have tokens of any kind, and declares what needs it.
func (d *chanceryd) signAny() {
	d.t.Helper()
	edit(d.t, d.configFile(), "types: [JWT, at+jwt]", "profiles: ['*']", "\npolicy:\n", `
claims_profiles:
  jwt_svid: {trust_domains: [chancery.dev]}
  receipt: {typ: receipt+jwt, required: [order], claims: {order: integer}, audiences: [shop], cnf: caller}
policy:
`)
	if e := d.reload(); e.Outcome != keystore.OutcomeDone {
		d.t.Fatalf("reloading: %q", e.Reason)
	}
}

// A verifier of each kind takes tokens of its kind, and none of another: they have
// their own typ, and the claims its specification wants.
func TestA06TokensOfAKindAreNoOther(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	c := d.http("issuer")
	ask := func(keyset, profile, claims string) result {
		r := post(t, c, "/v1/sign/jwt", fmt.Sprintf(`{"keyset":%q,"profile":%q,"claims":%s}`, keyset, profile, claims))
		d.wantToldBefore(r, policyfile.Case{KeySet: keyset, Profile: profile, Claims: []byte(claims)})
		return r
	}
	const access = `{"aud":"https://api.test","sub":"alice","client_id":"app","scope":"read"}`
	ask("web", "at+jwt", access).want(t, "a kind that the rule does not name", api.CodeForbidden)
	d.signAny()

	tokens := make(map[string]string)
	for profile, claims := range map[string]string{
		"jwt":          `{"sub":"alice"}`,
		"at+jwt":       access,
		"id_token":     `{"sub":"alice","aud":"app","nonce":"n-0S6"}`,
		"logout_token": `{"sub":"alice","aud":"app","events":{"http://schemas.openid.net/event/backchannel-logout":{}}}`,
		"jwt_svid":     `{"sub":"spiffe://chancery.dev/web","aud":["db"]}`,
		"receipt":      `{"aud":"shop","order":7}`,
	} {
		r := ask("web", profile, claims)
		r.want(t, profile, "")
		tokens[profile] = decodeReply(t, r).Token
		if profile != "jwt" {
			ask("web", profile, `{"sub":"alice"}`).want(t, profile+" without its claims", api.CodeClaimInvalid)
		}
		post(t, c, "/v1/sign/jwt", fmt.Sprintf(`{"keyset":"web","profile":%q,"claims":%s,"typ":"other"}`, profile, claims)).want(t, profile, api.CodeTypNotAllowed)
	}
	ask("web", "nonesuch", access).want(t, "a kind there is not", api.CodeForbidden)
	ask("edge", "jwt_svid", `{"sub":"spiffe://chancery.dev/web","aud":["db"]}`).want(t, "a JWT-SVID by EdDSA", api.CodeForbidden)

	d.wantTypes(tokens)
	d.wantAccessToken(tokens)
	d.wantIDToken(tokens["id_token"])
	d.wantSVID(tokens)
	d.wantBound(tokens["receipt"])

	signed := make(map[string]int)
	for _, e := range d.logged(audit.Filter{Action: keystore.ActSignJWT}) {
		if e.Outcome == keystore.OutcomeDone {
			signed[e.Profile]++
		}
	}
	for profile := range tokens {
		if signed[profile] != 1 {
			t.Errorf("%d entries of a token of the profile %s", signed[profile], profile)
		}
	}
}

// wantToldBefore wants what the daemon answered the issuer to be what a question about
// its configuration is answered.
func (d *chanceryd) wantToldBefore(r result, c policyfile.Case) {
	d.t.Helper()
	p, findings := policyfile.Load(d.configFile())
	if p == nil {
		d.t.Fatal(findings)
	}
	c.As, c.Action = "dev:spiffe:spiffe://chancery.dev/issuer", policy.SignJWT
	q, faults := c.Question()
	if len(faults) > 0 {
		d.t.Fatal(faults[0])
	}
	if x := p.Ask(q); x.Code != string(r.code) || x.Allowed != (r.code == "") {
		d.t.Errorf("%s %s %s: the daemon answers %q, and of its policy it is said %+v", c.KeySet, c.Profile, c.Claims, r.code, x)
	}
}

// wantTypes has a verifier for each typ take the tokens that have it.
func (d *chanceryd) wantTypes(tokens map[string]string) {
	d.t.Helper()
	types := map[string]string{
		"jwt": "JWT", "at+jwt": "at+jwt", "id_token": "JWT", "logout_token": "logout+jwt", "jwt_svid": "JWT", "receipt": "receipt+jwt",
	}
	for _, typ := range types {
		v, err := client.NewVerifier(client.VerifierConfig{Issuer: d.issuer("web"), Types: []string{typ}})
		if err != nil {
			d.t.Fatal(err)
		}
		for profile, token := range tokens {
			if _, err := v.Verify(context.Background(), token); (err == nil) != (types[profile] == typ) {
				d.t.Errorf("a verifier of %s takes a token of the profile %s: %v", typ, profile, err)
			}
		}
	}
}

// wantAccessToken has a resource server of each library take the access token alone.
func (d *chanceryd) wantAccessToken(tokens map[string]string) {
	d.t.Helper()
	node, err := exec.LookPath("node")
	if err != nil || os.Getenv("NODE_VERIFIERS") == "" {
		d.t.Log("oauth4webapi and jose are left out: NODE_VERIFIERS names no directory with their packages, or there is no node (scripts/lib.sh, node_verifiers)")
		return
	}
	for _, library := range []string{"oauth4webapi", "jose"} {
		verify := d.driver(node, "testdata/node.mjs", library, "2", "at+jwt", "https://api.test")
		for profile, token := range tokens {
			if err := verify(d.issuer("web"), token); (err == nil) != (profile == "at+jwt") {
				d.t.Errorf("%s takes a token of the profile %s: %v", library, profile, err)
			}
		}
	}
}

// wantIDToken has a client of OpenID Connect take the ID token.
func (d *chanceryd) wantIDToken(token string) {
	d.t.Helper()
	provider, err := oidc.NewProvider(context.Background(), d.issuer("web"))
	if err != nil {
		d.t.Fatal(err)
	}
	got, err := provider.Verifier(&oidc.Config{ClientID: "app"}).Verify(context.Background(), token)
	if err != nil || got.Subject != "alice" || got.Nonce != "n-0S6" {
		d.t.Errorf("go-oidc reads %+v: %v", got, err)
	}
}

// wantSVID has a workload of SPIFFE take the SVID, and no token with another typ or
// a sub that is no SPIFFE ID.
func (d *chanceryd) wantSVID(tokens map[string]string) {
	d.t.Helper()
	_, jwks := d.get(d.issuer("web") + "/jwks.json")
	bundle, err := jwtbundle.Parse(spiffeid.RequireTrustDomainFromString("chancery.dev"), []byte(jwks))
	if err != nil {
		d.t.Fatal(err)
	}
	for profile, token := range tokens {
		got, err := jwtsvid.ParseAndValidate(token, bundle, []string{"db"})
		if (err == nil) != (profile == "jwt_svid") {
			d.t.Errorf("go-spiffe takes a token of the profile %s: %v", profile, err)
		}
		if err == nil && got.ID.String() != "spiffe://chancery.dev/web" {
			d.t.Errorf("go-spiffe reads %s", got.ID)
		}
	}
}

// wantBound wants a token bound to the issuer's client certificate (RFC 8705 Section
// 3.1).
func (d *chanceryd) wantBound(token string) {
	d.t.Helper()
	var claims struct {
		CNF map[string]string
	}
	part := strings.Split(token, ".")[1]
	if err := json.Unmarshal(unbase64(d.t, part), &claims); err != nil {
		d.t.Fatal(err)
	}
	sum := sha256.Sum256(readCertificate(d.t, d.cert("issuer")).Raw)
	if want := base64.RawURLEncoding.EncodeToString(sum[:]); len(claims.CNF) != 1 || claims.CNF["x5t#S256"] != want {
		d.t.Errorf("cnf %v, want %s", claims.CNF, want)
	}
}
