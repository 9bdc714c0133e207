package config

import (
	"cmp"
	"fmt"
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

type position struct{ line, column int }

// findings collects what is found in one file.
type findings struct {
	file      string
	list      []Finding
	positions map[string]position
	unread    map[string]bool // members whose values could not be read, and are empty
}

func (f *findings) add(at position, path string, s Severity, hint, format string, args ...any) {
	f.list = append(f.list, Finding{
		File: f.file, Line: at.line, Column: at.column, Path: path, Severity: s,
		Message: fmt.Sprintf(format, args...), Hint: hint,
	})
}

// errorf adds an error at the member path, or where its nearest parent stands.
func (f *findings) errorf(path, hint, format string, args ...any) {
	f.add(locate(f.positions, path), path, Error, hint, format, args...)
}

func (f *findings) warnf(path, hint, format string, args ...any) {
	f.add(locate(f.positions, path), path, Warning, hint, format, args...)
}

// has reports whether the file says anything at path.
func (f *findings) has(path string) bool {
	_, ok := f.positions[path]
	return ok
}

// said reports whether there is a finding about path itself.
func (f *findings) said(path string) bool {
	return slices.ContainsFunc(f.list, func(x Finding) bool { return x.Path == path })
}

// splitHint parts a text that ends in (hint: …).
func splitHint(s string) (text, hint string) {
	text, rest, ok := strings.Cut(s, " (hint: ")
	if !ok || !strings.HasSuffix(rest, ")") {
		return s, ""
	}
	return text, strings.TrimSuffix(rest, ")")
}

// sorted returns the findings in the order of the file.
func (f *findings) sorted() []Finding {
	slices.SortStableFunc(f.list, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return f.list
}

// locate returns where path stands, or its nearest parent that does.
func locate(positions map[string]position, path string) position {
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

// At returns a finding about the member at path, for checks made elsewhere. A
// hint that the message has of its own is nearer than hint.
func (c *Config) At(path string, s Severity, message, hint string) Finding {
	p := locate(c.positions, path)
	message, own := splitHint(message)
	return Finding{File: c.file, Line: p.line, Column: p.column, Path: path, Severity: s, Message: message, Hint: cmp.Or(own, hint)}
}
