package ca

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// DefaultSkew is how far before now a certificate begins to be valid, for
// clocks that are behind.
const DefaultSkew = 5 * time.Minute

// A Request is a certificate someone asks for.
type Request struct {
	CSR []byte // PEM
	TTL *int64 // seconds; nil: the profile's default
}

// An Env is what Prepare has to know of the world.
type Env struct {
	Now  time.Time
	Skew time.Duration // zero: DefaultSkew
	// Ours reports whether a public key is one of Chancery's own: of any version
	// of any key set. Required.
	Ours func(keystore.SPKIHash) (bool, error)
	// ClientAnchors are the trust anchors of Chancery's own listeners: nothing
	// signed here may authenticate there.
	ClientAnchors []*x509.Certificate
}

// A Prepared is a certificate that passed every check and lacks its signature.
// Its methods may be called concurrently; Redeem works once.
type Prepared struct {
	grant    policy.Grant
	template *x509.Certificate
	public   any
	spki     []byte
	issuer   *x509.Certificate
	serial   serial
	redeemed atomic.Bool
}

// Prepare passes req through the gate (see the package comment) and returns the
// certificate to be. issuer is the certificate of the key that will sign.
// Its errors are *api.Error.
func Prepare(grant policy.Grant, profile *Profile, issuer *x509.Certificate, req Request, env Env) (*Prepared, error) {
	if !grant.Allows(policy.SignCSR) || grant.Target().Profile != profile.name {
		return nil, refuse(api.CodeForbidden, "not allowed", policy.ErrForbidden)
	}
	ttl, err := lifetime(grant.Terms(), profile, req.TTL)
	if err != nil {
		return nil, err
	}
	if err := Separate(issuer, env.ClientAnchors); err != nil {
		return nil, refuse(api.CodeInternal, "the authority must not sign", err)
	}
	csr, names, err := readRequest(req.CSR)
	if err != nil {
		return nil, err
	}
	if err := checkNames(grant.Terms(), profile, names); err != nil {
		return nil, err
	}
	if err := checkForeign(csr.RawSubjectPublicKeyInfo, issuer, env.Ours); err != nil {
		return nil, err
	}
	if err := checkKey(csr); err != nil {
		return nil, err
	}
	notBefore, notAfter, err := validity(issuer, env, ttl)
	if err != nil {
		return nil, err
	}
	id, err := keyIdentifier(csr.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, refuse(api.CodeMalformed, "the public key cannot be read", err)
	}
	p := &Prepared{grant: grant, public: csr.PublicKey, spki: csr.RawSubjectPublicKeyInfo, issuer: issuer, serial: newSerial()}
	p.template = &x509.Certificate{
		SerialNumber:          p.serial.number(),
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              keyUsage(csr.PublicKey),
		ExtKeyUsage:           slices.Clone(profile.usages),
		BasicConstraintsValid: true,
		DNSNames:              names,
		SubjectKeyId:          id,
	}
	return p, nil
}

// Grant returns the permission the certificate was prepared under.
func (p *Prepared) Grant() policy.Grant { return p.grant }

// Serial returns the serial number: 32 lower-case hexadecimal digits.
func (p *Prepared) Serial() string { return p.serial.String() }

// Names returns the DNS names.
func (p *Prepared) Names() []string { return slices.Clone(p.template.DNSNames) }

// NotBefore returns when the certificate begins to be valid.
func (p *Prepared) NotBefore() time.Time { return p.template.NotBefore }

// NotAfter returns the last second in which the certificate is valid.
func (p *Prepared) NotAfter() time.Time { return p.template.NotAfter }

// SPKIHash returns the hash of the subject's public key.
func (p *Prepared) SPKIHash() keystore.SPKIHash { return keystore.HashSPKI(p.spki) }

