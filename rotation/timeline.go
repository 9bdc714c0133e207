package rotation

import (
	"fmt"
	"strings"
	"time"

	"chancery/keystore"
)

// Planned is a step ahead.
type Planned struct {
	At      time.Time
	Version int
	Kind    Kind
	Rule    int    // the rotation rule that holds it until then; 0: the schedule
	HeldBy  string // what the step waits for until then
}

// maxPlanned bounds a timeline.
const maxPlanned = 64

// Timeline returns what Plan will do from now until the given time, in order,
// at most 64 steps: the same engine run ahead on a copy of the set, as if keys
// were made and every node acknowledged at once and the active version signed to its
// last moment. What waits for an operator is not in it. It is pure.
func Timeline(f Facts, sch Schedule, now, until time.Time) []Planned {
	f.Set = f.Set.Clone()
	if f.Rotate != nil {
		f.Set.RotateBy = f.Rotate
	}
	for _, v := range f.Set.Known() {
		if last, waits, _ := evidence(f, v, now); !v.ServedAt.IsZero() && len(waits) == 0 {
			v.ServedAt = last
		} else {
			v.ServedAt = time.Time{}
		}
	}
	f.Rotate, f.Proven, f.Nodes = nil, nil, nil // Gone stays: what has lost its key does not sign
	var steps []Planned
	for t := now; len(steps) < maxPlanned; {
		serveAll(f.Set, t)
		step, why := Plan(f, sch, t)
		if step == NoStep {
			if !why.At.After(t) || why.At.After(until) {
				break
			}
			t = why.At
			continue
		}
		steps = append(steps, Planned{At: t, Version: step.Version, Kind: step.Kind, Rule: why.Rule, HeldBy: why.Text})
		if step.From != 0 {
			steps = append(steps, Planned{At: t, Version: step.From, Kind: Retire, Rule: 4, HeldBy: "rule 4: one version signs at a time"})
		}
		if foresee(f.Set, sch, step, why, t) != nil {
			break
		}
	}
	return steps
}

// serveAll has the node serve every version that is known.
func serveAll(ks *keystore.KeySet, t time.Time) {
	for _, v := range ks.Known() {
		if v.ServedAt.IsZero() {
			v.ServedAt = t
		}
		if ks.ServedAt.IsZero() {
			ks.ServedAt = t
		}
	}
}

// foresee takes a step in thought.
func foresee(ks *keystore.KeySet, sch Schedule, step Step, why Why, t time.Time) error {
	v, _ := ks.Version(step.Version)
	switch step.Kind {
	case Generate:
		ks.Versions = append(ks.Versions, keystore.Version{
			Number: step.Version, Algorithm: ks.Algorithm, Keystore: ks.Keystore, State: keystore.Pending, CreatedAt: t,
			KID: keystore.KID(fmt.Sprintf("version %d", step.Version)),
		})
	case Publish:
		v.State, v.PublishedAt = keystore.Published, t
	case Destroy:
		v.State, v.DestroyedAt = keystore.Destroyed, t
	case Activate, Remove:
		if old, swap := ks.Active(); swap && step.Kind == Activate {
			old.ExpHorizon = later(old.ExpHorizon, t.Add(2*lifetime(ks, sch, t)))
		}
		_, err := apply(ks, sch, step, why, t)
		return err
	}
	return nil
}

// A Window is when a version signs and is known, as far as it can be told:
// times ahead are planned, and zero where nothing is.
type Window struct {
	SignsFrom  time.Time // the first moment it signs or signed
	SignsUntil time.Time // the end of signing
	RetiresAt  time.Time // it leaves the published set
}

// Windows returns the window of each version of the set by number, looking far
// enough ahead to cover the versions that are known now. It is pure.
func Windows(f Facts, sch Schedule, now time.Time) map[int]Window {
	windows := make(map[int]Window, len(f.Set.Versions))
	for i := range f.Set.Versions {
		v := &f.Set.Versions[i]
		windows[v.Number] = Window{SignsFrom: v.ActivatedAt, SignsUntil: v.StoppedAt, RetiresAt: v.RetiredAt}
	}
	for _, p := range Timeline(f, sch, now, horizon(f.Set, sch, now)) {
		w, ok := windows[p.Version]
		switch {
		case !ok:
			continue
		case p.Kind == Activate:
			w.SignsFrom = p.At
		case p.Kind == Retire:
			w.SignsUntil = p.At
		case p.Kind == Remove:
			w.RetiresAt = p.At
		}
		windows[p.Version] = w
	}
	return windows
}

// horizon is far enough ahead of now for two rotations and for everything that
// is known now to have left the set.
func horizon(ks *keystore.KeySet, sch Schedule, now time.Time) time.Time {
	return now.Add(2*(sch.Every+cacheFor(ks, sch, now)+sch.Skew+sch.Lease+lifetime(ks, sch, now)) + time.Hour)
}

// Alarms returns what an operator should know about the set's versions, by
// number: a version that signs beyond its period, one that is suspended, one
// that waits without an end. It is pure.
func Alarms(f Facts, sch Schedule, now time.Time) map[int][]string {
	alarms := map[int][]string{}
	active, ok := f.Set.Active()
	if known := len(f.Set.Known()); ok && isLimited(f.Set) && known >= manyKnown {
		alarms[active.Number] = append(alarms[active.Number], fmt.Sprintf("%d versions are known, and %d at most may be: rotation stops then", known, MaxKnown))
	}
	if ok && sch.Every > 0 {
		if over := now.Sub(active.ActivatedAt.Add(sch.Every)); over > sch.lead()/10 && active.Suspended == nil {
			alarms[active.Number] = append(alarms[active.Number], fmt.Sprintf("signs %v beyond its period", over.Round(time.Second)))
		}
	}
	for i := range f.Set.Versions {
		v := &f.Set.Versions[i]
		if v.Suspended != nil && v.State.Known() {
			alarms[v.Number] = append(alarms[v.Number], "suspended by "+v.Suspended.By+": "+v.Suspended.Reason)
		}
		if f.Gone != nil && v.State.Known() {
			if gone := f.Gone(v.KID); gone != "" {
				alarms[v.Number] = append(alarms[v.Number], gone)
			}
		}
		if v.State == keystore.Pending && now.Sub(v.CreatedAt) > time.Minute {
			alarms[v.Number] = append(alarms[v.Number], "its key has not come to be yet")
		}
		if v.State == keystore.Published && now.Sub(v.PublishedAt) > time.Minute {
			alarms[v.Number] = append(alarms[v.Number], unservedBy(f, v, now)...)
		}
	}
	return alarms
}

// unservedBy tells which nodes do not serve a version that has been published for
// a while.
func unservedBy(f Facts, v *keystore.Version, now time.Time) []string {
	if v.ServedAt.IsZero() {
		return []string{"no node has said that it serves it"}
	}
	if _, waits, _ := evidence(f, v, now); len(waits) > 0 {
		return []string{"not every node has said that it serves it: not " + strings.Join(waits, ", ")}
	}
	return nil
}
