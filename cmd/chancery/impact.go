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
	"chancery/keystore/audit/review"
)

type impactFlags struct {
	kid      string
	from, to time.Time
	nodes    []string
	list     bool
}

func (a *app) auditImpactCommand() *cobra.Command {
	var f impactFlags
	c := &cobra.Command{
		Use:   "impact [LOGDIR] --kid KID",
		Short: "Tell what a key signed, and what of it still lives",
		Long: "Tell what a key signed in a period: for whom, how many, until when it lives, and what may\n" +
			"have been signed without anybody knowing. It is what has to be answered for when the key\n" +
			"is in other hands. It reads the log and does not verify it: `chancery audit verify` does.\n" +
			"With --json every token, certificate, signature of a digest and signed history is in\n" +
			"it, as with --list.",
		Example: "  chancery --dir dev audit impact --kid 5sljdiRYPbrjGDlg5uosZ2V_jDYJoXD6jOaW-TQO-pk --from 24h\n" +
			"  chancery audit impact --kid KID --list /var/lib/chancery/audit",
		Args: atMostLogDir,
	}
	c.Flags().StringVar(&f.kid, "kid", "", "the `KID` of the key, as tokens and chancery keys list have it")
	c.Flags().Var(moment{&f.from}, "from", "not before this time, or this long ago")
	c.Flags().Var(moment{&f.to}, "to", "before this time, or this long ago")
	c.Flags().StringArrayVar(&f.nodes, "node-dir", nil, "audit directory of another node that shares the catalog: LOGDIR")
	c.Flags().BoolVar(&f.list, "list", false, "list every token, certificate, signature of a digest and signed history")
	c.RunE = does(func(ctx context.Context, args []string) error {
		if f.kid == "" {
			return usagef("audit impact: --kid is missing")
		}
		if !f.to.IsZero() && !f.from.Before(f.to) {
			return usagef("audit impact: --from is not before --to")
		}
		dir, err := a.logDir(args)
		if err != nil {
			return err
		}
		if err := a.logDirs(f.nodes); err != nil {
			return err
		}
		dirs := append([]string{dir}, f.nodes...)
		if err := together(ctx, dirs); err != nil {
			return err
		}
		return a.auditImpact(ctx, dirs, f)
	})
	return c
}

func (a *app) auditImpact(ctx context.Context, dirs []string, f impactFlags) error {
	var logs []review.Log
	for _, dir := range dirs {
		logs = append(logs, review.Dir(ctx, dir))
	}
	opt := review.Options{Since: f.from, Until: f.to, Now: time.Now()}
	if a.json {
		return a.impactJSON(logs, keystore.KID(f.kid), opt)
	}
	var each func(review.Signed) bool
	if f.list {
		each = a.printSigned
	}
	i, err := review.Trace(logs, keystore.KID(f.kid), opt, each)
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	a.printImpact(i)
	return told(i)
}

// told returns an error if no entry tells of the key.
func told(i *review.Impact) error {
	if i.KeySet == "" && i.Acts.All()+i.Histories.All() == 0 {
		return fmt.Errorf("no entry tells of the key %s", i.KID)
	}
	return nil
}

// impactJSON writes one object: what was signed as it is read, then all that
// can be told only at the end.
func (a *app) impactJSON(logs []review.Log, kid keystore.KID, opt review.Options) error {
	var failed error
	separator := `{"signed":[`
	put := func(v any) bool {
		b, err := json.Marshal(v)
		if err == nil {
			_, err = fmt.Fprintf(a.out, "%s%s", separator, b)
		}
		separator, failed = ",", err
		return err == nil
	}
	i, err := review.Trace(logs, kid, opt, func(s review.Signed) bool { return put(s) })
	if failed != nil {
		return failed
	}
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	if separator != "," {
		fmt.Fprint(a.out, separator)
	}
	separator = `],"impact":`
	if !put(i) {
		return failed
	}
	if _, err := fmt.Fprintln(a.out, "}"); err != nil {
		return err
	}
	return told(i)
}

