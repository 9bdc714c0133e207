package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/cmd/internal/config/document"
	"chancery/cmd/internal/config/policyfile"
	"chancery/signer/policy"
)

func (a *app) policyCommand() *cobra.Command {
	c := group("policy", "Check, test and explain a policy, without a daemon",
		a.policyCheckCommand(), a.policyTestCommand(), a.policyExplainCommand())
	c.Long = "The policy of a daemon is a part of its configuration: rules, of which the first that\n" +
		"fits decides. These commands read that file, or a text of a policy that is kept beside\n" +
		"the log, and nothing else: neither a daemon nor the files that it names are needed."
	return c
}

func (a *app) policyCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Say what is wrong with the policy of a configuration",
		Long: "Say what is wrong with the policy of a daemon's configuration: its clients, its rules and\n" +
			"what they name, each with line and column. Nothing else of the file is looked at, and no\n" +
			"file that it names is opened. Prints the hash by which the log will name the policy.",
		Example: "  chancery policy check config.yaml",
		Args:    exactly("FILE"),
		RunE: does(func(_ context.Context, args []string) error {
			p, findings := policyfile.Load(args[0])
			if a.json {
				if err := json.NewEncoder(a.out).Encode(checkedOf(p, findings)); err != nil {
					return err
				}
			} else {
				a.printFindings(findings)
			}
			if p == nil {
				return errFound
			}
			if !a.json {
				a.printf("%s: policy %s\n", args[0], p.Policy.Hash())
			}
			return nil
		}),
	}
}

// checked is what policy check prints for programs.
type checked struct {
	Policy   string    `json:"policy,omitempty"` // its hash; empty: it has errors
	Findings []finding `json:"findings"`
}

