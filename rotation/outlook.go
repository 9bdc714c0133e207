package rotation

import (
	"context"
	"time"

	"chancery/keystore"
)

// An Outlook is what lies ahead of a key set, at one moment.
type Outlook struct {
	Now   time.Time
	Steps []Planned // in order, as Timeline foresees them
	// Next is what the next step waits for, also if that is something that went
	// wrong when the step was last tried.
	Next  Why
	Waits []Why          // what each step waits for that can come next, as Waits returns them
	Asked *keystore.Fact // the rotation that an operator asked for and that is not done; nil: none
}

// Outlook returns what lies ahead of a configured key set, fresh from the
// catalog.
func (r *Rotator) Outlook(ctx context.Context, name string) (Outlook, error) {
	f, sch, err := r.Facts(ctx, name)
	if err != nil {
		return Outlook{}, err
	}
	now := r.now()
	o := Outlook{
		Now: now, Steps: Timeline(f, sch, now, horizon(f.Set, sch, now)),
		Waits: Waits(f, sch, now), Asked: planner{Facts: f}.asked(),
	}
	_, o.Next = Plan(f, sch, now)
	failed := ""
	if !o.Next.At.After(now) {
		failed = r.failed(name)
	}
	if _, spec, err := r.of(name); err == nil && r.cfg.Shared {
		if err := agrees(f.Set, spec); err != nil { // whatever is next, it is not for this node
			failed = err.Error()
		}
	}
	if failed != "" {
		o.Next.Text += "; held up: " + failed
		for i := range o.Waits {
			if o.Waits[i].Step == o.Next.Step {
				o.Waits[i].Text = o.Next.Text
			}
		}
	}
	return o, nil
}

// failed returns why the last attempt at a step of the set came to nothing, or "".
func (r *Rotator) failed(name string) string {
	s, _, err := r.of(name)
	if err != nil {
		return ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return s.lastErr
}
