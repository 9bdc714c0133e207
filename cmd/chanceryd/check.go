package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"chancery/cmd/internal/config"
	"chancery/keystore/pkcs11"
	"chancery/keystore/transit"
)

// errFindings: the findings have been printed.
var errFindings = errors.New("the configuration has errors")

func checkCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use: "check --config FILE", Short: "Say what is wrong with a configuration", Args: noArgs,
		Long: `Read a configuration as serve does, and say of each thing that is wrong where it
stands, by line and column, and what to do. Modules, Vaults and databases are asked
whether they answer; that one does not is a warning. The exit status is 1 if there
are errors, 0 if there are only warnings.`,
		Example: `  chanceryd check --config /etc/chancery/chancery.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, findings := config.Load(path)
			if cfg != nil {
				findings = append(findings, checkTokens(cmd.Context(), cfg)...)
				findings = append(findings, checkMounts(cmd.Context(), cfg)...)
				findings = append(findings, checkDescriptors(cfg)...)
			}
			errs, warnings := 0, 0
			for _, f := range findings {
				fmt.Fprintln(cmd.ErrOrStderr(), f.String())
				if f.Severity == config.Error {
					errs++
				} else {
					warnings++
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %s\n", path, count(errs, "error"), count(warnings, "warning"))
			if errs > 0 {
				return errFindings
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "the configuration file")
	required(cmd, "config")
	return cmd
}

// count says how many there are of something.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// inspectWithin bounds how long a module may take to say what it can do.
const inspectWithin = 10 * time.Second

// checkTokens asks each module, in a worker and without logging in, which
// algorithms its token has. A module that does not answer is not checked.
func checkTokens(ctx context.Context, cfg *config.Config) []config.Finding {
	var found []config.Finding
	for _, name := range sortedKeys(cfg.Keystores) {
		path := "keystores." + name + ".pkcs11"
		ks := cfg.Keystores[name].PKCS11
		if ks == nil {
			continue // not a token
		}
		if _, err := pkcs11.ParseURI(ks.Token); err != nil {
			continue // a finding of its own
		}
		ctx, cancel := context.WithTimeout(ctx, inspectWithin)
		algs, err := pkcs11.Inspect(ctx, pkcs11.Config{Name: name, Module: ks.Module, URI: ks.Token, Env: ks.Env, Confinement: pkcs11.Confinement(ks.Confine)})
		cancel()
		if err != nil {
			found = append(found, cfg.At(path, config.Warning, fmt.Sprintf("not checked: %v", err), "start the token, then check again"))
			continue
		}
		for _, set := range sortedKeys(cfg.KeySets) {
			if a := cfg.KeySets[set].Algorithm; cfg.KeySets[set].Keystore == name && !slices.Contains(algs, a) {
				found = append(found, cfg.At("keysets."+set+".algorithm", config.Error,
					fmt.Sprintf("the token of keystore %q has no %s", name, a), fmt.Sprintf("it has %v", algs)))
			}
		}
	}
	return found
}

// checkMounts logs in to each Vault, and looks whether the mount is there and what
// the token may do with it. A Vault that does not answer is not checked.
func checkMounts(ctx context.Context, cfg *config.Config) []config.Finding {
	var found []config.Finding
	for _, name := range sortedKeys(cfg.Keystores) {
		path := "keystores." + name + ".transit"
		t := cfg.Keystores[name].TransitConfig()
		if cfg.Keystores[name].Transit == nil || t.Check() != nil {
			continue // another kind, or findings of their own
		}
		within, cancel := context.WithTimeout(ctx, inspectWithin)
		seen, err := transit.Inspect(within, t)
		cancel()
		if err != nil {
			found = append(found, cfg.At(path, config.Warning, fmt.Sprintf("not checked: %v", err), "start or unseal Vault, then check again"))
			continue
		}
		if seen.Wrong != nil {
			found = append(found, cfg.At(path, config.Error, seen.Wrong.Error(), "README has the way to set up Vault"))
		}
		if seen.Excess != "" {
			found = append(found, cfg.At(path, config.Warning, seen.Excess, "README has the policy that Chancery needs"))
		}
	}
	return found
}
