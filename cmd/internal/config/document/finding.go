package document

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Severity tells a refusal from a warning. The zero value is none.
type Severity uint8

// The severities.
const (
	Error   Severity = iota + 1 // the configuration must not be used
	Warning                     // it may be
)

// String returns "error" or "warning".
func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// A Finding is one thing to say about a configuration.
type Finding struct {
	File         string // as it was given
	Line, Column int    // from 1; 0 where the whole file is meant
	Path         string // the member: "keysets.web.rotate_every", "policy[0].principals[1]"
	Severity     Severity
	Message      string
	Hint         string // the next move, or empty
}

// String returns file:line:column: severity: path: message (hint: …). It has no
// control characters, whatever the file holds.
func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
	}
	fmt.Fprintf(&b, ": %s: ", f.Severity)
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.Message)
	if f.Hint != "" {
		b.WriteString(" (hint: " + f.Hint + ")")
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, b.String())
}

// Failed reports whether a finding is an Error.
func Failed(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == Error })
}

// A Position is a place in a file, from 1.
type Position struct{ Line, Column int }

// Findings collects what is found in one file.
type Findings struct {
	File      string // as it was given
	List      []Finding
	Positions map[string]Position // of every member and element that was read
	Unread    map[string]bool     // members whose values could not be read, and are empty
}

// New returns Findings for a file, with nothing in it.
func New(file string) *Findings {
	return &Findings{File: file, Positions: map[string]Position{"": {1, 1}}}
}

// Add adds a finding.
func (f *Findings) Add(at Position, path string, s Severity, hint, format string, args ...any) {
	f.List = append(f.List, Finding{
		File: f.File, Line: at.Line, Column: at.Column, Path: path, Severity: s,
		Message: fmt.Sprintf(format, args...), Hint: hint,
	})
}

// Errorf adds an error at the member path, or where its nearest parent stands.
func (f *Findings) Errorf(path, hint, format string, args ...any) {
	f.Add(Locate(f.Positions, path), path, Error, hint, format, args...)
}

// Warnf is Errorf for a warning.
func (f *Findings) Warnf(path, hint, format string, args ...any) {
	f.Add(Locate(f.Positions, path), path, Warning, hint, format, args...)
}

// Has reports whether the file says anything at path.
func (f *Findings) Has(path string) bool {
	_, ok := f.Positions[path]
	return ok
}

// Said reports whether there is a finding about path itself.
func (f *Findings) Said(path string) bool {
	return slices.ContainsFunc(f.List, func(x Finding) bool { return x.Path == path })
}

// Below reports whether the file says anything below path, readable or not.
func (f *Findings) Below(path string) bool {
	below := func(at string) bool { return strings.HasPrefix(at, path+".") || strings.HasPrefix(at, path+"[") }
	for at := range f.Positions {
		if below(at) {
			return true
		}
	}
	return slices.ContainsFunc(f.List, func(x Finding) bool { return below(x.Path) })
}

// name is what key sets, authorities, profiles, keystores and nodes are called:
// it goes into URLs, paths and log entries as it is.
var name = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// NameHint says what IsName wants.
const NameHint = "1 to 63 lower-case letters, digits and hyphens"

// IsName reports whether something of the configuration may be called s.
func IsName(s string) bool { return name.MatchString(s) }

// SplitHint parts a text that ends in (hint: …).
func SplitHint(s string) (text, hint string) {
	text, rest, ok := strings.Cut(s, " (hint: ")
	if !ok || !strings.HasSuffix(rest, ")") {
		return s, ""
	}
	return text, strings.TrimSuffix(rest, ")")
}

// Sorted returns the findings in the order of the file.
func (f *Findings) Sorted() []Finding {
	slices.SortStableFunc(f.List, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return f.List
}

// Locate returns where path stands, or its nearest parent that does.
func Locate(positions map[string]Position, path string) Position {
	for {
		if p, ok := positions[path]; ok {
			return p
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return positions[""]
		}
		path = path[:i]
	}
}
