package policyfile

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"chancery/cmd/internal/config/document"
	"chancery/signer/ca"
	"chancery/signer/jwt"
	"chancery/signer/policy"
)

// Cases are questions to a policy, each with the answer that is expected.
type Cases struct {
	Config string `yaml:"config,required"` // path of the configuration
	Cases  []Case `yaml:"cases,required"`

	questions []Question
	findings  *document.Findings
}

// A Case is one question.
type Case struct {
	Name      string        `yaml:"name,required"`
	As        string        `yaml:"as,required"`
	UID       *int64        `yaml:"uid"`
	GID       *int64        `yaml:"gid"`
	PIN       *string       `yaml:"pin"`
	Action    policy.Action `yaml:"action,required"`
	KeySet    string        `yaml:"keyset"`
	Authority string        `yaml:"authority"`
	Profile   string        `yaml:"profile"`
	Typ       string        `yaml:"typ"`
	TTL       time.Duration `yaml:"ttl"`
	Claims    document.JSON `yaml:"claims"`
	Names     []string      `yaml:"names"`
	CNF       string        `yaml:"cnf_certificate,lines"`
	Expect    string        `yaml:"expect,required"`
	Rule      string        `yaml:"rule"`
	Code      string        `yaml:"code"`
}

// A Question is what a case asks.
type Question struct {
	policy.Question
	CNFCertificate string   // that the request names: PEM, or its SHA-256 in base64url
	Names          []string // that the CSR asks for
}

// ttl returns the lifetime that is asked for, in seconds, or nil.
func (q Question) ttl() *int64 {
	if q.Request.TTL == 0 {
		return nil
	}
	return &q.Request.TTL
}

// What a case expects.
const (
	Allow = "allow"
	Deny  = "deny"
)

// LoadCases reads the file of cases at path. The Cases are nil if a finding is an
// error. Config is then relative to the working directory, or absolute.
func LoadCases(path string) (*Cases, []document.Finding) {
	f := document.New(path)
	text, err := read(path)
	if err != nil {
		f.Add(document.Position{}, "", document.Error, "", "%v", err)
		return nil, f.List
	}
	return parseCases(f, text, filepath.Dir(path))
}

func parseCases(f *document.Findings, text []byte, dir string) (*Cases, []document.Finding) {
	c := Cases{findings: f}
	if !f.Decode(text, &c) {
		return nil, f.Sorted()
	}
	if !filepath.IsAbs(c.Config) {
		c.Config = filepath.Join(dir, c.Config)
	}
	names := map[string]bool{}
	for i := range c.Cases {
		path := fmt.Sprintf("cases[%d]", i)
		c.questions = append(c.questions, c.Cases[i].check(f, path))
		if name := c.Cases[i].Name; names[name] && name != "" {
			f.Errorf(path+".name", "", "another case has this name")
		}
		names[c.Cases[i].Name] = true
	}
	if len(c.Cases) == 0 && f.Has("cases") && !f.Said("cases") {
		f.Errorf("cases", "", "there is no case, so nothing would be tested")
	}
	if document.Failed(f.List) {
		return nil, f.Sorted()
	}
	return &c, f.Sorted()
}

// check says what is wrong with a case, and returns its question.
func (c Case) check(f *document.Findings, path string) Question {
	if c.Expect != "" && c.Expect != Allow && c.Expect != Deny {
		f.Errorf(path+".expect", "allow, or deny", "%.40q is nothing to expect", c.Expect)
	}
	if c.Expect == Allow && c.Code != "" {
		f.Errorf(path+".code", "remove it", "what is allowed has no code")
	}
	q, faults := c.Question()
	for _, fault := range faults {
		at := path + "." + fault.Path
		if !f.Said(at) && (f.Has(at) || fault.Path == "claims") {
			f.Errorf(at, "", "%s", fault.Text)
		}
	}
	return q
}

// Question returns what a case asks, and every *policy.Fault in it.
func (c Case) Question() (Question, []*policy.Fault) {
	var faults []*policy.Fault
	wrong := func(path, format string, args ...any) {
		faults = append(faults, &policy.Fault{Path: path, Text: fmt.Sprintf(format, args...)})
	}
	who, err := policy.ParsePrincipal(c.As)
	if err != nil {
		wrong("as", "%.80q: %v", c.As, err)
	}
	known := slices.Contains(policy.Actions(), c.Action)
	if !known {
		wrong("action", "%.40q is no action: there are %v", string(c.Action), policy.Actions())
	}
	q := Question{CNFCertificate: c.CNF, Names: c.Names}
	q.Question = policy.Question{
		Who: who, Action: c.Action,
		Target:  policy.Target{KeySet: c.KeySet, Authority: c.Authority, Profile: c.Profile},
		Request: policy.Request{TTL: int64(c.TTL / time.Second)},
	}
	q.Unix = c.unix(wrong)
	if c.PIN != nil {
		q.PIN = *c.PIN
		if err := policy.CheckPIN(q.PIN); err != nil {
			wrong("pin", "%.80q: %v", q.PIN, err)
		}
	}
	if c.TTL < 0 || c.TTL%time.Second != 0 {
		wrong("ttl", "%v is not a positive number of whole seconds", c.TTL)
	}
	for _, m := range []struct {
		path string
		said bool
		of   policy.Action
	}{{"claims", c.Claims != nil, policy.SignJWT}, {"typ", c.Typ != "", policy.SignJWT}, {"cnf_certificate", c.CNF != "", policy.SignJWT}, {"names", c.Names != nil, policy.SignCSR}} {
		if m.said && known && c.Action != m.of {
			wrong(m.path, "only %s has this", m.of)
		}
	}
	switch c.Action {
	case policy.SignJWT:
		q.Request.Typ, q.Request.Body, q.Request.Object = c.Typ, c.Claims, jwt.Object
		if len(bytes.TrimSpace(c.Claims)) == 0 {
			q.Request.Body = []byte("{}")
		}
		if err := jwt.Object(q.Request.Body, func(_, _ []byte) error { return nil }); err != nil {
			wrong("claims", "%v", err)
		}
	case policy.SignCSR:
		if len(c.Names) > ca.MaxNames {
			wrong("names", "%d are more than a certification request may have (%d)", len(c.Names), ca.MaxNames)
		}
		q.Request.Names = func([]byte) ([]string, error) { return c.Names, c.unnamed() }
	}
	return q, faults
}

