package main

import (
	"errors"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// seconds is a flag of whole seconds, written as a number of them or as a Go
// duration.
type seconds struct{ d *time.Duration }

// Set reads what a person wrote.
func (s seconds) Set(text string) error {
	d, err := time.ParseDuration(text)
	if n, number := strconv.ParseInt(text, 10, 32); number == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d%time.Second != 0 {
		return errors.New("not whole seconds, such as 300 or 5m")
	}
	*s.d = d
	return nil
}

// String returns the value, or nothing where it is not set.
func (s seconds) String() string {
	if s.d == nil || *s.d == 0 {
		return ""
	}
	return s.d.String()
}

// Type is what help calls it.
func (seconds) Type() string { return "duration" }

// wholeSeconds returns the value of --ttl, or nil where it was not given.
func wholeSeconds(c *cobra.Command, ttl time.Duration) *int64 {
	if !c.Flags().Changed("ttl") {
		return nil
	}
	n := int64(ttl / time.Second)
	return &n
}

// moment is a flag that is a time: RFC 3339, or how long ago.
type moment struct{ t *time.Time }

// Set reads what a person wrote.
func (m moment) Set(text string) error {
	if d, err := time.ParseDuration(text); err == nil {
		*m.t = time.Now().Add(-d)
		return nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.Parse(layout, text); err == nil {
			*m.t = t
			return nil
		}
	}
	return errors.New("neither a time such as 2026-03-01T12:00:00Z nor how long ago, such as 90m")
}

// String returns the value, or nothing where it is not set.
func (m moment) String() string {
	if m.t == nil || m.t.IsZero() {
		return ""
	}
	return m.t.Format(time.RFC3339)
}

// Type is what help calls it.
func (moment) Type() string { return "time" }
