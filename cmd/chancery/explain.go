package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/cmd/internal/config/policyfile"
	"chancery/signer/policy"
)

// explainFlags is a question as it is typed.
type explainFlags struct {
	config   string
	text     string
	uid, gid int64
	pin      string
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
			"of the others does not. It asks no daemon, and answers as one does, what the profile and\n" +
			"the key set ask for included; what a CSR holds beside its names is not looked at. The text\n" +
			"of a policy has neither key sets nor authorities, and then their limits are not known. The\n" +
			"exit status is 1 if it is denied.",
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
	c.Flags().StringVar(&f.CNF, "cnf-certificate", "", "the certificate that the request names: @FILE in PEM, or its SHA-256 in base64url")
	c.Flags().StringSliceVar(&f.Names, "name", nil, "a DNS name that the CSR asks for; may be given more than once")
	c.Flags().Int64Var(&f.uid, "uid", 0, "the user at the other end of a Unix socket")
	c.Flags().Int64Var(&f.gid, "gid", 0, "and the group")
	c.Flags().StringVar(&f.pin, "pin", "", "SHA-256 of the public key in the caller's certificate")
	required(c, "as", "action")
	c.RunE = does(func(ctx context.Context, _ []string) error {
		if c.Flags().Changed("ttl") && f.ttl <= 0 {
			return usagef("policy explain: --ttl: %v is not positive", f.ttl)
		}
		if c.Flags().Changed("uid") {
			f.UID = &f.uid
		}
		if c.Flags().Changed("gid") {
			f.GID = &f.gid
		}
		if c.Flags().Changed("pin") {
			f.PIN = &f.pin
		}
		return a.policyExplain(ctx, f)
	})
	return c
}

func (a *app) policyExplain(ctx context.Context, f explainFlags) error {
	if f.config == "" && f.text == "" && a.dir != "" {
		f.config = filepath.Join(a.dir, "config.yaml")
	}
	if (f.config == "") == (f.text == "") {
		return usagef("policy explain: want either --config or --policy")
	}
	f.TTL = f.ttl
	if err := f.read(ctx, a); err != nil {
		return err
	}
	q, faults := f.Question()
	if len(faults) > 0 {
		return notAQuestion(faults)
	}
	p, err := a.explained(ctx, f)
	if err != nil {
		return err
	}
	if faults := p.Unknown(f.Case); len(faults) > 0 {
		return notAQuestion(faults)
	}
	x := p.Ask(q)
	if a.json {
		err = json.NewEncoder(a.out).Encode(x)
	} else {
		a.printExplanation(x)
	}
	if err == nil && !x.Allowed {
		return errFound
	}
	return err
}

// read reads what the flags name.
func (f *explainFlags) read(ctx context.Context, a *app) error {
	claims, err := a.input(ctx, f.claims)
	if err != nil {
		return err
	}
	bound, err := a.input(ctx, f.CNF)
	if err != nil {
		return err
	}
	if f.claims != "" {
		f.Claims = claims
	}
	f.CNF = string(bound)
	return nil
}

// notAQuestion says what is wrong with the flags.
func notAQuestion(faults []*policy.Fault) error {
	var texts []string
	for _, fault := range faults {
		flag := strings.ReplaceAll(fault.Path, "_", "-")
		if flag == "names" {
			flag = "name" // one at a time
		}
		texts = append(texts, "--"+flag+": "+fault.Text)
	}
	return usagef("policy explain: %s", strings.Join(texts, "; "))
}

// explained returns the policy that is to be explained.
func (a *app) explained(ctx context.Context, f explainFlags) (*policyfile.Part, error) {
	if f.text == "" {
		return a.loadPolicy(ctx, f.config)
	}
	return waiting(ctx, func() (*policyfile.Part, error) { return policyfile.LoadText(f.text) })
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
	case x.Allowed && x.Profile != "" && x.Profile != policy.ProfileJWT:
		a.printf("allowed by rule %s, with the claims profile %s\n", x.Rule, x.Profile)
	case x.Allowed:
		a.printf("allowed by rule %s\n", x.Rule)
	case x.Rule != "":
		a.printf("denied by rule %s: %s: %s\n", x.Rule, x.Code, x.Text)
	default:
		a.printf("denied: %s: %s\n", x.Code, x.Text)
	}
}