// unnamed returns why a CSR with the names of c is refused whatever the rules say: it
// has none. Package ca finds that where it reads the CSR, which a case does not have.
func (c Case) unnamed() error {
	if len(c.Names) > 0 {
		return nil
	}
	return &policy.Refusal{Limit: policy.LimitName, Text: "the certification request names no DNS name (the common name does not count)"}
}

// unix returns the user and group at the other end of a Unix socket, or nil.
func (c Case) unix(wrong func(path, format string, args ...any)) *policy.Unix {
	for _, id := range []struct {
		path string
		n    *int64
	}{{"uid", c.UID}, {"gid", c.GID}} {
		if id.n != nil && (*id.n < 0 || *id.n >= 1<<32-1) {
			wrong(id.path, "%d is no number of a user or group", *id.n)
			return nil
		}
	}
	switch {
	case c.UID != nil && c.GID != nil:
		return &policy.Unix{UID: uint32(*c.UID), GID: uint32(*c.GID)}
	case c.UID != nil:
		wrong("uid", "a Unix user comes with a group: gid is missing")
	case c.GID != nil:
		wrong("gid", "a Unix group comes with a user: uid is missing")
	}
	return nil
}

// A Result is what became of a case.
type Result struct {
	Name    string             `json:"name"`
	Passed  bool               `json:"passed"`
	Wrong   string             `json:"wrong,omitempty"` // what is not as it was expected
	Explain policy.Explanation `json:"explanation"`
}

// Known looks whether what the cases name is there in p: a name that is not is denied,
// and a case that expects so would pass whatever the policy says. It returns what
// there is to say of the cases' file; with an error among it they must not be run.
func (c *Cases) Known(p *Part) []document.Finding {
	f := document.New(c.findings.File)
	f.Positions = c.findings.Positions
	for i, one := range c.Cases {
		path := fmt.Sprintf("cases[%d]", i)
		for _, fault := range p.Unknown(one) {
			text, hint := document.SplitHint(fault.Text)
			f.Errorf(path+"."+fault.Path, hint, "%s", text)
		}
		if who := c.questions[i].Who; p.anchor(who.Anchor) && !p.Policy.SpeaksFor(who) {
			f.Warnf(path+".as", "a stranger is better called by a name that the anchor speaks for", "anchor %s does not speak for this name: nobody comes by it", who.Anchor)
		}
	}
	return f.Sorted()
}

// Coded looks whether the codes that the cases expect are among known, all that a
// refusal is ever answered with: a case that expects another never passes. It returns
// what there is to say of the cases' file; with an error among it they must not be run.
func (c *Cases) Coded(known []string) []document.Finding {
	f := document.New(c.findings.File)
	f.Positions = c.findings.Positions
	for i, one := range c.Cases {
		if one.Code != "" && !slices.Contains(known, one.Code) {
			f.Errorf(fmt.Sprintf("cases[%d].code", i), document.Suggest(one.Code, known), "there is no code %.40q", one.Code)
		}
	}
	return f.Sorted()
}

// Run asks every question of c.
func (c *Cases) Run(p *Part) []Result {
	results := make([]Result, 0, len(c.Cases))
	for i, one := range c.Cases {
		x := p.Ask(c.questions[i])
		wrong := one.differs(x)
		results = append(results, Result{Name: one.Name, Passed: wrong == "", Wrong: wrong, Explain: x})
	}
	return results
}

// differs returns what of x is not as the case expects, or nothing.
func (c Case) differs(x policy.Explanation) string {
	switch {
	case x.Allowed && c.Expect == Deny:
		return fmt.Sprintf("it is allowed by rule %s", x.Rule)
	case !x.Allowed && c.Expect == Allow:
		return fmt.Sprintf("it is denied: %s: %s", x.Code, x.Text)
	case c.Rule != "" && c.Rule != x.Rule:
		return fmt.Sprintf("rule %q decided, not %q", x.Rule, c.Rule)
	case c.Code != "" && c.Code != x.Code:
		return fmt.Sprintf("the code is %s, not %s", x.Code, c.Code)
	}
	return ""
}
