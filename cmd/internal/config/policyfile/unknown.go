package policyfile

import (
	"fmt"
	"maps"
	"slices"

	"chancery/cmd/internal/config/document"
	"chancery/signer/policy"
)

// Unknown returns what c names and p has not, and what the action of c needs and c
// does not name, by the member of c. What p does not know of is not looked at. Each
// text may end in a hint.
func (p *Part) Unknown(c Case) (faults []*policy.Fault) {
	add := func(path, format string, args ...any) {
		faults = append(faults, &policy.Fault{Path: path, Text: fmt.Sprintf(format, args...)})
	}
	s := p.setting
	look := func(path, what, name string, known []string) {
		if name != "" && !slices.Contains(known, name) {
			add(path, "there is no %s %.40q%s", what, name, near(name, known))
		}
	}
	if who, err := policy.ParsePrincipal(c.As); err == nil {
		look("as", "trust anchor", who.Anchor, p.anchors())
	}
	keyset, authority := c.Action.OnKeySet(), c.Action == policy.SignCSR
	for _, m := range []struct {
		path string
		name string
		of   bool
	}{{"keyset", c.KeySet, keyset}, {"authority", c.Authority, authority}} {
		switch {
		case m.of && m.name == "":
			add(m.path, "%s needs one, and none is named", c.Action)
		case !m.of && m.name != "":
			add(m.path, "%s takes none (hint: remove it)", c.Action)
		}
	}
	if keyset && s.KeySets != nil && (c.KeySet != policy.Any || c.Action != policy.Compromise) { // of a token or a node: Any
		look("keyset", "key set", c.KeySet, slices.Sorted(maps.Keys(s.KeySets)))
	}
	switch {
	case c.Action == policy.SignJWT:
		look("profile", "claims profile", c.Profile, slices.Sorted(maps.Keys(s.Profiles)))
	case authority && s.Authorities != nil:
		look("authority", "authority", c.Authority, slices.Sorted(maps.Keys(s.Authorities)))
		if of, ok := s.Authorities[c.Authority]; ok && c.Profile == "" {
			add("profile", "%s needs one, and none is named", c.Action)
		} else if ok {
			look("profile", "profile of this authority", c.Profile, slices.Sorted(maps.Keys(of)))
		}
	case !authority && c.Profile != "":
		add("profile", "%s takes none (hint: remove it)", c.Action)
	}
	if authority && c.Names == nil {
		add("names", "%s needs some, and none is named (hint: an empty list is a CSR without names, which is refused)", c.Action)
	}
	var rules []string
	for _, r := range s.Rules {
		rules = append(rules, r.Name)
	}
	look("rule", "rule", c.Rule, rules)
	return faults
}

// near is a hint at what may have been meant, or nothing.
func near(name string, known []string) string {
	if hint := document.Suggest(name, known); hint != "" {
		return " (hint: " + hint + ")"
	}
	return ""
}
