package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/signer/api"
)

func (a *app) nodesCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the nodes, how they are doing, and what waits for them", Args: noArgs,
		Long: "List the nodes of the catalog, how they are doing, and what waits for them.\n\n" +
			"A node is live while it may sign. It is late when it has not been seen for longer than\n" +
			"its signing lease: it signs nothing, and may serve what it last knew. When its publishing\n" +
			"lease is over as well it is gone: it serves nothing, and nothing waits for it.",
		Example: "  chancery --dir dev nodes list",
		RunE:    does(func(ctx context.Context, _ []string) error { return a.nodesList(ctx) }),
	}
	c := group("nodes", "Look at the nodes of a catalog, and forget one", list, a.nodesForgetCommand())
	c.Long = "A node is one daemon. Several share a catalog, and so their keys: a rotation waits until\n" +
		"each of them serves what it is to serve, or cannot serve what it did."
	return c
}

func (a *app) nodesList(ctx context.Context) error {
	c, err := a.connect(roleOperator)
	if err != nil {
		return err
	}
	list, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printReply()
	}
	if len(list.Nodes) == 0 {
		a.printf("no nodes are recorded: this catalog has one\n")
		return nil
	}
	a.printNodes(list.Nodes, time.Now())
	return nil
}

func (a *app) printNodes(nodes []api.Node, now time.Time) {
	var rows [][]string
	for _, n := range nodes {
		name := n.Name
		if n.Self {
			name += " (answers)"
		}
		rows = append(rows, []string{
			name, n.State, strconv.FormatInt(n.Epoch, 10), when(n.SeenAt), strconv.FormatInt(n.Revision, 10),
			leaseWords(n.SignsUntil, n, now), leaseWords(n.PublishesUntil, n, now), strings.Join(n.WaitedFor, ", "),
		})
	}
	heading := []string{"node", "state", "epoch", "seen (UTC)", "revision", "may sign", "may serve", "waited for"}
	a.printWrapped(heading, rows, map[int]int{1: 16, 8: 16})
	for _, n := range nodes {
		switch {
		case n.Forgotten != nil:
			a.printf("%s: %s forgot it at %s UTC: %s\n", n.Name, n.Forgotten.By, when(n.Forgotten.At), n.Forgotten.Reason)
		case len(n.WaitedFor) > 0 && n.State != api.NodeLive:
			a.printf("hint: if %s does not come back: `chancery nodes forget %s --reason WHY`\n", n.Name, n.Name)
		}
	}
}

// leaseWords tells how long a lease lasts, which ends when its node stops.
func leaseWords(until *time.Time, n api.Node, now time.Time) string {
	switch {
	case n.StoppedAt != nil:
		return "no"
	case until == nil:
		return "yes"
	case !until.After(now):
		return "no"
	}
	return "for " + span(until.Sub(now))
}

func (a *app) nodesForgetCommand() *cobra.Command {
	var req api.ForgetRequest
	var yes bool
	c := &cobra.Command{
		Use:   "forget NAME --reason WHY",
		Short: "Say that a node does not come back",
		Long: "Say that a node does not come back: what it writes is refused from then on, and nothing\n" +
			"waits for it once its publishing lease is over. To come back it needs another name and a\n" +
			"new data directory.\n\n" +
			"A node that is live is stopped first. --force fences it instead: it does not learn of\n" +
			"that before it next asks the catalog, and may sign and serve until its leases end.",
		Example: "  chancery --dir dev nodes forget b --reason 'the machine was scrapped'",
		Args:    exactly("NAME"),
	}
	c.Flags().StringVar(&req.Reason, "reason", "", "why, for the log")
	c.Flags().BoolVar(&req.Force, "force", false, "also if it is live: fence it")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	required(c, "reason")
	c.RunE = does(func(ctx context.Context, args []string) error { return a.nodesForget(ctx, args[0], req, yes) })
	return c
}

func (a *app) nodesForget(ctx context.Context, name string, req api.ForgetRequest, yes bool) error {
	c, err := a.connect(roleOperator)
	if err != nil {
		return err
	}
	if !yes {
		if err := a.confirm(ctx, "forget node "+name+", which does not come back?"); err != nil {
			return err
		}
	}
	reply, err := c.ForgetNode(ctx, name, req)
	if err != nil {
		return err
	}
	if a.json {
		return a.printReply()
	}
	now := time.Now()
	switch until := reply.ServedUntil; {
	case until == nil:
		a.printf("node %s is forgotten\n", reply.Name)
	case until.After(now):
		a.printf("node %s is forgotten; it may serve until %s UTC (%s), and nothing waits for it after that\n", reply.Name, due(*until), inTime(*until, now))
	default:
		a.printf("node %s is forgotten; it has served nothing since %s UTC, and nothing waits for it\n", reply.Name, when(*until))
	}
	a.printf("entry %s\n", reply.Entry)
	return nil
}
