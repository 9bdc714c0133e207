// Command chanceryd is the signing daemon: it keeps keys in PKCS#11 tokens,
// signs for those who may have it, rotates, publishes and keeps the log.
//
//	chanceryd dev --dir DIR        everything on one machine, to try it
//	chanceryd serve --config FILE  as configured
//	chanceryd check --config FILE  what is wrong with a configuration
//
// It re-executes itself as worker processes that hold the PKCS#11 modules.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"chancery/cmd/internal/manual"
)

// Exit statuses.
const (
	exitFailed = 1 // it failed, or found something
	exitUsage  = 2 // it was used wrongly
)

// release is set by the linker for a release; otherwise the build's own word
// counts.
var release string

func main() {
	os.Exit(run(os.Args[1:], systemClocks()))
}

// A usageError is a command used wrongly.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// A hinted error carries the next move of whoever reads it.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func rootCommand(c clocks) *cobra.Command {
	root := &cobra.Command{
		Use: "chanceryd", Short: "Keep signing keys, sign with them, rotate them, and log it",
		Long: `Keep signing keys in PKCS#11 tokens and in Vault Transit, sign with them for those
who may have it, rotate them, publish them, and enter every act in a log.

The exit status is 0 when it is done, 1 when it failed or something was found, and 2
when the command was used wrongly. What there is to say goes to standard error, once it
serves as JSON lines.`,
		Example: `  chanceryd dev --dir dev
  chanceryd check --config /etc/chancery/chancery.yaml
  chanceryd serve --config /etc/chancery/chancery.yaml`,
		SilenceErrors: true, SilenceUsage: true, Version: version(), Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{errors.Join(cmd.Help(), hinted{errors.New("a command is missing"), "chanceryd dev --dir DIR, to try it"})}
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(serveCommand(c), devCommand(c), checkCommand(), benchTokenCommand(), benchFloorCommand(), manual.Command("8", func(err error) error { return err }))
	completions(root)
	return root
}

func run(args []string, c clocks) int {
	root := rootCommand(c)
	root.SetArgs(args)
	err := errors.Join(conceal(), forgetVault())
	if err == nil {
		err = root.ExecuteContext(context.Background())
	}
	if err == nil {
		return 0
	}
	if errors.Is(err, errFindings) {
		return exitFailed
	}
	fmt.Fprintf(os.Stderr, "error: %v\n", err)
	if h, ok := errors.AsType[hinted](err); ok {
		fmt.Fprintf(os.Stderr, "hint: %s\n", h.hint)
	}
	if _, ok := errors.AsType[usageError](err); ok || isUsage(err) {
		return exitUsage
	}
	return exitFailed
}

// forgetVault takes out of the environment what HashiCorp's library would look at:
// what counts is in the configuration.
func forgetVault() error {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "VAULT_") || strings.HasPrefix(name, "BAO_") {
			if err := os.Unsetenv(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// noArgs refuses arguments, as a usage error.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}

func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// newLogger writes JSON lines to stderr: control characters are escaped, and
// what reads them needs no parser of ours.
func newLogger(verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
