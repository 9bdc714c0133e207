package main

import (
	"strings"
	"testing"
	"time"

	"chancery/keystore/audit/witness"
)

func TestWitnessWarning(t *testing.T) {
	against := witness.Contradiction{Name: "alice", Origin: "h/audit/n/lifecycle", What: "it has cosigned 9 entries", Since: time.Unix(0, 0).UTC()}
	late := witness.Standing{Name: "bob", Origin: "h/audit/n/lifecycle", Failed: "no answer"}
	for _, c := range []struct {
		of             string
		contradictions []witness.Contradiction
		standings      []witness.Standing
		begins, has    string
	}{
		{"nobody", nil, nil, "", ""},
		{"all well", nil, []witness.Standing{{Name: "bob"}}, "", ""},
		{"late", nil, []witness.Standing{{Name: "carol"}, late}, "witness bob does not cosign h/audit/n/lifecycle: no answer", ""},
		{"against", []witness.Contradiction{against}, []witness.Standing{late},
			"witness alice contradicts h/audit/n/lifecycle since 1970-01-01T00:00:00Z: it has cosigned 9 entries (hint: ", "chancery audit verify --checkpoint FILE"},
		{"against twice", []witness.Contradiction{against, against}, nil, "witness alice contradicts ", ", and 1 more such (hint: "},
	} {
		got := warningOf(c.contradictions, c.standings)
		if !strings.HasPrefix(got, c.begins) || !strings.Contains(got, c.has) || (got == "") != (c.begins == "") {
			t.Errorf("%s: %q", c.of, got)
		}
	}
}
