package main

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// Every policy that an entry names stands beside the log as text, also after it
// was replaced; and the limits of a reloaded policy hold.
func TestTextsOfPoliciesStandBesideTheLog(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	logs := filepath.Join(d.dir, "audit")
	c := d.client("issuer")
	d.sign(c, "web", `{}`)
	edit(t, d.configFile(), "actions: [jwt.sign, keysets.read]", "actions: [jwt.sign]\n    audiences: [api]\n    scopes: [read]\n    claims: {forbidden: [admin]}\n    when: |\n      has(claims.sub) &&\n      claims.sub != 'root'")
	changed := d.reload()
	if changed.Outcome != keystore.OutcomeDone {
		t.Fatalf("the reload: %+v", changed)
	}
	kept := d.http("issuer")
	post(t, kept, "/v1/sign/jwt", `{"keyset":"web","claims":{"sub":"a","aud":"api"}}`).want(t, "within every limit", "")
	post(t, kept, "/v1/sign/jwt", `{"keyset":"web","claims":{"sub":"a","aud":"b"}}`).want(t, "another audience", api.CodeAudienceNotAllowed)
	post(t, kept, "/v1/sign/jwt", `{"keyset":"web","claims":{"sub":"a","aud":"api","scope":"read write"}}`).want(t, "another scope", api.CodeScopeNotAllowed)
	post(t, kept, "/v1/sign/jwt", `{"keyset":"web","claims":{"sub":"a","aud":"api","Admin":true}}`).want(t, "a forbidden claim", api.CodeClaimNotAllowed)
	post(t, kept, "/v1/sign/jwt", `{"keyset":"web","claims":{"sub":"a"}}`).want(t, "no audience", api.CodeClaimMissing)
	post(t, kept, "/v1/sign/jwt", `{"keyset":"web","claims":{"sub":"root","aud":"api"}}`).want(t, "the condition is false", api.CodeForbidden)
	post(t, kept, "/v1/sign/jwt", `{"keyset":"web","claims":{"sub":7,"aud":"api","aud":"b"}}`).want(t, "malformed", api.CodeMalformed)

	named := map[string]bool{}
	for _, log := range []string{"lifecycle", "acts"} {
		for _, e := range d.logged(audit.Filter{Log: log}) {
			if e.Policy == "" {
				continue
			}
			named[e.Policy] = true
			text, err := audit.PolicyText(logs, e.Policy)
			if err != nil || !strings.Contains(string(text), `"name":"issuer"`) {
				t.Errorf("an entry of %s names policy %s: %v", log, e.Policy, err)
			}
		}
	}
	if len(named) != 2 || !named[changed.Policy] {
		t.Errorf("entries name %v", named)
	}
	// Whoever may read keys may not read who may have what.
	if r, _ := d.get(d.endpoints.Public + "/audit/dev/policy/" + changed.Policy + ".json"); r != http.StatusNotFound {
		t.Errorf("the public listener answers %d for the text of a policy", r)
	}
}
