package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/signer/api"
)

func aPlan() (*api.KeySet, *api.Plan, time.Time) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(m int) *time.Time { return ptr(now.Add(time.Duration(m) * time.Minute)) }
	ks := &api.KeySet{Name: "web", Purpose: "jwt", Algorithm: "ES256", Keystore: "hsm", Versions: []api.Version{
		{Version: 1, State: "retired", PublishedAt: at(-90), SignsFrom: at(-80), SignsUntil: at(-40), RetiresAt: at(-20)},
		{Version: 2, State: "retired", PublishedAt: at(-40), SignsFrom: at(-20), SignsUntil: at(-12), RetiresAt: at(-12), Compromised: true},
		{Version: 3, State: "retiring", PublishedAt: at(-40), SignsFrom: at(-12), SignsUntil: at(-6), RetiresAt: at(9)},
		{Version: 4, State: "active", PublishedAt: at(-12), SignsFrom: at(-6), Suspended: true},
		{Version: 5, State: "published", PublishedAt: at(-5)},
	}}
	plan := &api.Plan{
		Held: "activate version 5: rule 1: caches may hold the old set until 12:10:00",
		Steps: []api.PlanStep{
			{At: *at(9), Version: 3, Step: "remove", Rule: 2, HeldBy: "rule 2: tokens it signed may be valid until 12:09:00"},
			{At: *at(10), Version: 5, Step: "activate", Rule: 1, HeldBy: "rule 1: caches may hold the old set until 12:10:00"},
			{At: *at(10), Version: 4, Step: "retire", Rule: 4, HeldBy: "rule 4: one version signs at a time"},
			{At: *at(10), Version: 6, Step: "generate", HeldBy: "schedule: the successor of version 5 is published ahead"},
			{At: *at(10), Version: 6, Step: "publish", Rule: 8, HeldBy: "rule 8: its key is found and proven first"},
			{At: *at(26), Version: 4, Step: "remove", Rule: 2, HeldBy: "rule 2: tokens it signed may be valid until 12:26:00"},
			{At: *at(30), Version: 6, Step: "activate", HeldBy: "schedule: version 5 signs until 12:30:00"},
			{At: *at(30), Version: 5, Step: "retire", Rule: 4, HeldBy: "rule 4: one version signs at a time"},
		},
		Waits: []api.Wait{
			{Step: "generate", Version: 7, Rule: 2, Text: "rule 2: 20 versions are known, no more than 20 may be"},
		},
	}
	return ks, plan, now
}

// The picture of a plan, as it was looked at and liked. With CHANCERY_DRAW it is
// drawn anew.
func TestDrawnPlan(t *testing.T) {
	got := drawPlan(aPlan())
	golden := filepath.Join("testdata", "plan.svg")
	if os.Getenv("CHANCERY_DRAW") != "" {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("another picture than %s (CHANCERY_DRAW=1 draws it anew: look at it):\n%s", golden, got)
	}
	for _, line := range wellFormed(t, got) {
		if strings.Contains(line, "rule 2: 20 versions") {
			return
		}
	}
	t.Error("what waits for an operator is not told")
}

// wellFormed returns every text of an SVG that stands alone: it is well-formed XML
// of a few harmless elements, and refers to nothing outside itself.
func wellFormed(t *testing.T, svg []byte) (texts []string) {
	t.Helper()
	harmless := []string{"svg", "title", "desc", "style", "defs", "pattern", "rect", "path", "text", "circle", "g"}
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return texts
		}
		if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, svg)
		}
		switch token := token.(type) {
		case xml.CharData:
			texts = append(texts, string(token))
		case xml.StartElement:
			if !slices.Contains(harmless, token.Name.Local) {
				t.Errorf("element %s", token.Name.Local)
			}
			for _, a := range token.Attr {
				outside := strings.HasPrefix(a.Name.Local, "on") || strings.Contains(a.Name.Local, "href") ||
					strings.Contains(a.Value, ":") && a.Name.Local != "xmlns"
				if outside || strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
					t.Errorf("attribute %s=%q", a.Name.Local, a.Value)
				}
			}
		case xml.ProcInst, xml.Directive:
			t.Errorf("%v", token)
		}
	}
}

