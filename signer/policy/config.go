package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Any as a key set, authority or profile of a rule stands for each of them.
const Any = "*"

// DefaultType is the typ of a JWT that is asked for without one.
const DefaultType = "JWT"

// Config is a policy as it was written.
//
// Its JSON is what Hash is taken over, and what Text returns.
type Config struct {
	Anchors []Anchor `json:"anchors,omitempty"`
	Rules   []Rule   `json:"rules,omitempty"`
	Revoked Revoked  `json:"revoked"`
	// ClaimsProfiles are the claims profiles that are declared beside those built in,
	// by name, as they were written. Package jwt checks them; here they are what Hash
	// is taken over.
	ClaimsProfiles map[string]json.RawMessage `json:"claims_profiles,omitempty"`
}

// An Anchor is a trust anchor by its name, and all the names it speaks for. A
// certificate under it with another name is nobody.
type Anchor struct {
	Name   string   `json:"name,omitempty"`   // letters, digits and -._
	SPIFFE []string `json:"spiffe,omitempty"` // trust domains: "chancery.dev"
	DNS    []string `json:"dns,omitempty"`    // names, or ".ci.example.com" for everything under one
	URI    []string `json:"uri,omitempty"`    // scheme and host: "https://ci.example.com"
	PINs   []string `json:"pins,omitempty"`   // SHA-256 of public keys (SPKI), in hexadecimal
}

// A Rule lets its principals do its actions to its targets, within its limits.
type Rule struct {
	Name        string        `json:"name,omitempty"`       // what the log calls it
	Principals  []string      `json:"principals,omitempty"` // anchor:kind:value, exactly
	Actions     []Action      `json:"actions,omitempty"`
	KeySets     []string      `json:"keysets,omitempty"`     // for actions on key sets
	Authorities []string      `json:"authorities,omitempty"` // for SignCSR, with
	Profiles    []string      `json:"profiles,omitempty"`    // also claims profiles for SignJWT; none: ProfileJWT alone
	MaxTTL      time.Duration `json:"max_ttl,omitempty"`     // for SignJWT and SignCSR: the longest lifetime, whole seconds
	Types       []string      `json:"types,omitempty"`       // for SignJWT under ProfileJWT: what typ may be; none: DefaultType alone
	Names       []string      `json:"names,omitempty"`       // for SignCSR: DNS names, or ".b" for everything under b
	CNF         CNF           `json:"cnf,omitempty"`         // for SignJWT: what a token is bound to; empty: as the profile says

	Require Require `json:"require,omitzero"` // of the caller, beside the name
	When    string  `json:"when,omitempty"`   // a CEL expression that has to be true as well

	Audiences []string   `json:"audiences,omitempty"`  // for SignJWT: what aud may name, which must be there then
	Scopes    []string   `json:"scopes,omitempty"`     // for SignJWT: what the claim scope may hold
	Claims    ClaimRules `json:"claims,omitzero"`      // for SignJWT
	MaxClaims int        `json:"max_claims,omitempty"` // for SignJWT: the most claims; 0: no such limit
	MaxBytes  int        `json:"max_bytes,omitempty"`  // for SignJWT: the longest claims, as they were written
	MaxNames  int        `json:"max_names,omitempty"`  // for SignCSR: the most names
}

// A rule is a Rule that was checked, made ready to decide.
type rule struct {
	Rule
	expr    *expression // of When
	kinds   []string    // the claims profiles it lists, if it is to sign JWTs
	limited []limited
	bounds  bool // it has limits on claims
}

// Revoked lists certificates that count no more, whatever they are signed by.
type Revoked struct {
	SPKI    []string `json:"spki,omitempty"`    // SHA-256 of public keys, in hexadecimal
	Serials []string `json:"serials,omitempty"` // serial numbers, in hexadecimal
}

// A Fault is one thing wrong with a Config. New joins all of them.
type Fault struct {
	Path string // where: "rules[2].principals[0]"
	Text string
}

func (f *Fault) Error() string { return f.Path + ": " + f.Text }

