package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/client"
)

// rolls are the logs that an old token is looked up in: those of one node or of
// several, each of them verified.
type rolls struct {
	kid   keystore.KID
	lives *audit.KeyLives

	dirs      []string
	reports   []*audit.Report
	lifecycle []audit.Located
}

// openRolls verifies the log in dir and takes it among r's. One that does not
// verify proves nothing, and is told of.
func (a *app) openRolls(ctx context.Context, r *rolls, dir string, vkeys []string) error {
	line := &progressLine{w: a.err, live: isTerminal(a.err)}
	report, err := audit.Verify(ctx, dir, audit.Options{Keys: vkeys, Progress: verifyProgress(line)})
	line.wipe()
	if err != nil {
		return fmt.Errorf("verifying the log: %w", err)
	}
	if !report.OK() {
		for _, p := range report.Problems {
			fmt.Fprintln(a.err, clean(problemLine(p)))
		}
		if len(vkeys) == 0 {
			return hinted{fmt.Errorf("the log in %s is not verified: no log key is given", dir), "give the log key, kept outside the log's machine, with --key"}
		}
		if len(report.Changed()) == 0 {
			return fmt.Errorf("the log in %s cannot be judged with what was given", dir)
		}
		return fmt.Errorf("the log in %s does not verify: %s", dir, count(int64(len(report.Problems)), "problem", "problems"))
	}
	for at, err := range audit.EntriesContext(ctx, dir, audit.Filter{Log: "lifecycle"}) {
		if err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
		r.lifecycle = append(r.lifecycle, at)
	}
	r.dirs, r.reports = append(r.dirs, dir), append(r.reports, report)
	return nil
}

// fold makes the lives of keys out of all lifecycle logs together, by time.
func (r *rolls) fold() {
	slices.SortStableFunc(r.lifecycle, func(a, b audit.Located) int { return a.Entry.Time.Compare(b.Entry.Time) })
	for i := range r.lifecycle {
		at := &r.lifecycle[i]
		r.lives.Add(&at.Entry.Record, at.Entry.Time, at.Name())
	}
}

// Entries of a token stand in the month in which it was issued, or just after it.
const (
	entryBefore = time.Hour
	entryAfter  = 24 * time.Hour
)

// entriesOf returns what the logs have of a jti.
func (r *rolls) entriesOf(ctx context.Context, t *client.Token) ([]audit.Located, error) {
	f := audit.Filter{Log: "acts", JTI: t.ID}
	if !t.IssuedAt.IsZero() {
		f.Since, f.Until = t.IssuedAt.Add(-entryBefore), t.IssuedAt.Add(entryAfter)
	}
	var found []audit.Located
	for _, dir := range r.dirs {
		for at, err := range audit.EntriesContext(ctx, dir, f) {
			if err != nil {
				return nil, fmt.Errorf("reading the log: %w", err)
			}
			found = append(found, at)
		}
	}
	return found, nil
}

// gone returns the origins of the months a token's entry could stand in that a
// lifecycle log tells of and that are there no more. The logs are verified: it was
// said that they were to go.
func (r *rolls) gone(t *client.Token) (origins []string) {
	if t.IssuedAt.IsZero() {
		return nil
	}
	for i := range r.lifecycle {
		e := &r.lifecycle[i].Entry
		origin := e.Detail["origin"]
		month := origin[max(0, len(origin)-len("2006-01")):]
		begin, err := time.Parse("2006-01", month)
		if e.Action != keystore.ActAuditShard || err != nil || slices.Contains(origins, origin) {
			continue
		}
		apart := !begin.Before(t.IssuedAt.Add(entryAfter)) || !begin.AddDate(0, 1, 0).After(t.IssuedAt.Add(-entryBefore))
		if !apart && !r.has(origin) {
			origins = append(origins, origin)
		}
	}
	return origins
}

// has reports whether a log of that origin is there.
func (r *rolls) has(origin string) bool {
	return slices.ContainsFunc(r.reports, func(rep *audit.Report) bool {
		return slices.ContainsFunc(rep.Logs, func(l audit.LogReport) bool { return l.Origin == origin })
	})
}

// proven reports whether an entry is under a checkpoint.
func (r *rolls) proven(at audit.Located) bool {
	return slices.ContainsFunc(r.reports, func(rep *audit.Report) bool {
		return slices.ContainsFunc(rep.Logs, func(l audit.LogReport) bool { return l.Origin == at.Origin && at.Entry.Sequence < l.Proven })
	})
}

// judgeEntries judges the token by what the logs have of it.
func (h *hearing) judgeEntries(ctx context.Context, r *rolls, life *audit.KeyLife, v *verdictAt) error {
	switch {
	case v.token == nil:
		return nil
	case v.token.ID == "":
		v.Told = "no entry: it has no jti"
		v.against("it was not made through Chancery: it has no jti")
		return nil
	}
	found, err := r.entriesOf(ctx, v.token)
	if err != nil {
		return err
	}
	for i, at := range found {
		if made(&at.Entry, life, v.token) && at.Entry.Outcome == keystore.OutcomeDone {
			v.Entry, v.Told = at.Name(), "signed by Chancery: entry "+at.Name()
			if !r.proven(at) {
				v.Told += ", behind no checkpoint yet"
			}
			for _, later := range found[i+1:] {
				if takesBack(later.Entry.Outcome) {
					v.Told += ", and not released by " + later.Name()
				}
			}
			return nil
		}
	}
	gone := r.gone(v.token)
	switch {
	case len(found) > 0 && made(&found[0].Entry, life, v.token):
		v.Told = fmt.Sprintf("entry %s: %s, so that it was not released", found[0].Name(), found[0].Entry.Outcome)
		v.against("the log does not have it as done: %s is %s", found[0].Name(), found[0].Entry.Outcome)
	case len(found) > 0:
		v.Told = "no entry: its jti is another token's, " + found[0].Name()
		v.against("it was not made through Chancery: its jti is that of another token, %s", found[0].Name())
	case len(gone) > 0:
		v.Told = "not known: " + gone[0] + ", where its entry would be, is not kept any more"
	default:
		v.Told = "no entry: not made through Chancery"
		v.against("it was not made through Chancery: the log has no entry of it")
	}
	return nil
}

// made reports whether an entry is of this token and no other of its jti.
func made(e *audit.Entry, life *audit.KeyLife, t *client.Token) bool {
	return e.Action == keystore.ActSignJWT && e.KeySet == life.KeySet && e.KID == life.KID && e.Exp == t.Expires.Unix()
}
