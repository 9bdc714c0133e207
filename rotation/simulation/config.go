package simulation

import (
	"errors"
	"fmt"
	"time"

	"chancery/keystore"
	"chancery/rotation"
)

// A Config is what a simulation is of.
type Config struct {
	Schedule rotation.Schedule
	Purpose  keystore.Purpose // jwt or ca; "": jwt
	Nodes    int              // 1 to 3; 0: 3
	// Publishing is how long a node serves a set that it cannot renew. Zero: twice A,
	// and no less than ten signing leases.
	Publishing time.Duration
	// without is what the world does without: see WithoutRule.
	without switched
}

// WithoutRule returns c without a rule, by its number, so that it is seen whether
// the simulation misses the rule.
func (c Config) WithoutRule(rule int) (Config, error) {
	if rule < 1 || rule >= len(switches) {
		return c, fmt.Errorf("there is no rule %d, they are 1 to %d", rule, len(switches)-1)
	}
	c.without = switches[rule]
	if rule == 10 { // it is about certificates
		c.Purpose, c.Schedule.Every = keystore.PurposeCA, 0
	}
	return c, nil
}

// Check returns nil if c can be simulated.
func (c Config) Check() error {
	_, err := c.checked()
	return err
}

// checked returns c with its defaults.
func (c Config) checked() (Config, error) {
	if c.Purpose == "" {
		c.Purpose = keystore.PurposeJWT
	}
	if c.Nodes == 0 {
		c.Nodes = maxNodes
	}
	sch := &c.Schedule
	if sch.Lease == 0 {
		sch.Lease = 5 * time.Second
	}
	if c.Publishing == 0 {
		c.Publishing = max(2*sch.CacheFor, 10*sch.Lease)
	}
	switch {
	case c.Purpose != keystore.PurposeJWT && c.Purpose != keystore.PurposeCA:
		return c, fmt.Errorf("a key set of purpose %q is not simulated", c.Purpose)
	case c.Nodes < 1 || c.Nodes > maxNodes:
		return c, fmt.Errorf("%d nodes: 1 to %d are simulated", c.Nodes, maxNodes)
	case sch.Lifetime <= 0:
		return c, errors.New("what is signed needs a longest lifetime")
	case sch.Skew < time.Millisecond || sch.CacheFor < time.Millisecond:
		return c, errors.New("the clock skew and the time caches hold a set are a millisecond at least")
	}
	spec := rotation.Spec{Name: "web", Purpose: c.Purpose, Algorithm: keystore.ES256, Keystore: "hsm", Schedule: *sch}
	for _, f := range rotation.Check(spec) {
		if !f.Warning {
			return c, fmt.Errorf("%s: %s", f.Field, f.Message)
		}
	}
	sch.Ahead = rotation.Ahead(c.Purpose)
	sch.NoHorizon = c.Nodes > 1 && c.without&(offLostHorizons|offIssued) == 0 // as the daemon has it
	return c, nil
}
