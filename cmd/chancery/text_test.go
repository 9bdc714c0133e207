package main

import (
	"bytes"
	"context"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// A22: whatever a daemon, a token or a log holds, nothing of it reaches the
// terminal but characters that are seen.
func FuzzClean(f *testing.F) {
	for _, s := range []string{"web", "\x1b[31mred\x1b[0m", "a\nb\tc", "\u202egnp.exe", "\x9b2J", "\xff\xfe", "zero\u200bwidth", "ключ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, out := range []string{clean(s), strings.ReplaceAll(cleanLines(s), "\n", "")} {
			for _, r := range out {
				if !unicode.IsPrint(r) {
					t.Errorf("%q leaves %q", s, out)
				}
			}
		}
		if len(clean(s)) > longestCell+3 {
			t.Errorf("%d bytes are left of %d", len(clean(s)), len(s))
		}
	})
}

func TestSpans(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "now", 400 * time.Millisecond: "now", 12 * time.Second: "in 12s", -3 * time.Minute: "3m0s ago",
		90 * time.Minute: "in 1h30m", 47 * time.Hour: "in 47h0m", 30*24*time.Hour + 5*time.Hour: "in 30d5h",
	} {
		if got := inTime(now.Add(d), now); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// A step was planned a second before the time its reason gave: what is planned
// was cut to the second, while the daemon's reasons round up.
func TestPlannedTimesRoundUp(t *testing.T) {
	f := fakeIn(t)
	soon := time.Now().UTC().Truncate(time.Second).Add(10*time.Minute + 400*time.Millisecond)
	past := soon.Add(-time.Hour)
	f.mu.Lock()
	f.versions[0].RetiresAt, f.versions[0].SignsUntil = &soon, &past
	f.versions[2].SignsFrom = &soon
	f.mu.Unlock()
	up, cut := soon.Add(600*time.Millisecond).Format(time.TimeOnly), past.Format(time.TimeOnly)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"rotation", "plan", "web"}, up + ` │ .* │ 1 +│ remove `},
		{[]string{"keys", "show", "web"}, `│ 1 +│ retiring .* ` + cut + ` │ \S+ ` + up + ` │`},
		{[]string{"keys", "show", "web"}, `│ 3 +│ published .* ` + up + ` │`},
	} {
		var out, stderr bytes.Buffer
		a := &app{out: &out, err: &stderr, getenv: func(string) string { return "" }}
		if status := a.run(t.Context(), append([]string{"--dir", f.dir}, c.args...)); status != exitDone {
			t.Fatalf("exit %d, %s", status, stderr.String())
		}
		if !regexp.MustCompile(c.want).MatchString(out.String()) {
			t.Errorf("%v: no %q in\n%s", c.args, c.want, out.String())
		}
	}
	if got := due(soon.Truncate(time.Second)); got != when(soon) {
		t.Errorf("a whole second becomes %s, want %s", got, when(soon))
	}
}

func TestTimeline(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(m int) *time.Time { return ptr(now.Add(time.Duration(m) * time.Minute)) }
	ks := &api.KeySet{Versions: []api.Version{
		{Version: 1, State: "retired", PublishedAt: at(-90), SignsFrom: at(-80), SignsUntil: at(-40), RetiresAt: at(-20)},
		{Version: 2, State: "retiring", PublishedAt: at(-20), SignsFrom: at(-20), SignsUntil: at(-10), RetiresAt: at(5)},
		{Version: 3, State: "active", PublishedAt: at(-20), SignsFrom: at(-10), Suspended: true},
		{Version: 4, State: "published", PublishedAt: at(-5)},
	}}
	plan := &api.Plan{Steps: []api.PlanStep{
		{At: *at(10), Version: 4, Step: "activate"}, {At: *at(10), Version: 3, Step: "retire"}, {At: *at(11), Version: 5, Step: "generate"},
		{At: *at(12), Version: 5, Step: "publish"}, {At: *at(20), Version: 3, Step: "remove"},
	}}
	got := timeline(lives(ks, plan, now), now, 41)
	want := `
                              now
version 2  ##########..........|....
version 3  ..........xxxxxxxxxx|xxxxxxxxx..........
version 4                 .....|.........###########>
version 5                      |           .........>
           11:40:00                         12:20:00 UTC
           . known   # signs   x suspended   > no end planned
`
	if "\n"+got != want {
		t.Errorf("got\n%s\nwant%s", got, want)
	}
	if got := timeline(nil, now, 41); got != "" {
		t.Errorf("of nothing: %q", got)
	}
	alone := []life{{version: 1, knownFrom: now, signsFrom: now}}
	if got := timeline(alone, now, 41); !strings.Contains(got, "version 1  |########################################>") {
		t.Errorf("one version, just born:\n%s", got)
	}
}

// What is entered while one follows is printed once.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	if err := writeLog(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	a := &app{out: &out, json: true}
	l := &lister{app: a, filter: new(filterFlags), tail: audit.NewTail(filepath.Join(dir, "audit"), audit.Filter{})}
	if err := l.first(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != 7 {
		t.Fatalf("%d entries, want 7", n)
	}
	log, err := audit.Open(t.Context(), audit.Config{
		Dir: filepath.Join(dir, "audit"), Host: "localhost:8443", Node: "dev", Interval: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	rec := keystore.Record{Principal: "chancery", Action: keystore.ActResume, Outcome: keystore.OutcomeDone, KeySet: "web"}
	if _, err := log.Lifecycle(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	log.Close(t.Context()) // says that it cannot sign a checkpoint
	out.Reset()
	synctest.Test(t, func(t *testing.T) { // a minute of following, at no time
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := l.follow(ctx); err != nil {
			t.Fatal(err)
		}
	})
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `"key.resume"`) {
		t.Errorf("followed %q", got)
	}
}

// An entry of a key set and an authority of one name had both, one after the
// other, in the column of key sets: "devicesdevices".
func TestEntriesNameKeySetAndAuthority(t *testing.T) {
	for _, c := range []struct{ keyset, authority, cell, rest string }{
		{"web", "", "web", ""},
		{"devices", "devices", "devices", ""},
		{"devices-keys", "devices", "devices-keys", "authority devices"},
		{"", "devices", "devices", ""},
	} {
		row := entryRow(audit.Located{Entry: audit.Entry{Record: keystore.Record{KeySet: c.keyset, Authority: c.authority}}})
		if row[5] != c.cell || row[7] != c.rest {
			t.Errorf("key set %q, authority %q: %q", c.keyset, c.authority, row)
		}
	}
}

func TestProgressLine(t *testing.T) {
	for live, want := range map[bool]string{false: "one\ntwo\n", true: "\r\x1b[Kone\r\x1b[Ktwo\n"} {
		var out bytes.Buffer
		p := progressLine{w: &out, live: live}
		for _, s := range []string{"one", "one", "two"} {
			p.say(s)
		}
		p.end()
		if out.String() != want {
			t.Errorf("live %v: %q", live, out.String())
		}
	}
}

func TestVerifyProgress(t *testing.T) {
	var out bytes.Buffer
	verifyProgress(&progressLine{w: &out, live: true})(512, 1024)
	if want := "verifying [###############...............] 50 %"; !strings.Contains(out.String(), want) {
		t.Errorf("%q", out.String())
	}
}
