package transit

import (
	"context"
	"errors"
)

// An Inspection is what Inspect found.
type Inspection struct {
	// Excess is what the token may do beyond what Chancery needs; "": nothing, or
	// Vault does not say.
	Excess string
	// Wrong is why the mount cannot be used as it is configured; nil: it can.
	Wrong error
}

// Inspect logs in and looks at the mount and at what the token may do, and changes
// nothing there; the login counts as one where Vault counts them. Its error says
// that Vault could not be asked.
func Inspect(ctx context.Context, cfg Config) (Inspection, error) {
	cfg.StateDir, cfg.OnState, cfg.OnChange = "", nil, nil
	p, err := prepare(cfg)
	if err != nil {
		return Inspection{Wrong: err}, nil
	}
	p.crew.Go(func() { p.login.run(p.ctx) })
	defer p.Close()
	err = p.login.first(ctx)
	if err == nil {
		err = p.lookAtMount(ctx)
	}
	if err == nil {
		err = p.lookAtRights(ctx, 0)
	}
	if down := p.cluster.trouble(); down != nil {
		return Inspection{}, down
	}
	if err != nil && ctx.Err() != nil {
		return Inspection{}, errors.Join(errors.New("no answer in time"), err)
	}
	if t := troubleOf(err); t != nil && (t.kind == limited || t.kind == stale || !t.serves()) { // it may pass
		return Inspection{}, err
	}
	if err == nil && p.lacks != "" {
		err = errors.New(p.lacks)
	}
	return Inspection{Excess: p.excess, Wrong: err}, nil
}
