package config

import (
	"cmp"
	"time"

	"chancery/cmd/internal/config/document"
)

// What is found in a file, and where, is said by package document.
type (
	Finding  = document.Finding
	Severity = document.Severity
	position = document.Position
)

// The severities.
const (
	Error   = document.Error
	Warning = document.Warning
)

// Failed reports whether a finding is an Error.
func Failed(list []Finding) bool { return document.Failed(list) }

// ParseDuration reads a positive duration: Go's spelling, with days of 24 hours
// before it.
func ParseDuration(s string) (time.Duration, error) { return document.ParseDuration(s) }

// findings collects what is found in one file.
type findings struct{ *document.Findings }

func (f *findings) errorf(path, hint, format string, args ...any) {
	f.Errorf(path, hint, format, args...)
}

func (f *findings) warnf(path, hint, format string, args ...any) {
	f.Warnf(path, hint, format, args...)
}

func (f *findings) has(path string) bool  { return f.Has(path) }
func (f *findings) said(path string) bool { return f.Said(path) }

func join(path, name string) string                       { return document.Join(path, name) }
func suggest(name string, known []string) string          { return document.Suggest(name, known) }
func splitHint(s string) (text, hint string)              { return document.SplitHint(s) }
func locate(at map[string]position, path string) position { return document.Locate(at, path) }

// At returns a finding about the member at path, for checks made elsewhere. A
// hint that the message has of its own is nearer than hint.
func (c *Config) At(path string, s Severity, message, hint string) Finding {
	p := locate(c.positions, path)
	message, own := splitHint(message)
	return Finding{File: c.file, Line: p.Line, Column: p.Column, Path: path, Severity: s, Message: message, Hint: cmp.Or(own, hint)}
}
