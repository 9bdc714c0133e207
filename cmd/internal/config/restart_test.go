package config

import (
	"strings"
	"testing"
)

func TestNeedsRestart(t *testing.T) {
	dir := world(t)
	good := devText(t, dir, false)
	before, _ := loadText(t, dir, good)
	for _, c := range []struct{ old, new, want string }{
		{"node: dev", "node: dev # the same", ""},
		{"serials: []", "serials: [0a]", ""},
		{"types: [JWT, at+jwt]", "types: [JWT]", ""},
		{"accept_short_windows: false", "accept_short_windows: true", ""},
		{"accept_unsynchronised_clock: true", "accept_unsynchronised_clock: false", ""},
		{"node: dev", "node: prod", "node"},
		{"max_age: 15m", "max_age: 10m", "keysets"},
		{"tcp: 127.0.0.1:9090", "tcp: 127.0.0.1:9091", "listeners"},
		{"common_name: Chancery", "common_name: Another", "authorities"},
		{"SOFTHSM2_CONF", "SOFTHSM3_CONF", "keystores"},
	} {
		after, findings := loadText(t, dir, strings.Replace(good, c.old, c.new, 1))
		if Failed(findings) {
			t.Fatal(findings)
		}
		if got := before.NeedsRestart(after); got != c.want {
			t.Errorf("%s: %q needs a restart, want %q", c.new, got, c.want)
		}
		if before.Hash() == after.Hash() {
			t.Errorf("%s: the hash is the same", c.new)
		}
	}
}
