package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"chancery/signer/api"
)

func (a *app) suspendCommand() *cobra.Command {
	var req api.OperateRequest
	c := &cobra.Command{
		Use:   "suspend KEYSET --reason WHY",
		Short: "Stop a key from signing, at once",
		Long: "Stop a version of a key set from signing, at once and reversibly; without --kid the\n" +
			"active one, and with it the key set. It stays known, so tokens it signed go on to verify.",
		Example: "  chancery --dir dev suspend web --reason 'ticket 4711'",
		Args:    exactly("KEYSET"),
	}
	c.Flags().StringVar(&req.Reason, "reason", "", "why, for the log")
	c.Flags().StringVar(&req.KID, "kid", "", "the version (default: the active one)")
	required(c, "reason")
	c.RunE = does(func(ctx context.Context, args []string) error {
		client, err := a.connect(roleOperator)
		if err != nil {
			return err
		}
		reply, err := client.Suspend(ctx, args[0], req)
		return a.printSuspension(args[0], reply, err)
	})
	return c
}

func (a *app) resumeCommand() *cobra.Command {
	var req api.OperateRequest
	c := &cobra.Command{
		Use:   "resume KEYSET",
		Short: "Take a suspension back",
		Long: "Take a suspension back: the version may sign again, and at once does if it is the active\n" +
			"one. It needs the log, which suspending does not.",
		Example: "  chancery --dir dev resume web --reason 'ticket 4711 is closed'",
		Args:    exactly("KEYSET"),
	}
	c.Flags().StringVar(&req.Reason, "reason", "resumed with chancery resume", "why, for the log")
	c.Flags().StringVar(&req.KID, "kid", "", "the version (default: the active one)")
	c.RunE = does(func(ctx context.Context, args []string) error {
		client, err := a.connect(roleOperator)
		if err != nil {
			return err
		}
		reply, err := client.Resume(ctx, args[0], req)
		return a.printSuspension(args[0], reply, err)
	})
	return c
}

func (a *app) printSuspension(keyset string, r *api.SuspendReply, err error) error {
	if err != nil {
		return err
	}
	if a.json {
		return a.printReply()
	}
	state := "may sign again"
	if r.Suspended {
		state = "is suspended"
	}
	a.printf("%s: version %s %s (kid %s)\n", keyset, strconv.Itoa(r.Version), state, r.KID)
	switch {
	case !r.Durable:
		fmt.Fprintln(a.err, "warning: not durable: it holds until the daemon restarts; the log and the disk need attention")
	case r.Entry == "":
		fmt.Fprintln(a.err, "warning: it cannot be recorded now: that follows when it can; other nodes, if there are any, do not know of it until then")
	default:
		a.printf("entry %s\n", r.Entry)
	}
	return nil
}