type finding struct {
	File     string `json:"file"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	Path     string `json:"path,omitempty"`
	Severity string `json:"severity"`
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
}

func checkedOf(p *policyfile.Part, found []document.Finding) checked {
	c := checked{Findings: make([]finding, 0, len(found))}
	if p != nil {
		c.Policy = p.Policy.Hash()
	}
	for _, f := range found {
		c.Findings = append(c.Findings, finding{f.File, f.Line, f.Column, f.Path, f.Severity.String(), f.Message, f.Hint})
	}
	return c
}

func (a *app) printFindings(list []document.Finding) {
	for _, f := range list {
		fmt.Fprintln(a.err, clean(f.String()))
	}
}

// loadPolicy reads the policy part of a configuration, and prints what is wrong.
func (a *app) loadPolicy(path string) (*policyfile.Part, error) {
	p, findings := policyfile.Load(path)
	if p == nil {
		a.printFindings(findings)
		return nil, hinted{fmt.Errorf("the policy of %s cannot be used", path), "run `chancery policy check " + path + "`"}
	}
	return p, nil
}

func (a *app) policyTestCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "test FILE",
		Short: "Ask a policy the questions of a file and compare its answers",
		Long: "Ask the policy of a configuration the questions of a file and compare its answers with\n" +
			"what the file expects. Prints a line for each case; the exit status is 1 if one fails.\n\n" +
			"  config: config.yaml\n" +
			"  cases:\n" +
			"    - name: the web issuer signs for the API\n" +
			"      as: dev:spiffe:spiffe://chancery.dev/issuer\n" +
			"      action: jwt.sign\n" +
			"      keyset: web\n" +
			"      claims: {sub: alice, aud: api}\n" +
			"      expect: allow\n" +
			"      rule: issuers\n\n" +
			"A case may also have uid and gid, pin, authority, profile, typ, ttl, names, and the code\n" +
			"that a refusal is answered with.",
		Example: "  chancery policy test policy-test.yaml",
		Args:    exactly("FILE"),
		RunE:    does(func(_ context.Context, args []string) error { return a.policyTest(args[0]) }),
	}
}

func (a *app) policyTest(path string) error {
	cases, findings := policyfile.LoadCases(path)
	if cases == nil {
		a.printFindings(findings)
		return fmt.Errorf("%s cannot be used", path)
	}
	p, err := a.loadPolicy(cases.Config)
	if err != nil {
		return err
	}
	results := cases.Run(p)
	failed := int64(0)
	for _, r := range results {
		if !r.Passed {
			failed++
		}
	}
	if a.json {
		err = json.NewEncoder(a.out).Encode(tested{p.Policy.Hash(), len(results), int(failed), results})
	} else {
		a.printResults(results, failed, cases.Config)
	}
	if err == nil && failed > 0 {
		return errFound
	}
	return err
}

// tested is what policy test prints for programs.
type tested struct {
	Policy string              `json:"policy"` // its hash
	Cases  int                 `json:"cases"`
	Failed int                 `json:"failed"`
	Result []policyfile.Result `json:"results"`
}

func (a *app) printResults(results []policyfile.Result, failed int64, config string) {
	for _, r := range results {
		if r.Passed {
			a.printf("ok    %s\n", r.Name)
			continue
		}
		a.printf("FAIL  %s: %s\n", r.Name, r.Wrong)
		for _, v := range r.Explain.Rules {
			if v.Part != "principals" { // not meant for this caller at all
				a.printf("        rule %s: %s\n", v.Rule, ruleInWords(v))
			}
		}
	}
	a.printf("%s, %d failed: %s\n", count(int64(len(results)), "case", "cases"), failed, config)
}

// ruleInWords tells how a question looks to one rule.
func ruleInWords(v policy.RuleView) string {
	switch {
	case v.Part == "":
		return "it decides"
	case v.Decides:
		return "it decides, and refuses: " + v.Part + ": " + v.Text
	}
	return v.Part + ": " + v.Text
}

// explainFlags is a question as it is typed.
type explainFlags struct {
	config   string
	text     string
	uid, gid int64
	claims   string
	ttl      time.Duration
	policyfile.Case
}

func (a *app) policyExplainCommand() *cobra.Command {
	var f explainFlags
	c := &cobra.Command{
		Use:   "explain --config FILE --as PRINCIPAL --action ACTION",
		Short: "Say which rule decides, and why the others do not",
		Long: "Say which rule of a policy decides whether someone may have something done, and why each\n" +
			"of the others does not. It asks no daemon, and knows what the policy says: a request that\n" +
			"it allows can still be refused for what it is. The exit status is 1 if it is denied.",
		Example: "  chancery policy explain --config config.yaml --as dev:spiffe:spiffe://chancery.dev/issuer \\\n" +
			"    --action jwt.sign --keyset web --claims '{\"aud\":\"api\"}'",
		Args: noArgs,
	}
	c.Flags().StringVar(&f.config, "config", "", "the daemon's configuration (default: that of --dir)")
	c.Flags().StringVar(&f.text, "policy", "", "in its place the text of a policy, as it is kept beside the log: DIR/audit/policy/HASH.json")
	c.Flags().StringVar(&f.As, "as", "", "who asks: ANCHOR:KIND:VALUE, as the log writes it")
	c.Flags().StringVar((*string)(&f.Action), "action", "", "what for: jwt.sign, csr.sign, keyset.rotate, ...")
	c.Flags().StringVar(&f.KeySet, "keyset", "", "of which key set")
	c.Flags().StringVar(&f.Authority, "authority", "", "by which authority")
	c.Flags().StringVar(&f.Profile, "profile", "", "with which profile")
	c.Flags().StringVar(&f.Typ, "typ", "", "type of the JWT (default JWT)")
	c.Flags().Var(seconds{&f.ttl}, "ttl", "lifetime, such as 300 or 5m (default: the key set's or the profile's)")
	c.Flags().StringVar(&f.claims, "claims", "", "claims of the JWT: JSON, @FILE, or - for standard input (default {})")
	c.Flags().StringSliceVar(&f.Names, "name", nil, "a DNS name that the CSR asks for; may be given more than once")
	c.Flags().Int64Var(&f.uid, "uid", 0, "the user at the other end of a Unix socket")
	c.Flags().Int64Var(&f.gid, "gid", 0, "and the group")
	c.Flags().StringVar(&f.PIN, "pin", "", "SHA-256 of the public key in the caller's certificate")
	required(c, "as", "action")
	c.RunE = does(func(context.Context, []string) error {
		if c.Flags().Changed("uid") {
			f.UID = &f.uid
		}
		if c.Flags().Changed("gid") {
			f.GID = &f.gid
		}
		return a.policyExplain(f)
	})
	return c
}

func (a *app) policyExplain(f explainFlags) error {
	if f.config == "" && f.text == "" && a.dir != "" {
		f.config = filepath.Join(a.dir, "config.yaml")
	}
	if (f.config == "") == (f.text == "") {
		return usagef("policy explain: want either --config or --policy")
	}
	f.TTL = f.ttl
	if f.claims != "" {
		text, err := a.input(f.claims)
		if err != nil {
			return err
		}
		f.Claims = text
	}
	q, faults := f.Question()
	if len(faults) > 0 {
		var texts []string
		for _, fault := range faults {
			texts = append(texts, "--"+fault.Path+": "+fault.Text)
		}
		return usagef("policy explain: %s", strings.Join(texts, "; "))
	}
	p, err := a.explained(f)
	if err != nil {
		return err
	}
	x := p.Ask(q)
	if a.json {
		err = json.NewEncoder(a.out).Encode(x)
	} else {
		a.printExplanation(x)
		if x.Allowed && q.Action == policy.SignJWT {
			a.printf("what its claims profile asks for, of claims and lifetime, is not looked at here\n")
		}
	}
	if err == nil && !x.Allowed {
		return errFound
	}
	return err
}

// explained returns the policy that is to be explained.
func (a *app) explained(f explainFlags) (*policyfile.Part, error) {
	if f.text != "" {
		return policyfile.LoadText(f.text)
	}
	return a.loadPolicy(f.config)
}

func (a *app) printExplanation(x policy.Explanation) {
	var rows [][]string
	for _, v := range x.Rules {
		rows = append(rows, []string{v.Rule, v.Part, v.Text})
		if v.Part == "" {
			rows[len(rows)-1][1] = "decides"
		}
	}
	a.printWrapped([]string{"rule", "part", "why"}, rows, map[int]int{3: 70})
	switch {
	case x.Allowed:
		a.printf("allowed by rule %s\n", x.Rule)
	case x.Rule != "":
		a.printf("denied by rule %s: %s: %s\n", x.Rule, x.Code, x.Text)
	default:
		a.printf("denied: %s: %s\n", x.Code, x.Text)
	}
}
