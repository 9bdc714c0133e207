package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"chancery/signer/api"
)

func (a *app) keysReconcileCommand() *cobra.Command {
	var keystore string
	var last bool
	c := &cobra.Command{
		Use:   "reconcile",
		Short: "Compare tokens, catalog, log and published sets",
		Long: "Compare the keys on each token with the catalog, both ways, and the catalog with what\n" +
			"the log says of each version and with the key sets that are served. Say of each thing\n" +
			"that does not fit what to do. What a crash left is finished by it; no other key is used, and\n" +
			"none is deleted. The exit status is 1 if anything was found or could not be compared.",
		Example: "  chancery --dir dev keys reconcile\n  chancery --dir dev --as auditor keys reconcile --last",
		Args:    noArgs,
	}
	c.Flags().StringVar(&keystore, "keystore", "", "compare this one only (default: every one)")
	c.Flags().BoolVar(&last, "last", false, "show what was found last, as an auditor may; compare nothing")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if last && keystore != "" {
			return usagef("%s: --last shows every keystore: leave out --keystore", cmd.CommandPath())
		}
		return does(func(ctx context.Context, _ []string) error { return a.reconcile(ctx, keystore, last) })(cmd, args)
	}
	return c
}

func (a *app) reconcile(ctx context.Context, keystore string, last bool) error {
	c, err := a.connect(roleOperator)
	if err != nil {
		return err
	}
	var found *api.Reconciliation
	if last {
		found, err = c.Reconciled(ctx)
	} else {
		found, err = c.Reconcile(ctx, keystore)
	}
	if err != nil {
		return err
	}
	if a.json {
		err = a.printReply()
	} else {
		a.printReconciliation(found)
	}
	failed := slices.ContainsFunc(found.Keystores, func(k api.Compared) bool { return k.Error != "" })
	if err == nil && (failed || len(found.Findings) > 0) {
		return errFound
	}
	return err
}

func (a *app) printReconciliation(found *api.Reconciliation) {
	if len(found.Findings) > 0 {
		var rows [][]string
		for _, f := range found.Findings {
			rows = append(rows, []string{f.Kind, f.Keystore, whoseKey(f), f.What, f.Todo})
		}
		a.printTable([]string{"finding", "keystore", "key", "what it is", "what to do"}, rows)
	}
	for _, k := range found.Keystores {
		n := 0
		for _, f := range found.Findings {
			if f.Keystore == k.Keystore {
				n++
			}
		}
		if k.Error != "" {
			continue // the error is told below
		}
		a.printf("%s: %s keys compared at %s UTC, %s findings\n", k.Keystore, strconv.Itoa(k.Keys), when(found.At), strconv.Itoa(n))
	}
	for _, k := range found.Keystores {
		if k.Error != "" {
			fmt.Fprintf(a.err, "error: %s: %s\n", clean(k.Keystore), clean(k.Error))
			fmt.Fprintln(a.err, "hint: it is compared when it is up again: `chancery token list` says how it is doing")
		}
	}
}

// whoseKey names the key a finding is about: by its version, and otherwise as
// its keystore does.
func whoseKey(f api.Mismatch) string {
	if f.Version != 0 {
		return f.KeySet + " version " + strconv.Itoa(f.Version)
	}
	words := []string{}
	for _, w := range []string{f.Type, f.Label, f.KeyID} {
		if w != "" {
			words = append(words, w)
		}
	}
	if len(words) == 0 {
		return "one without label and id"
	}
	return strings.Join(words, " ")
}

func (a *app) keysDestroyCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "destroy KEYSET VERSION|KID --reason WHY",
		Short: "Destroy the private key of a retired version, for ever",
		Long: "Destroy the private key of a retired version, for ever, and prove that it is gone. It is\n" +
			"refused while anything the key signed may be valid, by the clock and by real time; the\n" +
			"refusal says how long that is. What was cut short is run again by the same command.",
		Example: "  chancery --dir dev keys destroy web 1 --reason 'retired a year ago'",
		Args:    exactly("KEYSET", "VERSION|KID"),
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the log")
	required(c, "reason")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req, err := versionNamed(args[1])
		if err != nil {
			return usagef("%s: %v", cmd.CommandPath(), err)
		}
		req.Reason = reason
		return does(func(ctx context.Context, args []string) error { return a.destroy(ctx, args[0], req) })(cmd, args)
	}
	return c
}

// versionNamed reads a version's number or its kid. A kid, the thumbprint of a
// key, has 43 characters.
func versionNamed(s string) (req api.DestroyRequest, err error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n > 0 {
		req.Version = n
		return req, nil
	}
	if len(s) != 43 {
		return req, fmt.Errorf("%q is neither the number of a version nor a kid", s)
	}
	req.KID = s
	return req, nil
}

func (a *app) destroy(ctx context.Context, keyset string, req api.DestroyRequest) error {
	c, err := a.connect(roleOperator)
	if err != nil {
		return err
	}
	reply, err := c.Destroy(ctx, keyset, req)
	if err != nil {
		return err
	}
	if a.json {
		return a.printReply()
	}
	a.printf("%s: the private key of version %s is destroyed (kid %s)\n", keyset, strconv.Itoa(reply.Version), reply.KID)
	a.printf("entry %s\n", reply.Entry)
	return nil
}
