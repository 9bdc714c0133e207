package policy

import (
	"slices"
	"time"
)

// Terms are what a rule holds a request to that fits it. They are no leave to do
// anything: nothing is signed for them, so a question can be judged by them. A Grant
// has those of its rule. The zero Terms let nothing pass.
type Terms struct {
	rule   *rule
	action Action
	target Target
}

// are reports whether the terms are for action.
func (t Terms) are(action Action) bool { return t.rule != nil && t.action == action }

// Action returns what the terms are for.
func (t Terms) Action() Action { return t.action }

// Target returns what the terms are for. Of a JWT it says the claims profile, also
// where none was named.
func (t Terms) Target() Target { return t.target }

// Rule returns the name of the rule.
func (t Terms) Rule() string {
	if t.rule == nil {
		return ""
	}
	return t.rule.Name
}

// MaxTTL returns the longest lifetime of what may be signed. It is never zero
// in terms to sign.
func (t Terms) MaxTTL() time.Duration {
	if t.rule == nil {
		return 0
	}
	return t.rule.MaxTTL
}

// AllowsType reports whether a plain JWT may have this typ, compared exactly: the
// other claims profiles have a typ of their own. A rule that lists no types allows
// DefaultType alone.
func (t Terms) AllowsType(typ string) bool {
	if !t.are(SignJWT) {
		return false
	}
	if len(t.rule.Types) == 0 {
		return typ == DefaultType
	}
	return slices.Contains(t.rule.Types, typ)
}

// AllowsName reports whether a certificate may have this DNS name. Only names
// in canonical form are allowed: lower case, no wildcard, no dot at the end.
func (t Terms) AllowsName(dns string) bool {
	if !t.are(SignCSR) || canonicalDNS(dns) != nil {
		return false
	}
	return slices.ContainsFunc(t.rule.Names, func(pattern string) bool { return matchDNS(pattern, dns) })
}

// CNF returns what the rule says of cnf.
func (t Terms) CNF() CNF {
	if t.rule == nil {
		return ""
	}
	return t.rule.CNF
}
