package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/audit/review"
)

// removedIn returns the months of acts that the logs in dirs say are removed, and that
// are not there any more.
func removedIn(ctx context.Context, dirs []string) (all []review.Removed, err error) {
	for _, dir := range dirs {
		there, err := audit.LogNames(dir)
		if err != nil {
			return nil, err
		}
		for at, err := range audit.EntriesContext(ctx, dir, audit.Filter{Log: "lifecycle", Action: keystore.ActAuditPrune}) {
			if err != nil {
				return nil, fmt.Errorf("reading the log: %w", err)
			}
			if r, is := review.RemovedBy(at); is && !slices.Contains(there, "acts/"+r.Month) {
				all = append(all, r)
			}
		}
	}
	return all, nil
}

// tellRemoved tells on standard error, in a line, which months of acts that a filter
// asks for are not kept any more.
func (a *app) tellRemoved(ctx context.Context, dir string, f audit.Filter) error {
	if f.Log == "lifecycle" {
		return nil
	}
	months, err := removedIn(ctx, []string{dir})
	if err != nil {
		return err
	}
	var told []string
	for _, r := range months {
		if r.Between(f.Since, f.Until) && !(strings.HasPrefix(f.Log, "acts/") && f.Log != "acts/"+r.Month) {
			told = append(told, fmt.Sprintf("%s (%s at %s UTC)", r.Month, r.Policy, when(r.At)))
		}
	}
	if len(told) > 0 {
		fmt.Fprintln(a.err, "hint: acts of these months were removed, and are not in it:", clean(strings.Join(told, ", ")))
	}
	return nil
}

// kept says of what no entry was found for, by m, whether its entry would be in a
// month that is removed: then nobody knows. What is not signed by the key that it
// names, of those in the lives of keys, is not Chancery's all the same.
func (i *issued) kept(m matched, months []review.Removed, lives []*audit.KeyLives) matched {
	if m.match != matchNone || i.alien != nil || i.begins.IsZero() {
		return m
	}
	n := slices.IndexFunc(months, func(r review.Removed) bool {
		return r.Between(i.begins.Add(-entryBefore), i.begins.Add(entryAfter))
	})
	if n < 0 {
		return m
	}
	for _, l := range lives {
		if good, known := i.verifies(i.kid, l); known && !good {
			return matched{match: matchCounterfeit, why: "it is not signed by the key that it names"}
		}
	}
	return matched{match: matchNotKept, why: "not known: the month " + months[n].Month + " is not kept any more"}
}
