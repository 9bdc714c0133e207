package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What was in a month that the policy has removed is not known. It was told as what
// had never been.
func TestRemovedMonthsAreTold(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := writeYear(ctx, dir); err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	var tokens strings.Builder
	for _, iat := range []string{"2026-08-20T00:00:00Z", "2026-08-31T23:59:59Z", "2026-09-20T00:00:00Z"} {
		at, err := time.Parse(time.RFC3339, iat)
		if err != nil {
			t.Fatal(err)
		}
		claims := fmt.Sprintf(`{"jti":"x","iat":%d,"exp":%d}`, at.Unix(), at.Unix()+300)
		fmt.Fprintf(&tokens, "%s.%s.c2ln\n", b64([]byte(`{"alg":"ES256","kid":"k"}`)), b64([]byte(claims)))
	}
	file := filepath.Join(dir, "tokens")
	if err := os.WriteFile(file, []byte(tokens.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	const hint = "hint: acts of these months were removed, and are not in it: 2026-08 (keep_acts 60d at 2026-11-20 00:00:00 UTC)\n"
	for _, c := range []struct {
		args     string
		status   int
		out, err string // what is in them
		not      string
	}{
		{"audit match " + file, exitFailed, "3: 0 made, 0 unknown, 0 withdrawn, 0 counterfeit, 1 none, 2 not kept\n", "", ""},
		{"audit match --json " + file, exitFailed, `"match":"not_kept","why":"not known: the month 2026-08 is not kept any more"`, "", ""},
		{"audit report --since 2026-08-01 --until 2026-09-01", exitDone, "the 50 acts of 2026-08 on dev", "", "No deviation"},
		{"audit report --since 2026-09-01 --until 2026-10-01", exitDone, "No deviation", "", ""},
		{"audit list --since 2026-08-05 --until 2026-08-25", exitDone, "", hint, ""},
		{"audit list --log acts/2026-09", exitDone, "", "", hint},
		{"audit list --log lifecycle", exitDone, "", "", hint},
		{"audit export --format csv --since 2026-08-31 --until 2026-09-02", exitDone, "", hint, ""},
		{"audit export --format csv --since 2026-09-01 --until 2026-09-02", exitDone, "", "", hint},
		{"audit impact --kid k", exitFailed, "not in it: the 50 acts of 2026-08 on dev were removed by the policy (keep_acts 60d) at 2026-11-20 00:00:00 UTC\n", "", ""},
		{"audit impact --json --kid k", exitFailed, `"removed":[{"month":"2026-08","origin":"localhost:8443/audit/dev/acts/2026-08","acts":50,`, "", ""},
	} {
		var out, stderr bytes.Buffer
		a := &app{out: &out, err: &stderr, getenv: func(string) string { return "" }}
		status := a.run(t.Context(), append([]string{"--dir", dir}, strings.Fields(c.args)...))
		text := strings.Join(strings.Fields(out.String()), " ") // however tables are wrapped
		if status != c.status || !strings.Contains(out.String(), c.out) && !strings.Contains(text, c.out) || !strings.Contains(stderr.String(), c.err) {
			t.Errorf("%s: exit %d, want %d; no %q or %q in\n%s%s", c.args, status, c.status, c.out, c.err, out.String(), stderr.String())
		}
		if c.not != "" && strings.Contains(out.String()+stderr.String(), c.not) {
			t.Errorf("%s: %q is in\n%s%s", c.args, c.not, out.String(), stderr.String())
		}
	}
}
