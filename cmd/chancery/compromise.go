package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/client"
)

// compromising is what an operator says is in other hands.
type compromising struct {
	keyset, kid, token, node string
	reason                   string
	yes                      bool
}

func (a *app) compromiseCommand() *cobra.Command {
	var req compromising
	c := &cobra.Command{
		Use:   "compromise KEYSET [KID] | --token NAME | --node NAME --reason WHY",
		Short: "Say that a key is in other hands: it ends at once, for ever",
		Long: "Say that a key is in other hands: the version of KID (default: the active one), every key\n" +
			"of a token, or every key a node could use. It stops signing and leaves the published set\n" +
			"at once, so that what it signed is rejected, and it cannot be taken back. If a successor may\n" +
			"sign already it does; otherwise nothing signs until one may. To stop a key and think first,\n" +
			"use `chancery suspend`. Asking again of one key changes nothing and answers the same; of a\n" +
			"token or a node it also ends what has been made since.",
		Example: "  chancery --dir dev compromise web --reason 'a laptop was stolen'\n" +
			"  chancery compromise --token hsm-2 --reason 'its PIN was in a log' --yes --json",
		Args: cobra.ArbitraryArgs,
	}
	c.Flags().StringVar(&req.token, "token", "", "every key of this keystore, or of the token with this serial or label")
	c.Flags().StringVar(&req.node, "node", "", "every key this node could use; it is forgotten, too")
	c.Flags().StringVar(&req.reason, "reason", "", "why, for the log")
	c.Flags().BoolVarP(&req.yes, "yes", "y", false, "do not ask for confirmation")
	required(c, "reason")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := req.named(args); err != nil {
			return usagef("%s: %v", cmd.CommandPath(), err)
		}
		return does(func(ctx context.Context, _ []string) error { return a.compromise(ctx, req) })(cmd, args)
	}
	return c
}

// named takes the arguments of the command, which names one scope.
func (c *compromising) named(args []string) error {
	switch scope := c.token + c.node; {
	case c.reason == "":
		return errors.New("--reason is empty: say why, for the log")
	case c.token != "" && c.node != "", scope != "" && len(args) > 0:
		return errors.New("a key, --token or --node: one of them")
	case scope == "" && len(args) == 0:
		return errors.New("KEYSET is missing, or --token or --node")
	case len(args) > 2:
		return fmt.Errorf("unexpected argument %q", args[2])
	case len(args) == 2 && len(args[1]) != 43:
		return fmt.Errorf("%q is no kid (hint: `chancery keys show %s` lists them)", args[1], args[0])
	}
	if len(args) > 0 {
		c.keyset = args[0]
	}
	if len(args) > 1 {
		c.kid = args[1]
	}
	return nil
}

func (a *app) compromise(ctx context.Context, req compromising) error {
	c, err := a.connect(roleOperator)
	if err != nil {
		return err
	}
	if req.keyset != "" && req.kid == "" {
		if err := req.resolve(ctx, c); err != nil {
			return err
		}
	}
	if !req.yes {
		if err := a.confirm(ctx, req.question()); err != nil {
			return err
		}
	}
	var reply *api.CompromiseReply
	if req.keyset != "" {
		reply, err = c.Compromise(ctx, req.keyset, api.CompromiseRequest{Reason: req.reason, KID: req.kid})
	} else {
		reply, err = c.CompromiseAll(ctx, api.CompromiseAllRequest{Reason: req.reason, Token: req.token, Node: req.node})
	}
	if err != nil {
		return req.unanswered(err)
	}
	if a.json {
		err = a.printReply()
	} else {
		a.printCompromise(reply, time.Now())
	}
	if n := reply.Node; err == nil && n != nil && !n.Forgotten {
		fmt.Fprintf(a.err, "error: node %s is not forgotten: %s\n", clean(n.Name), clean(n.Error))
		return errFound
	}
	return err
}

// resolve puts the active version's kid into a request that has none, so that asking
// again is about the same key. Where one was compromised just before, its successor
// has to be named: it is not what is meant by asking again. A daemon that cannot say
// which is active is asked without a kid.
func (c *compromising) resolve(ctx context.Context, daemon *client.Client) error {
	set, err := daemon.KeySet(ctx, c.keyset)
	if err != nil {
		return nil // it says so once more, to what matters
	}
	var active, before *api.Version
	for i := range set.Versions {
		switch v := &set.Versions[i]; {
		case v.State == "active":
			active = v
		case active == nil && v.SignsFrom != nil:
			before = v
		}
	}
	switch {
	case active == nil:
		return nil
	case before != nil && before.Compromised:
		return fmt.Errorf("version %d of %s is compromised already, and version %d signs since (hint: if that is in other hands too, name it: `chancery compromise %s %s`)",
			before.Version, c.keyset, active.Version, c.keyset, active.KID)
	}
	c.kid = active.KID
	return nil
}

