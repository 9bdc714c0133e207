package load

import (
	"errors"
	"math"
	"testing"
)

func TestTheBoundIsTheCoresOverTheParts(t *testing.T) {
	p := Parts{Sign: 60, Verify: 80, Log: 10, Floor: 50}
	for _, c := range []struct {
		name         string
		cores, batch int
		verified     float64
		want         float64
	}{
		{"verified, each by itself", 2, 0, 1, 2e6 / 200},
		{"a batch of one is no batch", 2, 1, 1, 2e6 / 200},
		{"sampled: one of sixteen", 2, 0, 1.0 / 16, 2e6 / 125},
		{"not verified", 2, 0, 0, 2e6 / 120},
		{"in batches the way in and out is shared", 2, 50, 1, 2e6 / 151},
		{"one core", 1, 0, 1, 1e6 / 200},
	} {
		got, err := p.Bound(c.cores, c.batch, c.verified)
		if err != nil || math.Abs(got-c.want) > 1e-6 {
			t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
		}
	}
}

// A part that is not measured must not count as one that costs nothing: the bound
// would be too high, and the share too low, or the other way round.
func TestThereIsNoBoundWithoutAPart(t *testing.T) {
	for name, p := range map[string]Parts{
		"sign": {Verify: 1, Log: 1, Floor: 1}, "verify": {Sign: 1, Log: 1, Floor: 1},
		"log": {Sign: 1, Verify: 1, Floor: 1}, "rpc": {Sign: 1, Verify: 1, Log: 1},
	} {
		if _, err := p.Bound(2, 0, 1); !errors.Is(err, ErrUnmeasured) {
			t.Errorf("without %s: error %v", name, err)
		}
	}
	if _, err := (Parts{Sign: 1, Log: 1, Floor: 1}).Bound(2, 0, 0); err != nil {
		t.Errorf("what nobody verifies needs no measure of it: %v", err)
	}
}

func TestModesOfVerifying(t *testing.T) {
	for _, c := range []struct {
		mode, algorithm string
		want            float64
	}{
		{"all", "ES256", 1}, {"sampled", "ES256", 1.0 / 16}, {"sampled", "EdDSA", 1.0 / 16}, {"sampled", "RS256", 1}, {"sampled", "PS256", 1},
	} {
		if got, ok := Verified(c.mode, c.algorithm); !ok || got != c.want {
			t.Errorf("%s, %s: %v, %v; want %v", c.mode, c.algorithm, got, ok, c.want)
		}
	}
	if _, ok := Verified("none", "ES256"); ok {
		t.Error("none is no mode of a daemon")
	}
}
