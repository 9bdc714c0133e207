package rotation

import (
	"fmt"
	"time"

	"chancery/keystore"
)

// System is the principal of what time did.
const System = "chancery"

// apply takes a step that needs no key to be made, and returns what the log is
// told. who asked for it and why goes by the set's pending rotation.
func apply(ks *keystore.KeySet, sch Schedule, step Step, why Why, now time.Time) ([]keystore.Record, error) {
	v, ok := ks.Version(step.Version)
	if !ok {
		return nil, fmt.Errorf("version %d of %s: %w", step.Version, ks.Name, keystore.ErrNotFound)
	}
	switch step.Kind {
	case Remove:
		v.State, v.RetiredAt = keystore.Retired, now
		return []keystore.Record{record(ks, v, keystore.ActKeyRemove, why)}, nil
	case Activate:
		return activate(ks, sch, v, why, now)
	}
	return nil, fmt.Errorf("step %q is not one that is applied", step.Kind)
}

// activate makes v sign and its predecessor retire, at once (rule 4).
func activate(ks *keystore.KeySet, sch Schedule, v *keystore.Version, why Why, now time.Time) ([]keystore.Record, error) {
	old, swap := ks.Active()
	v.State, v.ActivatedAt, v.MaxLifetime = keystore.Active, now, lifetime(ks, sch, now)
	rec := record(ks, v, keystore.ActKeyActivate, why)
	records := []keystore.Record{rec}
	if swap {
		old.State, old.StoppedAt = keystore.Retiring, now
		// What was allowed while it was active counts, also what was announced last.
		old.MaxLifetime = max(old.MaxLifetime, lifetime(ks, sch, now))
		gone := record(ks, old, keystore.ActKeyRetire, why)
		gone.Reason = fmt.Sprintf("version %d signs from now on", v.Number)
		records = append(records, gone)
	}
	if by := ks.RotateBy; by != nil {
		for i := range records {
			records[i].Principal = by.By
		}
		records[0].Reason = by.Reason
		ks.RotateBy = nil
	}
	return records, nil
}

// record is what the log is told of a step of v.
func record(ks *keystore.KeySet, v *keystore.Version, action keystore.Action, why Why) keystore.Record {
	r := keystore.Record{
		Principal: System, Action: action, Outcome: keystore.OutcomeDone,
		KeySet: ks.Name, KID: v.KID, Version: v.Number, State: v.State.String(),
		Reason: why.Text,
	}
	if why.Rule != 0 {
		r.Rule = fmt.Sprintf("rotation/%d", why.Rule)
	}
	return r
}
