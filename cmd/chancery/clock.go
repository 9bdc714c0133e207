package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) clockCommand() *cobra.Command {
	var reason string
	confirm := &cobra.Command{
		Use:   "confirm --reason WHY",
		Short: "Say that a node's wall clock is right, though it was stepped",
		Long: "Say that a node's wall clock is right, though it was stepped. The node signs again at\n" +
			"once. A clock that is wrong is to be put right instead: the node then goes on by itself.",
		Example: "  chancery --dir dev clock confirm --reason 'set by hand after a battery change'",
		Args:    noArgs,
	}
	confirm.Flags().StringVar(&reason, "reason", "", "why, for the log")
	required(confirm, "reason")
	confirm.RunE = does(func(ctx context.Context, _ []string) error { return a.confirmClock(ctx, reason) })
	c := group("clock", "Answer for a node's wall clock", confirm)
	c.Long = "A node whose wall clock is stepped against the time since boot signs nothing until the\n" +
		"step is gone, or somebody says that the clock is right."
	return c
}

func (a *app) confirmClock(ctx context.Context, reason string) error {
	c, err := a.connect(roleOperator)
	if err != nil {
		return err
	}
	reply, err := c.ClockConfirm(ctx, reason)
	if err != nil {
		return err
	}
	if a.json {
		return a.printReply()
	}
	step := time.Duration(reply.Offset * float64(time.Second)).Round(time.Millisecond)
	a.printf("%s: the wall clock is right, %s from what it had been\nentry %s\n", reply.Node, signed(step), reply.Entry)
	return nil
}

// signed writes a duration with its sign.
func signed(d time.Duration) string {
	if d < 0 {
		return d.String()
	}
	return "+" + d.String()
}
