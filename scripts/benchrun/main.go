// Command benchrun is the part of scripts/bench that measures: chancery against a
// Vault, and each against itself, in alternating rounds of one run, and what else
// the project promises of its speed. It asks through the chancery command, as
// anybody can, and prints a table of what is wanted and what was seen.
//
// A figure is a ratio of two sides that were measured in turns, A B A B, or a share.
// Beside it stands how far the rounds are apart, and the noise: how far a side's
// even rounds are from its odd ones. What could not be measured says why.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"
)

func main() {
	var b bencher
	var out, readme string
	flag.StringVar(&b.chancery, "chancery", "", "the command")
	flag.StringVar(&b.chanceryd, "chanceryd", "", "the daemon")
	flag.StringVar(&b.all, "all", "", "the directory of a daemon that verifies every signature")
	flag.StringVar(&b.sampled, "sampled", "", "the directory of one that verifies samples")
	flag.StringVar(&b.noSampled, "no-sampled", "", "why there is none")
	flag.StringVar(&b.limited, "limited", "", "the directory of one that limits the second client to its share")
	flag.StringVar(&b.idle, "idle", "", "the directory of one that has its keys and does not run")
	flag.StringVar(&b.vault, "vault", "", "the directory of scripts/vault/serve")
	flag.StringVar(&b.noVault, "no-vault", "", "why there is none")
	flag.StringVar(&b.noNoisy, "no-noisy", "", "why there is no second client")
	flag.IntVar(&b.rounds, "rounds", 6, "how often each side is measured; even")
	flag.DurationVar(&b.duration, "duration", 3*time.Second, "how long each time")
	flag.Int64Var(&b.soak, "soak", 0, "so many requests instead, over which memory is not to grow")
	flag.StringVar(&out, "json", "", "a file for everything that was seen")
	flag.StringVar(&readme, "write", "", "the README whose table is replaced")
	flag.Parse()
	if err := run(&b, out, readme); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(b *bencher, out, readme string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if b.rounds < 2 || b.rounds%2 != 0 || b.duration <= 0 {
		return fmt.Errorf("%d rounds of %v: an even number of rounds, of some time", b.rounds, b.duration)
	}
	if b.soak > 0 && readme != "" {
		return errors.New("-soak measures memory only, and -write wants the whole table")
	}
	b.say = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	r := b.measure(ctx)
	if err := ctx.Err(); err != nil {
		return err
	}
	fmt.Print(r.text())
	if out != "" {
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(out, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	if readme == "" {
		return nil
	}
	old, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	text, err := replaced(string(old), r.markdown())
	if err != nil {
		return err
	}
	return os.WriteFile(readme, []byte(text), 0o644)
}
