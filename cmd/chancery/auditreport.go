package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"chancery/keystore/audit"
	"chancery/keystore/audit/review"
)

type reportFlags struct {
	since, until time.Time
	keyset       string
	keys, nodes  []string
	witnesses    []string
	format, out  string
	unverified   bool
}

func (a *app) auditReportCommand() *cobra.Command {
	var f reportFlags
	c := &cobra.Command{
		Use:   "report [LOGDIR]",
		Short: "Tell of a period for whoever has to sign for it",
		Long: "Tell of a period: deviations first; then, for each key set, the life of each version with\n" +
			"its timing rules checked against the entries; who did and approved what; counts of\n" +
			"signatures and refusals; starts, configurations and clocks. The log is verified as part\n" +
			"of it. It needs no daemon. The exit status is 1 if a rule was broken, or if the log does\n" +
			"not verify under a log key.",
		Example: "  chancery --dir dev audit report --since 24h\n" +
			"  chancery audit report --key @audit.vkey --since 2026-10-01 --until 2026-11-01 --format html --out october.html /var/lib/chancery/audit",
		Args: atMostLogDir,
	}
	c.Flags().Var(moment{&f.since}, "since", "not before this time, or this long ago (default: from the log's beginning)")
	c.Flags().Var(moment{&f.until}, "until", "before this time, or this long ago (default: to its end)")
	c.Flags().StringVar(&f.keyset, "keyset", "", "only of this key set")
	c.Flags().StringArrayVar(&f.keys, "key", nil, "log key (signed-note verifier key), or @FILE or FILE with them (default: DIR/audit.vkey)")
	c.Flags().StringArrayVar(&f.witnesses, "witness", nil, "a witness (verifier key), all of which are wanted, or @FILE or FILE with them or with a policy (C2SP tlog-policy)")
	c.Flags().StringArrayVar(&f.nodes, "node-dir", nil, "audit directory of another node that shares the catalog: LOGDIR")
	c.Flags().StringVar(&f.format, "format", "", "text, html or json (default: text, or what --out ends in)")
	c.Flags().StringVar(&f.out, "out", "", "write it to this file")
	c.Flags().BoolVar(&f.unverified, "no-verify", false, "do not verify the log: quicker, and the report says so")
	c.RunE = does(func(ctx context.Context, args []string) error {
		dir, err := a.logDir(args)
		if err != nil {
			return err
		}
		if f.unverified && len(f.keys)+len(f.witnesses) > 0 {
			return usagef("audit report: --no-verify looks at no key and no witness: leave out --key and --witness, or --no-verify")
		}
		if err := a.logDirs(f.nodes); err != nil {
			return err
		}
		dirs := append([]string{dir}, f.nodes...)
		if err := together(ctx, dirs); err != nil {
			return err
		}
		return a.auditReport(ctx, dirs, f)
	})
	return c
}

// formatOf returns the format that flags ask for.
func (a *app) formatOf(f reportFlags) (string, error) {
	ending := strings.ToLower(filepath.Ext(f.out))
	named := map[string]string{".html": "html", ".htm": "html", ".json": "json", ".txt": "text"}[ending]
	asked := f.format
	if asked == "" && a.json {
		asked = "json"
	}
	format := cmp.Or(asked, named, "text")
	switch {
	case format != "text" && format != "html" && format != "json":
		return "", usagef("audit report: --format %q is none of text, html, json", format)
	case a.json && format != "json":
		return "", usagef("audit report: --json, or --format %s, not both", format)
	case named != "" && named != format:
		return "", usagef("audit report: %s is asked for, and --out ends in %s", format, ending)
	case asked == "" && named == "" && ending != "":
		return "", hinted{
			usagef("audit report: a file that ends in %s has no format of its own", ending),
			"say one with --format, or end it in .html (which a browser prints, or saves as PDF), .json or .txt",
		}
	}
	return format, nil
}

