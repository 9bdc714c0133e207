package transittest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A policy is a set of rules, each for the paths that match a pattern.
type policy struct {
	text  string
	rules map[string][]string // capabilities by pattern
}

// defaultPolicy is what every token may unless it is made without it.
const defaultPolicy = `
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
path "sys/capabilities-self" { capabilities = ["update"] }
path "sys/internal/ui/resultant-acl" { capabilities = ["read"] }
path "cubbyhole/*" { capabilities = ["create", "read", "update", "delete", "list"] }
`

var knownCapabilities = []string{"create", "read", "update", "patch", "delete", "list", "sudo", "deny", "subscribe", "recover"}

// parsePolicy reads the part of HCL that policies are written in, or the same as
// JSON.
func parsePolicy(text string) (*policy, error) {
	p := &policy{text: text, rules: make(map[string][]string)}
	var err error
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		err = p.parseJSON(text)
	} else {
		err = p.parseHCL(text)
	}
	if err != nil {
		return nil, err
	}
	for pattern, capabilities := range p.rules {
		if strings.Contains(pattern, "+*") {
			return nil, fmt.Errorf("path %q: invalid use of wildcards ('+*' is forbidden)", pattern)
		}
		for _, c := range capabilities {
			if !slices.Contains(knownCapabilities, c) {
				return nil, fmt.Errorf("path %q: invalid capability %q", pattern, c)
			}
		}
	}
	return p, nil
}

func (p *policy) parseJSON(text string) error {
	var doc struct {
		Path map[string]struct {
			Capabilities []string `json:"capabilities"`
		} `json:"path"`
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		return err
	}
	for pattern, rule := range doc.Path {
		p.rules[pattern] = rule.Capabilities
	}
	return nil
}

var hclWord = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|\w+|(?:#|//)[^\n]*|(?s:/\*.*?\*/)|\S`)

// parseHCL reads: path "PATTERN" { NAME = VALUE … }
func (p *policy) parseHCL(text string) error {
	words := slices.DeleteFunc(hclWord.FindAllString(text, -1), func(w string) bool {
		return w[0] == '#' || strings.HasPrefix(w, "//") || strings.HasPrefix(w, "/*")
	})
	for len(words) > 0 {
		if len(words) < 4 || words[0] != "path" || words[2] != "{" {
			return fmt.Errorf("%q begins no path", words[0])
		}
		pattern, err := strconv.Unquote(words[1])
		if err != nil {
			return fmt.Errorf("%s is no pattern", words[1])
		}
		end := slices.Index(words, "}")
		if end < 0 {
			return errors.New("a block does not end")
		}
		p.rules[pattern] = append(p.rules[pattern], capabilitiesIn(words[3:end])...)
		words = words[end+1:]
	}
	return nil
}

// capabilitiesIn returns the strings of: capabilities = [ … ]
func capabilitiesIn(words []string) []string {
	i := slices.Index(words, "capabilities")
	if i < 0 {
		return nil
	}
	var out []string
	for _, w := range words[i+1:] {
		if w == "]" {
			break
		}
		if s, err := strconv.Unquote(w); err == nil {
			out = append(out, s)
		}
	}
	return out
}

// rulesOf are the rules of all a token's policies: their capabilities are added
// up by pattern, and deny beats the others. Its caller holds mu.
func (f *FakeServer) rulesOf(t *token) map[string][]string {
	rules := make(map[string][]string)
	for _, name := range t.policies {
		p := f.policies[name]
		if p == nil {
			continue
		}
		for pattern, capabilities := range p.rules {
			rules[pattern] = append(rules[pattern], capabilities...)
		}
	}
	return rules
}

// capabilities are what a token may do at a path. Its caller holds mu.
func (f *FakeServer) capabilities(t *token, path string) []string {
	if slices.Contains(t.policies, "root") {
		return []string{"root"}
	}
	rules := f.rulesOf(t)
	best, found := "", false
	for pattern := range rules {
		if matches(pattern, path) && (!found || ranks(pattern, best)) {
			best, found = pattern, true
		}
	}
	out := slices.Compact(slices.Sorted(slices.Values(rules[best])))
	if !found || len(out) == 0 || slices.Contains(out, "deny") {
		return []string{"deny"}
	}
	return out
}

// matches reports whether a pattern is for a path: + stands for one segment, a
// star at the end for whatever follows.
func matches(pattern, path string) bool {
	prefix, glob := strings.CutSuffix(pattern, "*")
	want, have := strings.Split(prefix, "/"), strings.Split(path, "/")
	if len(have) < len(want) || !glob && len(have) != len(want) {
		return false
	}
	for i, w := range want {
		switch {
		case w == "+":
		case glob && i == len(want)-1:
			if !strings.HasPrefix(have[i], w) {
				return false
			}
		case w != have[i]:
			return false
		}
	}
	return true
}

// ranks reports whether pattern a goes before b where both match: the
// documented order of priority.
func ranks(a, b string) bool {
	wild := func(p string) int {
		if i := strings.IndexAny(p, "+*"); i >= 0 {
			return i
		}
		return len(p) + 1 // exact patterns go first
	}
	glob := func(p string) int {
		if strings.HasSuffix(p, "*") {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(wild(a), wild(b)),
		cmp.Compare(glob(a), glob(b)),
		-cmp.Compare(strings.Count(a, "+"), strings.Count(b, "+")),
		cmp.Compare(len(a), len(b)),
		cmp.Compare(a, b),
	) > 0
}

// reaches reports whether a token may do anything below a mount. Its caller
// holds mu.
func (f *FakeServer) reaches(t *token, mount string) bool {
	if slices.Contains(t.policies, "root") {
		return true
	}
	for pattern, capabilities := range f.rulesOf(t) {
		if len(capabilities) == 0 || slices.Contains(capabilities, "deny") {
			continue
		}
		literal, _, wild := strings.Cut(pattern, "*")
		literal, _, plus := strings.Cut(literal, "+")
		if strings.HasPrefix(literal, mount) || (wild || plus) && strings.HasPrefix(mount, literal) {
			return true
		}
	}
	return false
}

// authenticate finds the token of a call. Its caller holds mu.
func (f *FakeServer) authenticate(c *call) error {
	if c.secret == "" {
		return refuse(http.StatusForbidden, "permission denied")
	}
	t := f.live(c.secret)
	if t == nil {
		return fail(http.StatusForbidden, "permission denied", "invalid token")
	}
	c.token = t
	return nil
}

// authorize finds the token of a call and whether it may. The use counts
// against a token for so many uses. Its caller holds mu.
func (f *FakeServer) authorize(c *call, e *endpoint) error {
	if err := f.authenticate(c); err != nil {
		return err
	}
	t := c.token
	if t.limited {
		t.uses--
		if t.uses == 0 {
			defer f.drop(t)
		}
	}
	have := f.capabilities(t, c.path)
	// A rule for exactly a/b goes before one for a/* when a/b/ is listed.
	bare := strings.TrimSuffix(c.path, "/")
	if rules := f.rulesOf(t); c.op == opList && rules[c.path] == nil && (rules[bare] != nil || slices.Contains(have, "deny")) {
		have = f.capabilities(t, bare)
	}
	switch {
	case slices.Contains(have, "root"):
		return nil
	case !slices.Contains(have, string(c.op)), e != nil && e.sudo && !slices.Contains(have, "sudo"):
		return fail(http.StatusForbidden, "permission denied")
	}
	return nil
}
