package review

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"chancery/keystore"
)

// hostile is what strangers may put into an entry.
const hostile = hostileMarkup + "\u202e\x1b]0;\a"

const hostileMarkup = `</td></style><script>alert(1)</script><img src=x onerror=alert(1)>"'&amp;{{.}}` + "`"

// hostilePage is a page of a history in which everything is hostile.
func hostilePage(t testing.TB) []byte {
	t.Helper()
	h := sound()
	h.told(33, keystore.Record{Principal: hostile, Action: keystore.ActRotate, KeySet: "web", Version: 2, Reason: hostile, Detail: map[string]string{hostile: hostile}})
	h.told(34, keystore.Record{Principal: hostile, Action: keystore.ActSignJWT, Outcome: keystore.OutcomeRefused, KeySet: hostile, Code: hostile, Policy: hostile})
	h.told(35, keystore.Record{Action: keystore.ActKeySetCreate, KeySet: hostile, Detail: map[string]string{"purpose": hostile, "algorithm": hostile, "keystore": hostile}})
	h.told(36, keystore.Record{Action: keystore.ActKeyPublish, KeySet: hostile, Version: 1, KID: hostile, State: "published"})
	h.told(37, keystore.Record{Action: keystore.ActKeyOrphan, Reason: hostile})
	h.told(38, keystore.Record{Action: keystore.ActStart, Detail: map[string]string{"binary": hostile}})
	r := report(t, Options{Checked: []Checked{{Node: hostile, Report: verified(true, hostile)}}}, h)
	return pageOf(t, r)
}

func pageOf(t testing.TB, r *Report) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// nodes calls f with every node of a page.
func nodes(t *testing.T, page []byte, f func(*html.Node)) {
	t.Helper()
	doc, err := html.Parse(bytes.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for n := range doc.Descendants() {
		f(n)
	}
}

// TestNothingHostileGetsOntoThePage: what others wrote is text, whatever it is.
func TestNothingHostileGetsOntoThePage(t *testing.T) {
	var styles, shown int
	nodes(t, hostilePage(t), func(n *html.Node) {
		switch {
		case n.Type == html.TextNode && strings.Contains(n.Data, hostileMarkup+`\u202e\u001b]0;\u0007`):
			shown++
		case n.Type == html.ElementNode && n.Data == "style":
			styles++
		case n.Type == html.ElementNode:
			for _, never := range []string{"script", "img", "iframe", "object", "embed", "link", "form", "a", "base"} {
				if n.Data == never {
					t.Errorf("there is a %s element", never)
				}
			}
		}
		for _, a := range n.Attr {
			if strings.HasPrefix(a.Key, "on") || a.Key == "href" || a.Key == "src" || a.Key == "style" {
				t.Errorf("%s has attribute %s", n.Data, a.Key)
			}
		}
	})
	if styles != 1 || shown < 12 {
		t.Errorf("%d style elements, the hostile text is shown %d times", styles, shown)
	}
}

// TestThePageAllowsItsOwnStyleOnly: the policy names the style by its hash.
func TestThePageAllowsItsOwnStyleOnly(t *testing.T) {
	policy, style := "", ""
	nodes(t, pageOf(t, report(t, Options{}, sound())), func(n *html.Node) {
		if n.Data == "style" {
			style = n.FirstChild.Data
		}
		if n.Data == "meta" && len(n.Attr) == 2 && n.Attr[0].Val == "Content-Security-Policy" {
			policy = n.Attr[1].Val
		}
	})
	sum := sha256.Sum256([]byte(style))
	want := "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	if policy != want {
		t.Errorf("policy %q, want %q", policy, want)
	}
	if strings.Contains(style, "url(") || strings.Contains(style, "@import") {
		t.Error("the style asks for something from elsewhere")
	}
}

// TestDeviationsComeFirst: before anything else that was found.
func TestDeviationsComeFirst(t *testing.T) {
	page := string(pageOf(t, report(t, Options{}, sound().signed(50, 1, 10))))
	at := func(text string) int {
		i := strings.Index(page, text)
		if i < 0 {
			t.Fatalf("%q is not on the page", text)
		}
		return i
	}
	order := []int{at(`class="verdict bad"`), at("<h2>Deviations"), at("its lease was over"), at("<h2>Key sets"), at("<h2>Who did what"), at("<h2>What this does not prove")}
	for i := 1; i < len(order); i++ {
		if order[i] < order[i-1] {
			t.Errorf("the parts of the page are out of order: %v", order)
		}
	}
	for _, said := range []string{Unwitnessed, "only the device knows", "Reviewed by"} {
		at(said)
	}
}

// TestEveryVersionIsDrawn: a lane each, and bars where they were known and signed.
func TestEveryVersionIsDrawn(t *testing.T) {
	h := sound().of(33, 2, keystore.ActSuspend).of(36, 2, keystore.ActResume).made(37, 3).of(38, 2, keystore.ActCompromise).of(39, 1, keystore.ActKeyDestroy)
	r := report(t, Options{}, h)
	d := draw(&r.KeySets[0], r.Period.First, r.Period.Last)
	var got []string
	for _, l := range d.Lanes {
		for _, b := range l.Bars {
			got = append(got, b.Title)
			if b.Open != (l.Number == 3) {
				t.Errorf("%s: goes on: %t", b.Title, b.Open)
			}
		}
		for _, m := range l.Marks {
			got = append(got, m.Title)
		}
	}
	const day = "2026-03-01 12:00:"
	want := []string{
		"version 1 published, not signing from " + day + "01 to " + day + "02", "version 1 active from " + day + "02 to " + day + "20",
		"version 1 retiring: known, not signing from " + day + "20 to " + day + "31", "version 1 destroyed at " + day + "39",
		"version 2 published, not signing from " + day + "04 to " + day + "20", "version 2 active from " + day + "20 to " + day + "38",
		"version 2 suspended from " + day + "33 to " + day + "36", "version 2 compromised at " + day + "38",
		"version 3 published, not signing from " + day + "37",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("drawn:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if n := len(d.Ticks); n < 2 || n > 8 {
		t.Errorf("%d dates", n)
	}
}

func TestNumbersAreGrouped(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1\u202f000", 12345678: "12\u202f345\u202f678", -1234: "-1\u202f234"} {
		if got := number(n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}
