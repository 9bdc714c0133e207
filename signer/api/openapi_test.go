package api_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"chancery/signer/api"
	"chancery/signer/api/apitest"
)

const hint = "(hint: signer/api/openapi.json)"

func document(t *testing.T) *apitest.Document {
	t.Helper()
	d, err := apitest.Load()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// testdata/openapi-3.1-meta.json is the OpenAPI Initiative's own description of
// OpenAPI 3.1 documents, as published at its $id under the Apache License 2.0. It
// leaves the schemas inside to JSON Schema, by which each is compiled.
func TestTheDocumentIsOpenAPI(t *testing.T) {
	meta, err := os.ReadFile("testdata/openapi-3.1-meta.json")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(meta))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("meta.json", schema); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile("meta.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(api.OpenAPI()))
	if err != nil {
		t.Fatal(err)
	}
	if err := compiled.Validate(doc); err != nil {
		t.Errorf("%v", err)
	}
	delete(doc.(map[string]any), "info")
	if compiled.Validate(doc) == nil {
		t.Error("a document without info is taken for one")
	}
}

// Every reference leads somewhere, every component is used, and every operation
// has a name of its own.
func TestTheDocumentHoldsTogether(t *testing.T) {
	d := document(t)
	used, ids := map[string]bool{}, map[string]bool{}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				used[strings.TrimPrefix(ref, "#")] = true
				if _, _, err := d.Resolve(strings.TrimPrefix(ref, "#")); err != nil {
					t.Errorf("%s: %v", at, err)
				}
			}
			if id, ok := v["operationId"].(string); ok {
				if ids[id] {
					t.Errorf("two operations are called %s", id)
				}
				ids[id] = true
			}
			for name, member := range v {
				walk(at+"/"+name, member)
			}
		case []any:
			for i, element := range v {
				walk(at+"/"+strconv.Itoa(i), element)
			}
		}
	}
	walk("", d.Root)
	for kind, named := range d.Root["components"].(map[string]any) {
		for name := range named.(map[string]any) {
			if at := "/components/" + kind + "/" + name; kind != "securitySchemes" && !used[at] {
				t.Errorf("nothing refers to %s %s", at, hint)
			}
		}
	}
}

// Every code stands, with its status, in the response of that status.
func TestEveryCodeIsInTheDocument(t *testing.T) {
	d := document(t)
	codes, listed := api.Codes(), map[string]bool{}
	for _, code := range d.Root["components"].(map[string]any)["schemas"].(map[string]any)["Code"].(map[string]any)["examples"].([]any) {
		listed[code.(string)] = true
	}
	found := map[api.Code]bool{}
	for name := range d.Root["components"].(map[string]any)["responses"].(map[string]any) {
		at := "/components/responses/" + name + "/content/application~1problem+json"
		media, _, err := d.Resolve(at)
		if err != nil {
			continue // not of a problem
		}
		for code, example := range media["examples"].(map[string]any) {
			value, err := json.Marshal(example.(map[string]any)["value"])
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Check("/components/schemas/Problem", value); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			var p api.Problem
			if err := json.Unmarshal(value, &p); err != nil {
				t.Fatal(err)
			}
			want := (&api.Error{Code: api.Code(code), Detail: p.Detail, Rule: p.Rule, RetryAfter: p.RetryAfter}).Problem()
			if codes[api.Code(code)] == 0 || !reflect.DeepEqual(&p, want) {
				t.Errorf("%s: the example of %s is %+v, want %+v %s", name, code, p, *want, hint)
			}
			found[api.Code(code)] = true
		}
	}
	for code, status := range codes {
		if !found[code] {
			t.Errorf("no response has an example of %s, which comes with %d %s", code, status, hint)
		}
		if !listed[string(code)] {
			t.Errorf("the schema Code does not list %s %s", code, hint)
		}
	}
	if len(listed) != len(codes) {
		t.Errorf("the schema Code lists %d codes, and there are %d %s", len(listed), len(codes), hint)
	}
}

// Every example of a request or a reply fits its schema.
func TestExamplesFitTheirSchemas(t *testing.T) {
	d, n := document(t), 0
	var walk func(at string, v any)
	walk = func(at string, v any) {
		node, ok := v.(map[string]any)
		if !ok {
			return
		}
		if examples, ok := node["examples"].(map[string]any); ok && node["schema"] != nil {
			for name := range examples {
				example, _, err := d.Resolve(at + "/examples/" + name)
				if err != nil {
					t.Error(err)
					continue
				}
				value, err := json.Marshal(example["value"])
				if err != nil {
					t.Fatal(err)
				}
				if err := d.Check(at+"/schema", value); err != nil {
					t.Errorf("example %q: %v", name, err)
				}
				n++
			}
			return
		}
		for name, member := range node {
			walk(at+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(name), member)
		}
	}
	walk("", d.Root)
	if n < 40 {
		t.Errorf("%d examples", n)
	}
}

// notOnTheWire are types with members in JSON that no reply has.
var notOnTheWire = []string{"Endpoints"}

// ofOthers are schemas of what other packages write.
var ofOthers = []string{"JWKSet", "JWK", "Discovery"}

