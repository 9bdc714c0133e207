package witness

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"chancery/keystore/audit"
)

// Limits of a policy, above those that C2SP tlog-policy recommends.
const (
	largestPolicy = 256 << 10 // bytes
	mostLines     = 256       // of logs, of witnesses, and of groups
)

// none is the quorum of a policy that wants no witness.
const none = "none"

// A Policy says which logs and witnesses are known, and which witnesses together
// are enough (C2SP tlog-policy). It is an audit.Quorum, is not changed, and may
// be used concurrently.
type Policy struct {
	Logs  []Log
	Known []Witness // the witnesses

	groups []group
	quorum string
}

var _ audit.Quorum = (*Policy)(nil)

// A Log of a policy. Its key's name is an origin, or the node whose logs' origins
// begin with it.
type Log struct {
	Key  note.Verifier
	VKey string
	URL  string // empty: none is given
}

// A Witness of a policy.
type Witness struct {
	Name string // within the policy
	Key  audit.WitnessKey
	URL  string // submission prefix (C2SP tlog-witness); empty: none is given
}

type group struct {
	name    string
	least   string // "all", "any" or a decimal, as it was written
	k       int
	members []string
}

// ParsePolicy reads a policy file: lines of `log VKEY [URL]`, `witness NAME VKEY
// [URL]`, `group NAME all|any|K NAME...` and one `quorum NAME|none`, each ended by
// a newline; empty lines and those that begin with # are left out. Names have to
// be defined above where they are used. Errors name the line. Witness keys are of
// type 0x04, log keys of 0x01 or 0x02; others are refused.
func ParsePolicy(data []byte) (*Policy, error) {
	if len(data) > largestPolicy {
		return nil, fmt.Errorf("policy of %d bytes is over %d", len(data), largestPolicy)
	}
	p := policyParser{policy: &Policy{}, names: map[string]bool{}, member: map[string]bool{}, keys: map[[sha256.Size]byte]bool{}}
	for n := 1; len(data) > 0; n++ {
		line, rest, ended := bytes.Cut(data, []byte("\n"))
		if !ended {
			return nil, fmt.Errorf("policy line %d: it does not end in a newline", n)
		}
		if err := p.line(string(line)); err != nil {
			return nil, fmt.Errorf("policy line %d: %w", n, err)
		}
		data = rest
	}
	if p.policy.quorum == "" {
		return nil, errors.New("policy without a quorum line (hint: `quorum none` wants no witness)")
	}
	return p.policy, nil
}

// AllOf returns the policy that wants each of the witnesses with these keys.
func AllOf(keys []audit.WitnessKey) *Policy {
	p := &Policy{quorum: none}
	if len(keys) == 0 {
		return p
	}
	all := group{name: "everyone", least: "all"}
	for i, k := range keys {
		w := Witness{Name: "w" + strconv.Itoa(i+1), Key: k}
		p.Known, all.members = append(p.Known, w), append(all.members, w.Name)
	}
	all.k = len(all.members)
	p.groups, p.quorum = []group{all}, all.name
	return p
}

// String returns the policy in one spelling, which ParsePolicy reads.
func (p *Policy) String() string {
	var b strings.Builder
	line := func(words ...string) {
		b.WriteString(strings.TrimRight(strings.Join(words, " "), " ") + "\n")
	}
	for _, l := range p.Logs {
		line("log", l.VKey, l.URL)
	}
	for _, w := range p.Known {
		line("witness", w.Name, w.Key.VKey(), w.URL)
	}
	for _, g := range p.groups {
		line(append([]string{"group", g.name, g.least}, g.members...)...)
	}
	line("quorum", p.quorum)
	return b.String()
}

// Witnesses returns the keys of the known witnesses.
func (p *Policy) Witnesses() []audit.WitnessKey {
	keys := make([]audit.WitnessKey, len(p.Known))
	for i, w := range p.Known {
		keys[i] = w.Key
	}
	return keys
}

// Met reports whether those for which cosigned is true are enough.
func (p *Policy) Met(cosigned func(audit.WitnessKey) bool) bool {
	if p.quorum == none {
		return true
	}
	has := map[string]bool{}
	for _, w := range p.Known {
		has[w.Name] = cosigned(w.Key)
	}
	for _, g := range p.groups { // members come before their group
		n := 0
		for _, m := range g.members {
			if has[m] {
				n++
			}
		}
		has[g.name] = n >= g.k
	}
	return has[p.quorum]
}