// A22: whatever a key set, a version or a rule is called, and however far apart
// moments are, the picture is one, and the name is no part of its markup.
func FuzzDrawPlan(f *testing.F) {
	f.Add("web", "active", "rule 1: x", int64(0), int64(3600))
	f.Add(`</title><script>alert(1)</script>`, `"/><a href="x:y">`, "]]><!ENTITY a SYSTEM 'file:///etc/passwd'>", int64(-1e9), int64(1))
	f.Add("\x00\u202e\xff\ufffe", "&amp;&#x0;", strings.Repeat("é", 2000), int64(-62135596800), int64(253402300799))
	f.Add("a", "b", "c", int64(-1<<62), int64(1<<62))
	f.Fuzz(func(t *testing.T, name, state, text string, from, ahead int64) {
		ks, plan, now := aPlan()
		past, future := now.Add(time.Duration(from)*time.Second), now.Add(time.Duration(ahead)*time.Second)
		ks.Name, ks.Purpose, ks.Keystore = name, state, text
		ks.Versions[3].State, ks.Versions[3].PublishedAt = state, &past
		plan.Steps[1].HeldBy, plan.Steps[1].At, plan.Steps[2].Step = text, future, name
		plan.Held, plan.Waits[0].Text, plan.Waits[0].Nodes = text, state, []string{name}
		wellFormed(t, drawPlan(ks, plan, now))
	})
}

// Nothing is drawn of a key set without versions but that it has none.
func TestNothingToDraw(t *testing.T) {
	_, _, now := aPlan()
	drawn := wellFormed(t, drawPlan(&api.KeySet{Name: "new"}, &api.Plan{}, now))
	if !slices.Contains(drawn, "No version is known, and none is planned.") {
		t.Errorf("%q", drawn)
	}
}

func TestTicks(t *testing.T) {
	from := time.Date(2026, 2, 27, 23, 58, 30, 0, time.UTC)
	for _, c := range []struct {
		span time.Duration
		want string // the first two, and how many
	}{
		{20 * time.Second, "23:58:30 23:58:35 5"},
		{5 * time.Minute, "23:59 00:00 5"},
		{50 * time.Minute, "00:00 00:10 5"},
		{30 * time.Hour, "00:00 06:00 5"},
		{14 * 24 * time.Hour, "28 Feb 2 Mar 7"},
		{40 * 24 * time.Hour, "2 Mar 9 Mar 6"},
		{60 * 24 * time.Hour, "2 Mar 16 Mar 5"},
		{200 * 24 * time.Hour, "Mar Apr 7"},
		{3000 * 24 * time.Hour, "Jan Jan 8"},
	} {
		marks, name := ticks(from, from.Add(c.span), 8)
		one, _ := name(marks[0])
		two, _ := name(marks[1])
		if got := fmt.Sprint(one, " ", two, " ", len(marks)); got != c.want {
			t.Errorf("%v: %s, want %s", c.span, got, c.want)
		}
		if marks[0].Before(from) || marks[len(marks)-1].After(from.Add(c.span)) {
			t.Errorf("%v: marks from %v to %v are outside", c.span, marks[0], marks[len(marks)-1])
		}
	}
}

// What is compromised is known no longer than now.
func TestTimelineOfACompromise(t *testing.T) {
	ks, plan, now := aPlan()
	ks.Versions[1].RetiresAt, ks.Versions[1].SignsUntil = nil, nil
	got := timeline(lives(ks, plan, now), now, 41)
	if !regexp.MustCompile(`(?m)^version 2  !+\|$`).MatchString(got) || !strings.Contains(got, "   ! compromised") {
		t.Errorf("drawn\n%s", got)
	}
	if strings.Contains(got, "version 1 ") {
		t.Errorf("version 1 is retired:\n%s", got)
	}
	ks.Versions[0].Compromised, ks.Versions[0].RetiresAt = true, ks.Versions[0].SignsUntil // before all that is drawn
	if got := timeline(lives(ks, plan, now), now, 41); strings.Contains(got, "version 1 ") {
		t.Errorf("version 1 was compromised before:\n%s", got)
	}
	ks.Versions = ks.Versions[:1]
	if got := timeline(lives(ks, &api.Plan{}, now), now, 41); !strings.Contains(got, "version 1 ") {
		t.Errorf("version 1 is all there is:\n%s", got)
	}
}

// On a terminal the marks have colours, and nothing else has.
func TestMarksColoured(t *testing.T) {
	got := marksColoured("      now\nversion 1  .1#|x>\n           . known   # signs\n")
	plain := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(got, "")
	if plain != "      now\nversion 1  .1#|x>\n           . known   # signs\n" {
		t.Errorf("other marks: %q", plain)
	}
	for i, line := range strings.Split(got, "\n") {
		if strings.Contains(line, "\x1b") != (i == 1) {
			t.Errorf("line %d: %q", i, line)
		}
	}
}