func (a *app) auditReport(ctx context.Context, dirs []string, f reportFlags) error {
	format, err := a.formatOf(f)
	if err != nil {
		return err
	}
	if !f.until.IsZero() && !f.since.Before(f.until) {
		return usagef("audit report: --since is not before --until")
	}
	opt := review.Options{Since: f.since, Until: f.until, KeySet: f.keyset, Now: time.Now()}
	logs := make([]review.Log, 0, len(dirs))
	for _, dir := range dirs {
		checked, err := a.checked(ctx, dir, f)
		if err != nil {
			return err
		}
		opt.Checked = append(opt.Checked, checked)
		logs = append(logs, untilDamage(review.Dir(ctx, dir), checked))
	}
	r, err := review.Make(logs, opt)
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	if f.keyset != "" && len(r.KeySets) == 0 {
		return hinted{
			usagef("audit report: no lifecycle log that was given tells of a key set %s", f.keyset),
			"is that how it is spelt? `chancery audit report` without --keyset tells of all",
		}
	}
	if err := a.writeReport(r, format, f.out); err != nil {
		return err
	}
	if r.Verdict.Weighs() {
		return errFound
	}
	return nil
}

// untilDamage ends log where its damage begins, if verification has found it: the report
// is then one of a log that was changed, and of what can be read of it.
func untilDamage(log review.Log, checked review.Checked) review.Log {
	if checked.Report == nil || len(checked.Report.Changed()) == 0 {
		return log
	}
	return func(f audit.Filter) iter.Seq2[audit.Located, error] {
		return func(yield func(audit.Located, error) bool) {
			for at, err := range log(f) {
				if errors.Is(err, audit.ErrDamaged) || !yield(at, err) {
					return
				}
			}
		}
	}
}

// checked verifies one directory of logs, unless flags say not to.
func (a *app) checked(ctx context.Context, dir string, f reportFlags) (review.Checked, error) {
	checked := review.Checked{Node: dir}
	for at, err := range audit.EntriesContext(ctx, dir, audit.Filter{Log: "lifecycle"}) {
		if errors.Is(err, fs.ErrNotExist) {
			return checked, fmt.Errorf("no audit log in %s: %w", dir, err)
		}
		if err == nil {
			checked.Node = strings.TrimSuffix(at.Origin, "/lifecycle")
		}
		break
	}
	if f.unverified {
		return checked, nil
	}
	vkeys, err := a.logKeys(ctx, f.keys)
	if err != nil {
		return checked, err
	}
	quorum, err := a.quorum(ctx, f.witnesses)
	if err != nil {
		return checked, err
	}
	line := &progressLine{w: a.err, live: isTerminal(a.err)}
	checked.Report, err = audit.Verify(ctx, dir, audit.Options{Keys: vkeys, Witnesses: quorum, Progress: verifyProgress(line)})
	line.wipe()
	if err != nil {
		return checked, fmt.Errorf("verifying the log: %w", err)
	}
	return checked, nil
}

// writeReport writes r to a file, or to standard output where none is named.
func (a *app) writeReport(r *review.Report, format, out string) error {
	if out == "" || out == "-" {
		return a.formatReport(a.out, r, format)
	}
	var b bytes.Buffer
	if err := a.formatReport(&b, r, format); err != nil {
		return err
	}
	// Who did what is not for everybody who has an account on the machine.
	if err := renameio.WriteFile(out, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	fmt.Fprintf(a.err, "%s: %s\n", clean(out), headline(r))
	return nil
}

func (a *app) formatReport(w io.Writer, r *review.Report, format string) error {
	switch format {
	case "json":
		e := json.NewEncoder(w)
		if w != a.out || isTerminal(w) { // for a reader
			e.SetIndent("", "  ")
		}
		return e.Encode(r)
	case "html":
		return r.WriteHTML(w)
	}
	page := *a
	page.out = w
	page.printReview(r)
	return nil
}
