package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A Usage is an extended key usage by the name the configuration uses.
type Usage string

// The usages a profile may have (RFC 5280 Section 4.2.1.12).
const (
	UsageServer Usage = "server" // id-kp-serverAuth
	UsageClient Usage = "client" // id-kp-clientAuth
)

var usages = map[Usage]x509.ExtKeyUsage{
	UsageServer: x509.ExtKeyUsageServerAuth,
	UsageClient: x509.ExtKeyUsageClientAuth,
}

// Limits of every profile. There is no revocation yet, so a certificate lives a
// day at most.
const (
	MaxTTL     = 24 * time.Hour
	MinTTL     = time.Second
	DefaultTTL = 24 * time.Hour // where neither request nor profile says otherwise
)

// A ProfileConfig is a profile as it was written.
type ProfileConfig struct {
	Name       string
	NamesUnder []string      // DNS names strictly under one of these are allowed
	MaxTTL     time.Duration // zero: MaxTTL
	DefaultTTL time.Duration // zero: DefaultTTL, or MaxTTL where that is less
	Usages     []Usage
}

// A Profile is what certificates of one kind look like. It needs no further
// checks, does not change, and may be used concurrently.
type Profile struct {
	name       string
	under      []string
	maxTTL     time.Duration
	defaultTTL time.Duration
	usages     []x509.ExtKeyUsage
}

// A Fault is one thing wrong with a ProfileConfig.
type Fault struct {
	Path string // where, by the configuration's names: "names_under[0]"
	Text string
}

func (f *Fault) Error() string { return f.Path + ": " + f.Text }

// NewProfile checks cfg and returns a Profile, or every *Fault in it, joined.
func NewProfile(cfg ProfileConfig) (*Profile, error) {
	p := &Profile{
		name: cfg.Name, under: slices.Clone(cfg.NamesUnder),
		maxTTL: cfg.MaxTTL, defaultTTL: cfg.DefaultTTL,
	}
	if p.maxTTL == 0 {
		p.maxTTL = MaxTTL
	}
	if p.defaultTTL == 0 {
		p.defaultTTL = min(DefaultTTL, p.maxTTL)
	}
	if errs := p.check(cfg); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return p, nil
}

// check fills in p's usages and returns every fault.
func (p *Profile) check(cfg ProfileConfig) (errs []error) {
	fault := func(ok bool, path, format string, args ...any) {
		if !ok {
			errs = append(errs, &Fault{Path: path, Text: fmt.Sprintf(format, args...)})
		}
	}
	fault(cfg.Name != "", "name", "a profile has a name")
	fault(p.maxTTL >= MinTTL && p.maxTTL <= MaxTTL, "max_ttl", "%v is not between %v and %v", p.maxTTL, MinTTL, MaxTTL)
	fault(p.defaultTTL >= MinTTL && p.defaultTTL <= p.maxTTL, "default_ttl", "%v is not between %v and max_ttl, %v", p.defaultTTL, MinTTL, p.maxTTL)
	fault(p.maxTTL%time.Second == 0, "max_ttl", "%v is not whole seconds", p.maxTTL)
	fault(p.defaultTTL%time.Second == 0, "default_ttl", "%v is not whole seconds", p.defaultTTL)
	fault(len(p.under) > 0, "names_under", "a profile allows at least one name")
	for i, suffix := range p.under {
		err := CheckName(suffix)
		fault(err == nil, fmt.Sprintf("names_under[%d]", i), "%q: %v", suffix, err)
	}
	fault(len(cfg.Usages) > 0, "usages", "a profile has at least one usage")
	for i, u := range cfg.Usages {
		eku, ok := usages[u]
		fault(ok, fmt.Sprintf("usages[%d]", i), "%q is neither %s nor %s", u, UsageServer, UsageClient)
		fault(!slices.Contains(cfg.Usages[:i], u), fmt.Sprintf("usages[%d]", i), "%q is there twice", u)
		p.usages = append(p.usages, eku)
	}
	return errs
}

// Name returns the profile's name.
func (p *Profile) Name() string { return p.name }

// MaxTTL returns the longest lifetime of a certificate.
func (p *Profile) MaxTTL() time.Duration { return p.maxTTL }

// DefaultTTL returns the lifetime of a certificate that is asked for without one.
func (p *Profile) DefaultTTL() time.Duration { return p.defaultTTL }