// unanswered says of an error that is no answer what to ask with again.
func (c *compromising) unanswered(err error) error {
	if _, answered := errors.AsType[*api.Problem](err); answered || c.kid == "" {
		return err
	}
	return fmt.Errorf("%w (hint: it may have been done; asking again of this key changes nothing: `chancery compromise %s %s`)", err, c.keyset, c.kid)
}

// question is what the one at a terminal is asked.
func (c *compromising) question() string {
	what := "every key of token " + c.token
	switch {
	case c.kid != "":
		what = "key " + c.kid + " of " + c.keyset
	case c.keyset != "":
		what = "the key that signs for " + c.keyset
	case c.node != "":
		what = "every key that node " + c.node + " could use, and the node"
	}
	return "end " + what + ", at once and for ever, so that all it signed is rejected?"
}

// printCompromise tells an operator what stopped, whether it is covered, what
// dies with it, how long it may still deceive, and what to do.
func (a *app) printCompromise(r *api.CompromiseReply, now time.Time) {
	if len(r.Compromised) == 1 {
		a.printOne(&r.Compromised[0], now)
	} else {
		rows := make([][]string, 0, len(r.Compromised))
		for i := range r.Compromised {
			c := &r.Compromised[i]
			rows = append(rows, []string{
				c.KeySet, strconv.Itoa(c.Version), c.StateBefore, coverage(c, now), liveTokens(c),
				whenKnown(c.Exposure.Caches, now), cmp.Or(shortEntry(c.Entry), "follows"),
			})
		}
		a.printTable([]string{"key set", "version", "was", "now", "live tokens", "caches forget it by (UTC)", "entry"}, rows)
	}
	if n := r.Node; n != nil && n.Forgotten {
		a.printf("node %s is forgotten\n", n.Name)
	}
	for i := range r.Compromised {
		c := &r.Compromised[i]
		if !c.Recorded {
			fmt.Fprintf(a.err, "warning: %s version %d is stopped here and not on record yet\n", clean(c.KeySet), c.Version)
		}
	}
	if len(r.Next) > 0 {
		a.printf("next:\n")
	}
	for _, step := range r.Next {
		a.printf("  - %s\n", step)
	}
}

func (a *app) printOne(c *api.Compromised, now time.Time) {
	since := "is compromised"
	if c.Already {
		since = "was compromised before"
	}
	a.printf("%s: version %s %s since %s UTC (it was %s, kid %s)\n", c.KeySet, strconv.Itoa(c.Version), since, when(c.At), c.StateBefore, c.KID)
	a.printf("  now      %s\n", coverage(c, now))
	what := "live tokens"
	if c.Purpose == string(keystore.PurposeDigest) {
		what = "signatures, which have no end"
	}
	a.printf("  dies     %s %s", liveTokens(c), what)
	if c.LiveUntil != nil {
		a.printf(", the last would have expired at %s UTC", due(*c.LiveUntil))
	}
	a.printf("; counted in the log of node %s only\n", c.CountedOn)
	if c.Exposure.Caches != nil {
		a.printf("  exposed  until %s UTC behind caches that comply (%s); for verifiers that never fetch again, until they are restarted\n",
			due(*c.Exposure.Caches), inTime(*c.Exposure.Caches, now))
	}
	if c.Exposure.CutOff != nil {
		a.printf("           until %s UTC behind a node that cannot be reached\n", due(*c.Exposure.CutOff))
	}
	if c.Entry != "" {
		a.printf("entry %s\n", c.Entry)
	}
}

// coverage says in a few words what signs in place of a version.
func coverage(c *api.Compromised, now time.Time) string {
	switch {
	case c.Successor != nil:
		text := fmt.Sprintf("version %d signs since %s", c.Successor.Version, when(c.Successor.SignsSince))
		if until := c.Successor.RejectedUntil; until != nil {
			text += "; verifiers may reject its tokens until " + due(*until)
		}
		return text
	case c.Gap == nil:
		return "nothing else stopped"
	case c.Gap.Until == nil:
		return "nothing signs: " + c.Gap.Held
	}
	return fmt.Sprintf("nothing signs until about %s (%s)", due(*c.Gap.Until), inTime(*c.Gap.Until, now))
}

func liveTokens(c *api.Compromised) string {
	if c.LiveTokens == nil {
		return "uncounted"
	}
	return strconv.FormatInt(*c.LiveTokens, 10)
}

// shortEntry is an entry's name without the host, which is the same for all.
func shortEntry(entry string) string {
	if _, rest, ok := strings.Cut(entry, "/audit/"); ok {
		return rest
	}
	return entry
}
