package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/signer/api"
)

func (a *app) keysCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the key sets", Args: noArgs,
		Long: "List the key sets that you may read: what each is for, its algorithm and keystore, the\n" +
			"version that signs now and its kid, and how many versions verifiers know of.",
		Example: "  chancery --dir dev keys list\n  chancery --dir dev --json keys list",
		RunE:    does(func(ctx context.Context, _ []string) error { return a.keysList(ctx) }),
	}
	var pem bool
	var kid string
	show := &cobra.Command{
		Use: "show KEYSET", Short: "Show a key set and its versions", Args: exactly("KEYSET"),
		Long: "Show a key set and its versions: the state of each, by Chancery's word and by NIST\n" +
			"SP 800-57's, its kid, when it was published, signs and leaves the published set, and the\n" +
			"time that nothing it signed outlives (exp horizon). Below stands what is wrong with one.\n" +
			"With --pem it prints a public key instead, for who verifies what a digest key signed.",
		Example: "  chancery --dir dev keys show web\n  chancery keys show --pem releases >releases.pem",
		RunE:    does(func(ctx context.Context, args []string) error { return a.keysShow(ctx, args[0], pem, kid) }),
	}
	show.Flags().BoolVar(&pem, "pem", false, "print the public key of the version that signs, of purpose digest")
	show.Flags().StringVar(&kid, "kid", "", "with --pem: of the version with this `KID`")
	c := group("keys", "Look at key sets and their versions; compare and destroy keys", list, show, a.keysReconcileCommand(), a.keysDestroyCommand())
	c.Long = "A key set is a name that things are signed by. It has numbered versions, each one key in\n" +
		"one keystore, of which at most one signs at a time; rotation makes the next."
	return c
}

func (a *app) keysList(ctx context.Context) error {
	c, err := a.connect(roleOperator)
	if err != nil {
		return err
	}
	sets, err := c.KeySets(ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printReply()
	}
	var rows [][]string
	for _, ks := range sets.KeySets {
		signs, kid := "-", "-"
		known := 0
		for _, v := range ks.Versions {
			if isKnown(v.State) {
				known++
			}
			if v.State == "active" {
				signs, kid = strconv.Itoa(v.Version), v.KID
				if v.Suspended {
					signs = "suspended, " + signs
				}
			}
		}
		rows = append(rows, []string{ks.Name, ks.Purpose, ks.Algorithm, ks.Keystore, signs, strconv.Itoa(known), kid})
	}
	a.printTable([]string{"key set", "purpose", "algorithm", "keystore", "active", "known", "kid"}, rows)
	return nil
}

func (a *app) keysShow(ctx context.Context, name string, pem bool, kid string) error {
	if kid != "" && !pem {
		return usagef("keys show: --kid goes with --pem")
	}
	c, err := a.connect(roleOperator)
	if err != nil {
		return err
	}
	ks, err := c.KeySet(ctx, name)
	if err != nil {
		return err
	}
	if a.json {
		return a.printReply()
	}
	if pem {
		return a.printPublicKey(ks, kid)
	}
	a.printf("%s: %s, %s, in %s, revision %s\n", ks.Name, ks.Purpose, ks.Algorithm, ks.Keystore, strconv.FormatInt(ks.Revision, 10))
	var rows [][]string
	now := time.Now()
	for _, v := range ks.Versions {
		rows = append(rows, []string{
			strconv.Itoa(v.Version), stateOf(v), v.NIST, v.Keystore, v.KID, whenKnown(v.PublishedAt, now),
			whenKnown(v.SignsFrom, now), whenKnown(v.SignsUntil, now), whenKnown(v.RetiresAt, now), whenKnown(v.ExpHorizon, now),
		})
	}
	a.printTable([]string{"version", "state", "NIST state", "keystore", "kid", "published", "signs from", "signs until", "retires", "exp horizon"}, rows)
	for _, v := range ks.Versions {
		for _, alarm := range v.Alarms {
			a.printf("alarm: version %s: %s\n", strconv.Itoa(v.Version), alarm)
		}
	}
	return nil
}

// stateOf tells a version's state, and first of all what stops it.
func stateOf(v api.Version) string {
	var words []string
	if v.Compromised {
		words = append(words, "compromised")
	}
	if v.Suspended {
		words = append(words, "suspended")
	}
	return strings.Join(append(words, v.State), ", ")
}

func isKnown(state string) bool {
	return state == "published" || state == "active" || state == "retiring"
}

func (a *app) tokenCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the tokens and how they are doing", Args: noArgs,
		Long: "List the tokens and Vaults that hold this node's keys, the state of each and since when,\n" +
			"the worker processes that hold it and how often they were started anew. A hint stands\n" +
			"below for one that waits for an operator.",
		Example: "  chancery --dir dev token list",
		RunE: does(func(ctx context.Context, _ []string) error {
			c, err := a.connect(roleOperator)
			if err != nil {
				return err
			}
			reply, err := c.Tokens(ctx)
			return a.printTokens(reply, err)
		}),
	}
	retry := &cobra.Command{
		Use: "retry TOKEN", Args: exactly("TOKEN"),
		Short: "Try a token that waits for an operator once more",
		Long: "Try a token that waits for an operator once more, by its keystore's name, its serial\n" +
			"or its label. After a rejected PIN, put the right one in its place first: this is one\n" +
			"attempt, and tokens lock after a few.",
		Example: "  chancery --dir dev token retry hsm",
		RunE: does(func(ctx context.Context, args []string) error {
			c, err := a.connect(roleOperator)
			if err != nil {
				return err
			}
			reply, err := c.TokenRetry(ctx, args[0])
			return a.printTokens(reply, err)
		}),
	}
	c := group("token", "Look at the tokens that hold the keys", list, retry)
	c.Long = "A token is where a keystore's keys are: one of an HSM, by its PKCS#11 module, or the\n" +
		"Transit engine of a Vault."
	return c
}

func (a *app) printTokens(list *api.TokenList, err error) error {
	if err != nil {
		return err
	}
	if a.json {
		return a.printReply()
	}
	var rows [][]string
	for _, t := range list.Tokens {
		rows = append(rows, []string{
			t.Keystore, t.Label, t.Serial, t.State, when(t.Since), strconv.Itoa(t.Workers), strconv.Itoa(t.Restarts), t.Error,
		})
	}
	a.printTable([]string{"keystore", "label", "serial", "state", "since", "workers", "restarts", "error"}, rows)
	for _, t := range list.Tokens {
		if t.Hint != "" {
			a.printf("hint: %s: %s\n", t.Keystore, t.Hint)
		}
	}
	for _, t := range list.Tokens {
		if t.Sampled {
			a.printf("%s: one of sixteen signatures by ES* and EdDSA is verified before it leaves\n", t.Keystore)
		}
		if t.Unconfined != "" {
			a.printf("%s: not confined: %s\n", t.Keystore, t.Unconfined)
		}
	}
	return nil
}
