package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/iotest"
)

func TestOnlyYesIsYes(t *testing.T) {
	for answer, want := range map[string]error{
		"yes\n": nil, " yes \r\n": nil, "yes": nil,
		"": errNotConfirmed, "\n": errNotConfirmed, "y\n": errNotConfirmed, "no\nyes\n": errNotConfirmed, "yes, no\n": errNotConfirmed,
	} {
		var out bytes.Buffer
		if err := ask(t.Context(), strings.NewReader(answer), &out, "forget\x1b node b?"); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", answer, err, want)
		}
		if got := out.String(); got != "forget? node b? [yes/no] " {
			t.Errorf("asked %q", got)
		}
	}
	broken := errors.New("unplugged")
	if err := ask(t.Context(), iotest.ErrReader(broken), &bytes.Buffer{}, "?"); !errors.Is(err, broken) {
		t.Errorf("a terminal that is gone: %v", err)
	}
}

// A script has no terminal, and is not asked.
func TestAScriptIsNotAsked(t *testing.T) {
	a := &app{in: strings.NewReader("no\n"), err: &bytes.Buffer{}}
	if err := a.confirm(t.Context(), "forget node b?"); err != nil {
		t.Error(err)
	}
}
