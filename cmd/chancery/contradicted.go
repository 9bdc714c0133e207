package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// A contradiction is what a witness says against a log, by the log's own word: it is
// true in itself, and not the one that the witness knows.
type contradiction struct {
	Witness string    `json:"witness"`
	Origin  string    `json:"origin"`
	What    string    `json:"what"`
	Since   time.Time `json:"since"`
	Entry   string    `json:"entry"`
}

// contradictions returns those that stand at the end of the lifecycle log in dir, as far
// as it can be read: what is wrong with it verification says.
func contradictions(ctx context.Context, dir string) ([]contradiction, error) {
	stand := map[string]contradiction{}
	for at, err := range audit.EntriesContext(ctx, dir, audit.Filter{Log: "lifecycle", Action: keystore.ActAuditWitness}) {
		if errors.Is(err, audit.ErrDamaged) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading the log: %w", err)
		}
		of := at.Entry.Detail["witness"] + " " + at.Entry.Detail["origin"]
		if at.Entry.Outcome == keystore.OutcomeDone {
			delete(stand, of)
			continue
		}
		stand[of] = contradiction{at.Entry.Detail["witness"], at.Entry.Detail["origin"], at.Entry.Reason, at.Entry.Time, at.Name()}
	}
	var all []contradiction
	for _, of := range slices.Sorted(maps.Keys(stand)) {
		all = append(all, stand[of])
	}
	return all, nil
}

func (a *app) printContradictions(all []contradiction) {
	for _, c := range all {
		a.printf("contradicted: %s says of %s since %s UTC: %s (entry %s)\n", c.Witness, c.Origin, when(c.Since), c.What, c.Entry)
	}
}
