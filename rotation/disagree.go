package rotation

import (
	"context"
	"fmt"
	"slices"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// The kinds of mismatch between what is said of a version: by the log, by the
// catalog, and by the set that the world is served.
const (
	LogState     MismatchKind = "log_state"      // another state, or a compromise that only one has
	LogKey       MismatchKind = "log_key"        // another key
	NotInLog     MismatchKind = "not_in_log"     // the log does not have the version
	NotInCatalog MismatchKind = "not_in_catalog" // the catalog does not have it
	JWKSMissing  MismatchKind = "jwks_missing"   // the published set is to have it
	JWKSExtra    MismatchKind = "jwks_extra"     // the published set must not
)

// Disagrees reports whether a mismatch is of what is said of a version, and not of
// what a keystore holds.
func (k MismatchKind) Disagrees() bool {
	switch k {
	case LogState, LogKey, NotInLog, NotInCatalog, JWKSMissing, JWKSExtra:
		return true
	}
	return false
}

// CompareLog compares what the log says of the versions of a key set with their
// rows. before is the set when all its steps had been entered, before lives was
// read; after is it as it was read after that. So neither a step that is under way
// nor one taken meanwhile is a mismatch. lives may have other key sets. It is pure.
func CompareLog(before, after *keystore.KeySet, lives *audit.KeyLives) []Mismatch {
	d := disagreement{set: after}
	for i := range before.Versions {
		was := &before.Versions[i]
		row, ok := after.Version(was.Number)
		if !ok {
			continue // a row is never removed: what follows tells, by the log
		}
		l, ok := lives.Version(before.Name, was.Number)
		switch {
		case ok:
			d.life(was, row, l)
		case was.State != keystore.Pending: // whose intent is in the log of the node that makes it
			d.add(NotInLog, row, "the catalog says that it is %s, and the log has nothing of it", row.State)
		}
	}
	for _, l := range lives.All() {
		if _, ok := after.Version(l.Version); l.KeySet != before.Name || ok {
			continue
		}
		v := keystore.Version{Number: l.Version, KID: l.KID, Keystore: l.Keystore, State: now(l).State}
		d.add(NotInCatalog, &v, "the log says that it is %s (%s), and the catalog does not have it", v.State, now(l).Entry)
	}
	return d.all
}

// A disagreement is of one key set.
type disagreement struct {
	set *keystore.KeySet
	all []Mismatch
}

func (d *disagreement) add(kind MismatchKind, v *keystore.Version, format string, args ...any) {
	m := Mismatch{
		Kind: kind, Keystore: v.Keystore, KeySet: d.set.Name, Version: v.Number, KID: v.KID, State: v.State, What: fmt.Sprintf(format, args...),
	}
	if m.Keystore == "" {
		m.Keystore = d.set.Keystore
	}
	m.Todo = disagreementTodo(kind)
	d.all = append(d.all, m)
}

// now returns the last that a life tells.
func now(l *audit.KeyLife) audit.KeyStep {
	if len(l.Steps) == 0 {
		return audit.KeyStep{}
	}
	return l.Steps[len(l.Steps)-1]
}

// life compares a version with its life. was and row are it before and after the
// log was read.
func (d *disagreement) life(was, row *keystore.Version, l *audit.KeyLife) {
	said := now(l)
	switch {
	case said.State < was.State, said.State > row.State:
		d.add(LogState, row, "the catalog says that it is %s, and the log that it is %s (%s)", row.State, said.State, said.Entry)
	case was.Compromised != nil && l.Compromised == nil:
		d.add(LogState, row, "the catalog says that it is compromised, and the log does not")
	case row.Compromised == nil && l.Compromised != nil:
		d.add(LogState, row, "the log says that it is compromised (%s), and the catalog does not", l.Compromised.Entry)
	}
	switch {
	case was.KID != "" && l.KID != "" && was.KID != l.KID:
		d.add(LogKey, row, "the catalog has the kid %s, and the log %s", row.KID, l.KID)
	case l.Public != nil && was.SPKI != nil && !slices.Equal(l.Public, was.SPKI):
		d.add(LogKey, row, "the catalog has another public key than the log")
	case l.Algorithm != "" && l.Algorithm != was.Algorithm:
		d.add(LogKey, row, "the catalog has it for %s, and the log for %s", row.Algorithm, l.Algorithm)
	case len(l.Problems) > 0:
		d.add(LogKey, row, "the log contradicts itself: %s", l.Problems[0])
	}
}

// ComparePublished compares the set that a node serves, by kid, with the rows of a
// key set: what the catalog says that the node serves has to be there, and nothing
// that the world is not to know. before and after are the set before and after
// what is served was looked at, which was published by before or later. It is pure.
func ComparePublished(before, after *keystore.KeySet, node string, served []keystore.KID) []Mismatch {
	d := disagreement{set: after}
	known := func(ks *keystore.KeySet, kid keystore.KID) bool {
		return slices.ContainsFunc(ks.Known(), func(v *keystore.Version) bool { return v.KID == kid })
	}
	for _, v := range before.Known() {
		if _, acked := before.AckOf(node, v.Number); acked && known(after, v.KID) && !slices.Contains(served, v.KID) {
			d.add(JWKSMissing, v, "this node has said that it serves it, and the published set does not have it")
		}
	}
	for _, kid := range served {
		if known(before, kid) || known(after, kid) {
			continue
		}
		v, ok := after.ByKID(kid)
		if !ok {
			v = &keystore.Version{KID: kid}
		}
		d.add(JWKSExtra, v, "the published set has the kid %s, which the world is not to know", kid)
	}
	return d.all
}

func disagreementTodo(kind MismatchKind) string {
	switch kind {
	case JWKSMissing, JWKSExtra:
		return "restart the daemon, which publishes anew, and tell its makers; if it goes on, find out who changed it"
	case NotInCatalog:
		return "the catalog is an older copy, or someone took the row away: restore the newest copy, and find out who did"
	}
	return "verify the log with `chancery audit verify`; if it is whole, someone wrote to the catalog beside Chancery: find out who, and restore its newest copy"
}

// Enter tells the log of mismatches that Reconcile has not found itself, once each,
// and notes where they stand.
func (r *Rotator) Enter(ctx context.Context, found []Mismatch) error {
	for i := range found {
		if err := r.enterMismatch(ctx, &found[i]); err != nil {
			return fmt.Errorf("entering what was found: %w", err)
		}
	}
	return nil
}
