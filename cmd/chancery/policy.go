package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"chancery/cmd/internal/config/document"
	"chancery/cmd/internal/config/policyfile"
	"chancery/signer/api"
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
			"what they name, each with line and column, as `chanceryd check` says it. Nothing else of\n" +
			"the file is looked at, and no file that it names is opened. Prints the hash by which the\n" +
			"log will name the policy.",
		Example: "  chancery policy check config.yaml",
		Args:    exactly("FILE"),
		RunE: does(func(ctx context.Context, args []string) error {
			p, findings, err := readPolicy(ctx, args[0])
			if err != nil {
				return err
			}
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

// readPolicy reads the policy part of a configuration, and what there is to say of it.
func readPolicy(ctx context.Context, path string) (*policyfile.Part, []document.Finding, error) {
	type read struct {
		part     *policyfile.Part
		findings []document.Finding
	}
	r, err := waiting(ctx, func() (read, error) {
		p, findings := policyfile.Load(path)
		return read{p, findings}, nil
	})
	return r.part, r.findings, err
}

// loadPolicy reads the policy part of a configuration, and prints what is wrong.
func (a *app) loadPolicy(ctx context.Context, path string) (*policyfile.Part, error) {
	p, findings, err := readPolicy(ctx, path)
	if err != nil {
		return nil, err
	}
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
			"what the file expects. It is answered as the daemon does, what the profile and the key set\n" +
			"ask for included; what a CSR holds beside its names is not looked at. A name that the\n" +
			"configuration does not have is an error. Prints a line for each case; the exit status is 1\n" +
			"if one fails.\n\n" +
			"  config: config.yaml\n" +
			"  cases:\n" +
			"    - name: the web issuer signs for the API\n" +
			"      as: dev:spiffe:spiffe://chancery.dev/issuer\n" +
			"      action: jwt.sign\n" +
			"      keyset: web\n" +
			"      claims: {sub: alice, aud: api}\n" +
			"      expect: allow\n" +
			"      rule: issuers\n\n" +
			"A case may also have uid and gid, pin, authority, profile, typ, ttl, cnf_certificate, names,\n" +
			"and the code that a refusal is answered with.",
		Example: "  chancery policy test policy-test.yaml",
		Args:    exactly("FILE"),
		RunE:    does(func(ctx context.Context, args []string) error { return a.policyTest(ctx, args[0]) }),
	}
}

func (a *app) policyTest(ctx context.Context, path string) error {
	var findings []document.Finding // read only when they have been written
	cases, err := waiting(ctx, func() (c *policyfile.Cases, err error) {
		c, findings = policyfile.LoadCases(path)
		return c, nil
	})
	switch {
	case err != nil:
		return err
	case cases == nil:
		a.printFindings(findings)
		return fmt.Errorf("%s cannot be used", path)
	}
	p, err := a.loadPolicy(ctx, cases.Config)
	if err != nil {
		return err
	}
	findings = append(cases.Known(p), cases.Coded(codes())...)
	a.printFindings(findings)
	if document.Failed(findings) {
		return fmt.Errorf("%s cannot be used", path)
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

// codes returns every code that a refusal is answered with.
func codes() (names []string) {
	for code := range api.Codes() {
		names = append(names, string(code))
	}
	slices.Sort(names)
	return names
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
