package document

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v4"
)

// JSON is the text of a JSON value that a file has as YAML, or as text: a member
// of this type that is text holds the JSON itself, which is not looked at.
type JSON []byte

var jsonType = reflect.TypeFor[JSON]()

// scalar reads text, a whole number, true or false into an any.
func (d decoder) scalar(n *yaml.Node, path string, into reflect.Value) {
	if n.Kind == yaml.ScalarNode {
		switch n.ShortTag() {
		case "!!str":
			into.Set(reflect.ValueOf(n.Value))
			return
		case "!!bool":
			if n.Value == "true" || n.Value == "false" {
				into.Set(reflect.ValueOf(n.Value == "true"))
				return
			}
		case "!!int":
			if v, err := strconv.ParseInt(n.Value, 10, 64); err == nil && strconv.FormatInt(v, 10) == n.Value {
				into.Set(reflect.ValueOf(v))
				return
			}
		}
	}
	d.wrong(n, path, "text, a whole number, true or false")
}

func (d decoder) json(n *yaml.Node, path string, into reflect.Value) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" {
		into.SetBytes([]byte(n.Value))
		return
	}
	text, ok := d.appendJSON(nil, n, path)
	if ok {
		into.SetBytes(text)
	}
}

// number is what JSON calls a number (RFC 8259 Section 6).
var number = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// appendJSON appends n as JSON; false after a finding.
func (d decoder) appendJSON(b []byte, n *yaml.Node, path string) ([]byte, bool) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return append(b, "null"...), true
	}
	if !d.plain(n, path) {
		return b, false
	}
	switch {
	case n.Kind == yaml.MappingNode:
		return d.appendObject(b, n, path)
	case n.Kind == yaml.SequenceNode:
		ok := true
		b = append(b, '[')
		for i, item := range n.Content {
			if i > 0 {
				b = append(b, ',')
			}
			var fine bool
			b, fine = d.appendJSON(b, item, fmt.Sprintf("%s[%d]", path, i))
			ok = ok && fine
		}
		return append(b, ']'), ok
	case n.ShortTag() == "!!str":
		return appendText(b, n.Value), true
	case n.ShortTag() == "!!bool" && (n.Value == "true" || n.Value == "false"), number.MatchString(n.Value):
		return append(b, n.Value...), true
	}
	d.wrong(n, path, "a value that JSON has")
	return b, false
}

func (d decoder) appendObject(b []byte, n *yaml.Node, path string) ([]byte, bool) {
	before := len(d.List)
	b = append(b, '{')
	first := true
	d.members(n, path, func(name string, _, value *yaml.Node, member string) {
		if !first {
			b = append(b, ',')
		}
		first = false
		b, _ = d.appendJSON(append(appendText(b, name), ':'), value, member)
	})
	return append(b, '}'), len(d.List) == before
}

func appendText(b []byte, s string) []byte {
	text, err := json.Marshal(s)
	if err != nil { // a string always has a form in JSON
		panic(err)
	}
	return append(b, text...)
}
