package audit

import (
	"bytes"
	"encoding/json"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"chancery/keystore"
)

func compiledSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(EntrySchema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("entry.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("entry.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t testing.TB, s *jsonschema.Schema, entry []byte) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(entry))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

// exampleEntries returns an entry of every kind: those of a daemon's first
// minutes, and by hand what needs a misfortune.
func exampleEntries(t testing.TB) (lines [][]byte) {
	t.Helper()
	data, err := os.ReadFile("testdata/entries.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		lines = append(lines, bytes.TrimSuffix(line, []byte("\n")))
	}
	return lines
}

func TestEntriesOfEveryKindFitTheSchema(t *testing.T) {
	s := compiledSchema(t)
	met := map[string]bool{}
	for _, line := range exampleEntries(t) {
		e, err := ParseEntry(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		met[string(e.Action)], met[string(e.Outcome)] = true, true
		if err := validate(t, s, line); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	for _, typ := range []string{"Action", "Outcome"} {
		for _, c := range constants(t, typ) {
			if !met[c] {
				t.Errorf("no example has %s %q", typ, c)
			}
		}
	}
}

// constants returns the values of the constants of a type in package keystore.
func constants(t testing.TB, typ string) (values []string) {
	t.Helper()
	f, err := goparser.ParseFile(token.NewFileSet(), "../record.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for spec := range specs(f) {
		if name, ok := spec.Type.(*ast.Ident); !ok || name.Name != typ {
			continue
		}
		for _, v := range spec.Values {
			s, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, s)
		}
	}
	if len(values) == 0 {
		t.Fatalf("no constants of type %s", typ)
	}
	return values
}

func specs(f *ast.File) func(yield func(*ast.ValueSpec) bool) {
	return func(yield func(*ast.ValueSpec) bool) {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, s := range g.Specs {
				if !yield(s.(*ast.ValueSpec)) {
					return
				}
			}
		}
	}
}

func TestTheSchemaNamesWhatTheCodeNames(t *testing.T) {
	var schema struct {
		Properties map[string]struct{ Enum []string }
	}
	if err := json.Unmarshal(EntrySchema(), &schema); err != nil {
		t.Fatal(err)
	}
	g, err := ReadGlossary()
	if err != nil {
		t.Fatal(err)
	}
	actions := constants(t, "Action")
	for _, a := range actions {
		if !slices.Contains(schema.Properties["action"].Enum, a) {
			t.Errorf("action %q is not in the schema", a)
		}
		if m := g.Actions[keystore.Action(a)]; m.Meaning == "" || m.Log == "" {
			t.Errorf("action %q has no definition in the schema", a)
		}
		if then := `{"if": {"properties": {"action": {"const": "` + a + `"}}}, "then": {"$ref": "#/$defs/` + a + `"}}`; !bytes.Contains(EntrySchema(), []byte(then)) {
			t.Errorf("the definition of action %q is not applied", a)
		}
	}
	if len(g.Actions) != len(actions) || len(schema.Properties["action"].Enum) != len(actions) {
		t.Errorf("the schema names %d actions and lists %d, the code has %d", len(g.Actions), len(schema.Properties["action"].Enum), len(actions))
	}
	outcomes := constants(t, "Outcome")
	for _, o := range outcomes {
		if g.Outcomes[keystore.Outcome(o)] == "" {
			t.Errorf("outcome %q is not in the schema", o)
		}
	}
	if len(g.Outcomes) != len(outcomes) {
		t.Errorf("outcomes of the schema: %v", g.Outcomes)
	}
	members := memberNames()
	for _, m := range members {
		if g.Members[m] == "" {
			t.Errorf("member %q is not in the schema", m)
		}
	}
	if len(g.Members) != len(members) {
		t.Errorf("members of the schema: %v", g.Members)
	}
}

// memberNames returns the names of an entry's members in their order.
func memberNames() (names []string) {
	for _, typ := range []reflect.Type{reflect.TypeFor[Entry](), reflect.TypeFor[keystore.Record]()} {
		for i := range typ.NumField() {
			if name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ","); name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

func TestWhatTheSchemaRefuses(t *testing.T) {
	s := compiledSchema(t)
	const sound = `{"v":1,"seq":3,"time":"2026-11-27T23:34:05.312376Z","principal":"chancery","action":"node.start","outcome":"done","detail":{"binary":"b","config":"c","version":"v"}}`
	if err := validate(t, s, []byte(sound)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"another version":     {`"v":1`, `"v":2`},
		"a negative index":    {`"seq":3`, `"seq":-3`},
		"a time of a zone":    {`312376Z`, `312376+01:00`},
		"an unknown action":   {`node.start`, `node.explode`},
		"an unknown outcome":  {`"done"`, `"fine"`},
		"an unknown member":   {`"principal"`, `"person"`},
		"a missing member":    {`"principal":"chancery",`, ``},
		"a missing detail":    {`"binary":"b",`, ``},
		"a detail of numbers": {`"binary":"b"`, `"binary":7`},
		"a count of zero":     {`"detail"`, `"count":0,"detail"`},
		"an empty detail":     {`{"binary":"b","config":"c","version":"v"}`, `{}`},
	} {
		bad := strings.Replace(sound, change[0], change[1], 1)
		if bad == sound {
			t.Fatalf("%s: nothing was changed", name)
		}
		if err := validate(t, s, []byte(bad)); err == nil {
			t.Errorf("%s is allowed", name)
		}
	}
}

// What the longest record becomes fits the schema as well.
func TestCutEntriesFitTheSchema(t *testing.T) {
	s := compiledSchema(t)
	e := longestEntry()
	if err := validate(t, s, e.Append(nil)); err != nil {
		t.Error(err)
	}
}

// longestEntry has more in each string than fits.
func longestEntry() Entry {
	long := strings.Repeat("\u00e4", 7000)
	e := Entry{Sequence: 1 << 40, Time: noon}
	v := reflect.ValueOf(&e.Record).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString(long)
		case reflect.Int, reflect.Int64:
			f.SetInt(1 << 30)
		}
	}
	e.Action, e.Outcome, e.Detail = keystore.ActSignJWT, keystore.OutcomeRefused, map[string]string{}
	for i := range 20 {
		e.Detail[strconv.Itoa(i)] = long
	}
	return e
}
