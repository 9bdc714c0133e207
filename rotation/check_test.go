package rotation

import (
	"strings"
	"testing"
	"time"

	"chancery/keystore"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*Spec)
		field   string
		warning bool
		part    string
	}{
		{"the schedule of chanceryd dev", func(*Spec) {}, "", false, ""},
		{"no skew", func(s *Spec) { s.Schedule.Skew = 0 }, "skew", false, "must be positive"},
		{"tokens without a lifetime", func(s *Spec) { s.Schedule.Lifetime = 0 }, "max_ttl", false, "longest lifetime"},
		{"a negative period", func(s *Spec) { s.Schedule.Every = -1 }, "rotate_every", false, "negative"},
		{"less than a second", func(s *Spec) { s.Schedule.Every = time.Millisecond }, "rotate_every", false, "less than a second"},
		{"no room for a rotation", func(s *Spec) { s.Schedule.Every = 35 * time.Minute }, "rotate_every", false, "rule 1"},
		{"too many versions at once", func(s *Spec) { s.Schedule.Every, s.Schedule.Lifetime = time.Hour, 24*time.Hour }, "rotate_every", false, "27 versions"},
		{"A below max-age", func(s *Spec) { s.Schedule.CacheFor = 14 * time.Minute }, "cache_for", false, "rule 3"},
		{"A below twice max-age", func(s *Spec) { s.Schedule.CacheFor = 29 * time.Minute }, "cache_for", true, "Age"},
		{"windows below what verifiers cache", func(s *Spec) { s.Schedule.MaxAge, s.Schedule.CacheFor = 2*time.Minute, 4*time.Minute }, "cache_for", true, "jwks-rsa"},
		{"a CA that rotates by itself", func(s *Spec) { s.Purpose = keystore.PurposeCA }, "rotate_every", false, "on request only"},
		{"destroying by schedule", func(s *Spec) { s.Schedule.DestroyAfter = time.Hour }, "destroy_after", false, "not destroyed"},
		{"log keys, which stay known for ever", func(s *Spec) { s.Purpose, s.Schedule.Lifetime = keystore.PurposeAudit, 0 }, "", false, ""},
	} {
		spec := Spec{Name: "web", Purpose: keystore.PurposeJWT, Schedule: slow}
		c.change(&spec)
		found := Check(spec)
		if c.field == "" && len(found) == 0 {
			continue
		}
		ok := false
		for _, f := range found {
			ok = ok || f.Field == c.field && f.Warning == c.warning && strings.Contains(f.Message, c.part)
		}
		if !ok {
			t.Errorf("%s: found %+v, want %s about %q", c.name, found, c.field, c.part)
		}
	}
}

// The schedule of --fast is short, and not wrong: one warning names who breaks.
func TestCheckFast(t *testing.T) {
	found := Check(Spec{Name: "web", Purpose: keystore.PurposeJWT, Schedule: fast})
	if len(found) != 1 || !found[0].Warning {
		t.Fatalf("found %+v", found)
	}
	for _, who := range []string{"npm jose", "jwks-rsa", "every 15 minutes"} {
		if !strings.Contains(found[0].Message, who) {
			t.Errorf("%q does not name %s", found[0].Message, who)
		}
	}
}

func TestEnsure(t *testing.T) {
	w := newWorld(t, fast)
	w.settle(t)
	changes := w.catalog.count
	if err := w.Ensure(t.Context(), []Spec{w.spec}); err != nil || w.catalog.count != changes {
		t.Errorf("the same configuration changed something: %v", err)
	}
	longer := w.spec
	longer.Schedule.Lifetime, longer.Algorithm = time.Hour, keystore.ES384
	if err := w.Ensure(t.Context(), []Spec{longer}); err == nil || !strings.Contains(err.Error(), "rule 11") {
		t.Errorf("an algorithm that discovery does not list: %v", err)
	}
	longer.Announced = []keystore.Algorithm{keystore.ES384} // too late: the set has been served
	if err := w.Ensure(t.Context(), []Spec{longer}); err == nil || !strings.Contains(err.Error(), "rule 11") {
		t.Errorf("an algorithm that is announced after the first day: %v", err)
	}
	if n := len(w.catalog.set("web").Promises); n != 1 {
		t.Errorf("a refused configuration left %d promises", n)
	}
	longer.Announced, longer.Algorithm = nil, keystore.ES256
	if err := w.Ensure(t.Context(), []Spec{longer}); err != nil {
		t.Fatal(err)
	}
	ks := w.catalog.set("web")
	if len(ks.Promises) != 2 || ks.Promises[1].MaxLifetime != time.Hour || ks.Algorithm != keystore.ES256 {
		t.Errorf("the set is %+v", ks)
	}
	if v, _ := ks.Active(); v.MaxLifetime != time.Hour || v.Algorithm != keystore.EdDSA {
		t.Errorf("the active version is %+v", v)
	}
	other := w.spec
	other.Purpose = keystore.PurposeCA
	if err := w.Ensure(t.Context(), []Spec{other}); err == nil || !strings.Contains(err.Error(), "for ever") {
		t.Errorf("another purpose: %v", err)
	}
}

func TestHistory(t *testing.T) {
	w := newWorld(t, fast)
	w.token.lose = true
	s, _, _ := w.of("web")
	_, _ = w.locked(t.Context(), "web", s)
	events := History(w.catalog.entries(), "web")
	if last := events[len(events)-1]; last.Event != "generate (outcome unknown)" || last.Version != 1 {
		t.Errorf("last event %+v", last)
	}
	w.token.lose = false
	w.settle(t)
	var got []string
	for _, e := range History(w.catalog.entries(), "web") {
		if e.By != System || e.Entry == "" {
			t.Errorf("%+v", e)
		}
		got = append(got, e.Event)
	}
	if want := "create generate publish activate generate publish"; strings.Join(got, " ") != want {
		t.Errorf("history %q, want %q", strings.Join(got, " "), want)
	}
	if other := History(w.catalog.entries(), "api"); len(other) != 0 {
		t.Errorf("another set's history: %+v", other)
	}
}
