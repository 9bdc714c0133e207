package audit

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"chancery/keystore"
)

//go:embed schema.json
var entrySchema []byte

// EntrySchema returns the JSON Schema (draft 2020-12) of an entry as it stands
// in the log. It knows the actions of this version of Chancery and no others.
func EntrySchema() []byte { return slices.Clone(entrySchema) }

// A Glossary tells what entries mean, in the words of the schema.
type Glossary struct {
	Members  map[string]string // by their names in the entry
	Outcomes map[keystore.Outcome]string
	Actions  map[keystore.Action]ActionMeaning
}

// An ActionMeaning tells what the entries of an action mean.
type ActionMeaning struct {
	Meaning string
	Log     string            // "lifecycle" or "acts": where what was done stands
	Detail  map[string]string // what the members of detail are
}

// schemaNode is as much of a schema as the glossary needs.
type schemaNode struct {
	Const       any                   `json:"const"`
	Description string                `json:"description"`
	Ref         string                `json:"$ref"`
	Log         string                `json:"x-log"`
	OneOf       []schemaNode          `json:"oneOf"`
	Properties  map[string]schemaNode `json:"properties"`
	Defs        map[string]schemaNode `json:"$defs"`
}

// ReadGlossary reads the glossary out of the schema. It returns an error only if
// the schema of this package is broken.
func ReadGlossary() (*Glossary, error) {
	var root schemaNode
	if err := json.Unmarshal(entrySchema, &root); err != nil {
		return nil, fmt.Errorf("reading the schema of entries: %w", err)
	}
	g := &Glossary{map[string]string{}, map[keystore.Outcome]string{}, map[keystore.Action]ActionMeaning{}}
	for name, p := range root.Properties {
		g.Members[name] = p.Description
	}
	for _, o := range root.Properties["outcome"].OneOf {
		g.Outcomes[keystore.Outcome(fmt.Sprint(o.Const))] = o.Description
	}
	for name, def := range root.Defs {
		detail := def.Properties["detail"]
		if of, ok := strings.CutSuffix(strings.TrimPrefix(detail.Ref, "#/$defs/"), "/properties/detail"); ok {
			detail = root.Defs[of].Properties["detail"]
		}
		if def.Log == "" {
			continue // a part of others
		}
		m := ActionMeaning{Meaning: def.Description, Log: def.Log, Detail: map[string]string{}}
		for name, d := range detail.Properties {
			m.Detail[name] = d.Description
		}
		g.Actions[keystore.Action(name)] = m
	}
	return g, nil
}
