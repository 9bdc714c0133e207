package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/signer/api"
	"chancery/signer/client"
)

// timelineWidth is how many columns a timeline has.
const timelineWidth = 60

func (a *app) rotationCommand() *cobra.Command {
	steps, svg := 0, ""
	plan := &cobra.Command{
		Use: "plan KEYSET", Short: "Show what rotation will do, when, and what it waits for", Args: exactly("KEYSET"),
		Long: "Show the steps that rotation will take with a key set, when, and the rule that holds each;\n" +
			"what the next one waits for; and a timeline of its versions: when each is published,\n" +
			"signs, and is known for what it signed.",
		Example: "  chancery --dir dev rotation plan web\n  chancery --dir dev rotation plan web --svg web.svg",
		RunE: does(func(ctx context.Context, args []string) error {
			if svg != "" {
				return a.rotationPicture(ctx, args[0], svg)
			}
			return a.rotationPlan(ctx, args[0], steps)
		}),
	}
	plan.Flags().StringVar(&svg, "svg", "", "draw it as a picture into this file instead; -: standard output")
	plan.Flags().IntVar(&steps, "steps", 12, "how many steps to list; 0: all there are (the timeline has them all)")
	c := group("rotation", "Watch and drive the rotation of keys", plan, a.rotationWhyCommand(), a.rotationNowCommand(), a.rotationHistoryCommand(), a.simulateCommand())
	c.Long = "Rotation publishes the next version of a key set before it signs, and keeps the last one\n" +
		"known for as long as what it signed is valid. It goes by a schedule; an operator may ask\n" +
		"for one, which is done at the earliest moment that is safe."
	return c
}

func (a *app) rotationPlan(ctx context.Context, name string, steps int) error {
	if steps < 0 {
		return usagef("rotation plan: --steps %d is negative", steps)
	}
	c, err := a.connect(roleOperator)
	if err != nil {
		return err
	}
	ks, err := c.KeySet(ctx, name)
	if err != nil {
		return err
	}
	plan, err := c.Plan(ctx, name)
	if err != nil {
		return err
	}
	if a.json {
		return a.printReply()
	}
	now := time.Now()
	listed := plan.Steps
	if steps > 0 && len(listed) > steps {
		listed = listed[:steps]
	}
	if len(listed) > 0 {
		var rows [][]string
		for _, s := range listed {
			rows = append(rows, []string{due(s.At), inTime(s.At, now), strconv.Itoa(s.Version), s.Step, s.HeldBy})
		}
		a.printTable([]string{"at (UTC)", "", "version", "step", "held by"}, rows)
	}
	if more := len(plan.Steps) - len(listed); more > 0 {
		a.printf("and %s more (--steps 0 shows all)\n", strconv.Itoa(more))
	}
	if plan.Held != "" {
		a.printf("next: %s\n", plan.Held)
	}
	drawn := cleanLines(timeline(lives(ks, plan, now), now, timelineWidth))
	if a.colours() {
		drawn = marksColoured(drawn)
	}
	if drawn != "" {
		_, err = fmt.Fprintf(a.out, "\n%s", drawn)
	}
	return err
}

// rotationPicture draws a plan into a file, or onto standard output.
func (a *app) rotationPicture(ctx context.Context, name, path string) error {
	if a.json {
		return usagef("rotation plan: --svg and --json exclude each other")
	}
	c, err := a.connect(roleOperator)
	if err != nil {
		return err
	}
	ks, err := c.KeySet(ctx, name)
	if err != nil {
		return err
	}
	plan, err := c.Plan(ctx, name)
	if err != nil {
		return err
	}
	drawn := drawPlan(ks, plan, time.Now())
	if path == "-" {
		_, err = a.out.Write(drawn)
		return err
	}
	if err := os.WriteFile(path, drawn, 0o644); err != nil {
		return fmt.Errorf("writing the picture: %w", err)
	}
	a.printf("%s: drawn into %s\n", name, path)
	return nil
}

func (a *app) rotationNowCommand() *cobra.Command {
	req := api.OperateRequest{}
	var now, watch bool
	c := &cobra.Command{
		Use:   "now KEYSET",
		Short: "Rotate: have the successor sign at the earliest safe moment",
		Long: "Rotate a key set: its successor signs from the earliest moment at which every cache\n" +
			"that complies must know it. With --now it is refused unless that moment is now.",
		Example: "  chancery --dir dev rotation now web --reason quarterly --watch",
		Args:    exactly("KEYSET"),
	}
	c.Flags().StringVar(&req.Reason, "reason", "rotated with chancery rotation now", "why, for the log")
	c.Flags().BoolVar(&now, "now", false, "refuse unless it can be done at once")
	c.Flags().BoolVar(&watch, "watch", false, "wait until the successor signs, and show how it goes")
	c.RunE = does(func(ctx context.Context, args []string) error {
		if now {
			req.When = "now"
		}
		client, err := a.connect(roleOperator)
		if err != nil {
			return err
		}
		reply, err := client.Rotate(ctx, args[0], req)
		if err != nil {
			return err
		}
		if a.json {
			err = a.printReply()
		} else {
			a.printRotation(args[0], reply)
		}
		if err != nil || !watch {
			return err
		}
		return a.watch(ctx, client, args[0], reply.To.Version)
	})
	return c
}

func (a *app) printRotation(name string, r *api.RotateReply) {
	a.printf("%s: version %s follows version %s and signs from %s UTC (%s)\n", name,
		strconv.Itoa(r.To.Version), strconv.Itoa(r.From.Version), due(r.SignsFrom), inTime(r.SignsFrom, time.Now()))
	if r.To.KID != "" {
		a.printf("kid %s\n", r.To.KID)
	}
	a.printf("entry %s\n", r.Entry)
}

// watchEvery is how often a watched rotation is looked at.
const watchEvery = 500 * time.Millisecond

// watch tells how a rotation goes until the successor signs: one line that is
// rewritten on a terminal, otherwise a line for each change.
func (a *app) watch(ctx context.Context, c *client.Client, name string, successor int) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	line := progressLine{w: a.err, live: isTerminal(a.err)}
	defer line.end()
	for {
		ks, err := c.KeySet(ctx, name)
		if err != nil {
			return fmt.Errorf("watching the rotation: %w", err)
		}
		plan, err := c.Plan(ctx, name)
		if err != nil {
			return fmt.Errorf("watching the rotation: %w", err)
		}
		words, done := progress(ks, plan, successor)
		if line.live && !done {
			if at, ok := activation(plan, successor); ok {
				words += ", signs " + inTime(at, time.Now())
			}
		}
		line.say(words)
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// progress tells each version's state in a line, and whether the successor, or
// one after it, signs.
func progress(ks *api.KeySet, plan *api.Plan, successor int) (words string, done bool) {
	var states []string
	for _, v := range ks.Versions {
		if isKnown(v.State) || v.State == "pending" {
			states = append(states, fmt.Sprintf("version %d %s", v.Version, stateOf(v)))
		}
		done = done || v.Version >= successor && v.State == "active"
	}
	words = ks.Name + ": " + strings.Join(states, ", ")
	if _, ok := activation(plan, successor); !ok && !done && plan.Held != "" {
		words += "; " + plan.Held
	}
	return words, done
}

func activation(plan *api.Plan, version int) (time.Time, bool) {
	for _, s := range plan.Steps {
		if s.Step == "activate" && s.Version == version {
			return s.At, true
		}
	}
	return time.Time{}, false
}