type policyParser struct {
	policy *Policy
	names  map[string]bool // of witnesses and groups so far
	member map[string]bool // of some group
	keys   map[[sha256.Size]byte]bool
}

func (p *policyParser) line(line string) error {
	if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
		return fmt.Errorf("control character %#02x", line[i])
	}
	words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(words) == 0 || strings.HasPrefix(words[0], "#") {
		return nil
	}
	switch words[0] {
	case "log":
		return p.log(words[1:])
	case "witness":
		return p.witness(words[1:])
	case "group":
		return p.group(words[1:])
	case "quorum":
		return p.quorum(words[1:])
	}
	return fmt.Errorf("it begins with %q, not with log, witness, group or quorum", words[0])
}

func (p *policyParser) log(words []string) error {
	if len(words) < 1 || len(words) > 2 {
		return errors.New("want log VKEY [URL]")
	}
	if len(p.policy.Logs) == mostLines {
		return fmt.Errorf("more than %d logs", mostLines)
	}
	key, err := audit.ParseVKey(words[0])
	if err != nil {
		return fmt.Errorf("log key: %w", err)
	}
	if err := p.once("log", words[0]); err != nil {
		return err
	}
	p.policy.Logs = append(p.policy.Logs, Log{key, words[0], optional(words, 1)})
	return nil
}

func (p *policyParser) witness(words []string) error {
	if len(words) < 2 || len(words) > 3 {
		return errors.New("want witness NAME VKEY [URL]")
	}
	if len(p.policy.Known) == mostLines {
		return fmt.Errorf("more than %d witnesses", mostLines)
	}
	key, err := audit.ParseWitnessKey(words[1])
	if err != nil {
		return fmt.Errorf("witness key: %w", err)
	}
	if err := errors.Join(p.once("witness", words[1]), p.define(words[0])); err != nil {
		return err
	}
	p.policy.Known = append(p.policy.Known, Witness{words[0], key, optional(words, 2)})
	return nil
}

// once refuses a second line of a kind with the same public key, whatever name
// and id stand before it.
func (p *policyParser) once(kind, vkey string) error {
	_, rest, _ := strings.Cut(vkey, "+") // base64 may hold a plus
	_, material, _ := strings.Cut(rest, "+")
	sum := sha256.Sum256([]byte(kind + " " + material))
	if p.keys[sum] {
		return fmt.Errorf("a %s with this key is above", kind)
	}
	p.keys[sum] = true
	return nil
}

func (p *policyParser) define(name string) error {
	if name == none {
		return errors.New("the name none has a meaning of its own")
	}
	if p.names[name] {
		return fmt.Errorf("the name %q is taken above", name)
	}
	p.names[name] = true
	return nil
}

func (p *policyParser) group(words []string) error {
	if len(words) < 3 {
		return errors.New("want group NAME all|any|K and its members")
	}
	if len(p.policy.groups) == mostLines {
		return fmt.Errorf("more than %d groups", mostLines)
	}
	g := group{name: words[0], least: words[1], members: slices.Clone(words[2:])}
	switch g.least {
	case "all":
		g.k = len(g.members)
	case "any":
		g.k = 1
	default:
		k, err := strconv.Atoi(g.least)
		if err != nil || strconv.Itoa(k) != g.least || k < 1 || k > len(g.members) {
			return fmt.Errorf("%q is not all, any, or a number from 1 to %d", g.least, len(g.members))
		}
		g.k = k
	}
	for _, m := range g.members {
		switch {
		case !p.names[m]:
			return fmt.Errorf("%q is no witness or group above", m)
		case p.member[m]:
			return fmt.Errorf("%q is member of a group already", m)
		}
		p.member[m] = true
	}
	if err := p.define(g.name); err != nil {
		return err
	}
	p.policy.groups = append(p.policy.groups, g)
	return nil
}

func (p *policyParser) quorum(words []string) error {
	switch {
	case len(words) != 1:
		return errors.New("want quorum NAME")
	case p.policy.quorum != "":
		return errors.New("a second quorum")
	case words[0] != none && !p.names[words[0]]:
		return fmt.Errorf("%q is no witness or group above", words[0])
	}
	p.policy.quorum = words[0]
	return nil
}

func optional(words []string, i int) string {
	if i < len(words) {
		return words[i]
	}
	return ""
}
