// Package policyfile reads the policy part of the configuration of chanceryd, and
// files of cases to test it with. Of the configuration it looks at nothing else
// and opens no other file, so that a policy can be checked where neither
// certificates nor keystores are.
//
//	p, findings := policyfile.Load("config.yaml")
//	cases, findings := policyfile.LoadCases("policy-test.yaml")
//
// # A file of cases
//
//	config: config.yaml             # relative to this file
//	cases:
//	  - name: TEXT                  # required; what the result calls it
//	    as: ANCHOR:KIND:VALUE       # required
//	    uid: 1000                   # at the other end of a Unix socket, and
//	    gid: 1000                   # its group; absent: a connection by TCP
//	    pin: SHA-256                # of the certificate's public key; absent: none that a rule asks for
//	    action: jwt.sign            # required
//	    keyset: NAME
//	    authority: NAME
//	    profile: NAME
//	    typ: JWT
//	    ttl: 5m                     # absent: what the key set or the profile has
//	    claims: {sub: x}            # or their JSON in quotes; absent for a JWT: none, {}
//	    names: [DNS NAME]           # of a CSR; absent: they are not looked at
//	    expect: allow | deny        # required
//	    rule: NAME                  # that has to decide; absent: any, or none
//	    code: claim_not_allowed     # that the caller has to be answered with; absent: any
package policyfile

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"chancery/cmd/internal/config/document"
	"chancery/signer/ca"
	"chancery/signer/jwt"
	"chancery/signer/policy"
)

// What holds where a configuration does not say it of a key set.
const (
	DefaultMaxTTL = time.Hour
	DefaultTTL    = jwt.DefaultTTL
)

// A Part is the policy of a configuration, and what it says of lifetimes.
type Part struct {
	Policy *policy.Policy

	written  written
	profiles map[string]*jwt.Profile // of claims; the plain one is nil
}

// written is what of the file is looked at.
type written struct {
	Clients     []client             `yaml:"clients,required"`
	Revoked     revoked              `yaml:"revoked"`
	KeySets     map[string]keySet    `yaml:"keysets"`
	Authorities map[string]authority `yaml:"authorities"`
	Rules       []Rule               `yaml:"policy,required"`

	ClaimsProfiles map[string]ClaimsProfile `yaml:"claims_profiles"`

	Rest struct{} `yaml:",rest"`
}

type client struct {
	Name   string   `yaml:"name,required"`
	SPIFFE []string `yaml:"spiffe"`
	DNS    []string `yaml:"dns"`
	URI    []string `yaml:"uri"`
	PINs   []string `yaml:"pins"`
	Rest   struct{} `yaml:",rest"`
}

type revoked struct {
	SPKI    []string `yaml:"spki"`
	Serials []string `yaml:"serials"`
	Rest    struct{} `yaml:",rest"`
}

type keySet struct {
	MaxTTL     time.Duration `yaml:"max_ttl"`
	DefaultTTL time.Duration `yaml:"default_ttl"`
	Rest       struct{}      `yaml:",rest"`
}

type authority struct {
	Profiles map[string]profile `yaml:"profiles"`
	Rest     struct{}           `yaml:",rest"`
}

type profile struct {
	MaxTTL     time.Duration `yaml:"max_ttl"`
	DefaultTTL time.Duration `yaml:"default_ttl"`
	Rest       struct{}      `yaml:",rest"`
}

// Load reads the policy part of the configuration at path. The Part is nil if a
// finding is an error. The findings are in the order of the file.
func Load(path string) (*Part, []document.Finding) {
	f := document.New(path)
	text, err := read(path)
	if err != nil {
		f.Add(document.Position{}, "", document.Error, "", "%v", err)
		return nil, f.List
	}
	return parse(f, text)
}

// LoadText reads the text of a policy at path, as it is kept beside the log. What
// a configuration says of lifetimes is not in it.
func LoadText(path string) (*Part, error) {
	text, err := read(path)
	if err != nil {
		return nil, err
	}
	p, err := policy.Read(bytes.TrimSuffix(text, []byte("\n"))) // which an editor may have added
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Part{Policy: p, profiles: jwt.BuiltIns()}, nil
}

func parse(f *document.Findings, text []byte) (*Part, []document.Finding) {
	var p Part
	if !f.Decode(text, &p.written) {
		return nil, f.Sorted()
	}
	p.claimsProfiles(f)
	made, err := policy.New(p.config())
	if err != nil {
		Faults(f, err)
	}
	p.Policy = made
	p.named(f)
	if document.Failed(f.List) {
		return nil, f.Sorted()
	}
	return &p, f.Sorted()
}

func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, document.MaxFile+1))
	if err == nil && len(text) > document.MaxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, document.MaxFile)
	}
	return text, err
}

// config is the policy as package policy takes it.
func (p *Part) config() policy.Config {
	var c policy.Config
	for _, a := range p.written.Clients {
		c.Anchors = append(c.Anchors, policy.Anchor{Name: a.Name, SPIFFE: a.SPIFFE, DNS: a.DNS, URI: a.URI, PINs: a.PINs})
	}
	for _, r := range p.written.Rules {
		c.Rules = append(c.Rules, policy.Rule(r))
	}
	c.Revoked = policy.Revoked{SPKI: p.written.Revoked.SPKI, Serials: p.written.Revoked.Serials}
	c.ClaimsProfiles = Written(p.written.ClaimsProfiles)
	return c
}

// named looks whether what rules name exists, as far as the file has it.
func (p *Part) named(f *document.Findings) {
	for i, r := range p.written.Rules {
		path := fmt.Sprintf("policy[%d]", i)
		if f.Has("keysets") {
			Exist(f, path+".keysets", "key set", r.KeySets, p.written.KeySets)
		}
		if f.Has("authorities") {
			Exist(f, path+".authorities", "authority", r.Authorities, p.written.Authorities)
		}
		if f.Has("authorities") || !slices.Contains(r.Actions, policy.SignCSR) {
			Exist(f, path+".profiles", "profile", r.Profiles, p.profilesOf(r))
		}
	}
}

// defaults returns what a request gets that names neither lifetime, in seconds, nor
// typ, by the profile that it has under a rule.
func (p *Part) defaults(q policy.Question) func(profile string) (ttl int64, typ string) {
	return func(profile string) (int64, string) {
		switch q.Action {
		case policy.SignJWT:
			ks := p.written.KeySets[q.Target.KeySet]
			ttl := cmp.Or(ks.DefaultTTL, min(DefaultTTL, cmp.Or(ks.MaxTTL, DefaultMaxTTL)))
			ttl, typ := p.profiles[profile].Defaults(ttl)
			return int64(ttl / time.Second), typ
		case policy.SignCSR:
			pr := p.written.Authorities[q.Target.Authority].Profiles[profile]
			return int64(cmp.Or(pr.DefaultTTL, min(ca.DefaultTTL, cmp.Or(pr.MaxTTL, ca.MaxTTL))) / time.Second), ""
		}
		return 0, ""
	}
}
