package policyfile

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"chancery/cmd/internal/config/document"
	"chancery/keystore"
	"chancery/signer/ca"
	"chancery/signer/jwt"
	"chancery/signer/policy"
)

// What holds where a configuration does not say it of a key set.
const (
	DefaultMaxTTL = time.Hour
	DefaultTTL    = jwt.DefaultTTL
)

// A Setting is a policy as it was written, and what of a configuration it is judged
// with. It is the same for who reads the whole file and for who reads this part
// alone, so that both say the same of it.
type Setting struct {
	Config      policy.Config
	Rules       []Rule
	KeySets     map[string]KeySet    // nil: they are not known
	Authorities map[string]Authority // likewise
	Declared    map[string]ClaimsProfile
	Profiles    map[string]*jwt.Profile // of claims, checked: those built in, and Declared; the plain one is nil
}

// A KeySet is what a policy is judged with of a key set. Its lifetimes are of
// purpose jwt.
type KeySet struct {
	Purpose    keystore.Purpose   // empty: not said, or not readable
	Algorithm  keystore.Algorithm // likewise
	MaxTTL     time.Duration
	DefaultTTL time.Duration
}

// signs reports whether tokens are signed by the key set, as far as that is known.
func (ks KeySet) signs() bool { return ks.Purpose == keystore.PurposeJWT || ks.Purpose == "" }

// filled returns ks with the lifetimes that hold where none are said.
func (ks KeySet) filled() KeySet {
	ks.MaxTTL = cmp.Or(ks.MaxTTL, DefaultMaxTTL)
	ks.DefaultTTL = cmp.Or(ks.DefaultTTL, min(DefaultTTL, ks.MaxTTL))
	return ks
}

// An Authority has the profiles of its certificates by name.
type Authority map[string]*CertificateProfile

// A CertificateProfile is what a policy is judged with of a profile of certificates.
type CertificateProfile struct {
	DefaultTTL time.Duration
	Checked    *ca.Profile // nil: it has faults
}

// NewCertificateProfile returns a profile of certificates as it was written.
func NewCertificateProfile(written ca.ProfileConfig) *CertificateProfile {
	p := &CertificateProfile{DefaultTTL: cmp.Or(written.DefaultTTL, min(ca.DefaultTTL, cmp.Or(written.MaxTTL, ca.MaxTTL)))}
	if checked, err := ca.NewProfile(written); err == nil { // what is wrong with it is said elsewhere
		p.Checked = checked
	}
	return p
}

// ClaimsProfiles checks declared claims profiles and returns them with those that are
// built in. One that has a finding is not among them.
func ClaimsProfiles(f *document.Findings, declared map[string]ClaimsProfile) map[string]*jwt.Profile {
	profiles := jwt.BuiltIns()
	profiles[policy.ProfileJWT] = nil
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		path := document.Join("claims_profiles", name)
		made, err := jwt.NewProfile(declared[name].Config(name))
		if err != nil {
			ClaimsFaults(f, path, err)
			continue
		}
		profiles[name] = made
		empties(f, path, emptyProfile(declared[name]))
	}
	return profiles
}

// settingOf returns what is known of a policy of which only the text is kept: not
// what the configuration said of key sets and authorities.
func settingOf(text []byte) (Setting, error) {
	s := Setting{Profiles: jwt.BuiltIns()}
	s.Profiles[policy.ProfileJWT] = nil
	if err := json.Unmarshal(text, &s.Config); err != nil {
		return Setting{}, err
	}
	for name, written := range s.Config.ClaimsProfiles {
		cfg := jwt.ProfileConfig{}
		if err := json.Unmarshal(written, &cfg); err != nil {
			return Setting{}, err
		}
		cfg.Name = name
		made, err := jwt.NewProfile(cfg)
		if err != nil {
			return Setting{}, err
		}
		s.Profiles[name] = made
	}
	for _, r := range s.Config.Rules {
		s.Rules = append(s.Rules, Rule(r))
	}
	return s, nil
}

// profilesOf returns the profiles that a rule can name: those of certificates, those
// of claims, or both.
func (s Setting) profilesOf(r Rule) map[string]bool {
	known := make(map[string]bool)
	if slices.Contains(r.Actions, policy.SignCSR) {
		for _, a := range s.Authorities {
			for name := range a {
				known[name] = true
			}
		}
	}
	if slices.Contains(r.Actions, policy.SignJWT) {
		for _, name := range policy.BuiltInProfiles() {
			known[name] = true
		}
		for name := range s.Declared {
			known[name] = true
		}
	}
	return known
}

// claimsOf returns the claims profiles that a rule lets JWTs have, by name.
func (s Setting) claimsOf(r Rule) []string {
	if !slices.Contains(r.Actions, policy.SignJWT) {
		return nil
	}
	if slices.Contains(r.Profiles, policy.Any) {
		return slices.Sorted(maps.Keys(s.Profiles))
	}
	var names []string
	for _, n := range r.Profiles {
		if _, ok := s.Profiles[n]; ok {
			names = append(names, n)
		}
	}
	if len(names) == 0 && (len(r.Profiles) == 0 || slices.Contains(r.Actions, policy.SignCSR)) {
		return []string{policy.ProfileJWT}
	}
	return names
}
