package main

import (
	"errors"
	"strings"
	"testing"
)

// Who sits at a terminal is told what ends before it does.
func TestCompromiseIsAskedFor(t *testing.T) {
	for _, c := range []struct {
		req  compromising
		what string
	}{
		{compromising{keyset: "web"}, "end the key that signs for web, at once and for ever"},
		{compromising{keyset: "web", kid: "abc"}, "end key abc of web,"},
		{compromising{token: "hsm"}, "end every key of token hsm,"},
		{compromising{node: "two"}, "end every key that node two could use, and the node,"},
	} {
		var out strings.Builder
		if err := ask(t.Context(), strings.NewReader("yes\n"), &out, c.req.question()); err != nil || !strings.HasPrefix(out.String(), c.what) {
			t.Errorf("%q, %v", out.String(), err)
		}
		if err := ask(t.Context(), strings.NewReader("y\n"), &out, c.req.question()); !errors.Is(err, errNotConfirmed) {
			t.Errorf("y was enough: %v", err)
		}
	}
}