// lifetime returns what the request asks for, if profile and terms allow it.
func lifetime(t policy.Terms, profile *Profile, asked *int64) (time.Duration, error) {
	limit := min(profile.maxTTL, t.MaxTTL())
	if asked == nil {
		if profile.defaultTTL > limit {
			return 0, api.Errorf(api.CodeTTLTooLong, "ttl is absent, and the default of %d seconds is over the limit of %d", seconds(profile.defaultTTL), seconds(limit))
		}
		return profile.defaultTTL, nil
	}
	if *asked < 1 {
		return 0, api.Errorf(api.CodeMalformed, "ttl is not a positive number of seconds")
	}
	if *asked > seconds(limit) {
		return 0, api.Errorf(api.CodeTTLTooLong, "ttl is over the limit of %d seconds", seconds(limit))
	}
	return time.Duration(*asked) * time.Second, nil
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// validity returns when a certificate of the given lifetime begins and ends.
func validity(issuer *x509.Certificate, env Env, ttl time.Duration) (notBefore, notAfter time.Time, err error) {
	skew := env.Skew
	if skew == 0 {
		skew = DefaultSkew
	}
	now := env.Now.UTC().Truncate(time.Second) // as a certificate says it
	if now.Before(issuer.NotBefore) {
		return notBefore, notAfter, refuse(api.CodeInternal, "the authority cannot sign", errors.New("its certificate is not valid yet"))
	}
	notBefore, notAfter = now.Add(-skew), now.Add(ttl)
	if notBefore.Before(issuer.NotBefore) {
		notBefore = issuer.NotBefore.UTC()
	}
	// A certificate never outlives its issuer, and is never silently cut short.
	if notAfter.After(issuer.NotAfter) {
		return notBefore, notAfter, api.Errorf(api.CodeTTLTooLong, "the certificate would outlive its issuer, which ends at %s", issuer.NotAfter.UTC().Format(time.RFC3339))
	}
	return notBefore, notAfter, nil
}

// checkNames returns nil if profile and terms allow every name, each once.
func checkNames(t policy.Terms, profile *Profile, names []string) error {
	if !t.AllowsCount(len(names)) {
		return refuse(api.CodeNameNotAllowed, fmt.Sprintf("%d names are more than the policy allows", len(names)), nil)
	}
	seen := make(map[string]bool, len(names))
	for i, name := range names {
		if err := profile.allows(name); err != nil {
			return refuse(api.CodeNameNotAllowed, fmt.Sprintf("DNS name %d is not allowed: %v", i+1, err), fmt.Errorf("name %.80q", name))
		}
		if !t.AllowsName(name) {
			return refuse(api.CodeNameNotAllowed, fmt.Sprintf("DNS name %d is not allowed by the policy", i+1), fmt.Errorf("name %.80q", name))
		}
		if seen[name] {
			return refuse(api.CodeMalformed, fmt.Sprintf("DNS name %d is there twice", i+1), nil)
		}
		seen[name] = true
	}
	return nil
}

// checkForeign refuses a key that is one of ours: a certificate for it would
// let the daemon's signatures pass for a device's.
func checkForeign(spki []byte, issuer *x509.Certificate, ours func(keystore.SPKIHash) (bool, error)) error {
	known, err := ours(keystore.HashSPKI(spki))
	if err != nil {
		return refuse(api.CodeBackendUnavailable, "the catalog cannot be read", err)
	}
	if known || bytes.Equal(spki, issuer.RawSubjectPublicKeyInfo) {
		return refuse(api.CodeKeyRejected, "the key belongs to someone else", errors.New("the key in the request is one of ours"))
	}
	return nil
}

// Separate returns an error if a certificate under issuer could authenticate to
// a listener with these client anchors: if issuer shares its key with one of
// them, or was issued by one.
func Separate(issuer *x509.Certificate, anchors []*x509.Certificate) error {
	for _, a := range anchors {
		if bytes.Equal(a.RawSubjectPublicKeyInfo, issuer.RawSubjectPublicKeyInfo) {
			return fmt.Errorf("the authority %q shares its key with the client anchor %q", issuer.Subject, a.Subject)
		}
		if bytes.Equal(issuer.RawIssuer, a.RawSubject) && issuer.CheckSignatureFrom(a) == nil {
			return fmt.Errorf("the authority %q chains to the client anchor %q", issuer.Subject, a.Subject)
		}
	}
	return nil
}
