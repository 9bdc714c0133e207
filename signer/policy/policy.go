// Package policy decides who a client certificate is, and what that principal
// may have done. It denies by default, does no I/O, reads no clock, and imports
// nothing of ours.
//
// What was written is a Config; what was checked is a Policy, which is
// immutable. A reload makes a new one.
//
//	p, err := policy.New(cfg)                              // every fault at once
//	who, err := p.Identify("dev", cert)                    // exactly one name
//	grant, err := p.AuthorizeRequest(who, policy.SignJWT, policy.Target{KeySet: "web"}, request)
//	grant.Target().Profile                                 // "jwt": which kind of token it is for
//	grant.AllowsType("at+jwt")                             // the limits of the rule that decided
//
// A principal is a trust anchor, a kind and a value, compared exactly:
//
//	dev:spiffe:spiffe://chancery.dev/issuer     a SPIFFE ID
//	ci:dns:runner-7.ci.example.com              a DNS name
//	ci:uri:https://ci.example.com/jobs/build    another URI
//	lab:pin:9f86d081…                           SHA-256 of the public key (SPKI)
//
// The first rule, in the order of the configuration, whose principals, actions
// and targets fit decides, and its limits are the grant's: a later, wider rule
// does not widen it. Unknown and forbidden names are refused alike.
//
// A rule may ask for more before it fits: for facts of the caller, such as a Unix
// user or one of some keys, and for a condition in CEL, the Common Expression
// Language, over caller, target and request. Without the fact, or where the
// condition is false, the rule does not fit, and the next one is looked at. What a
// rule limits (lifetime, type, audience, scopes, claims, names) is looked at only
// in the rule that fits, and refuses.
//
// A condition reads these, and no clock:
//
//	action                                   "jwt.sign"
//	principal.anchor .kind .value            strings
//	unix.uid unix.gid                        ints; the rule does not fit a caller without
//	keyset, authority, profile               strings; empty where the action has none
//	ttl                                      int, seconds, the default filled in
//	typ, claims                              of a JWT: a string, a map
//	names                                    of a CSR: a list of strings
//
// It must be of type bool and read only what every action of its rule has. What it
// may cost is bounded, by an estimate when the policy is made and at every
// evaluation (MaxCost). Where it cannot be evaluated, because a claim it reads is
// not there (ask has(claims.x) first), a number does not fit exactly, or it costs
// too much, the request is refused, and no other rule is looked at.
package policy

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// ErrForbidden: no rule lets the principal do it, or what it names does not
// exist; which of the two is not told.
var ErrForbidden = errors.New("forbidden")

// An Action is what a principal wants done. Each needs a grant of its own.
type Action string

// The actions, and what of a Target they need.
const (
	SignJWT      Action = "jwt.sign"       // KeySet, and Profile where one is named
	SignCSR      Action = "csr.sign"       // Authority and Profile
	SignDigest   Action = "digest.sign"    // KeySet
	ReadKeySets  Action = "keysets.read"   // KeySet
	ReadRotation Action = "rotation.read"  // KeySet: its plan, and its history with operators' reasons
	Rotate       Action = "keyset.rotate"  // KeySet
	Suspend      Action = "key.suspend"    // KeySet
	Resume       Action = "key.resume"     // KeySet
	Compromise   Action = "key.compromise" // KeySet; of a token or a node Any
	Destroy      Action = "key.destroy"    // KeySet
	Reconcile    Action = "key.reconcile"  // nothing: it compares every keystore
	ReadAudit    Action = "audit.read"     // nothing
	ManageTokens Action = "token.manage"   // nothing
	ConfirmClock Action = "clock.confirm"  // nothing
	ManageNodes  Action = "node.manage"    // nothing
)

// Actions returns every action.
func Actions() []Action {
	return []Action{SignJWT, SignCSR, SignDigest, ReadKeySets, ReadRotation, Rotate, Suspend, Resume, Compromise, Destroy, Reconcile, ReadAudit, ManageTokens, ConfirmClock, ManageNodes}
}

// OnKeySet reports whether the action is done to a key set, and its Target names one.
func (a Action) OnKeySet() bool {
	return a == SignJWT || a == SignDigest || a == ReadKeySets || a == ReadRotation || a == Rotate || a == Suspend || a == Resume || a == Compromise || a == Destroy
}

func (a Action) signs() bool { return a == SignJWT || a == SignCSR || a == SignDigest }

func (a Action) operates() bool {
	return a == Rotate || a == Suspend || a == Resume || a == Compromise || a == Destroy || a == Reconcile || a == ManageTokens || a == ConfirmClock || a == ManageNodes
}

