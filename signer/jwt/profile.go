package jwt

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// A ProfileConfig is a claims profile as it was written: what tokens of one kind
// are like.
//
// Its JSON is what the policy's hash is taken over.
type ProfileConfig struct {
	Name string `json:"-"`
	// Kind is a profile that is built in and whose rules hold as well, other than the
	// plain one. Empty: the one that is called Name, or none.
	Kind string `json:"kind,omitempty"`
	// Typ is the typ of the header, without "application/": required without a kind,
	// which has its own.
	Typ       string   `json:"typ,omitempty"`
	Required  []string `json:"required,omitempty"`  // claims that must be there; aud always is
	Forbidden []string `json:"forbidden,omitempty"` // claims that must not be there, in any letter case
	Audiences []string `json:"audiences,omitempty"` // every member of aud is one of these; none: any
	// Claims says of what form claims are, where they are there.
	Claims map[string]Form `json:"claims,omitempty"`
	// TrustDomains are whose SPIFFE IDs sub may be: required for the kind jwt_svid,
	// and for no other.
	TrustDomains []string      `json:"trust_domains,omitempty"`
	Lifetime     time.Duration `json:"lifetime,omitempty"` // the longest, whole seconds; 0: as rule and key set say
	CNF          policy.CNF    `json:"cnf,omitempty"`      // empty: a cnf among the claims is checked, and need not be there
}

// A Profile is what tokens of one kind are like. It needs no further checks, does
// not change, and may be used concurrently. The nil Profile is the plain one.
type Profile struct {
	name       string
	kind       string               // a built-in's name, or name
	types      []string             // what typ may be, the usual one first
	claims     []claim              // those it says something of, at most maxKnown
	required   uint64               // of claims, one bit each
	either     uint64               // one of these at least, where there are any
	azp        bool                 // with several audiences azp is required
	algorithms []keystore.Algorithm // by which it may be signed; none: any
	lifetime   time.Duration
	cnf        policy.CNF
}

// maxKnown is how many claims a profile can say something of.
const maxKnown = 64

// A claim is what a profile says of one.
type claim struct {
	name      string
	forbidden bool
	form      form // nil: any
}

// A Fault is one thing wrong with a ProfileConfig.
type Fault struct {
	Path string // where, by the configuration's names: "required[0]"
	Text string
}

func (f *Fault) Error() string { return f.Path + ": " + f.Text }

// NewProfile checks cfg and returns a Profile, or every *Fault in it, joined.
func NewProfile(cfg ProfileConfig) (*Profile, error) {
	b := &profileBuilder{p: &Profile{name: cfg.Name, kind: cfg.Name, lifetime: cfg.Lifetime, cnf: cfg.CNF}}
	b.check(cfg.Name != "", "name", "a profile has a name")
	b.check(cfg.Name != policy.ProfileJWT, "name", "the plain profile is as it is")
	b.base(cfg)
	b.audiences(cfg.Audiences)
	for _, name := range slices.Sorted(maps.Keys(cfg.Claims)) {
		b.typed(name, cfg.Claims[name])
	}
	b.require(cfg.Required)
	b.forbid(cfg.Forbidden)
	b.check(len(b.p.claims) <= maxKnown, "", "it says something of %d claims, and %d are the most", len(b.p.claims), maxKnown)
	b.check(cfg.Lifetime >= 0 && cfg.Lifetime%time.Second == 0, "lifetime", "%v is not whole seconds", cfg.Lifetime)
	b.check(cfg.CNF == "" || slices.Contains(policy.CNFs(), cfg.CNF), "cnf", "%q is nothing to say of cnf (hint: one of %v)", string(cfg.CNF), policy.CNFs())
	if len(b.faults) > 0 {
		return nil, errors.Join(b.faults...)
	}
	return b.p, nil
}

// A profileBuilder makes a Profile and collects what is wrong.
type profileBuilder struct {
	p      *Profile
	faults []error
}

func (b *profileBuilder) check(ok bool, path, format string, args ...any) {
	if !ok {
		b.faults = append(b.faults, &Fault{Path: path, Text: fmt.Sprintf(format, args...)})
	}
}

