package main

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"chancery/keystore/audit"
)

// mostActsChecked is how many acts of one scenario are held against the schema.
const mostActsChecked = 1000

// entriesFit holds what the daemon entered against the published schema: all of
// lifecycle, and as many acts as there is time for.
func entriesFit(t *testing.T, dir string) {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(audit.EntrySchema()))
	if err != nil {
		t.Error(err)
		return
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("entry.json", doc); err != nil {
		t.Error(err)
		return
	}
	schema, err := c.Compile("entry.json")
	if err != nil {
		t.Error(err)
		return
	}
	acts := 0
	for at, err := range audit.Entries(filepath.Join(dir, "audit"), audit.Filter{}) {
		if err != nil {
			return // whoever verifies it tells
		}
		if at.Log() != "lifecycle" {
			if acts++; acts > mostActsChecked {
				continue
			}
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(at.Entry.Append(nil)))
		if err == nil {
			err = schema.Validate(v)
		}
		if err != nil {
			t.Errorf("%s does not fit the schema: %v\n%s", at.Name(), err, at.Entry.Append(nil))
		}
	}
}
