package review

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
)

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle string

// A page is what page.html shows.
type page struct {
	*Report
	Style    template.CSS
	Policy   string // Content-Security-Policy: this style, and nothing else
	From, To time.Time
	Sets     []*KeySet
}

// WriteHTML writes r as one page that stands alone: no script, nothing from
// elsewhere, and a policy that forbids both. Whatever others put into entries is
// escaped. It prints on A4.
func (r *Report) WriteHTML(w io.Writer) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"clock": clock, "number": number, "rule": RuleWords, "short": Short, "join": strings.Join, "words": strings.Fields,
		"draw": func(k *KeySet, p *page) *drawing { return draw(k, p.From, p.To) },
	}).Parse(pageText)
	if err != nil {
		return fmt.Errorf("reading the page's template: %w", err)
	}
	sum := sha256.Sum256([]byte(pageStyle))
	p := &page{
		Report: r, Style: template.CSS(pageStyle), From: r.Period.Since, To: r.Period.Until,
		Policy: "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'",
	}
	if p.From.IsZero() || p.From.Before(r.Period.First) {
		p.From = r.Period.First
	}
	if p.To.IsZero() || p.To.After(r.Period.Last) {
		p.To = r.Period.Last
	}
	for i := range r.KeySets {
		p.Sets = append(p.Sets, &r.KeySets[i])
	}
	if err := t.Execute(printable{w}, p); err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	return nil
}

// printable writes control and formatting characters, such as those that turn the
// direction of writing, as JSON does (RFC 8259 Section 7): callers choose some of
// what is in a page. What is written at once ends with a whole character.
type printable struct{ io.Writer }

func (p printable) Write(b []byte) (int, error) {
	var line bytes.Buffer
	for _, r := range string(b) {
		switch {
		case r == '\n' || r == '\t' || !unicode.In(r, unicode.Cc, unicode.Cf):
			line.WriteRune(r)
		default:
			for _, unit := range utf16.AppendRune(nil, r) {
				fmt.Fprintf(&line, `\u%04x`, unit)
			}
		}
	}
	_, err := p.Writer.Write(line.Bytes())
	return len(b), err
}

// number groups the digits of n in threes, with a narrow space that does not
// break.
func number(n any) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// Signatures returns how many there are of all key sets.
func (r *Report) Signatures() (n int64) {
	for i := range r.KeySets {
		n += r.KeySets[i].Signatures
	}
	return n
}

// Class names how a verdict is shown: good, open or bad.
func (v Verdict) Class() string {
	switch v {
	case Sound:
		return "good"
	case Unclear:
		return "open"
	}
	return "bad"
}

// Kept tells how many checks of a version's rules it kept, of how many.
func (v Version) Kept() string {
	held := 0
	for _, c := range v.Checks {
		if c.Held {
			held++
		}
	}
	return fmt.Sprintf("%d of %d held", held, len(v.Checks))
}

// Names returns the name of the event's entry, alone.
func (e Event) Names() []string { return []string{e.Entry} }

// Expiry returns when the last of what was signed expires.
func (t Tally) Expiry() time.Time {
	if t.NotAfter.After(t.Exp) {
		return t.NotAfter
	}
	return t.Exp
}
