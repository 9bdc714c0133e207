package simulation

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/rotation"
)

var (
	fast = Config{Schedule: rotation.Schedule{
		Every: 20 * time.Second, MaxAge: 2 * time.Second, CacheFor: 4 * time.Second,
		Skew: time.Second, Lifetime: 10 * time.Second, Lease: time.Second,
	}}
	slow = Config{Schedule: rotation.Schedule{
		Every: 30 * 24 * time.Hour, MaxAge: 15 * time.Minute, CacheFor: 30 * time.Minute,
		Skew: 5 * time.Minute, Lifetime: time.Hour, Lease: 5 * time.Second,
	}}
)

// TestNothingIsViolated has a million things happen, and a hundred million in the
// soak, of which none breaks a rule.
func TestNothingIsViolated(t *testing.T) {
	total, worlds := int64(1_000_000), []struct {
		name  string
		cfg   Config
		nodes int
		share int64 // of a hundred
	}{
		{"three nodes", fast, 3, 40},
		{"two nodes, and long times", slow, 2, 20},
		{"one node", fast, 1, 20},
		{"three nodes with an authority", authority(fast), 3, 20},
	}
	if os.Getenv("CHANCERY_SOAK") != "" {
		total *= 100
	}
	var sum Counts
	for _, c := range worlds {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Nodes = c.nodes
			r, err := Simulate(t.Context(), c.cfg, 1, total*c.share/100, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Violation != nil {
				report(t, r)
			}
			if r.Rotations < r.Worlds || r.Removals < r.Worlds/2 || r.Crashes == 0 || r.Tokens < 10*r.Worlds {
				t.Errorf("too little happens: %+v", r.Counts)
			}
			t.Logf("no violation: %+v", r.Counts)
			sum.add(r.Counts)
		})
	}
	if sum.Events < total {
		t.Errorf("%d events, want %d", sum.Events, total)
	}
}

// The same seed has the same things happen.
func TestTheSameSeedIsTheSameWorld(t *testing.T) {
	cfg, err := fast.WithoutRule(1)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := Simulate(t.Context(), cfg, 7, 10_000, nil)
	b, _ := Simulate(t.Context(), cfg, 7, 10_000, nil)
	if a.Violation == nil || !slices.Equal(a.Actions, b.Actions) || !slices.Equal(a.Story, b.Story) || a.Counts != b.Counts {
		t.Errorf("%v after %d events, and %v after %d", a.Violation, a.Events, b.Violation, b.Events)
	}
}

// What violates a rule does so in the story that is told, and not before its end.
func TestAStoryEndsWithItsViolation(t *testing.T) {
	cfg, err := fast.WithoutRule(2)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Simulate(t.Context(), cfg, 1, 100_000, nil)
	if err != nil || r.Violation == nil {
		t.Fatalf("%v, %v", r.Violation, err)
	}
	cfg, _ = cfg.checked()
	for i := range r.Actions {
		if w := replay(cfg, r.Unsteady, r.Actions[:i], nil); w.violation != nil {
			t.Fatalf("violated by %d of %d actions", i, len(r.Actions))
		}
		fewer := slices.Delete(slices.Clone(r.Actions), i, i+1)
		if w := replay(cfg, r.Unsteady, fewer, nil); w.violation != nil && w.violation.Rule == r.Violation.Rule {
			t.Errorf("violated without %v", r.Actions[i])
		}
	}
	if told := strings.Join(r.Story, "\n"); !strings.Contains(told, "VIOLATED: "+r.Violation.String()[:7]) {
		t.Errorf("the story does not tell %v:\n%s", r.Violation, told)
	}
}

// authority is a configuration of certificates, which rotate on request.
func authority(cfg Config) Config {
	cfg.Purpose, cfg.Schedule.Every = keystore.PurposeCA, 0
	return cfg
}

// report fails a test with the story of a violation.
func report(t *testing.T, r Report) {
	t.Helper()
	t.Fatalf("%v (seed %d)\n%s", r.Violation, r.Seed, strings.Join(r.Story, "\n"))
}
