package config

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// audited puts an audit section into the development configuration.
func audited(t testing.TB, dir, members string) string {
	t.Helper()
	text := "\naudit:\n  " + strings.ReplaceAll(members, "\n", "\n  ") + "\n"
	return strings.Replace(devText(t, dir, false), "\nkeystores:\n", text+"keystores:\n", 1)
}

func TestAnAuditSectionLoads(t *testing.T) {
	dir := world(t)
	put(t, filepath.Join(dir, "policy"), "quorum none\n", 0o600)
	cfg, findings := loadText(t, dir, audited(t, dir, "keep_acts: 400d\nwitnesses: {policy: policy}\nanchors:\n"+
		"  - {file: anchor, every: 30s}\n  - {syslog: 'unix:/dev/log'}\n  - {url: 'https://anchors.example.com/chancery', ca: ca.crt}"))
	for _, f := range findings {
		t.Error(f)
	}
	a := cfg.Audit
	if a.KeepActs != 400*24*time.Hour || a.Witnesses.Policy == nil || a.Witnesses.Every != DefaultWitnessEvery || len(a.Anchors) != 3 {
		t.Fatalf("%+v", a)
	}
	if f := a.Anchors[0]; f.File != filepath.Join(dir, "anchor") || f.Every != 30*time.Second || f.Name() != "file "+f.File {
		t.Errorf("%+v", f)
	}
	if s := a.Anchors[1]; s.Every != DefaultAnchorEvery || s.Name() != "syslog unix:/dev/log" {
		t.Errorf("%+v", s)
	}
	if u := a.Anchors[2]; u.CA != filepath.Join(dir, "ca.crt") || u.Name() != "https://anchors.example.com/chancery" {
		t.Errorf("%+v", u)
	}
	without, _ := loadText(t, dir, devText(t, dir, false))
	if without.NeedsRestart(cfg) != "audit" || cfg.NeedsRestart(cfg) != "" {
		t.Errorf("a change of it needs a restart: %q", without.NeedsRestart(cfg))
	}
}

func TestMistakesOfAnAuditSection(t *testing.T) {
	dir := world(t)
	put(t, filepath.Join(dir, "policy"), "quorum none\n", 0o600)
	put(t, filepath.Join(dir, "open"), "quorum none\n", 0o666)
	put(t, filepath.Join(dir, "bad"), "quorum nobody\n", 0o600)
	for _, c := range []struct{ members, want string }{
		{"keep_acts: 30d", "audit.keep_acts"},
		{"witnesses: {every: 1m}", "audit.witnesses"},
		{"witnesses: {policy: nowhere}", "audit.witnesses.policy"},
		{"witnesses: {policy: open}", "audit.witnesses.policy"},
		{"witnesses: {policy: bad}", "audit.witnesses.policy"},
		{"anchors: [{every: 1m}]", "audit.anchors[0]"},
		{"anchors: [{file: a, syslog: 'unix:/dev/log'}]", "audit.anchors[0]"},
		{"anchors: [{file: a}, {file: a}]", "audit.anchors[1]"},
		{"anchors: [{file: a, ca: ca.crt}]", "audit.anchors[0].ca"},
		{"anchors: [{syslog: 'localhost:514'}]", "audit.anchors[0].syslog"},
		{"anchors: [{syslog: 'unix:log'}]", "audit.anchors[0].syslog"},
		{"anchors: [{syslog: 'udp://localhost'}]", "audit.anchors[0].syslog"},
		{"anchors: [{url: 'ftp://localhost/'}]", "audit.anchors[0].url"},
		{"anchors: [{url: 'http://anchors.example.com/'}]", "audit.anchors[0].url"},
		{"anchors: [{url: 'https://me:pass@anchors.example.com/'}]", "audit.anchors[0].url"},
		{"anchors: [{url: 'https://anchors.example.com/', ca: policy}]", "audit.anchors[0].ca"},
		{"anchors: [{file: a, every: 0s}]", "audit.anchors[0].every"},
	} {
		_, findings := loadText(t, dir, audited(t, dir, c.members))
		if len(findings) != 1 || findings[0].Path != c.want || findings[0].Severity != Error {
			t.Errorf("%s: want one error at %s, have %v", c.members, c.want, findings)
		}
	}
}
