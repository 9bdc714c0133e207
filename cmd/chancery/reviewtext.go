package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"chancery/keystore/audit/review"
)

// headline tells in a line what a report comes to.
func headline(r *review.Report) string {
	return fmt.Sprintf("%s; %s, %s, %s", r.Verdict.Words(),
		count(int64(r.Count(review.Breach)), "breach", "breaches"),
		count(int64(r.Count(review.Attention)), "point that needs attention", "points that need attention"), r.Witnessed)
}

// printReview prints a report for people.
func (a *app) printReview(r *review.Report) {
	a.printf("Chancery: report of %s\n", r.Period.Words())
	a.printf("made %s UTC", when(r.MadeAt))
	if r.KeySet != "" {
		a.printf(", of key set %s only", r.KeySet)
	}
	a.printf("\n")
	if !r.Period.First.IsZero() {
		a.printf("entries %s to %s UTC\n", when(r.Period.First), when(r.Period.Last))
	}
	a.printf("\n%s\n", strings.ToUpper(headline(r)[:1])+headline(r)[1:])
	for _, l := range r.Logs {
		a.printf("log %s: %s\n", l.Node, l.Words())
	}
	if len(r.Absent) > 0 {
		a.printf("not given: the logs of %s\n", strings.Join(r.Absent, ", "))
	}
	if r.Lone {
		a.printf("not given: the logs of the nodes that share the catalog; what is missing may stand in them (--node-dir)\n")
	}
	a.printDeviations(r)
	for i := range r.KeySets {
		a.printKeySetReview(&r.KeySets[i])
	}
	a.printCounts(r)
	a.printEvents("operations", r.Operations)
	a.printEvents("starts and nodes", r.Nodes)
	a.printEvents("clocks", r.Clocks)
	a.printEvents("tokens", r.Tokens)
	a.printEvents("the log itself", r.LogEvents)
	for _, l := range r.Left {
		a.printf("\nleft out of %s: %d more\n", l.List, l.Rows)
	}
	a.printf("\nwhat this does not prove\n")
	for _, l := range r.Limits {
		a.printf("  - %s\n", l)
	}
}

func (a *app) printDeviations(r *review.Report) {
	a.printf("\ndeviations: ")
	if len(r.Deviations) == 0 {
		a.printf("none\n")
		return
	}
	a.printf("%d\n", len(r.Deviations))
	rows := make([][]string, 0, len(r.Deviations))
	for _, d := range r.Deviations {
		rows = append(rows, []string{
			string(d.Severity), review.RuleWords(d.Rule), when(d.At), subject(d.KeySet, d.Version), d.Text, strings.Join(review.Short(d.Entries), ", "),
		})
	}
	a.printWrapped([]string{"weight", "rule", "at (UTC)", "what", "deviation", "entries"}, rows, map[int]int{5: 48, 6: 26})
}

// subject names a key set, and a version of it if there is one.
func subject(keyset string, version int) string {
	switch {
	case keyset == "":
		return "-"
	case version == 0:
		return keyset
	}
	return keyset + " " + strconv.Itoa(version)
}

func (a *app) printKeySetReview(k *review.KeySet) {
	signed := count(k.Signatures, "signature", "signatures")
	if k.SignsCheckpoints() {
		signed = "signs checkpoints"
	}
	a.printf("\nkey set %s: purpose %s, %s, %s\n", k.Name, k.Purpose, k.Algorithm, signed)
	for _, c := range k.Configurations {
		what := "configured"
		if len(c.Changed) > 0 {
			what = "changed: " + strings.Join(c.Changed, ", ")
		}
		every := c.Every()
		if every != "on request" {
			every = "every " + every
		}
		a.printf("  %s %s; rotation %s, A %s, S %s, L %s (%s)\n", when(c.At), what,
			every, c.Detail["cache_for"], c.Detail["skew"], c.Detail["max_ttl"], review.Short([]string{c.Entry})[0])
	}
	rows := make([][]string, 0, len(k.Versions))
	for _, v := range k.Versions {
		rows = append(rows, []string{
			strconv.Itoa(v.Number), v.Fate(), when(v.Published), when(v.Active), when(v.Stopped), when(v.Removed),
			strconv.FormatInt(v.Acts.Done, 10), when(v.Acts.First), when(v.Acts.Last), when(laterOf(v.Acts.Exp, v.Acts.NotAfter)), string(v.KID),
		})
	}
	a.printTable([]string{"version", "state", "published (UTC)", "activated", "retired", "removed", "signed", "first", "last", "expires", "kid"}, rows)
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (a *app) printCounts(r *review.Report) {
	a.printf("\nacts: %d\n", r.Acts.All())
	if len(r.Principals) > 0 {
		rows := make([][]string, 0, len(r.Principals))
		for _, p := range r.Principals {
			rows = append(rows, append([]string{orNobody(p.Name), string(p.Action)}, tallyCells(p.Acts)...))
		}
		a.printTable([]string{"principal", "action", "done", "refused", "failed", "unknown", "first (UTC)", "last (UTC)"}, rows)
	}
	if len(r.Refusals) > 0 {
		a.printf("\nrefusals and failures\n")
		rows := make([][]string, 0, len(r.Refusals))
		for _, x := range r.Refusals {
			rows = append(rows, []string{x.Code, orNobody(x.Principal), string(x.Action), strconv.FormatInt(x.Acts.All(), 10), when(x.Acts.First), when(x.Acts.Last)})
		}
		a.printTable([]string{"code", "principal", "action", "times", "first (UTC)", "last (UTC)"}, rows)
	}
	if len(r.Policies) > 0 {
		a.printf("\npolicies that decided\n")
		rows := make([][]string, 0, len(r.Policies))
		for _, p := range r.Policies {
			rows = append(rows, []string{p.Hash, strconv.FormatInt(p.Acts.All(), 10), when(p.Acts.First), when(p.Acts.Last)})
		}
		a.printTable([]string{"policy", "acts", "first (UTC)", "last (UTC)"}, rows)
	}
}

func orNobody(principal string) string {
	if principal == "" {
		return "(nobody known)"
	}
	return principal
}

func tallyCells(t review.Tally) []string {
	n := func(i int64) string { return strconv.FormatInt(i, 10) }
	return []string{n(t.Done), n(t.Refused), n(t.Failed), n(t.Unknown), when(t.First), when(t.Last)}
}

func (a *app) printEvents(title string, events []review.Event) {
	if len(events) == 0 {
		return
	}
	a.printf("\n%s\n", title)
	rows := make([][]string, 0, len(events))
	for _, e := range events {
		rows = append(rows, []string{
			when(e.At), string(e.Action), string(e.Outcome), subject(e.KeySet, e.Version), e.By, e.Words(), review.Short([]string{e.Entry})[0],
		})
	}
	a.printWrapped([]string{"at (UTC)", "action", "outcome", "what", "by", "why and how", "entry"}, rows, map[int]int{6: 56})
}
