package policyfile

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"chancery/cmd/internal/config/document"
	"chancery/signer/jwt"
	"chancery/signer/policy"
)

// A ClaimsProfile is a claims profile as it was written.
type ClaimsProfile struct {
	Kind         string              `yaml:"kind"`
	Typ          string              `yaml:"typ"`
	Required     []string            `yaml:"required"`
	Forbidden    []string            `yaml:"forbidden"`
	Audiences    []string            `yaml:"audiences"`
	Claims       map[string]jwt.Form `yaml:"claims"`
	TrustDomains []string            `yaml:"trust_domains"`
	Lifetime     time.Duration       `yaml:"lifetime"`
	CNF          policy.CNF          `yaml:"cnf"`
}

// Config returns the profile as package jwt takes it.
func (p ClaimsProfile) Config(name string) jwt.ProfileConfig {
	return jwt.ProfileConfig{
		Name: name, Kind: p.Kind, Typ: p.Typ, Required: p.Required, Forbidden: p.Forbidden, Audiences: p.Audiences,
		Claims: p.Claims, TrustDomains: p.TrustDomains, Lifetime: p.Lifetime, CNF: p.CNF,
	}
}

// Written returns declared claims profiles as the policy's hash takes them.
func Written(declared map[string]ClaimsProfile) map[string]json.RawMessage {
	var written map[string]json.RawMessage
	for name, p := range declared {
		text, err := json.Marshal(p.Config(name))
		if err != nil { // texts and numbers always have a form in JSON
			panic(err)
		}
		if written == nil {
			written = make(map[string]json.RawMessage)
		}
		written[name] = text
	}
	return written
}

// ClaimsFaults says at the members of a file what package jwt found at its own of
// the claims profile at path.
func ClaimsFaults(f *document.Findings, path string, err error) {
	for _, e := range split(err) {
		claimsFault(f, path, e)
	}
}

func claimsFault(f *document.Findings, path string, err error) {
	fault, ok := errors.AsType[*jwt.Fault](err)
	if !ok {
		f.Errorf(path, "", "%v", err)
		return
	}
	at := path
	if claim, ok := strings.CutPrefix(fault.Path, "claims."); ok {
		at = document.Join(path+".claims", claim)
	} else if fault.Path != "" && fault.Path != "name" {
		at = path + "." + fault.Path
	}
	if f.Unread[at] {
		return // said already
	}
	text, hint := document.SplitHint(fault.Text)
	f.Errorf(at, hint, "%s", text)
}
