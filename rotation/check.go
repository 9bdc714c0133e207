package rotation

import (
	"fmt"
	"strings"
	"time"

	"chancery/keystore"
)

// A Finding is something wrong with a schedule.
type Finding struct {
	Field   string // the member of the key set's configuration: "rotate_every", …
	Warning bool   // otherwise the schedule violates a rule and is refused
	Message string
	Hint    string
}

// Check returns what is wrong with a key set's schedule: errors where it
// violates the rules of rotation, warnings where it is shorter than what
// verifiers out there cache, naming who breaks. It is pure.
func Check(spec Spec) []Finding {
	c := checker{Spec: spec, sch: spec.Schedule}
	c.signs()
	c.windows()
	c.every()
	if c.Purpose == keystore.PurposeJWT {
		c.verifiers()
	}
	return c.findings
}

type checker struct {
	Spec
	sch      Schedule
	findings []Finding
}

func (c *checker) errorf(field, hint, format string, args ...any) {
	c.findings = append(c.findings, Finding{Field: field, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (c *checker) warnf(field, hint, format string, args ...any) {
	c.findings = append(c.findings, Finding{Field: field, Warning: true, Message: fmt.Sprintf(format, args...), Hint: hint})
}

// signs looks at each duration by itself.
func (c *checker) signs() {
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"rotate_every", c.sch.Every}, {"max_age", c.sch.MaxAge}, {"cache_for", c.sch.CacheFor},
		{"max_ttl", c.sch.Lifetime}, {"destroy_after", c.sch.DestroyAfter},
	} {
		if d.value < 0 {
			c.errorf(d.field, "", "%v is negative", d.value)
		}
	}
	if c.sch.Skew <= 0 {
		c.errorf("skew", "clocks differ: five minutes is usual", "the clock skew is %v and must be positive", c.sch.Skew)
	}
	if c.Purpose == keystore.PurposeJWT && c.sch.Lifetime == 0 {
		c.errorf("max_ttl", "", "tokens need a longest lifetime")
	}
	if c.sch.DestroyAfter > 0 {
		c.errorf("destroy_after", "remove it: `chancery keys destroy` destroys a retired key", "keys are not destroyed by schedule")
	}
}

func (c *checker) windows() {
	switch {
	case c.sch.CacheFor < c.sch.MaxAge:
		c.errorf("cache_for", fmt.Sprintf("set it to %v or more", 2*c.sch.MaxAge),
			"caches hold a set for max_age at least: %v is less than %v (rule 3)", c.sch.CacheFor, c.sch.MaxAge)
	case c.sch.CacheFor < 2*c.sch.MaxAge:
		c.warnf("cache_for", fmt.Sprintf("set it to %v or more", 2*c.sch.MaxAge),
			"%v is less than twice max_age: clients that ignore the Age header behind a shared cache break", c.sch.CacheFor)
	}
}

// every looks at whether a rotation fits into its period.
func (c *checker) every() {
	every, window := c.sch.Every, c.sch.CacheFor+c.sch.Skew
	if every <= 0 {
		return
	}
	if c.Purpose == keystore.PurposeCA || c.Purpose == keystore.PurposeDigest {
		c.errorf("rotate_every", "remove it and run `chancery rotation now`", "key sets of purpose %s rotate on request only", c.Purpose)
		return
	}
	if every < time.Second {
		c.errorf("rotate_every", "", "%v is less than a second", every)
	}
	if every <= window {
		c.errorf("rotate_every", fmt.Sprintf("set it to more than %v", window),
			"a successor has to be published for cache_for + skew = %v before it signs, which does not fit into %v (rule 1)", window, every)
		return
	}
	if c.Purpose == keystore.PurposeAudit { // known for ever, however many
		return
	}
	if c.sch.Lifetime == 0 {
		c.warnf("rotate_every", "", "what the key set signs never expires, so at most %d versions fit before rotation stops", MaxKnown)
		return
	}
	kept := c.sch.Lease + c.sch.Lifetime + c.sch.Skew
	known := 2 + int((kept+every-1)/every) // active, successor, and the retiring
	if known > MaxKnown {
		c.errorf("rotate_every", fmt.Sprintf("set it to %v or more, or lower max_ttl", (kept/(MaxKnown-2)).Round(time.Second)+time.Second),
			"%d versions would be known at once, no more than %d may be (rule 2)", known, MaxKnown)
	}
}

// verifiers names the verifiers that do not learn of a version as fast as the
// schedule lets it sign. PyJWT and go-oidc fetch the set again at once when
// they meet an unknown kid and are not among them.
func (c *checker) verifiers() {
	lead := c.sch.CacheFor + c.sch.Skew
	var broken []string
	for _, v := range []struct {
		name string
		need time.Duration
	}{
		{"npm jose (refuses until 30s after its last fetch)", 30 * time.Second},
		{"npm jwks-rsa (10-minute cache, fetches again at a limited rate)", 10 * time.Minute},
		{"verifiers that fetch every 15 minutes and never at an unknown kid", 15 * time.Minute},
	} {
		if lead < v.need {
			broken = append(broken, v.name)
		}
	}
	if len(broken) > 0 {
		c.warnf("cache_for", "raise cache_for to 15m or more, or say accept_short_windows: true",
			"a version may sign %v after it is published, before these know it: %s", lead, strings.Join(broken, "; "))
	}
}
