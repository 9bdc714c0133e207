package config

import (
	"slices"
	"strings"
	"testing"
)

// What gRPC may cost is said of the signing listener, within bounds.
func TestGRPCLimits(t *testing.T) {
	dir := world(t)
	for _, c := range []struct {
		said string // of the signing listener's limits
		want string // the finding; empty: none
	}{
		{"{streams: 100, per_client: 10, calls: 20, in_flight: 8, resets: 50}", ""},
		{"{}", ""},
		{"{streams: 257}", "listeners.signing.limits.grpc.streams"},
		{"{streams: 0}", "listeners.signing.limits.grpc.streams"},
		{"{in_flight: 2000}", "listeners.signing.limits.grpc.in_flight"},
		{"{resets: 1}", "listeners.signing.limits.grpc.resets"},
		{"{per_client: 30, calls: 20}", "listeners.signing.limits.grpc.per_client"},
		{"{frames: 1}", "listeners.signing.limits.grpc.frames"},
	} {
		cfg, findings := loadText(t, dir, withMembers(t, dir, "", "    limits: {grpc: "+c.said+"}\n"))
		if c.want == "" && (len(findings) > 0 || cfg == nil) || c.want != "" && !slices.ContainsFunc(findings, func(f Finding) bool { return strings.Contains(f.String(), c.want) }) {
			t.Errorf("%s: %v, want %q", c.said, findings, c.want)
		}
	}
	text := strings.Replace(devText(t, dir, false), "  ops:\n", "  ops:\n    limits: {grpc: {streams: 8}}\n", 1)
	if _, findings := loadText(t, dir, text); len(findings) != 1 || findings[0].Line == 0 || findings[0].Hint == "" {
		t.Errorf("the ops listener: %v", findings)
	}
	cfg, _ := loadText(t, dir, withMembers(t, dir, "", "    limits: {grpc: {streams: 100, per_client: 10, calls: 20, in_flight: 8, resets: 50}}\n"))
	if want := (GRPCLimits{100, 10, 20, 8, 50}); cfg == nil || cfg.Listeners.Signing.Limits.GRPC != want {
		t.Errorf("%+v, want %+v", cfg, want)
	}
}
