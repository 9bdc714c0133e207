package config

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"chancery/cmd/internal/config/document"
	"chancery/cmd/internal/config/policyfile"
	"chancery/keystore"
	"chancery/rotation"
	"chancery/signer/ca"
)

// Lease is the signing lease rotation counts with: how long a signature may
// still come from a snapshot that has been overtaken. Half of it is what a step
// may take to reach the log before signing has to stop for it, which a busy
// disk does not pass. It keeps a retiring version known that much longer.
const Lease = 5 * time.Second

// checker has one method for each section of the file.
type checker struct {
	*Config
	*findings
	now time.Time
}

func check(c *Config, f *findings, now time.Time) {
	k := checker{c, f, now}
	k.general()
	k.catalog()
	k.audit()
	k.keystores()
	k.listeners()
	k.clients()
	k.keySets()
	k.authorities()
	k.policy()
	k.shares()
}

func (k checker) general() {
	if k.Node != "" && !document.IsName(k.Node) {
		k.errorf("node", document.NameHint, "%q is no name", k.Node)
	}
	if k.Data != "" {
		if err := checkData(k.Data); err != nil {
			k.errorf("data", "", "%v", err)
		}
	}
	if k.PublicURL == "" {
		return
	}
	u, err := baseURL(k.PublicURL)
	if err != nil {
		k.errorf("public_url", "https://keys.example.com", "%v", err)
	} else if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		k.warnf("public_url", "serve it over https", "verifiers must fetch keys over https (OpenID Connect Discovery 1.0 Section 4)")
	}
}

// baseURL reads a URL that names are appended to, in the one spelling that
// verifiers will compare with.
func baseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "", u.Opaque != "":
		return nil, fmt.Errorf("%.80q is no http or https URL", s)
	case u.User != nil, u.RawQuery != "", u.Fragment != "", u.ForceQuery, strings.HasSuffix(s, "#"):
		return nil, errors.New("a base URL has no user, query or fragment")
	case strings.HasSuffix(s, "/"):
		return nil, errors.New("a base URL does not end in a slash")
	case u.Host != strings.ToLower(u.Host), u.String() != s:
		return nil, errors.New("the URL is not in its canonical spelling")
	}
	return u, nil
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (k checker) keySets() {
	var audits []string
	for _, n := range sorted(k.KeySets) {
		path, ks := join("keysets", n), k.KeySets[n]
		if !document.IsName(n) {
			k.errorf(path, document.NameHint, "%q is no name", n)
		}
		switch ks.Purpose {
		case keystore.PurposeAudit:
			audits = append(audits, n)
			if ks.Algorithm != keystore.EdDSA && ks.Algorithm != keystore.ES256 && ks.Algorithm != "" {
				k.errorf(path+".algorithm", "EdDSA, which other tools know too, or ES256", "checkpoints are not signed by %.40q", string(ks.Algorithm))
			}
		case keystore.PurposeJWT, keystore.PurposeCA, "":
		case keystore.PurposeDigest:
			if ks.Algorithm == keystore.EdDSA {
				k.errorf(path+".algorithm", "ES256", "EdDSA signs messages and no digests (RFC 8032 Section 5.1)")
			}
		default:
			k.errorf(path+".purpose", "jwt, ca, audit or digest", "%.40q is no purpose of a configured key set", string(ks.Purpose))
		}
		k.keySet(path, ks)
		k.schedule(path, ks)
	}
	switch {
	case len(audits) == 0 && k.has("keysets") && !k.said("keysets"):
		k.errorf("keysets", "audit: {purpose: audit, algorithm: EdDSA, keystore: …}", "no key set is of purpose audit, so nothing would sign the log")
	case len(audits) > 1:
		for _, n := range audits[1:] {
			k.errorf(join("keysets", n)+".purpose", "", "key set %s is of purpose audit already", audits[0])
		}
	}
}

