package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// shortName is an entry's name without the host.
func shortName(at *audit.Located) string {
	name := at.Name()
	if _, rest, ok := strings.Cut(name, "/audit/"); ok {
		return rest
	}
	return name
}

// mostDigits is how many an index may have: with more it is a serial number.
const mostDigits = 15

// find returns the entries that a word names: an entry, an index in log, or the
// id, jti or serial of some, in the order of time. There is at least one.
func find(ctx context.Context, dir, word, log string) ([]audit.Located, error) {
	if origin, index, ok := audit.SplitName(word); ok {
		return findAt(ctx, dir, origin, index)
	}
	if index, err := strconv.ParseInt(word, 10, 64); err == nil && len(word) <= mostDigits && index >= 0 {
		return findAt(ctx, dir, log, index)
	}
	filters := []audit.Filter{{JTI: word}, {ID: strings.ToLower(word)}}
	if serial := plainSerial(word); isSerial(serial) {
		filters = append(filters, audit.Filter{Serial: serial})
	}
	for _, f := range filters {
		var all []audit.Located
		for at, err := range audit.EntriesContext(ctx, dir, f) {
			if err != nil {
				return nil, fmt.Errorf("reading the log: %w", err)
			}
			all = append(all, at)
		}
		if len(all) > 0 {
			return all, nil
		}
	}
	return nil, fmt.Errorf("no entry has the jti, serial or id %q", word)
}

// belowZero tells who gave an index below zero, which is read as a flag, what is
// wrong with it.
func belowZero(c *cobra.Command, err error) error {
	flag, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return err
	}
	if _, notNumber := strconv.Atoi(flag.GetSpecifiedName()); notNumber != nil {
		return err
	}
	return usagef("%s: the index of an entry is 0 or more", c.CommandPath())
}

// findAt returns the entry at an index of the log with that origin, or the end
// of one.
func findAt(ctx context.Context, dir, origin string, index int64) ([]audit.Located, error) {
	for at, err := range audit.EntriesContext(ctx, dir, audit.Filter{Log: logNamed(origin), From: index}) {
		if err != nil {
			return nil, fmt.Errorf("reading the log: %w", err)
		}
		if at.Origin != origin && !strings.HasSuffix(at.Origin, "/"+origin) {
			return nil, fmt.Errorf("the log in %s is %s, not %s", dir, at.Origin, origin)
		}
		if at.Entry.Sequence == index {
			return []audit.Located{at}, nil
		}
		break
	}
	return nil, fmt.Errorf("%s has no entry %d", origin, index)
}

// logNamed returns the name of the log at the end of an origin.
func logNamed(origin string) string {
	parts := strings.Split(origin, "/")
	if n := len(parts); n > 1 && parts[n-2] == "acts" {
		return "acts/" + parts[n-1]
	}
	return parts[len(parts)-1]
}

// mainOf returns the one of several entries that people mean: the first that tells
// that something was done, or else the last.
func mainOf(all []audit.Located) audit.Located {
	for _, at := range all {
		if at.Entry.Outcome == keystore.OutcomeDone {
			return at
		}
	}
	return all[len(all)-1]
}

// related returns the other entries of at's transition, and of its token or
// certificate.
func related(ctx context.Context, dir string, at audit.Located) ([]audit.Located, error) {
	var all []audit.Located
	seen := map[string]bool{at.Name(): true}
	for _, f := range []audit.Filter{{ID: at.Entry.ID}, {JTI: at.Entry.JTI}, {Serial: at.Entry.Serial}} {
		if f == (audit.Filter{}) {
			continue
		}
		for other, err := range audit.EntriesContext(ctx, dir, f) {
			if err != nil {
				return nil, fmt.Errorf("reading the log: %w", err)
			}
			if !seen[other.Name()] {
				seen[other.Name()] = true
				all = append(all, other)
			}
		}
	}
	return all, nil
}
