package main

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"chancery/cmd/internal/manual"
	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// completeWithin is how long a shell waits for a daemon's names at most.
const completeWithin = 500 * time.Millisecond

// paths are the flags whose values are files or directories, or may be: the shell
// completes those by itself.
var paths = []string{
	"ca", "cert", "checkpoint", "claims", "cnf-certificate", "csr", "entry", "file", "history", "jwks", "key", "node-dir", "once", "out", "peer", "resume", "svg",
	"transit-ca", "transit-token-file", "witness",
}

// completions has the shell offer what each flag and argument may be: the values
// there are, names of key sets, files, or nothing.
func (a *app) completions(root *cobra.Command) {
	for _, c := range manual.Commands(root) {
		if c.HasParent() && c.Parent().Name() == "completion" {
			continue // cobra's own
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.NoOptDefVal != "" || c.Flag(f.Name) != f || c != root && root.PersistentFlags().Lookup(f.Name) == f {
				return // takes no value, or was met before
			}
			if values := a.valuesOf(c, f.Name); values != nil {
				if err := c.RegisterFlagCompletionFunc(f.Name, values); err != nil {
					panic(err) // a flag has two: a mistake here
				}
			}
		})
		if c.ValidArgsFunction == nil && len(c.Commands()) == 0 {
			c.ValidArgsFunction = a.argumentsOf(c)
		}
	}
}

// valuesOf returns what a flag may be; nil: a file.
func (a *app) valuesOf(c *cobra.Command, flag string) cobra.CompletionFunc {
	switch of := strings.TrimPrefix(c.CommandPath(), "chancery ") + " --" + flag; of {
	case "verify --log", "audit witness --log", "audit check-proof --token", "audit check-proof --issuer":
		return nil
	case "audit export --format":
		return oneOf("jsonl", "csv")
	case "sign digest --format":
		return oneOf("der", "raw")
	case "sign jwt --profile":
		return oneOf("jwt", "at+jwt", "id_token", "logout_token", "jwt_svid")
	case "audit report --format":
		return oneOf("text", "html", "json")
	case "audit list --log", "audit export --log":
		return oneOf("lifecycle", "acts")
	case "policy explain --action":
		var actions []string
		for _, action := range policy.Actions() {
			actions = append(actions, string(action))
		}
		return oneOf(actions...)
	case "policy explain --as":
		return cobra.NoFileCompletions // a principal, and no role of --dir
	case "policy explain --config", "policy explain --policy":
		return nil
	case "rotation simulate --purpose":
		return oneOf("jwt", "ca")
	case "rotation simulate --replicas":
		return oneOf("1", "2", "3")
	}
	switch flag {
	case "dir":
		return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
	case "as":
		return oneOf(roles...)
	case "keyset":
		return a.keySetNames(purposeFor(c))
	case "typ":
		return oneOf("JWT", "at+jwt")
	case "outcome":
		return oneOf(string(keystore.OutcomeIntent), string(keystore.OutcomeDone), string(keystore.OutcomeRefused), string(keystore.OutcomeFailed), string(keystore.OutcomeUnknown))
	case "code":
		return sortedOf(slices.Collect(maps.Keys(api.Codes())))
	case "action":
		return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			g, err := audit.ReadGlossary()
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			var actions []string
			for name := range g.Actions {
				actions = append(actions, string(name))
			}
			slices.Sort(actions)
			return actions, cobra.ShellCompDirectiveNoFileComp
		}
	}
	if slices.Contains(paths, flag) {
		return nil
	}
	return cobra.NoFileCompletions
}

// argumentsOf returns what the arguments of a command may be, as its Use names
// them; nil: files.
func (a *app) argumentsOf(c *cobra.Command) cobra.CompletionFunc {
	arguments := strings.TrimPrefix(c.Use, c.Name())
	switch {
	case strings.HasPrefix(arguments, " KEYSET"):
		return func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.keySetNames("")(c, args, begun)
		}
	case strings.Contains(arguments, "LOGDIR"), strings.Contains(arguments, "FILE"), strings.Contains(arguments, "DIR"):
		return nil
	}
	return cobra.NoFileCompletions
}

// purposeFor returns the purpose of the key sets that a command's --keyset may name;
// "": of any.
func purposeFor(c *cobra.Command) keystore.Purpose {
	switch strings.TrimPrefix(c.CommandPath(), "chancery ") {
	case "sign jwt", "bench":
		return keystore.PurposeJWT
	case "sign digest":
		return keystore.PurposeDigest
	}
	return ""
}

// keySetNames asks the daemon of --dir for the names that there are of a purpose, as
// its operator, and not for long. Another daemon is not asked: that the caller may not
// read them would be a refusal in its log for each press of a key.
func (a *app) keySetNames(of keystore.Purpose) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(c.Context(), completeWithin)
		defer cancel()
		return namesOf(of, a.knownKeySets(ctx)), cobra.ShellCompDirectiveNoFileComp
	}
}

// namesOf returns the names of the key sets of a purpose; "": of all.
func namesOf(purpose keystore.Purpose, sets []api.KeySet) (names []string) {
	for _, s := range sets {
		if purpose == "" || s.Purpose == string(purpose) {
			names = append(names, s.Name)
		}
	}
	return names
}

// knownKeySets returns the key sets of --dir; none if it cannot ask.
func (a *app) knownKeySets(ctx context.Context) []api.KeySet {
	if a.dir == "" {
		return nil
	}
	client, err := (&app{dir: a.dir, getenv: a.getenv}).connect(roleOperator)
	if err != nil {
		return nil
	}
	defer client.Close()
	sets, err := client.KeySets(ctx)
	if err != nil {
		return nil
	}
	return sets.KeySets
}

func oneOf(values ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
}

func sortedOf[T ~string](values []T) cobra.CompletionFunc {
	slices.Sort(values)
	var all []string
	for _, v := range values {
		all = append(all, string(v))
	}
	return oneOf(all...)
}