func (k checker) keySet(path string, ks KeySet) {
	algorithm := func(path string, a keystore.Algorithm) {
		if _, err := keystore.ParseAlgorithm(string(a)); err != nil && a != "" {
			k.errorf(path, suggestAlgorithm(string(a)), "%.40q is no algorithm", string(a))
		}
	}
	algorithm(path+".algorithm", ks.Algorithm)
	for i, a := range ks.Algorithms {
		algorithm(fmt.Sprintf("%s.algorithms[%d]", path, i), a)
	}
	if _, ok := k.Keystores[ks.Keystore]; !ok && ks.Keystore != "" {
		k.errorf(path+".keystore", suggest(ks.Keystore, sorted(k.Keystores)), "there is no keystore %.40q", ks.Keystore)
	}
	k.caches(path, ks)
	if ks.OnGap != "" && ks.OnGap != Stop && ks.OnGap != SignEarly {
		k.errorf(path+".on_gap", "stop, or sign_early", "%.40q is nothing to do in a gap", string(ks.OnGap))
	}
	if ks.Purpose != keystore.PurposeDigest && ks.Purpose != "" && k.has(path+".retain") {
		k.errorf(path+".retain", "remove it", "only key sets of purpose digest have this")
	}
	if ks.Purpose != keystore.PurposeJWT {
		for _, member := range []string{"max_ttl", "default_ttl", "issuer", "algorithms"} {
			if ks.Purpose != "" && k.has(path+"."+member) {
				k.errorf(path+"."+member, "remove it", "only key sets of purpose jwt have this")
			}
		}
		return
	}
	if ks.DefaultTTL > ks.MaxTTL {
		k.errorf(path+".default_ttl", "", "%v is more than max_ttl, %v", ks.DefaultTTL, ks.MaxTTL)
	}
	for _, d := range []struct {
		member string
		value  time.Duration
	}{{"max_ttl", ks.MaxTTL}, {"default_ttl", ks.DefaultTTL}, {"max_age", ks.MaxAge}} {
		if d.value%time.Second != 0 {
			k.errorf(path+"."+d.member, "", "%v is not whole seconds", d.value)
		}
	}
	if ks.Issuer != "" {
		if _, err := baseURL(strings.TrimSuffix(ks.Issuer, "/")); err != nil {
			k.errorf(path+".issuer", "", "%v", err)
		}
	}
}

func (k checker) caches(path string, ks KeySet) {
	if len(ks.Caches) > 0 && k.has(path+".cache_for") {
		k.errorf(path+".cache_for", "remove one of the two", "it is the sum of caches, %v, where these are listed", cacheFor(ks.Caches))
	}
	for i, c := range ks.Caches {
		for _, d := range []struct {
			member string
			value  time.Duration
		}{{"max_age", c.MaxAge}, {"stale_while_revalidate", c.StaleWhileRevalidate}, {"stale_if_error", c.StaleIfError}} {
			if d.value < 0 {
				k.errorf(fmt.Sprintf("%s.caches[%d].%s", path, i, d.member), "", "%v is negative", d.value)
			}
		}
	}
}

func suggestAlgorithm(a string) string {
	var known []string
	for _, alg := range keystore.Algorithms() {
		known = append(known, string(alg))
	}
	return suggest(a, known)
}

// schedule asks rotation whether the windows keep its rules.
func (k checker) schedule(path string, ks KeySet) {
	if _, err := keystore.ParsePurpose(string(ks.Purpose)); err != nil {
		return
	}
	for _, f := range rotation.Check(ks.Spec()) {
		switch {
		case !f.Warning:
			k.errorf(path+"."+f.Field, f.Hint, "%s", f.Message)
		case !k.AcceptShortWindows:
			k.warnf(path+"."+f.Field, f.Hint, "%s", f.Message)
		}
	}
}

