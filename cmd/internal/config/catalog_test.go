package config

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shared puts a catalog in PostgreSQL into the development configuration.
func shared(t testing.TB, dir, members string) string {
	t.Helper()
	text := "\ncatalog:\n  " + strings.ReplaceAll(members, "\n", "\n  ") + "\n"
	return strings.Replace(devText(t, dir, false), "\nkeystores:\n", text+"keystores:\n", 1)
}

const sharedURL = "postgres://chancery@db.example.com/chancery?sslmode=verify-full"

func TestACatalogInPostgresLoads(t *testing.T) {
	dir := world(t)
	put(t, filepath.Join(dir, "password"), "x", 0o600)
	for _, c := range []struct {
		members string
		lease   time.Duration
		file    string
	}{
		{"postgres: {url: '" + sharedURL + "'}", DefaultPublishingLease, ""},
		{"postgres: {url: '" + sharedURL + "', password_file: password}\npublishing_lease: 1m", time.Minute, filepath.Join(dir, "password")},
	} {
		cfg, findings := loadText(t, dir, shared(t, dir, c.members))
		for _, f := range findings {
			t.Errorf("%s: %v", c.members, f)
		}
		got := cfg.Catalog
		if !got.Shared() || got.Postgres.URL != sharedURL || got.Postgres.PasswordFile != c.file || got.PublishingLease != c.lease {
			t.Errorf("%s: %+v", c.members, got)
		}
		alone, _ := loadText(t, dir, devText(t, dir, false))
		if alone.Catalog.Shared() || alone.NeedsRestart(cfg) != "catalog" || cfg.NeedsRestart(cfg) != "" {
			t.Errorf("%s: a change of it needs a restart: %q", c.members, alone.NeedsRestart(cfg))
		}
	}
}

func TestMistakesOfACatalog(t *testing.T) {
	dir := world(t)
	put(t, filepath.Join(dir, "open"), "x", 0o644)
	put(t, filepath.Join(dir, "kept"), "x", 0o600)
	for _, c := range []struct{ members, want string }{
		{"postgres: {password_file: kept}", "catalog.postgres"},
		{"postgres: {url: '" + sharedURL + "', password_file: nowhere}", "catalog.postgres.password_file"},
		{"postgres: {url: '" + sharedURL + "', password_file: open}", "catalog.postgres.password_file"},
		{"postgres: {url: 'postgres://chancery:secret@db.example.com/chancery?sslmode=verify-full'}", "catalog.postgres.url"},
		{"postgres: {url: 'postgres://chancery@db.example.com/chancery?sslmode=disable'}", "catalog.postgres.url"},
		{"postgres: {url: 'mysql://chancery@db.example.com/chancery'}", "catalog.postgres.url"},
		{"postgres: {url: '" + sharedURL + "'}\npublishing_lease: 9s", "catalog.publishing_lease"},
		{"publishing_lease: 1m", "catalog.publishing_lease"},
	} {
		_, findings := loadText(t, dir, shared(t, dir, c.members))
		if len(findings) != 1 || findings[0].Path != c.want || findings[0].Severity != Error {
			t.Errorf("%s: %v, want one error at %s", c.members, findings, c.want)
			continue
		}
		if strings.Contains(findings[0].String(), "secret") {
			t.Errorf("the finding tells the password: %v", findings[0])
		}
	}
}

// A is the sum of what every tier of caches may do with a set.
func TestCaches(t *testing.T) {
	dir := world(t)
	with := func(members string) string {
		return strings.Replace(devText(t, dir, false), "    cache_for: 30m\n", members, 1)
	}
	cfg, findings := loadText(t, dir, with("    caches:\n"+
		"      - {name: cdn, max_age: 15m, stale_while_revalidate: 1m, stale_if_error: 1h}\n      - {name: verifier, max_age: 15m}\n"))
	for _, f := range findings {
		t.Error(f)
	}
	if got := cfg.KeySets["web"].Spec().Schedule.CacheFor; got != 91*time.Minute {
		t.Errorf("A is %v, want 15m + 1m + 1h + 15m", got)
	}
	for members, want := range map[string]string{
		"    cache_for: 30m\n    caches: [{name: cdn, max_age: 15m}]\n": "keysets.web.cache_for",
		"    caches: [{name: cdn, max_age: -1m}]\n":                     "keysets.web.caches[0].max_age",
		"    caches: [{max_age: 40m}]\n":                                "keysets.web.caches[0]",
		"    caches: [{name: cdn, max_age: 5m}]\n":                      "keysets.web.cache_for", // below max_age
	} {
		_, findings := loadText(t, dir, with(members))
		found := false
		for _, f := range findings {
			found = found || f.Path == want && f.Severity == Error
		}
		if !found {
			t.Errorf("%q: %v, want an error at %s", members, findings, want)
		}
	}
}