// New checks cfg and returns the Policy it says, or every *Fault in it, joined.
// cfg must not be changed afterwards.
//
// One principal does not hold conflicting roles: who signs neither operates
// (rotate, suspend, resume, compromise, destroy, reconcile, manage tokens or nodes, confirm a clock) nor
// reads the log that judges it.
func New(cfg Config) (*Policy, error) {
	canonical, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("writing the policy down: %w", err)
	}
	sum := sha256.Sum256(canonical)
	b := &builder{p: &Policy{
		hash:           hex.EncodeToString(sum[:]),
		text:           canonical,
		anchors:        map[string]*Anchor{},
		rules:          map[Principal][]*rule{},
		revokedKeys:    map[[sha256.Size]byte]bool{},
		revokedSerials: map[string]bool{},
	}}
	for i := range cfg.Anchors {
		b.anchor(fmt.Sprintf("anchors[%d]", i), cfg.Anchors[i])
	}
	names := map[string]bool{}
	for i := range cfg.Rules {
		path := fmt.Sprintf("rules[%d]", i)
		r := &rule{Rule: cfg.Rules[i]}
		b.p.all = append(b.p.all, r)
		b.rule(path, r)
		b.profiles(cfg, path, r)
		b.check(!names[cfg.Rules[i].Name], path+".name", "%q is the name of another rule", cfg.Rules[i].Name)
		names[cfg.Rules[i].Name] = true
	}
	b.revoked(cfg.Revoked)
	b.roles()
	if len(b.faults) > 0 {
		return nil, errors.Join(b.faults...)
	}
	return b.p, nil
}

// A builder makes a Policy and collects what is wrong.
type builder struct {
	p      *Policy
	faults []error
	env    *cel.Env // of expressions; nil until there is one
}

func (b *builder) check(ok bool, path, format string, args ...any) {
	if !ok {
		b.faults = append(b.faults, &Fault{Path: path, Text: fmt.Sprintf(format, args...)})
	}
}

// each checks every element of a list, and that it is there once.
func (b *builder) each(path string, list []string, check func(string) error) {
	for i, s := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		if err := check(s); err != nil {
			b.check(false, at, "%q: %v", s, err)
		}
		b.check(!slices.Contains(list[:i], s), at, "%q is there twice", s)
	}
}

func (b *builder) anchor(path string, a Anchor) {
	b.check(isName(a.Name), path+".name", "%q: a name has 1 to 64 letters, digits and -._", a.Name)
	b.check(b.p.anchors[a.Name] == nil, path+".name", "%q is the name of another anchor", a.Name)
	b.each(path+".spiffe", a.SPIFFE, checkTrustDomain)
	b.each(path+".dns", a.DNS, checkPattern)
	b.each(path+".uri", a.URI, checkOrigin)
	b.each(path+".pins", a.PINs, func(s string) error {
		_, err := parsePIN(s)
		return err
	})
	b.p.anchors[a.Name] = &a
}

func checkTrustDomain(s string) error {
	td, err := spiffeid.TrustDomainFromString(s)
	if err == nil && td.Name() != s {
		err = errors.New("want the name of a trust domain alone")
	}
	return err
}

func (b *builder) rule(path string, r *rule) {
	b.check(isName(r.Name), path+".name", "%q: a name has 1 to 64 letters, digits and -._", r.Name)
	b.check(len(r.Principals) > 0, path+".principals", "a rule without principals allows nothing")
	b.each(path+".principals", r.Principals, func(s string) error { return b.principal(r, s) })
	b.check(len(r.Actions) > 0, path+".actions", "a rule without actions allows nothing")
	for i, a := range r.Actions {
		b.check(slices.Contains(Actions(), a), fmt.Sprintf("%s.actions[%d]", path, i), "%q is no action (hint: one of %v)", a, Actions())
	}
	jwt, csr := slices.Contains(r.Actions, SignJWT), slices.Contains(r.Actions, SignCSR)
	b.needed(path+".keysets", r.KeySets, slices.ContainsFunc(r.Actions, Action.OnKeySet), "an action on a key set")
	b.needed(path+".authorities", r.Authorities, csr, string(SignCSR))
	b.needed(path+".names", r.Names, csr, string(SignCSR))
	b.each(path+".keysets", r.KeySets, checkTarget)
	b.each(path+".authorities", r.Authorities, checkTarget)
	b.each(path+".names", r.Names, checkPattern)
	b.each(path+".types", r.Types, checkType)
	b.check(jwt || len(r.Types) == 0, path+".types", "only %s has types", SignJWT)
	if jwt || csr {
		b.check(r.MaxTTL >= time.Second && r.MaxTTL%time.Second == 0, path+".max_ttl", "%v: a rule to sign has a limit of whole seconds", r.MaxTTL)
	} else {
		b.check(r.MaxTTL == 0, path+".max_ttl", "only a rule to sign has this limit")
	}
	b.require(path+".require", &r.Require)
	b.limits(path, r, jwt, csr)
	b.when(path+".when", r)
}

