package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"chancery/signer/api"
)

// The measures of a drawn plan, in its own units.
const (
	svgWidth   = 960
	svgLeft    = 168 // where time begins
	svgRight   = 40  // what is left free behind its end, for arrows
	svgTop     = 104 // the first lane
	svgLane    = 52
	svgBar     = 18
	svgBadge   = 8  // the radius of a gate's number
	svgRow     = 22 // of the list of gates
	svgLongest = 84 // characters of what holds a gate
)

// svgStyle has no variables, which not every program that draws SVG knows.
const svgStyle = `
text{font:13px system-ui,"Segoe UI","DejaVu Sans",sans-serif;fill:#1f2933}
.h{font-size:18px;font-weight:600}.s{font-size:12px}.m{fill:#5b6874}.b{font-size:9px;font-weight:600;text-anchor:middle}
.page{fill:#fff}.grid{stroke:#e1e5ea}.lane{fill:#f6f8fa}.known{fill:#a9cdf2}.signs{fill:#1c62c4}
.now{stroke:#c2255c;stroke-width:1.5;stroke-dasharray:4 3}.nowtext{fill:#c2255c;font-weight:600}
.gate{stroke:#1f2933;stroke-width:1.2}.dot{fill:#fff;stroke:#1f2933;stroke-width:1.2}
.stop{stroke:#d9730d;stroke-width:5}.bad{stroke:#c92a2a;stroke-width:5}.under{fill:#fff}
@media (prefers-color-scheme:dark){
text{fill:#e6eaee}.m{fill:#9aa7b3}.page{fill:#12171d}.grid{stroke:#2b343e}.lane{fill:#1a2129}.known{fill:#2c4c6e}.signs{fill:#5aa2ff}
.now{stroke:#ff7aa8}.nowtext{fill:#ff7aa8}.gate{stroke:#e6eaee}.dot{fill:#12171d;stroke:#e6eaee}
.stop{stroke:#ffa94d}.bad{stroke:#ff6b6b}.under{fill:#12171d}}
`

// A picture is a plan being drawn.
type picture struct {
	bytes.Buffer
	from, to, now time.Time
	lanes         []life
	bottom        int // of the lanes
}

// drawPlan draws what happened to the versions of a key set and what is planned
// as one SVG document: a lane for each version, the gates as numbered ticks, and
// below them what holds each. It stands alone, without scripts or fonts, follows
// the reader's choice of light or dark, and every text in it is escaped.
func drawPlan(ks *api.KeySet, plan *api.Plan, now time.Time) []byte {
	now = now.UTC()
	all := lives(ks, plan, now)
	p := &picture{now: now, lanes: all}
	p.from, p.to = bounds(all, now)
	p.to = p.to.Add(p.to.Sub(p.from) / 16) // what comes last is seen to begin
	p.bottom = svgTop + max(1, len(all))*svgLane
	listed := p.bottom + 92
	height := listed + (len(plan.Steps)+endless(plan)+1)*svgRow + 16
	p.head(ks, plan, height)
	p.axis()
	for i, l := range all {
		p.lane(i, l)
	}
	p.nowLine()
	p.gates(plan)
	p.legend(p.bottom + 60)
	p.list(plan, listed)
	p.WriteString("</svg>\n")
	return p.Bytes()
}

// put writes a part of the document. Every string in args is escaped, and so
// made of characters that are seen.
func (p *picture) put(format string, args ...any) {
	for i, arg := range args {
		if s, ok := arg.(string); ok {
			args[i] = escaped(s)
		}
	}
	fmt.Fprintf(p, format+"\n", args...)
}

func escaped(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(clean(s))) // a Builder takes everything
	return b.String()
}

