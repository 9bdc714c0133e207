package rotation

import (
	"slices"
	"testing"
	"time"
)

// What a rotation's windows are made of is entered whenever it is not what was
// entered last, also where the catalog does not know of it.
func TestWhatIsConfiguredOtherwiseIsRestated(t *testing.T) {
	web := Spec{Name: "web", Purpose: "jwt", Algorithm: "ES256", Keystore: "hsm", Schedule: Schedule{
		Every: 24 * time.Hour, MaxAge: time.Minute, CacheFor: 5 * time.Minute, Skew: 5 * time.Minute, Lifetime: time.Hour,
	}}
	with := func(change func(*Spec)) Spec {
		spec := web
		change(&spec)
		return spec
	}
	entered := map[string]map[string]string{"web": particulars(web)}
	for _, test := range []struct {
		what string
		spec Spec
		want []string
	}{
		{"nothing has changed", web, nil},
		{"the skew", with(func(s *Spec) { s.Schedule.Skew = time.Minute }), []string{"web"}},
		{"the rhythm", with(func(s *Spec) { s.Schedule.Every = time.Hour }), []string{"web"}},
		{"what the log does not know", with(func(s *Spec) { s.Name = "edge" }), []string{"edge"}},
		{"a lease, which is not entered", with(func(s *Spec) { s.Schedule.Lease = time.Hour }), nil},
	} {
		var got []string
		for _, rec := range Restated([]Spec{test.spec}, entered) {
			got = append(got, rec.KeySet)
			if again := Restated([]Spec{test.spec}, map[string]map[string]string{rec.KeySet: rec.Detail}); len(again) != 0 {
				t.Errorf("%s: it is stated again: %+v", test.what, again)
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: stated of %v, want %v", test.what, got, test.want)
		}
	}
}
