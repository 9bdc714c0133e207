package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/cmd/internal/manual"
)

// Exit statuses.
const (
	exitDone   = 0
	exitFailed = 1 // failed, or found something
	exitUsage  = 2 // used wrongly
)

// app is one run of the command: where it reads and writes, and what the global
// flags say.
type app struct {
	in     io.Reader
	out    io.Writer
	err    io.Writer
	getenv func(string) string

	dir, as                 string
	endpoint, cert, key, ca string
	serverName              string
	json                    bool
	wait                    time.Duration
	reply                   []byte // the last reply, as the daemon wrote it
	connected               *connection
}

// run executes one command line and returns the exit status.
func (a *app) run(ctx context.Context, args []string) int {
	out := &sink{Writer: a.out}
	a.out = out
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	if a.connected != nil {
		a.connected.client.Close()
	}
	if out.err != nil && (err == nil || errors.Is(err, errFound)) {
		err = failure{fmt.Errorf("writing the output: %w", out.err)}
	}
	if err == nil {
		return exitDone
	}
	// What cobra itself refuses is wrong use, and so is what says it is.
	var failed failure
	if !errors.As(err, &failed) || errors.As(err, new(usageError)) {
		hint := "run `chancery help` to see how it is used"
		if h, ok := errors.AsType[hinted](err); ok {
			hint = h.hint
		}
		a.report(err, hint)
		return exitUsage
	}
	a.report(failed.error, a.hint(failed.error))
	return exitFailed
}

// A sink keeps the first error of writing to standard output, so that what was not
// written is not taken for done.
type sink struct {
	io.Writer
	err error
}

func (s *sink) Write(b []byte) (int, error) {
	n, err := s.Writer.Write(b)
	if s.err == nil {
		s.err = err
	}
	return n, err
}

// A failure is an error of a command that was used rightly.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// A usageError says that the command was used wrongly.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// errFound is a finding that has been printed already.
var errFound = errors.New("problems found")

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "chancery",
		Short: "Have things signed, watch and rotate the keys, check the log",
		Long: "Have things signed, watch and rotate the keys, check the log.\n\n" +
			"The exit status is 0 when it is done, 1 when it failed or something was found, and 2\n" +
			"when the command was used wrongly. Errors and hints go to standard error. With --json\n" +
			"standard output is for programs: the daemon's reply or, with exit status 1, its problem\n" +
			"document with a stable \"code\"; it is empty when no daemon answers.",
		Example: "  chanceryd dev --dir dev\n" +
			"  chancery --dir dev sign jwt --keyset web --claims '{\"sub\":\"alice\"}'\n" +
			"  chancery --dir dev keys list\n" +
			"  chancery --dir dev audit verify",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          needsSubcommand,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if a.wait < 0 {
				return usagef("%s: --wait %v is negative", cmd.CommandPath(), a.wait)
			}
			return nil
		},

		SuggestionsMinimumDistance: 2,
	}
	f := root.PersistentFlags()
	f.StringVar(&a.dir, "dir", "", "directory of chanceryd dev: take endpoints, certificates and keys from it")
	f.StringVar(&a.as, "as", "", "whose certificate of --dir to use: issuer, ca, operator or auditor (default: by command)")
	f.StringVar(&a.endpoint, "endpoint", "", "the daemon: unix:PATH or https://HOST:PORT (CHANCERY_ENDPOINT)")
	f.StringVar(&a.cert, "cert", "", "client certificate, PEM file (CHANCERY_CERT)")
	f.StringVar(&a.key, "key", "", "its private key, PEM file (CHANCERY_KEY)")
	f.StringVar(&a.ca, "ca", "", "roots to know the daemon by, PEM file (CHANCERY_CA)")
	f.StringVar(&a.serverName, "server-name", "", "name in the daemon's certificate (CHANCERY_SERVER_NAME; default: localhost at a socket, otherwise HOST)")
	f.BoolVar(&a.json, "json", false, "print the daemon's reply as it is, and its problem document if it refuses, to standard output")
	f.DurationVar(&a.wait, "wait", 0, "when told to come back later, do so for at most this long")
	root.AddCommand(
		a.signCommand(), a.verifyCommand(),
		a.keysCommand(), a.tokenCommand(), a.clockCommand(), a.nodesCommand(),
		a.rotationCommand(), a.suspendCommand(), a.resumeCommand(), a.compromiseCommand(),
		a.auditCommand(), a.policyCommand(), a.benchCommand(), a.benchPeerCommand(), a.openAPICommand(), a.versionCommand(),
		manual.Command("1", func(err error) error { return failure{err} }),
	)
	root.InitDefaultHelpCmd()
	root.SetOut(a.out) // completion keeps the one there is when it is made
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() { // those two take any name
		switch c.Name() {
		case "help":
			c.RunE = helpFor
		case "completion":
			c.Args, c.RunE = cobra.ArbitraryArgs, needsSubcommand
		}
	}
	a.completions(root)
	return root
}

// helpFor is cobra's help, but that asking for a command there is not is wrong use.
func helpFor(help *cobra.Command, args []string) error {
	cmd, rest, err := help.Root().Find(args)
	switch {
	case err != nil:
		return err
	case len(rest) == 0:
		return cmd.Help()
	case cmd.HasSubCommands():
		return needsSubcommand(cmd, rest)
	}
	return usagef("%s has no command %q", cmd.CommandPath(), rest[0])
}

// group returns a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: needsSubcommand, SuggestionsMinimumDistance: 2,
	}
	c.AddCommand(subs...)
	return c
}

func needsSubcommand(cmd *cobra.Command, args []string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	choice := strings.Join(names, ", ")
	if len(args) == 0 {
		return usagef("%s: which one? %s", cmd.CommandPath(), choice)
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usagef("%s: unknown command %q, did you mean %s?", cmd.CommandPath(), args[0], strings.Join(near, " or "))
	}
	return usagef("%s: unknown command %q, there are %s", cmd.CommandPath(), args[0], choice)
}

// does makes f the run of a command, and its errors failures.
func does(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := f(cmd.Context(), args); err != nil {
			return failure{err}
		}
		return nil
	}
}

// exactly and noArgs are cobra's, with words for what is missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usagef("%s: %s is missing", cmd.CommandPath(), names[len(args)])
		}
		if len(args) > len(names) {
			return usagef("%s: unexpected argument %q", cmd.CommandPath(), args[len(names)])
		}
		return nil
	}
}

func noArgs(cmd *cobra.Command, args []string) error { return exactly()(cmd, args) }

// printReply prints the daemon's last reply as it came, on a line.
func (a *app) printReply() error {
	_, err := fmt.Fprintln(a.out, strings.TrimSuffix(string(a.reply), "\n"))
	return err
}

// printf prints to standard output with everything in args made printable.
func (a *app) printf(format string, args ...any) {
	for i, arg := range args {
		if s, ok := arg.(string); ok {
			args[i] = clean(s)
		}
	}
	fmt.Fprintf(a.out, format, args...)
}

// isTerminal reports whether w is a character device, which is near enough.
func isTerminal(w io.Writer) bool {
	if s, ok := w.(*sink); ok {
		w = s.Writer
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
