package rotation

import (
	"time"

	"chancery/keystore"
)

// Apply takes a step that Plan has returned, Activate or Remove, on ks at now, as
// a Rotator does inside its swap, and returns what the log is told. It is for
// what runs the engine without a Rotator, such as a simulation. It is pure.
func Apply(ks *keystore.KeySet, sch Schedule, step Step, why Why, now time.Time) ([]keystore.Record, error) {
	return apply(ks, sch, step, why, now)
}

// Reconfigure returns ks as spec wants it, and whether that changes anything, as
// Ensure records it. It refuses what the rules do not allow, with an error that
// names the rule. It is pure.
func Reconfigure(ks *keystore.KeySet, spec Spec, now time.Time) (next *keystore.KeySet, changed bool, err error) {
	if err := listed(ks, spec); err != nil {
		return nil, false, err
	}
	next, changed = reconfigured(ks, spec, now)
	return next, changed, nil
}

// NewSet returns the key set that spec asks for, as Ensure creates it at now.
func NewSet(spec Spec, now time.Time) *keystore.KeySet {
	return &keystore.KeySet{
		Name: spec.Name, Purpose: spec.Purpose, Algorithm: spec.Algorithm, Keystore: spec.Keystore,
		Announced: spec.announced(), CreatedAt: now, Promises: []keystore.Promise{spec.Schedule.promise(now)},
	}
}