// principal reads one principal of r and gives r to it.
func (b *builder) principal(r *rule, s string) error {
	who, err := ParsePrincipal(s)
	if err != nil {
		return err
	}
	a := b.p.anchors[who.Anchor]
	if a == nil {
		return errors.New("there is no anchor of that name")
	}
	if !a.speaksFor(who.Kind, who.Value) {
		return fmt.Errorf("the anchor does not speak for this name (hint: declare it under anchor %q)", a.Name)
	}
	b.p.rules[who] = append(b.p.rules[who], r)
	return nil
}

// needed checks that a list is given if, and only if, an action needs it.
func (b *builder) needed(path string, list []string, need bool, action string) {
	b.check(!need || len(list) > 0, path, "%s needs at least one", action)
	b.check(need || len(list) == 0, path, "no action of the rule uses this")
}

func (b *builder) revoked(r Revoked) {
	b.each("revoked.spki", r.SPKI, func(s string) error {
		sum, err := parsePIN(s)
		b.p.revokedKeys[sum] = err == nil
		return err
	})
	b.each("revoked.serials", r.Serials, func(s string) error {
		n, ok := new(big.Int).SetString(s, 16)
		if !ok || n.Sign() < 0 || strings.Trim(s, "0123456789abcdef") != "" {
			return errors.New("want a serial number in lower-case hexadecimal digits alone")
		}
		b.p.revokedSerials[n.Text(16)] = true
		return nil
	})
}

// roles checks that no principal holds conflicting roles, and neither does a key
// by which a caller is known under several names. What a rule requires beside the
// name changes nothing: it is still the same principal.
func (b *builder) roles() {
	everyone := slices.SortedFunc(maps.Keys(b.p.rules), func(x, y Principal) int {
		return strings.Compare(x.String(), y.String())
	})
	for _, who := range everyone {
		b.role(who.String(), b.p.rules[who])
	}
	if len(b.faults) > 0 {
		return // it may be the same again
	}
	keys := sameKey(b.p.all)
	for _, pin := range slices.Sorted(maps.Keys(keys)) {
		b.role("whoever holds the key "+pin, keys[pin])
	}
}

func (b *builder) role(who string, rules []*rule) {
	var signs, operates, audits bool
	for _, r := range rules {
		signs = signs || slices.ContainsFunc(r.Actions, Action.signs)
		operates = operates || slices.ContainsFunc(r.Actions, Action.operates)
		audits = audits || slices.Contains(r.Actions, ReadAudit)
	}
	b.check(!signs || !operates, "rules", "%s would both sign and operate (hint: give each role a certificate of its own)", who)
	b.check(!signs || !audits, "rules", "%s would both sign and read the log (hint: give each role a certificate of its own)", who)
}

func checkTarget(s string) error {
	if s == Any || isName(s) {
		return nil
	}
	return fmt.Errorf("a name has 1 to 64 letters, digits and -._, or is %s", Any)
}

// checkType returns nil if s can be the typ of a JOSE header (RFC 7515 Section
// 4.1.9): characters of a media type, which need no escapes in JSON.
func checkType(s string) error {
	if s == "" || len(s) > 64 || strings.ContainsFunc(s, func(c rune) bool { return !isNameRune(c) && c != '+' && c != '/' }) {
		return errors.New("a type has 1 to 64 letters, digits and -._+/")
	}
	return nil
}

func isName(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(c rune) bool { return !isNameRune(c) })
}

func isNameRune(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_'
}
