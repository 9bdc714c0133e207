package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// actionRow is a row of README's table of actions: the log, the actions, and when
// they are entered.
var actionRow = regexp.MustCompile("(?m)^\\| `(acts|lifecycle)` \\| (`.*?`) \\| .+ \\|$")

// README's table of actions has each action of the schema once, in the log that
// the schema says it is in, and no other.
func TestTheREADMENamesEveryAction(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	glossary, err := audit.ReadGlossary()
	if err != nil {
		t.Fatal(err)
	}
	in := make(map[keystore.Action]string)
	for _, row := range actionRow.FindAllSubmatch(readme, -1) {
		for name := range strings.SplitSeq(string(row[2]), ", ") {
			action := keystore.Action(strings.Trim(name, "`"))
			if _, again := in[action]; again {
				t.Errorf("%s has two rows", action)
			}
			in[action] = string(row[1])
		}
	}
	for action, meaning := range glossary.Actions {
		if in[action] != meaning.Log {
			t.Errorf("%s is in the table for %q, want %q", action, in[action], meaning.Log)
		}
		delete(in, action)
	}
	for action := range in {
		t.Errorf("the schema does not know %s", action)
	}
}