// base begins with what the kind has, or with aud alone.
func (b *profileBuilder) base(cfg ProfileConfig) {
	named := slices.Contains(policy.BuiltInProfiles(), cfg.Name)
	b.check(!named || cfg.Kind == "" || cfg.Kind == cfg.Name, "kind", "the profile %q is of its own kind", cfg.Name)
	kind := cfg.Kind
	if named {
		kind = cfg.Name
	}
	b.check(kind == policy.ProfileJWTSVID || len(cfg.TrustDomains) == 0, "trust_domains", "only the kind %s has these", policy.ProfileJWTSVID)
	if kind == "" {
		checked := checkTyp(cfg.Typ)
		b.check(checked == nil, "typ", "%v", checked)
		b.p.types = []string{cfg.Typ}
		b.know("aud", audience(nil))
		b.p.required |= b.bit("aud")
		return
	}
	b.check(cfg.Typ == "", "typ", "the kind %s has its own", kind)
	b.p.kind = kind
	switch kind {
	case policy.ProfileAccessToken:
		b.accessToken()
	case policy.ProfileIDToken:
		b.idToken()
	case policy.ProfileLogoutToken:
		b.logoutToken()
	case policy.ProfileJWTSVID:
		b.jwtSVID(b.trustDomains(cfg.TrustDomains))
	default:
		b.check(kind == policy.ProfileJWT && named, "kind", "%q is no kind (hint: one of %v)", kind, policy.BuiltInProfiles()[1:])
	}
}

// know has the profile say that a claim is of a form.
func (b *profileBuilder) know(name string, f form) {
	if i, exact := b.p.find([]byte(name)); exact {
		b.p.claims[i].form = f
		return
	}
	b.p.claims = append(b.p.claims, claim{name: name, form: f})
}

// bit returns the bit of a claim, which it makes known.
func (b *profileBuilder) bit(name string) uint64 {
	i, exact := b.p.find([]byte(name))
	if !exact {
		i = len(b.p.claims)
		b.p.claims = append(b.p.claims, claim{name: name})
	}
	return 1 << (i % maxKnown) // more than there can be are a fault
}

// theirs checks that a name in the configuration is one of the caller's claims.
func (b *profileBuilder) theirs(path, name string) bool {
	i, exact := b.p.find([]byte(name))
	switch {
	case name == "" || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' }):
		b.check(false, path, "%q: the name of a claim is printable ASCII", name)
	case reserved([]byte(name)) != "":
		b.check(false, path, "the claim %q is the signer's, and always there", name)
	case strings.EqualFold(name, "cnf"):
		b.check(false, path, "the member cnf says what of this claim")
	case i >= 0 && !exact:
		b.check(false, path, "%q: the claim is spelt %q", name, b.p.claims[i].name)
	default:
		return true
	}
	return false
}

func (b *profileBuilder) typed(name string, f Form) {
	path := "claims." + name
	if !b.theirs(path, name) {
		return
	}
	check, ok := forms[f]
	b.check(ok, path, "%q is no form (hint: one of %v)", string(f), slices.Sorted(maps.Keys(forms)))
	i, known := b.p.find([]byte(name))
	b.check(!known || b.p.claims[i].form == nil, path, "the kind says what form it has")
	b.know(name, check)
}

func (b *profileBuilder) require(names []string) {
	for i, name := range names {
		path := fmt.Sprintf("required[%d]", i)
		b.check(!slices.Contains(names[:i], name), path, "%q is there twice", name)
		if !b.theirs(path, name) {
			continue
		}
		b.p.required |= b.bit(name)
		at, _ := b.p.find([]byte(name))
		b.check(!b.p.claims[at].forbidden, path, "%q is not for tokens of the kind %s", name, b.p.kind)
	}
}

func (b *profileBuilder) forbid(names []string) {
	for i, name := range names {
		path := fmt.Sprintf("forbidden[%d]", i)
		b.check(!slices.Contains(names[:i], name), path, "%q is there twice", name)
		if !b.theirs(path, name) {
			continue
		}
		bit := b.bit(name)
		b.check(b.p.required&bit == 0 && b.p.either != bit, path, "%q is required", name)
		b.p.either &^= bit
		at, _ := b.p.find([]byte(name))
		b.p.claims[at].forbidden = true
	}
}

