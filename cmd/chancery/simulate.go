package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/keystore"
	"chancery/rotation"
	"chancery/rotation/simulation"
)

type simulateFlags struct {
	schedule string
	purpose  string
	events   int64
	seed     uint64
	replicas int
	without  int
}

// publishing is how long a node serves what it last knew, unless a daemon's
// configuration says otherwise.
const publishing = 10 * time.Minute

// usual is the schedule of chanceryd dev.
var usual = rotation.Schedule{
	Every: 30 * 24 * time.Hour, MaxAge: 15 * time.Minute, CacheFor: 30 * time.Minute,
	Skew: 5 * time.Minute, Lifetime: time.Hour,
}

func (a *app) simulateCommand() *cobra.Command {
	f := simulateFlags{}
	c := &cobra.Command{
		Use:   "simulate",
		Short: "Look for a way in which rotation breaks a rule, in a world that is made up",
		Long: "Have the daemon's engine rotate a key set in a world that is made up: nodes that crash,\n" +
			"stop and are cut off, clocks that are off and step, commits whose answer is lost, tokens\n" +
			"that lose keys, operators and configurations, and every cache that complies. It needs no\n" +
			"daemon. The first rule that is broken is printed with the shortest way to it, and the exit\n" +
			"status is 1. With --without a rule is switched off in that world, to see it missed.",
		Example: "  chancery rotation simulate --schedule rotate_every=7d,max_age=5m,cache_for=10m,skew=1m,max_ttl=15m\n" +
			"  chancery rotation simulate --without 1",
		Args: noArgs,
	}
	c.Flags().StringVar(&f.schedule, "schedule", "", "members of a key set's configuration that differ from chanceryd dev's: rotate_every, max_age, cache_for, skew, max_ttl")
	c.Flags().StringVar(&f.purpose, "purpose", string(keystore.PurposeJWT), "jwt or ca")
	c.Flags().Int64Var(&f.events, "events", 1e6, "how many things happen")
	c.Flags().Uint64Var(&f.seed, "seed", 1, "the same seed, the same events")
	c.Flags().IntVar(&f.replicas, "replicas", 3, "how many nodes: 1 to 3")
	c.Flags().IntVar(&f.without, "without", 0, "the number of a rule of rotation to do without")
	c.RunE = does(func(ctx context.Context, _ []string) error { return a.simulate(ctx, f) })
	return c
}

func (a *app) simulate(ctx context.Context, f simulateFlags) error {
	cfg, err := f.config()
	if err != nil {
		return err
	}
	line := progressLine{w: a.err, live: isTerminal(a.err)}
	progress := func(c simulation.Counts) {
		if line.live {
			line.say(fmt.Sprintf("%s of %s events", thousands(c.Events), thousands(f.events)))
		}
	}
	began := time.Now()
	r, err := simulation.Simulate(ctx, cfg, f.seed, f.events, progress)
	line.wipe()
	if err != nil {
		return fmt.Errorf("simulating: %w", err)
	}
	if a.json {
		err = json.NewEncoder(a.out).Encode(simulatedOf(r))
	} else {
		a.printSimulation(r, f.replicas, time.Since(began))
	}
	if err == nil && r.Violation != nil {
		return errFound
	}
	return err
}

// config returns what the flags ask for.
func (f simulateFlags) config() (simulation.Config, error) {
	cfg := simulation.Config{Schedule: usual, Purpose: keystore.Purpose(f.purpose), Nodes: f.replicas, Publishing: publishing}
	if cfg.Purpose == keystore.PurposeCA {
		cfg.Schedule.Every = 0 // on request only
	}
	if f.events < 1 {
		return cfg, usagef("rotation simulate: --events %d: one at least", f.events)
	}
	if f.replicas < 1 { // 0 would be what is usual
		return cfg, usagef("rotation simulate: --replicas %d: one at least", f.replicas)
	}
	if err := readSchedule(&cfg.Schedule, f.schedule); err != nil {
		return cfg, err
	}
	var err error
	if f.without != 0 {
		cfg, err = cfg.WithoutRule(f.without)
	}
	if err == nil {
		err = cfg.Check()
	}
	if err != nil {
		return cfg, usagef("rotation simulate: %v", err)
	}
	return cfg, nil
}

// readSchedule sets the members of a schedule that are written as
// "NAME=DURATION,…", by their names in the configuration.
func readSchedule(sch *rotation.Schedule, text string) error {
	if text == "" {
		return nil
	}
	members := map[string]*time.Duration{
		"rotate_every": &sch.Every, "max_age": &sch.MaxAge, "cache_for": &sch.CacheFor, "skew": &sch.Skew, "max_ttl": &sch.Lifetime,
	}
	said := map[string]bool{}
	for _, part := range strings.Split(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		into, ok := members[name]
		if !ok || said[name] {
			return usagef("--schedule: %q is not one of rotate_every, max_age, cache_for, skew, max_ttl, each once", name)
		}
		d, err := spanOf(value)
		if err != nil {
			return usagef("--schedule: %s: %q is not a duration such as 30d, 12h or 90s", name, value)
		}
		*into, said[name] = d, true
	}
	if said["max_age"] && !said["cache_for"] {
		sch.CacheFor = 2 * sch.MaxAge
	}
	return nil
}

// spanOf reads a duration as the configuration has them: Go's spelling, with days
// before it.
func spanOf(text string) (time.Duration, error) {
	total, rest := time.Duration(0), text
	if before, after, ok := strings.Cut(text, "d"); ok {
		days, err := strconv.ParseUint(before, 10, 14)
		if err != nil {
			return 0, err
		}
		total, rest = time.Duration(days)*24*time.Hour, after
		if rest == "" {
			return total, nil
		}
	}
	d, err := time.ParseDuration(rest)
	return total + d, err
}

func (a *app) printSimulation(r simulation.Report, nodes int, took time.Duration) {
	about := fmt.Sprintf("%d nodes, %s rotations, %s crashes, %s tokens held against %s cached sets",
		nodes, thousands(r.Rotations), thousands(r.Crashes), thousands(r.Tokens), thousands(r.Sets))
	if r.Violation == nil {
		a.printf("no violation in %s events: %s (%s)\n", thousands(r.Events), about, took.Round(10*time.Millisecond).String())
		return
	}
	for _, line := range r.Story {
		a.printf("%s\n", line)
	}
	a.printf("violated in %s events (--seed %s): %s\n", thousands(r.Events), strconv.FormatUint(r.Seed, 10), r.Violation.String())
}

// simulated is what --json prints.
type simulated struct {
	simulation.Counts
	Seed      uint64   `json:"seed"`
	Rule      int      `json:"rule,omitempty"`
	Violation string   `json:"violation,omitempty"`
	Story     []string `json:"story,omitempty"`
}

func simulatedOf(r simulation.Report) simulated {
	s := simulated{Counts: r.Counts, Seed: r.Seed, Story: r.Story}
	if r.Violation != nil {
		s.Rule, s.Violation = r.Violation.Rule, r.Violation.Text
	}
	return s
}

// thousands writes a number with commas.
func thousands(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
