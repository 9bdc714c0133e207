// Package apitest holds requests and replies against the OpenAPI document, for
// tests.
//
//	doc, err := apitest.Load()
//	err = doc.CheckReply("POST", "/v1/sign/jwt", resp.StatusCode, resp.Header, body)
package apitest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"chancery/signer/api"
)

// A Document is the OpenAPI document, ready to be held against. Its schemas are
// closed: what it tells readers to pass over, it reports. It may be used
// concurrently.
type Document struct {
	// Root is the document as it is published.
	Root map[string]any

	mu      sync.Mutex // guards schemas
	schemas *jsonschema.Compiler
}

// An Operation is what can be done at a path by a method.
type Operation struct {
	Path    string // as it stands in the document, with its parameters
	Method  string // upper case
	Doors   []string
	MaxBody int64 // bytes; 0: it takes no body

	at   string // a JSON pointer to it
	node map[string]any
}

// Load reads the document of package api.
func Load() (*Document, error) {
	d := new(Document)
	if err := json.Unmarshal(api.OpenAPI(), &d.Root); err != nil {
		return nil, fmt.Errorf("reading the OpenAPI document: %w", err)
	}
	closed, err := jsonschema.UnmarshalJSON(bytes.NewReader(api.OpenAPI()))
	if err != nil {
		return nil, fmt.Errorf("reading the OpenAPI document: %w", err)
	}
	for _, schema := range object(object(closed, "components"), "schemas") {
		s, ok := schema.(map[string]any)
		if _, said := s["additionalProperties"]; ok && !said && s["properties"] != nil {
			s["additionalProperties"] = false
		}
	}
	d.schemas = jsonschema.NewCompiler()
	d.schemas.AssertFormat()
	if err := d.schemas.AddResource(resource, closed); err != nil {
		return nil, fmt.Errorf("reading the OpenAPI document: %w", err)
	}
	return d, nil
}

// resource is what the document is called among schemas.
const resource = "https://chancery.invalid/openapi.json"

// Operations returns every operation that is at a door, by method and path:
// "POST /v1/sign/jwt".
func (d *Document) Operations(door string) map[string]Operation {
	found := make(map[string]Operation)
	for _, op := range d.all() {
		if slices.Contains(op.Doors, door) {
			found[op.Method+" "+op.Path] = op
		}
	}
	return found
}

func (d *Document) all() (ops []Operation) {
	paths := object(d.Root, "paths")
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item := object(paths, path)
		for _, method := range []string{"get", "put", "post", "delete", "options", "head", "patch", "trace"} {
			node := object(item, method)
			if node == nil {
				continue
			}
			op := Operation{Path: path, Method: strings.ToUpper(method), at: "/paths/" + escape(path) + "/" + method, node: node}
			doors, _ := node["x-chancery-doors"].([]any)
			for _, door := range doors {
				op.Doors = append(op.Doors, fmt.Sprint(door))
			}
			if n, ok := object(node, "requestBody")["x-chancery-max-body"].(float64); ok {
				op.MaxBody = int64(n)
			}
			ops = append(ops, op)
		}
	}
	return ops
}

// find returns the operation that a request is, whatever its parameters.
func (d *Document) find(method, path string) (Operation, bool) {
	path, _, _ = strings.Cut(path, "?")
	for _, op := range d.all() {
		if op.Method == method && fits(op.Path, path) {
			return op, true
		}
	}
	return Operation{}, false
}

func fits(template, path string) bool {
	want, have := strings.Split(template, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, have, func(w, h string) bool {
		return w == h || strings.HasPrefix(w, "{") && h != ""
	})
}

// Check returns nil if value fits the schema at a JSON pointer into the document,
// which must not be a reference.
func (d *Document) Check(pointer string, value []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(value))
	if err != nil {
		return fmt.Errorf("%.200q is no JSON: %w", value, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	schema, err := d.schemas.Compile(resource + "#" + pointer)
	if err != nil {
		return fmt.Errorf("the schema at %s: %w", pointer, err)
	}
	if err := schema.Validate(v); err != nil {
		return fmt.Errorf("%.300s does not fit %s: %w", value, pointer, err)
	}
	return nil
}

// Resolve returns what is at a JSON pointer, and the pointer to where that stands
// if it is a reference.
func (d *Document) Resolve(pointer string) (node map[string]any, at string, err error) {
	node = d.Root
	for name := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		name = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
		if node = object(node, name); node == nil {
			return nil, "", fmt.Errorf("nothing is at %s", pointer)
		}
	}
	if ref, ok := node["$ref"].(string); ok {
		return d.Resolve(strings.TrimPrefix(ref, "#"))
	}
	return node, pointer, nil
}

// object returns a member that is an object; nil: there is none.
func object(of any, name string) map[string]any {
	o, _ := of.(map[string]any)
	m, _ := o[name].(map[string]any)
	return m
}

func escape(name string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(name) }

// errUndocumented begins what is wrong with an exchange that the document does
// not have.
var errUndocumented = errors.New("not in the OpenAPI document (hint: signer/api/openapi.json)")
