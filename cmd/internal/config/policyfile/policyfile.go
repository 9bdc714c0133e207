// Package policyfile reads the policy part of the configuration of chanceryd, and
// files of cases to test it with. Of the configuration it looks at nothing else
// and opens no other file, so that a policy can be checked where neither
// certificates nor keystores are. What is to say of a policy is said by Setting.Judge
// to who reads the whole configuration, too.
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
//	    cnf_certificate: PEM        # that the request names, or its SHA-256 in base64url
//	    names: [DNS NAME]           # of a CSR; absent: they are not looked at
//	    expect: allow | deny        # required
//	    rule: NAME                  # that has to decide; absent: any, or none
//	    code: claim_not_allowed     # that the caller has to be answered with; absent: any
//
// A case is answered as the daemon answers the request, as far as the file says it
// (Part.Ask), and must name nothing that the configuration does not have (Cases.Known).
package policyfile

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	"chancery/cmd/internal/config/document"
	"chancery/keystore"
	"chancery/signer/ca"
	"chancery/signer/policy"
)

// A Part is the policy of a configuration, and what it says of lifetimes.
type Part struct {
	Policy *policy.Policy

	setting Setting
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
	Purpose    keystore.Purpose   `yaml:"purpose"`
	Algorithm  keystore.Algorithm `yaml:"algorithm"`
	MaxTTL     time.Duration      `yaml:"max_ttl"`
	DefaultTTL time.Duration      `yaml:"default_ttl"`
	Rest       struct{}           `yaml:",rest"`
}

type authority struct {
	Profiles map[string]profile `yaml:"profiles"`
	Rest     struct{}           `yaml:",rest"`
}

type profile struct {
	NamesUnder []string      `yaml:"names_under"`
	Usages     []ca.Usage    `yaml:"usages"`
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
// a configuration says of key sets and authorities is not in it.
func LoadText(path string) (*Part, error) {
	text, err := read(path)
	if err != nil {
		return nil, err
	}
	text = bytes.TrimSuffix(text, []byte("\n")) // which an editor may have added
	p, err := policy.Read(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s, err := settingOf(text)
	if err != nil {
		return nil, fmt.Errorf("%s: reading the text of a policy: %w", path, err)
	}
	return &Part{p, s}, nil
}

func parse(f *document.Findings, text []byte) (*Part, []document.Finding) {
	var w written
	if !f.Decode(text, &w) {
		return nil, f.Sorted()
	}
	s := w.setting(f)
	p := s.Judge(f)
	if p == nil || document.Failed(f.List) {
		return nil, f.Sorted()
	}
	return &Part{p, s}, f.Sorted()
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

// setting returns what was written as it is judged.
func (w written) setting(f *document.Findings) Setting {
	s := Setting{Config: w.config(), Rules: w.Rules, Declared: w.ClaimsProfiles, Profiles: ClaimsProfiles(f, w.ClaimsProfiles)}
	if f.Has("keysets") {
		s.KeySets = make(map[string]KeySet)
	}
	for name, ks := range w.KeySets {
		s.KeySets[name] = KeySet{ks.Purpose, ks.Algorithm, ks.MaxTTL, ks.DefaultTTL}.filled()
	}
	if f.Has("authorities") {
		s.Authorities = make(map[string]Authority)
	}
	for name, a := range w.Authorities {
		s.Authorities[name] = make(Authority)
		for profile, p := range a.Profiles {
			s.Authorities[name][profile] = NewCertificateProfile(ca.ProfileConfig{
				Name: profile, NamesUnder: p.NamesUnder, MaxTTL: p.MaxTTL, DefaultTTL: p.DefaultTTL, Usages: p.Usages,
			})
		}
	}
	return s
}

// config is the policy as package policy takes it.
func (w written) config() policy.Config {
	var c policy.Config
	for _, a := range w.Clients {
		c.Anchors = append(c.Anchors, policy.Anchor{Name: a.Name, SPIFFE: a.SPIFFE, DNS: a.DNS, URI: a.URI, PINs: a.PINs})
	}
	for _, r := range w.Rules {
		c.Rules = append(c.Rules, policy.Rule(r))
	}
	c.Revoked = policy.Revoked{SPKI: w.Revoked.SPKI, Serials: w.Revoked.Serials}
	c.ClaimsProfiles = Written(w.ClaimsProfiles)
	return c
}