// short cuts a text that would run out of the picture.
func short(s string, n int) string {
	s = clean(s)
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

func (p *picture) head(ks *api.KeySet, plan *api.Plan, height int) {
	p.put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-labelledby="title desc">`, svgWidth, height)
	p.put(`<title id="title">Rotation of key set %s</title>`, ks.Name)
	p.put(`<desc id="desc">%s</desc>`, p.told(plan))
	p.put(`<style>%s</style>`, rawXML(svgStyle))
	p.put(`<defs>`)
	for _, kind := range []string{"stop", "bad"} {
		p.put(`<pattern id="%s" width="10" height="10" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">`, kind)
		p.put(`<rect width="10" height="10" class="under"/><path d="M2.5 0V10" class="%s"/></pattern>`, kind)
	}
	p.put(`</defs><rect width="%d" height="%d" class="page"/>`, svgWidth, height)
	p.put(`<text x="24" y="36" class="h">%s</text>`, short(ks.Name, 70))
	p.put(`<text x="24" y="58" class="m">%s</text>`, short(fmt.Sprintf("%s, %s, in %s · %s UTC", ks.Purpose, ks.Algorithm, ks.Keystore, when(p.now)), 120))
}

// rawXML is markup of our own.
type rawXML string

// told tells the picture in words.
func (p *picture) told(plan *api.Plan) string {
	var words []string
	for _, l := range p.lanes {
		words = append(words, fmt.Sprintf("Version %d is %s.", l.version, l.state))
	}
	for _, s := range plan.Steps {
		words = append(words, fmt.Sprintf("%s UTC: %s version %d.", due(s.At), s.Step, s.Version))
	}
	if plan.Held != "" {
		words = append(words, "Next: "+plan.Held+".")
	}
	text := strings.Join(words, " ")
	return short(text, longestCell/2)
}

// x is where a moment is drawn; what is outside of the picture is at its edge.
func (p *picture) x(t time.Time) float64 {
	part := float64(t.Sub(p.from)) / float64(p.to.Sub(p.from))
	return svgLeft + min(max(part, 0), 1)*(svgWidth-svgLeft-svgRight)
}

func (p *picture) axis() {
	if len(p.lanes) == 0 {
		p.put(`<text x="24" y="%d" class="m">No version is known, and none is planned.</text>`, svgTop+svgLane/2)
	}
	for i := range p.lanes {
		if i%2 == 0 {
			p.put(`<rect x="16" y="%d" width="%d" height="%d" rx="6" class="lane"/>`, svgTop+i*svgLane, svgWidth-32, svgLane)
		}
	}
	marks, name := ticks(p.from, p.to, 8)
	above := ""
	for _, t := range marks {
		label, context := name(t)
		p.put(`<path d="M%.1f %dV%d" class="grid"/>`, p.x(t), svgTop, p.bottom+6)
		p.put(`<text x="%.1f" y="%d" text-anchor="middle" class="s m">%s</text>`, p.x(t), p.bottom+20, label)
		if context != above {
			p.put(`<text x="%.1f" y="%d" text-anchor="middle" class="s m">%s</text>`, p.x(t), p.bottom+36, context)
		}
		above = context
	}
	p.put(`<text x="24" y="%d" class="s m">UTC</text>`, p.bottom+20)
}

// middle is the height of lane i's bar.
func (p *picture) middle(i int) int { return svgTop + i*svgLane + svgLane*2/3 }

func (p *picture) lane(i int, l life) {
	y := p.middle(i)
	p.put(`<g><title>%s</title>`, l.words())
	p.put(`<text x="24" y="%d">version %d</text>`, y-4, l.version)
	p.put(`<text x="24" y="%d" class="s m">%s</text>`, y+12, short(l.state, 24))
	known, signs := "known", "signs"
	switch {
	case l.compromised:
		known, signs = "bad", "bad"
	case l.suspended && l.signsFrom.IsZero():
		known = "stop"
	case l.suspended:
		signs = "stop"
	}
	p.bar(y, l.knownFrom, l.knownUntil, known)
	if !l.signsFrom.IsZero() {
		p.bar(y, l.signsFrom, l.signsUntil, signs)
	}
	p.put(`</g>`)
}

// bar draws a span of time; one without an end has an arrow.
func (p *picture) bar(y int, from, until time.Time, class string) {
	fill := rawXML(`class="` + class + `"`)
	if class == "stop" || class == "bad" {
		fill = rawXML(`fill="url(#` + class + `)"`)
	}
	left, right, top := p.x(from), p.x(p.to), y-svgBar/2
	if !until.IsZero() {
		if !until.After(p.from) || !until.After(from) {
			return
		}
		right = p.x(until)
		p.put(`<rect x="%.1f" y="%d" width="%.1f" height="%d" rx="3" %s/>`, left, top, max(right-left, 1), svgBar, fill)
		return
	}
	p.put(`<path d="M%.1f %dH%.1fl%d %dl-%d %dH%.1fz" %s/>`, left, top, right, svgBar/2, svgBar/2, svgBar/2, svgBar/2, left, fill)
}