// A Target is what an action is done to. Members the action does not need are
// empty.
type Target struct {
	KeySet    string
	Authority string
	Profile   string
}

// A Policy answers who someone is and what they may have done. It may be used
// concurrently.
type Policy struct {
	hash    string
	text    []byte
	anchors map[string]*Anchor
	all     []*rule               // in the order of the configuration
	rules   map[Principal][]*rule // likewise

	revokedKeys    map[[sha256.Size]byte]bool
	revokedSerials map[string]bool
}

// Hash returns the SHA-256, in hexadecimal, of the configuration the policy was
// made from. Entries of the log name the policy by it.
func (p *Policy) Hash() string { return p.hash }

// Text returns what Hash is taken over: the configuration as JSON. It is not to
// be changed.
func (p *Policy) Text() []byte { return p.text }

// SpeaksFor reports whether the anchor of a principal is there and has declared the
// name: nobody else is ever known by it.
func (p *Policy) SpeaksFor(who Principal) bool {
	a, ok := p.anchors[who.Anchor]
	return ok && a.speaksFor(who.Kind, who.Value)
}

// HasExpressions reports whether any rule has one, so that requests are worth
// describing.
func (p *Policy) HasExpressions() bool {
	return slices.ContainsFunc(p.all, func(r *rule) bool { return r.expr != nil })
}

// Authorize is AuthorizeRequest where nothing of the request is known: rules
// whose expressions read of it refuse.
func (p *Policy) Authorize(who Caller, action Action, target Target) (Grant, error) {
	return p.AuthorizeRequest(who, action, target, Request{})
}

// AuthorizeRequest returns who's grant to do action to target, or an error
// wrapping ErrForbidden. It is asked for every request, and reads of req only what
// the expression of a rule reads that fits otherwise. An expression that cannot be
// evaluated refuses, whatever rules come after it; the error then wraps the cause,
// which may be an error of req's functions.
func (p *Policy) AuthorizeRequest(who Caller, action Action, target Target, req Request) (Grant, error) {
	for _, r := range p.rules[who.Principal] {
		target, ok := r.profiled(action, target)
		if !ok || !r.fits(action, target) || r.Require.misses(factsOf(who)) != "" {
			continue
		}
		if r.expr != nil {
			ok, err := r.expr.holds(who.Principal, factsOf(who), action, target, req)
			if err != nil {
				return Grant{}, fmt.Errorf("%w: rule %s: when: %w", ErrForbidden, r.Name, err)
			}
			if !ok {
				continue
			}
		}
		return Grant{terms: Terms{rule: r, action: action, target: target}, who: who, policy: p.hash}, nil
	}
	return Grant{}, fmt.Errorf("%w: no rule of %s fits %s of this", ErrForbidden, who, action)
}

func (r *Rule) fits(action Action, target Target) bool {
	if !slices.Contains(r.Actions, action) {
		return false
	}
	switch {
	case action == SignCSR:
		return names(r.Authorities, target.Authority) && names(r.Profiles, target.Profile)
	case action.OnKeySet():
		return names(r.KeySets, target.KeySet)
	}
	return true
}

// names reports whether list holds name or Any. No list holds the empty name.
func names(list []string, name string) bool {
	return name != "" && (slices.Contains(list, name) || slices.Contains(list, Any))
}

// Revoked reports whether cert's public key or serial number is on a revocation
// list. A serial number counts under every anchor: a coincidence refuses
// someone, it lets no one in.
func (p *Policy) Revoked(cert *x509.Certificate) bool {
	if len(p.revokedKeys) > 0 && p.revokedKeys[sha256.Sum256(cert.RawSubjectPublicKeyInfo)] {
		return true
	}
	return len(p.revokedSerials) > 0 && cert.SerialNumber != nil && p.revokedSerials[cert.SerialNumber.Text(16)]
}

// A Grant is leave to do one action to one target, on the terms of the rule that
// gives it. Only Authorize makes one that allows anything; the zero Grant allows
// nothing.
type Grant struct {
	terms
	who    Caller
	policy string
}

// terms is Terms by a name that nobody else can set in a Grant.
type terms = Terms

// Allows reports whether the grant is for action.
func (g Grant) Allows(action Action) bool { return g.rule != nil && g.action == action }

// Principal returns who has the grant.
func (g Grant) Principal() Principal { return g.who.Principal }

// Caller returns who has the grant, and what else is known of them.
func (g Grant) Caller() Caller { return g.who }

// Terms returns what the grant holds a request to.
func (g Grant) Terms() Terms { return g.terms }

// PolicyHash returns the Hash of the policy that gave the grant.
func (g Grant) PolicyHash() string { return g.policy }