func (b *profileBuilder) audiences(list []string) {
	for i, a := range list {
		b.check(a != "", fmt.Sprintf("audiences[%d]", i), "an audience has a name")
		b.check(!slices.Contains(list[:i], a), fmt.Sprintf("audiences[%d]", i), "%q is there twice", a)
	}
	if len(list) > 0 {
		b.know("aud", audience(slices.Clone(list)))
	}
}

func (b *profileBuilder) trustDomains(list []string) (domains []spiffeid.TrustDomain) {
	b.check(len(list) > 0, "trust_domains", "a JWT-SVID names a workload of a trust domain (hint: %s: {trust_domains: [example.org]})", b.p.name)
	for i, s := range list {
		td, err := spiffeid.TrustDomainFromString(s)
		b.check(err == nil && td.Name() == s, fmt.Sprintf("trust_domains[%d]", i), "%q: want the name of a trust domain alone", s)
		domains = append(domains, td)
	}
	return domains
}

// checkTyp returns nil if s can be the typ of a kind of token that is not built in
// (RFC 7515 Section 4.1.9, RFC 8725 Section 3.11).
func checkTyp(s string) error {
	other := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-._+", c)
	}
	switch {
	case s == "":
		return fmt.Errorf("typ is missing: a profile has that of its tokens, or a kind (hint: one of %v)", policy.BuiltInProfiles()[1:])
	case len(s) > 64 || strings.ContainsFunc(s, other):
		return fmt.Errorf(`%.80q: a typ has 1 to 64 letters, digits and -._+, without "application/"`, s)
	case IsKeySetType(s):
		return fmt.Errorf("%q is for signed key sets", s)
	case strings.EqualFold(s, typeAccessToken):
		return fmt.Errorf("%q is another kind's (hint: kind: %s)", s, policy.ProfileAccessToken)
	case strings.EqualFold(s, typeLogoutToken):
		return fmt.Errorf("%q is another kind's (hint: kind: %s)", s, policy.ProfileLogoutToken)
	}
	return nil
}

// Name returns the profile's name.
func (p *Profile) Name() string {
	if p == nil {
		return policy.ProfileJWT
	}
	return p.name
}

// Kind returns the name of the built-in profile whose rules hold, or the profile's
// own name. Two profiles of one kind make tokens of one kind.
func (p *Profile) Kind() string {
	if p == nil {
		return policy.ProfileJWT
	}
	return p.kind
}

// Types returns what typ may be, the usual one first; none: as the rule says.
func (p *Profile) Types() []string {
	if p == nil {
		return nil
	}
	return slices.Clone(p.types)
}

// CNF returns what the profile says of cnf.
func (p *Profile) CNF() policy.CNF {
	if p == nil {
		return ""
	}
	return p.cnf
}

// SignedBy reports whether a token of the profile may be signed by an algorithm.
func (p *Profile) SignedBy(a keystore.Algorithm) bool {
	return p == nil || len(p.algorithms) == 0 || slices.Contains(p.algorithms, a)
}

// typ returns the typ of a token that is asked for with asked, or none.
func (p *Profile) typ(t policy.Terms, asked string) (string, error) {
	switch {
	case p != nil && asked == "":
		return p.types[0], nil
	case p != nil && !slices.Contains(p.types, asked):
		return "", against(partProfile, api.CodeTypNotAllowed, "tokens of the profile %s have the typ %s", p.name, strings.Join(p.types, " or "))
	case asked == "":
		asked = policy.DefaultType
	}
	if IsKeySetType(asked) {
		return "", errKeySetType()
	}
	if p == nil && !t.AllowsType(asked) {
		return "", against("types", api.CodeTypNotAllowed, "the grant does not allow this typ")
	}
	return asked, nil
}

// within returns d, or the longest lifetime the profile has if that is shorter.
func (p *Profile) within(d time.Duration) time.Duration {
	if p == nil || p.lifetime == 0 {
		return d
	}
	return min(d, p.lifetime)
}

// find returns the claim that name is, or is in another letter case, or -1.
func (p *Profile) find(name []byte) (i int, exact bool) {
	at := -1
	s := string(name)
	for i := range p.claims {
		if p.claims[i].name == s {
			return i, true
		}
		if at < 0 && strings.EqualFold(p.claims[i].name, s) {
			at = i
		}
	}
	return at, false
}
