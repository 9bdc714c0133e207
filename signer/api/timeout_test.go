package api

import (
	"testing"
	"time"
)

func TestTimeouts(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"2": 2 * time.Second, "0.25": 250 * time.Millisecond, "0.001": time.Millisecond, "10.500": 10500 * time.Millisecond, "99999": 99999 * time.Second,
		"": 0, "0": 0, "0.000": 0, ".5": 0, "5.": 0, "-1": 0, "+1": 0, "1e3": 0, "01": 0, "1s": 0, " 1": 0, "0.0001": 0, "100000": 0, "1,5": 0, "٣": 0, "0x1": 0, "1_0": 0,
	} {
		got, err := ParseTimeout(text)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for d, want := range map[time.Duration]string{
		-time.Second: "0.001", 0: "0.001", 1500 * time.Microsecond: "0.001", 250 * time.Millisecond: "0.250", 3 * time.Second: "3", 1000 * time.Hour: "86400",
	} {
		if got := FormatTimeout(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// FuzzTimeout: what parses formats to what parses to the same.
func FuzzTimeout(f *testing.F) {
	for _, s := range []string{"2", "0.25", "99999.999", "0", "1e9", "00.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseTimeout(s)
		if err != nil {
			return
		}
		if d < time.Millisecond || d >= 100_000*time.Second {
			t.Fatalf("%q is %v", s, d)
		}
		if again, err := ParseTimeout(FormatTimeout(d)); d <= 24*time.Hour && (err != nil || again != d) {
			t.Errorf("%q is %v, and then %v, %v", s, d, again, err)
		}
	})
}
