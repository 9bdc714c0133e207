package signer

import (
	"crypto/x509"
	"encoding/json"
	"strings"
	"testing"

	"chancery/keystore"
	"chancery/signer/api"
)

// The entry of a token says its kind, also where the request named none, and that of a
// refusal the kind that was asked for.
func TestTheEntrySaysTheProfile(t *testing.T) {
	const access = `{"aud":"api","sub":"alice","client_id":"app"}`
	for _, c := range []struct {
		name    string
		profile string
		claims  string
		code    api.Code
		entry   string
	}{
		{"none named", "", `{}`, "", "jwt"},
		{"the plain one", "jwt", `{}`, "", "jwt"},
		{"an access token", "at+jwt", access, "", "at+jwt"},
		{"without its claims", "at+jwt", `{"aud":"api"}`, api.CodeClaimInvalid, "at+jwt"},
		{"one that needs a declaration", "jwt_svid", `{"sub":"spiffe://chancery.dev/x","aud":"x"}`, api.CodeForbidden, "jwt_svid"},
		{"one there is not", "nonesuch", access, api.CodeForbidden, "nonesuch"},
	} {
		w := newWorld(t)
		_, err := w.SignJWT(t.Context(), wild, api.SignJWTRequest{KeySet: "web", Profile: c.profile, Claims: json.RawMessage(c.claims)})
		entries := w.log.entries
		if c.code != "" {
			wants(t, c.name, err, c.code)
			entries = w.log.refused
			if w.signed != 0 {
				t.Errorf("%s: the key was asked", c.name)
			}
		} else if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if len(entries) != 1 || entries[0].Profile != c.entry {
			t.Errorf("%s: entries %+v, want one of the profile %q", c.name, entries, c.entry)
		}
	}

	w := newWorld(t) // a rule that lists no profile
	_, err := w.SignJWT(t.Context(), issuer, api.SignJWTRequest{KeySet: "web", Profile: "at+jwt", Claims: json.RawMessage(access)})
	wants(t, "a kind that no rule names", err, api.CodeForbidden)
	if r := w.log.refused; len(r) != 1 || r[0].Profile != "at+jwt" || r[0].Rule != "" {
		t.Errorf("refusals %+v", r)
	}
}

// A reason in the log names a claim, and never what the caller wrote.
func TestARefusedClaimLeavesNoValueInTheLog(t *testing.T) {
	w := newWorld(t)
	_, err := w.SignJWT(t.Context(), wild, api.SignJWTRequest{KeySet: "web", Profile: "at+jwt", Claims: json.RawMessage(`{"aud":["canary",""],"sub":"canary","client_id":"canary"}`)})
	wants(t, "an empty audience", err, api.CodeClaimInvalid)
	r := w.log.refused
	if len(r) != 1 || !strings.Contains(r[0].Reason, `"aud"`) || strings.Contains(r[0].Reason+err.Error(), "canary") || r[0].Outcome != keystore.OutcomeRefused {
		t.Errorf("refusals %+v: %v", r, err)
	}
}

// The certificate a request names is part of the request: its digest tells.
func TestTheDigestHasTheCertificate(t *testing.T) {
	w := newWorld(t)
	who := wild
	who.Certificate = &x509.Certificate{Raw: []byte("a certificate")}
	for _, named := range []string{"", "one", "another", "one"} {
		_, err := w.SignJWT(t.Context(), who, api.SignJWTRequest{KeySet: "web", CNFCertificate: named, Claims: json.RawMessage(`{}`)})
		if named != "" {
			wants(t, "a rule that binds to none that is named", err, api.CodeClaimInvalid)
		}
	}
	r := w.log.refused
	if len(r) != 3 || r[0].Request == r[1].Request || r[0].Request != r[2].Request || r[0].Request == w.log.entries[0].Request {
		t.Errorf("refusals %+v", r)
	}
}