func (p *picture) nowLine() {
	x := p.x(p.now)
	p.put(`<path d="M%.1f %dV%d" class="now"/>`, x, svgTop-8, p.bottom)
	p.put(`<text x="%.1f" y="%d" text-anchor="middle" class="s nowtext">now</text>`, x, svgTop-14)
}

// gates marks each step ahead in the lane of its version by its number in the
// list. Numbers that would lie on each other stand side by side.
func (p *picture) gates(plan *api.Plan) {
	last := make(map[int]float64)
	for n, s := range plan.Steps {
		for i, l := range p.lanes {
			if l.version != s.Version {
				continue
			}
			x, y := p.x(s.At), p.middle(i)
			at := x
			if before, ok := last[i]; ok {
				at = max(at, before+2*svgBadge+2)
			}
			last[i] = at
			top := y - svgBar/2 - svgBadge - 3
			p.put(`<g><title>%s</title>`, fmt.Sprintf("%s version %d at %s UTC: %s", s.Step, s.Version, due(s.At), s.HeldBy))
			p.put(`<path d="M%.1f %dL%.1f %dV%d" class="gate" fill="none"/>`, at, top, x, y-svgBar/2, y+svgBar/2+3)
			p.put(`<circle cx="%.1f" cy="%d" r="%d" class="dot"/><text x="%.1f" y="%.1f" class="b">%d</text></g>`, at, top, svgBadge, at, float64(top)+3.5, n+1)
		}
	}
}

func (p *picture) legend(y int) {
	x := 24
	for _, one := range []struct {
		swatch rawXML
		text   string
		width  int
	}{
		{`class="known"`, "known", 84}, {`class="signs"`, "signs", 80},
		{`fill="url(#stop)"`, "suspended", 112}, {`fill="url(#bad)"`, "compromised", 126},
	} {
		p.put(`<rect x="%d" y="%d" width="26" height="12" rx="2" %s/><text x="%d" y="%d" class="s">%s</text>`, x, y, one.swatch, x+33, y+10, one.text)
		x += one.width
	}
	p.put(`<circle cx="%d" cy="%d" r="%d" class="dot"/><text x="%d" y="%.1f" class="b">n</text>`, x+8, y+6, svgBadge, x+8, float64(y)+9.5)
	p.put(`<text x="%d" y="%d" class="s">a step ahead, and below what holds it until then</text>`, x+23, y+10)
}

// list tells what holds each gate, and last the steps that wait for something
// other than time.
func (p *picture) list(plan *api.Plan, y int) {
	row := func(number, at, in, step, why string) {
		y += svgRow
		if number != "" {
			p.put(`<circle cx="32" cy="%d" r="%d" class="dot"/><text x="32" y="%.1f" class="b">%s</text>`, y-4, svgBadge, float64(y)-0.5, number)
		}
		p.put(`<text x="52" y="%d" class="s">%s</text><text x="188" y="%d" class="s m">%s</text>`, y, at, y, in)
		p.put(`<text x="268" y="%d" class="s">%s</text><text x="398" y="%d" class="s m">%s</text>`, y, step, y, short(why, svgLongest))
	}
	for n, s := range plan.Steps {
		row(strconv.Itoa(n+1), due(s.At), inTime(s.At, p.now), s.Step+" version "+strconv.Itoa(s.Version), s.HeldBy)
	}
	for _, w := range plan.Waits {
		if w.At == nil {
			row("", "not known", "", w.Step+" version "+strconv.Itoa(w.Version), waitText(w))
		}
	}
}

// endless is how many steps wait for something other than time.
func endless(plan *api.Plan) (n int) {
	for _, w := range plan.Waits {
		if w.At == nil {
			n++
		}
	}
	return n
}