// fillAuthorities checks profiles and puts them, checked, into the authorities.
func (c *Config) fillAuthorities(f *findings) {
	for _, n := range sorted(c.Authorities) {
		a := c.Authorities[n]
		a.Name, a.Profiles = n, make(map[string]*ca.Profile)
		if a.Lifetime == 0 {
			a.Lifetime = DefaultAuthorityLifetime
		}
		longest := time.Duration(0)
		for _, p := range sorted(a.Written) {
			w := a.Written[p]
			profile, err := ca.NewProfile(w.Config(p))
			if err != nil {
				c.profileFaults(f, join(join("authorities", n)+".profiles", p), err)
				continue
			}
			a.Profiles[p] = profile
			longest = max(longest, profile.MaxTTL())
		}
		if ks, ok := c.KeySets[a.KeySet]; ok && ks.Purpose == keystore.PurposeCA {
			ks.MaxTTL = max(ks.MaxTTL, longest)
			c.KeySets[a.KeySet] = ks
		}
		c.Authorities[n] = a
	}
}

func (c *Config) profileFaults(f *findings, path string, err error) {
	for _, e := range split(err) {
		fault, ok := errors.AsType[*ca.Fault](e)
		if !ok {
			f.errorf(path, "", "%v", e)
			continue
		}
		if f.Unread[path+"."+fault.Path] {
			continue // said already
		}
		member, _, _ := strings.Cut(fault.Path, "[")
		if (member == "names_under" || member == "usages") && !f.has(path+"."+member) {
			continue // missing: said already
		}
		f.errorf(path+"."+fault.Path, "", "%s", fault.Text)
	}
}

// split returns the errors that errors.Join joined.
func split(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

func (k checker) authorities() {
	owner := make(map[string]string)
	for _, n := range sorted(k.Authorities) {
		path, a := join("authorities", n), k.Authorities[n]
		if !document.IsName(n) {
			k.errorf(path, document.NameHint, "%q is no name", n)
		}
		if len(a.CommonName) > 64 { // ub-common-name, RFC 5280 Appendix A.1
			k.errorf(path+".common_name", "", "it is longer than 64 bytes")
		}
		if a.Lifetime < ca.MaxTTL {
			k.errorf(path+".lifetime", "ten years is usual: 3650d", "%v is shorter than a certificate may live, %v", a.Lifetime, ca.MaxTTL)
		}
		if len(a.Written) == 0 && k.has(path+".profiles") {
			k.errorf(path+".profiles", "", "there is no profile")
		}
		for _, p := range sorted(a.Written) {
			if !document.IsName(p) {
				k.errorf(join(path+".profiles", p), document.NameHint, "%q is no name", p)
			}
		}
		if a.KeySet == "" {
			continue
		}
		ks, ok := k.KeySets[a.KeySet]
		switch {
		case !ok:
			k.errorf(path+".keyset", suggest(a.KeySet, sorted(k.KeySets)), "there is no key set %.40q", a.KeySet)
		case ks.Purpose != keystore.PurposeCA:
			k.errorf(path+".keyset", "", "key set %s is of purpose %.40q, not ca", a.KeySet, string(ks.Purpose))
		case owner[a.KeySet] != "":
			k.errorf(path+".keyset", "a key set for each authority", "authority %s has this key set already", owner[a.KeySet])
		}
		owner[a.KeySet] = n
	}
	for _, n := range sorted(k.KeySets) {
		if k.KeySets[n].Purpose == keystore.PurposeCA && owner[n] == "" {
			k.warnf(join("keysets", n), "", "no authority uses this key set")
		}
	}
}

// policy has the policy judged, with what the file says beside it.
func (k checker) policy() { k.setting().Judge(k.Findings) }

// setting returns the policy and what it is judged with.
func (c *Config) setting() policyfile.Setting {
	s := policyfile.Setting{
		Config: c.PolicyConfig(), Rules: c.Rules, Declared: c.ClaimsProfiles, Profiles: c.profiles,
		KeySets: make(map[string]policyfile.KeySet), Authorities: make(map[string]policyfile.Authority),
	}
	for name, ks := range c.KeySets {
		s.KeySets[name] = policyfile.KeySet{Purpose: ks.Purpose, Algorithm: ks.Algorithm, MaxTTL: ks.MaxTTL, DefaultTTL: ks.DefaultTTL}
	}
	for name, a := range c.Authorities {
		s.Authorities[name] = make(policyfile.Authority)
		for profile, w := range a.Written {
			s.Authorities[name][profile] = policyfile.NewCertificateProfile(w.Config(profile))
		}
	}
	return s
}
