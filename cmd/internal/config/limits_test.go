package config

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/signer/limit"
	"chancery/signer/policy"
	"chancery/signer/queue"
)

func TestLimits(t *testing.T) {
	dir := world(t)
	text := devText(t, dir, false)
	cfg, findings := loadText(t, dir, text)
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	if got, want := cfg.Queue("hsm"), (queue.Limits{Window: 32, Portion: 16}); got != want {
		t.Errorf("where nothing is said: %+v", got)
	}
	const issuer, ca = "dev:spiffe:spiffe://chancery.dev/issuer", "dev:spiffe:spiffe://chancery.dev/ca"
	cfg, findings = loadText(t, dir, strings.Replace(text, "\nclients:\n", `
limits:
  default: {rate: 100, concurrent: 8, quota: {signatures: 5000, per: 1h, refuse: true}}
  principals:
    - {principal: '`+issuer+`', rate: 0, weight: 10}
    - {principal: '`+ca+`', burst: 7, quota: {signatures: 1}}
  queue: {window: 16, waiting: 100, per_principal: 10}

clients:
`, 1))
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	who := func(s string) policy.Principal {
		p, err := policy.ParsePrincipal(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	hourly := limit.Quota{Signatures: 5000, Per: time.Hour, Refuse: true}
	want := limit.Config{
		Default: limit.Limit{Rate: 100, Concurrent: 8, Quota: hourly},
		Principals: map[policy.Principal]limit.Limit{
			who(issuer): {Concurrent: 8, Weight: 10, Quota: hourly},
			who(ca):     {Rate: 100, Burst: 7, Concurrent: 8, Quota: limit.Quota{Signatures: 1}},
		},
	}
	if diff := cmp.Diff(want, cfg.LimitConfig()); diff != "" {
		t.Error(diff)
	}
	if got, want := cfg.Queue("hsm"), (queue.Limits{Window: 16, Waiting: 100, Each: 10, Portion: 16}); got != want {
		t.Errorf("%+v", got)
	}
}

// Limits that bound nothing, or everything, are mistakes.
func TestMistakesInLimits(t *testing.T) {
	dir := world(t)
	good := devText(t, dir, false)
	for text, want := range map[string]string{
		"default: {rate: -1}":                                              ":39:26: error: limits.default.rate: -1 is negative",
		"default: {burst: 5}":                                              "limits.default.burst: there is no rate that it could be over",
		"default: {concurrent: 0}":                                         "limits.default.concurrent: 0: want 1 to 1000000",
		"default: {weight: 1001}":                                          "limits.default.weight: 1001: want 1 to 1000",
		"default: {quota: {per: 2h}}":                                      "limits.default.quota.per: 2h0m0s is neither an hour nor a day",
		"default: {quota: {signatures: 0}}":                                "limits.default.quota.signatures: 0: want 1",
		"principals: [{rate: 1}]":                                          "limits.principals[0]: principal is missing",
		"principals: [{principal: 'CN=x'}]":                                `limits.principals[0].principal: "CN=x": want anchor:kind:value`,
		"principals: [{principal: 'a:dns:b.c', burst: 1}]":                 "limits.principals[0].burst: there is no rate",
		"principals: [{principal: 'a:dns:b.c'}, {principal: 'a:dns:b.c'}]": `limits.principals[1].principal: "a:dns:b.c" is there twice`,
		"queue: {window: 0}":                                               "limits.queue.window: 0: want 1 to 4096",
		"queue: {waiting: 10}":                                             "", // fewer than one principal may have
		"queue: {waiting: 10, per_principal: 11}":                          "limits.queue.per_principal: 11 of one principal are more than wait in all, 10",
		"queue: {windows: 10}":                                             "did you mean window?",
	} {
		_, findings := loadText(t, dir, strings.Replace(good, "\nclients:\n", "\nlimits: {"+text+"}\nclients:\n", 1))
		one(t, text, findings, want)
	}
	for text, want := range map[string]string{
		"connections: 0":                    "listeners.signing.limits.connections: 0: want 1 to",
		"connections: 10, per_peer: 11":     "listeners.signing.limits.per_peer: 11 of one peer are more than all connections, 10",
		"header_bytes: 10":                  "listeners.signing.limits.header_bytes: 10: want 4096 to",
		"body: 1000000000":                  "listeners.signing.limits.body: 1000000000: want",
		"read: 1s, read_header: 2s":         "listeners.signing.limits.read_header: 2s is more than read, 1s",
		"write: 5s, request_timeout: 5s":    "listeners.signing.limits.request_timeout: no answer could be written",
		"idle: 5":                           "it has no unit",
		"handshake: 1s, connections: 20000": "",
	} {
		_, findings := loadText(t, dir, strings.Replace(good, "    server_name: localhost\n", "    server_name: localhost\n    limits: {"+text+"}\n", 1))
		one(t, text, findings, want)
	}
}

func one(t *testing.T, what string, findings []Finding, want string) {
	t.Helper()
	switch {
	case want == "" && len(findings) > 0:
		t.Errorf("%s: %v", what, findings)
	case want != "" && (len(findings) != 1 || !strings.Contains(findings[0].String(), want)):
		t.Errorf("%s: %v, want %s", what, findings, want)
	}
}

// What bounds principals changes with a reload, and what bounds listeners and queues
// with a restart.
func TestWhichLimitsNeedARestart(t *testing.T) {
	dir := world(t)
	good := devText(t, dir, false)
	before, _ := loadText(t, dir, good)
	for text, want := range map[string]string{
		"limits: {default: {rate: 5}}": "", "limits: {queue: {window: 5}}": "limits.queue", "": "",
	} {
		next, findings := loadText(t, dir, strings.Replace(good, "\nclients:\n", "\n"+text+"\nclients:\n", 1))
		if got := before.NeedsRestart(next); got != want || len(findings) > 0 {
			t.Errorf("%q: %q, want %q; %v", text, got, want, findings)
		}
	}
	next, _ := loadText(t, dir, strings.Replace(good, "    server_name: localhost\n", "    server_name: localhost\n    limits: {idle: 1s}\n", 1))
	if got := before.NeedsRestart(next); got != "listeners" {
		t.Errorf("a listener's limits: %q", got)
	}
}

// The limits that README shows load, for principals there are.
func TestTheLimitsInREADMELoad(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```yaml\nlimits:\n")
	block, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("README shows no limits")
	}
	dir := world(t)
	cfg, findings := loadText(t, dir, strings.Replace(devText(t, dir, false), "\nclients:\n", "\nlimits:\n"+block+"\nclients:\n", 1))
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	if l := cfg.LimitConfig(); len(l.Principals) != 2 || l.Default.Concurrent != limit.DefaultConcurrent || l.Default.Quota.Signatures != limit.DefaultSignatures || l.Default.Quota.Per != limit.DefaultPer {
		t.Errorf("%+v; the default is what it is without", l)
	}
}
