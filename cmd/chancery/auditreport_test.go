package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/audit/review"
)

// writeLife makes a log in dir/audit of a key that keeps every rule and signs two
// tokens, one of which has expired, and its own history, and the log's key in dir/audit.vkey.
func writeLife(t *testing.T, dir string) {
	t.Helper()
	ctx := t.Context()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key := fileKey{private}
	log, err := audit.Open(ctx, audit.Config{
		Dir: filepath.Join(dir, "audit"), Host: "localhost:8443", Node: "dev", Interval: time.Hour, JournalSize: 64 << 10,
		Keys: func(context.Context) (audit.Keys, error) { return audit.Keys{Active: key}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	const kid = "the-kid-of-the-tests"
	for _, rec := range []keystore.Record{
		{Action: keystore.ActKeySetCreate, Detail: map[string]string{"purpose": "jwt", "cache_for": "4s", "skew": "1s", "max_ttl": "1h"}},
		{Action: keystore.ActKeyGenerate, State: "pending"}, {Action: keystore.ActKeyPublish, State: "published"}, {Action: keystore.ActKeyProven, State: "published"},
		{Action: keystore.ActKeyServed, State: "published", Detail: map[string]string{"node": "dev"}}, {Action: keystore.ActKeyActivate, State: "active"},
	} {
		rec.Principal, rec.Outcome, rec.KeySet = "chancery", keystore.OutcomeDone, "web"
		if rec.State != "" {
			rec.KID, rec.Version = kid, 1
		}
		if _, err := log.Lifecycle(ctx, rec); err != nil {
			t.Fatal(err)
		}
	}
	for jti, exp := range map[string]time.Time{"dead": time.Now().Add(-time.Minute), "alive": time.Now().Add(time.Minute)} {
		_, err := log.Act(ctx, keystore.Record{
			Principal: "dev:spiffe:spiffe://chancery.dev/issuer", Action: keystore.ActSignJWT, Outcome: keystore.OutcomeDone,
			KeySet: "web", Version: 1, KID: kid, JTI: jti, Exp: exp.Unix(),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	history := keystore.Record{Principal: "chancery", Action: keystore.ActSignHistory, Outcome: keystore.OutcomeDone, KeySet: "web", Version: 1, KID: kid}
	if _, err := log.Act(ctx, history); err != nil {
		t.Fatal(err)
	}
	vkey, err := log.VKey(keystore.EdDSA, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "audit.vkey"), []byte(vkey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// typed runs a command line and returns its exit status and standard output.
func typed(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &out, err: &errs, getenv: func(string) string { return "" }}
	status := a.run(t.Context(), args)
	if errs.Len() > 0 {
		t.Logf("%v: %s", args, errs.String())
	}
	return status, out.String()
}

// TestASoundLogIsReportedSound: nothing to act on is exit status 0.
func TestASoundLogIsReportedSound(t *testing.T) {
	dir := t.TempDir()
	writeLife(t, dir)
	status, out := typed(t, "--dir", dir, "audit", "report", "--json")
	var r review.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if status != exitDone || r.Verdict != review.Sound || len(r.Deviations) != 0 || len(r.KeySets) != 1 || r.KeySets[0].Signatures != 3 {
		t.Errorf("exit status %d, %s, %+v", status, r.Verdict, r.Deviations)
	}
	for _, c := range r.KeySets[0].Versions[0].Checks {
		if !c.Held || len(c.Entries) == 0 {
			t.Errorf("%+v", c)
		}
	}
	if status, out := typed(t, "--dir", dir, "audit", "report"); status != exitDone || !strings.Contains(out, "No deviation; 0 breaches") {
		t.Errorf("exit status %d:\n%s", status, out)
	}
}

// "No end" and "live now: none" stood side by side.
func TestWhatIsLiveNow(t *testing.T) {
	until := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		of   review.Impact
		want string
	}{
		{review.Impact{}, "none"},
		{review.Impact{Live: 2, LiveUntil: until, Skew: "1s"}, "2, until 2026-03-01 12:00:00 UTC (S of 1s included)"},
		{review.Impact{Endless: 3}, "the 3 without an end, and nothing that expires"},
		{review.Impact{Histories: review.Tally{Done: 1, Unknown: 1, Refused: 5}}, "the 2 without an end, and nothing that expires"},
		{review.Impact{Live: 2, LiveUntil: until, Skew: "1s", Histories: review.Tally{Done: 1}}, "2, until 2026-03-01 12:00:00 UTC (S of 1s included), and the 1 without an end"},
	} {
		if got := liveNow(&c.of); got != c.want {
			t.Errorf("%+v: %q, want %q", c.of, got, c.want)
		}
	}
}

// TestImpactTellsWhatStillLives: every token, and which of them verifiers take.
func TestImpactTellsWhatStillLives(t *testing.T) {
	dir := t.TempDir()
	writeLife(t, dir)
	status, out := typed(t, "--dir", dir, "audit", "impact", "--kid", "the-kid-of-the-tests", "--list")
	for _, want := range []string{
		"key the-kid-of-the-tests: version 1 of web, active\n", "signed: 2; refused 0, failed 0, unknown 0\n", "live now: 1, until ", "(S of 1s included)",
		"jti dead  expires", "jti alive  expires", "  history of the keys of web  has no end  stands  chancery  dev/acts/",
		"histories of its key set signed besides: 1; refused 0, failed 0, unknown 0; first ", "only the device's own log tells",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in it:\n%s", want, out)
		}
	}
	if status != exitDone {
		t.Errorf("exit status %d", status)
	}
	status, out = typed(t, "--dir", dir, "audit", "impact", "--kid", "the-kid-of-the-tests", "--json")
	var all struct {
		Signed []review.Signed `json:"signed"`
		Impact review.Impact   `json:"impact"`
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if status != exitDone || len(all.Signed) != 3 || all.Impact.Live != 1 || all.Impact.Acts.Done != 2 || all.Impact.Histories.Done != 1 {
		t.Errorf("exit status %d: %s", status, out)
	}
	for _, s := range all.Signed {
		if s.Live != (s.JTI == "alive") {
			t.Errorf("%+v", s)
		}
	}
	if status, out := typed(t, "--dir", dir, "audit", "impact", "--kid", "the-kid-of-the-tests", "--to", "1h"); status != exitDone || !strings.Contains(out, "signed: 0;") {
		t.Errorf("before anything: exit status %d:\n%s", status, out)
	}
}