func (a *app) printSigned(s review.Signed) bool {
	what, expires, live := signedWhat(s), "has no end", "stands"
	if !s.Expires.IsZero() {
		expires, live = "expires "+when(s.Expires), "expired"
	}
	if s.Live {
		live = "live"
	}
	if s.Outcome != keystore.OutcomeDone {
		live += ", outcome unknown"
	}
	_, err := fmt.Fprintln(a.out, clean(strings.Join([]string{when(s.At), what, expires, live, orNobody(s.Principal), review.Short([]string{s.Entry})[0]}, "  ")))
	return err == nil
}

// signedWhat names what was signed.
func signedWhat(s review.Signed) string {
	switch {
	case s.Serial != "":
		return "serial " + s.Serial
	case s.JTI != "":
		return "jti " + s.JTI
	case s.Signature != "":
		return "digest, signature " + s.Signature
	case s.Action == keystore.ActSignHistory:
		return "history of the keys of " + s.KeySet
	}
	return string(s.Action)
}

// liveNow tells what of all that was signed still stands: what has not expired, and what
// has no end.
func liveNow(i *review.Impact) string {
	endless := i.Endless + i.Histories.Done + i.Histories.Unknown
	switch {
	case i.Live > 0 && endless > 0:
		return fmt.Sprintf("%d, until %s UTC (S of %s included), and the %d without an end", i.Live, due(i.LiveUntil), i.Skew, endless)
	case i.Live > 0:
		return fmt.Sprintf("%d, until %s UTC (S of %s included)", i.Live, due(i.LiveUntil), i.Skew)
	case endless > 0:
		return fmt.Sprintf("the %d without an end, and nothing that expires", endless)
	}
	return "none"
}

func (a *app) printImpact(i *review.Impact) {
	a.printf("key %s", string(i.KID))
	if i.KeySet != "" {
		a.printf(": version %d of %s, %s", i.Version, i.KeySet, i.State)
	}
	a.printf("\n%s, made %s UTC\n\n", i.Period.Words(), when(i.MadeAt))
	a.printf("signed: %d; refused %d, failed %d, unknown %d\n", i.Acts.Done, i.Acts.Refused, i.Acts.Failed, i.Acts.Unknown)
	if i.Acts.All() > 0 {
		a.printf("first %s, last %s UTC", when(i.Acts.First), when(i.Acts.Last))
		if !i.Acts.Expiry().IsZero() || i.Endless == 0 {
			a.printf("; the last of it expires %s", when(i.Acts.Expiry()))
		}
		a.printf("\n")
	}
	if h := i.Histories; h.All() > 0 {
		a.printf("histories of its key set signed besides: %d; refused %d, failed %d, unknown %d; first %s, last %s UTC, without an end\n",
			h.Done, h.Refused, h.Failed, h.Unknown, when(h.First), when(h.Last))
	}
	if i.Endless > 0 {
		a.printf("of these %s of digests, without an end\n", count(i.Endless, "signature", "signatures"))
	}
	a.printf("live now: %s\n", liveNow(i))
	for _, r := range i.Removed {
		a.printf("not in it: %s\n", r.Words())
	}
	if i.UsesBefore > 0 {
		a.printf("not in it: up to %s of the key, numbered before the first that is there\n", count(i.UsesBefore, "use", "uses"))
	}
	if len(i.Principals) > 0 {
		rows := make([][]string, 0, len(i.Principals))
		for _, p := range i.Principals {
			rows = append(rows, append([]string{orNobody(p.Name), string(p.Action)}, tallyCells(p.Acts)...))
		}
		a.printTable([]string{"principal", "action", "done", "refused", "failed", "unknown", "first (UTC)", "last (UTC)"}, rows)
	}
	if n := int64(len(i.Open)) + i.OpenLeft; n > 0 {
		a.printf("\nnobody knows how these went: %s", strings.Join(review.Short(i.Open), ", "))
		if i.OpenLeft > 0 {
			a.printf(" and %s more", strconv.FormatInt(i.OpenLeft, 10))
		}
		a.printf("\n")
	}
	a.printEvents("its life", i.Steps)
	a.printf("\nwhat this does not tell\n")
	for _, l := range i.Limits {
		a.printf("  - %s\n", l)
	}
}