// Every member of the wire types is in the schema of that name, with its type,
// and required unless it may be left out; and the reverse.
func TestSchemasAreTheWireTypes(t *testing.T) {
	schemas := document(t).Root["components"].(map[string]any)["schemas"].(map[string]any)
	types := wireTypes(t)
	for name, members := range types {
		schema, ok := schemas[name].(map[string]any)
		if !ok {
			t.Errorf("no schema is called %s, as the wire type is %s", name, hint)
			continue
		}
		properties, _ := schema["properties"].(map[string]any)
		var required []string
		for member, m := range members {
			have, ok := properties[member].(map[string]any)
			if !ok {
				t.Errorf("schema %s lacks the member %q of the wire type %s", name, member, hint)
				continue
			}
			if !m.optional {
				required = append(required, member)
			}
			if !m.fits(have) {
				t.Errorf("schema %s: member %q is %v, want %v %s", name, member, have, m.schema, hint)
			}
		}
		for member := range properties {
			if _, ok := members[member]; !ok {
				t.Errorf("schema %s has a member %q that the wire type has not %s", name, member, hint)
			}
		}
		var said []string
		list, _ := schema["required"].([]any)
		for _, member := range list {
			said = append(said, member.(string))
		}
		slices.Sort(said)
		slices.Sort(required)
		if !slices.Equal(said, required) {
			t.Errorf("schema %s requires %q, want %q %s", name, said, required, hint)
		}
		if closed := schema["additionalProperties"] == false; closed != strings.HasSuffix(name, "Request") {
			t.Errorf("schema %s: additionalProperties is false: %v; requests are read strictly, replies may get members %s", name, closed, hint)
		}
	}
	for name, schema := range schemas {
		_, ok := types[name]
		if schema.(map[string]any)["properties"] != nil && !ok && !slices.Contains(ofOthers, name) {
			t.Errorf("schema %s is of no wire type %s", name, hint)
		}
	}
}

// A member is what a schema is to say of a member of a wire type.
type member struct {
	schema   map[string]any // nil: anything
	optional bool
}

// fits reports whether have says at least what the member's schema does.
func (m member) fits(have map[string]any) bool {
	for k, v := range m.schema {
		h := have[k]
		if nested, ok := h.(map[string]any); ok && k == "items" {
			if !(member{schema: v.(map[string]any)}).fits(nested) {
				return false
			}
			continue
		}
		if !reflect.DeepEqual(h, v) {
			return false
		}
	}
	return true
}

// wireTypes returns the struct types of this package that have members in JSON.
func wireTypes(t *testing.T) map[string]map[string]member {
	t.Helper()
	structs := map[string]*ast.StructType{}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok && spec.Name.IsExported() {
					structs[spec.Name.Name] = s
				}
			}
			return true
		})
	}
	types := map[string]map[string]member{}
	for name, s := range structs {
		if members := membersOf(t, structs, s); len(members) > 0 && !slices.Contains(notOnTheWire, name) {
			types[name] = members
		}
	}
	return types
}

func membersOf(t *testing.T, structs map[string]*ast.StructType, s *ast.StructType) map[string]member {
	members := map[string]member{}
	for _, field := range s.Fields.List {
		if len(field.Names) == 0 { // embedded: its members are members here
			maps.Copy(members, membersOf(t, structs, structs[field.Type.(*ast.Ident).Name]))
			continue
		}
		if field.Tag == nil {
			continue
		}
		tag, err := strconv.Unquote(field.Tag.Value)
		if err != nil {
			t.Fatal(err)
		}
		name, options, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		optional := options == "omitempty" || options == "omitzero"
		members[name] = member{schemaOf(t, field.Type, optional), optional}
	}
	return members
}

// schemaOf returns what a schema is to say of a Go type.
func schemaOf(t *testing.T, e ast.Expr, optional bool) map[string]any {
	t.Helper()
	switch e := e.(type) {
	case *ast.Ident:
		if plain, ok := map[string]string{"string": "string", "bool": "boolean", "int": "integer", "int64": "integer", "float64": "number"}[e.Name]; ok {
			return map[string]any{"type": plain}
		}
		return map[string]any{"$ref": "#/components/schemas/" + e.Name}
	case *ast.SelectorExpr:
		switch e.Sel.Name {
		case "Time":
			return map[string]any{"type": "string", "format": "date-time"}
		case "RawMessage":
			return nil
		}
	case *ast.ArrayType:
		if items := schemaOf(t, e.Elt, true); items != nil {
			return map[string]any{"type": "array", "items": items}
		}
		return map[string]any{"type": "array"}
	case *ast.StarExpr:
		of := schemaOf(t, e.X, true)
		if optional { // it is left out, never null
			return of
		}
		if plain, ok := of["type"]; ok {
			of["type"] = []any{plain, "null"}
			return of
		}
		return map[string]any{"anyOf": []any{of, map[string]any{"type": "null"}}}
	}
	t.Fatalf("a wire type has a member of type %T that this test does not know", e)
	return nil
}

// What the document says of sizes is what is in force.
func TestLimitsInTheDocument(t *testing.T) {
	d := document(t)
	requests := d.Root["components"].(map[string]any)["schemas"].(map[string]any)["BatchRequest"].(map[string]any)["properties"].(map[string]any)["requests"].(map[string]any)
	if requests["maxItems"] != float64(api.MaxBatch) {
		t.Errorf("a batch has at most %v requests, want %d %s", requests["maxItems"], api.MaxBatch, hint)
	}
	text := d.Root["info"].(map[string]any)["description"].(string)
	for _, limit := range []string{"32 deep (34 in a batch)", "1000 members", "strings of 32 KiB", "256 characters"} {
		if !strings.Contains(text, limit) {
			t.Errorf("the description does not say %q", limit)
		}
	}
	for _, op := range d.Operations("signing") {
		want := int64(0)
		if op.Method == "POST" {
			want = api.MaxBody
		}
		if strings.HasSuffix(op.Path, "/batch") {
			want = api.MaxBatchBody
		}
		if op.MaxBody != want {
			t.Errorf("%s %s: a body of %d bytes, want %d %s", op.Method, op.Path, op.MaxBody, want, hint)
		}
	}
}
