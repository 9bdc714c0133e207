package document

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// MaxFile is the largest file that is read, in bytes.
const MaxFile = 1 << 20

// parse returns the one document of text, or nil after a finding.
func (f *Findings) parse(text []byte) *yaml.Node {
	var doc yaml.Node
	err := yaml.Load(text, &doc)
	if err == nil && doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		return doc.Content[0]
	}
	message, hint, at := "it is not one YAML document", "", Position{1, 1}
	if e, ok := errors.AsType[*yaml.LoadError](err); ok {
		message = strings.TrimPrefix(e.Message, "yaml: ")
		if e.Mark.Line > 0 {
			at = Position{e.Mark.Line, max(1, e.Mark.Column)}
			hint = "YAML indents with spaces; quote text that holds `: ` or begins with a sign"
		}
	}
	f.Add(at, "", Error, hint, "%s", message)
	return nil
}

// Decode reads text, one YAML document, into the struct that into points to, and
// reports whether there was one. Its fields are named by their yaml tags, or their
// json tags where they have none of these: "name,required" must be there,
// "name,lines" may have line ends in its text, and a field with the tag ",rest"
// lets the struct have members that it has no fields for, which are not looked at.
func (f *Findings) Decode(text []byte, into any) bool {
	root := f.parse(text)
	if root == nil {
		return false
	}
	decoder{f}.value(root, "", reflect.ValueOf(into).Elem())
	f.Unread = make(map[string]bool)
	for _, x := range f.List {
		f.Unread[x.Path] = true
	}
	return true
}

// decoder walks a document along the types of a struct and notes where each
// member stands. It goes on after every finding.
type decoder struct{ *Findings }

var durationType = reflect.TypeFor[time.Duration]()

func (d decoder) value(n *yaml.Node, path string, into reflect.Value) {
	if !d.plain(n, path) {
		return
	}
	switch {
	case into.Type() == durationType:
		d.duration(n, path, into)
	case into.Type() == jsonType:
		d.json(n, path, into)
	case into.Kind() == reflect.Pointer: // to a structure that may be absent
		into.Set(reflect.New(into.Type().Elem()))
		d.value(n, path, into.Elem())
	case into.Kind() == reflect.Struct:
		d.structure(n, path, into)
	case into.Kind() == reflect.Map:
		d.mapping(n, path, into)
	case into.Kind() == reflect.Slice:
		d.sequence(n, path, into)
	case into.Kind() == reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || n.Value != "true" && n.Value != "false" {
			d.wrong(n, path, "true or false")
			return
		}
		into.SetBool(n.Value == "true")
	case into.Kind() == reflect.Interface:
		d.scalar(n, path, into)
	case into.Kind() == reflect.Int || into.Kind() == reflect.Int64:
		bits := 32
		if into.Kind() == reflect.Int64 {
			bits = 64
		}
		v, err := strconv.ParseInt(n.Value, 10, bits)
		if err != nil || n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || strconv.FormatInt(v, 10) != n.Value {
			d.wrong(n, path, "a whole number")
			return
		}
		into.SetInt(v)
	case into.Kind() == reflect.Uint32:
		v, err := strconv.ParseUint(n.Value, 10, 32)
		if err != nil || n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || strconv.FormatUint(v, 10) != n.Value {
			d.wrong(n, path, "a number from 0 to 4294967295")
			return
		}
		into.SetUint(v)
	default:
		d.text(n, path, into)
	}
}

// plain refuses what would make the file say the same thing twice, or nothing.
func (d decoder) plain(n *yaml.Node, path string) bool {
	at := Position{n.Line, n.Column}
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.Add(at, path, Error, "write the value out", "anchors and aliases are not used here")
	case n.Style&yaml.TaggedStyle != 0:
		d.Add(at, path, Error, "remove the tag", "tags are not used here")
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		d.Add(at, path, Error, "give it a value, or remove it", "it has no value")
	default:
		return true
	}
	return false
}

func (d decoder) wrong(n *yaml.Node, path, want string) {
	kind := map[yaml.Kind]string{yaml.MappingNode: "a mapping", yaml.SequenceNode: "a sequence"}[n.Kind]
	if n.Kind == yaml.ScalarNode {
		kind = fmt.Sprintf("%.40q", n.Value)
	}
	d.Add(Position{n.Line, n.Column}, path, Error, "", "want %s, not %s", want, kind)
}

func (d decoder) text(n *yaml.Node, path string, into reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.wrong(n, path, "text")
		return
	}
	if n.ShortTag() != "!!str" {
		d.Add(Position{n.Line, n.Column}, path, Error, fmt.Sprintf("write %.40q, in quotes", n.Value),
			"want text, and YAML reads %.40q as %s", n.Value, n.ShortTag())
		return
	}
	if n.Value == "" {
		d.Add(Position{n.Line, n.Column}, path, Error, "give it a value, or remove it", "it is empty")
		return
	}
	if strings.ContainsFunc(n.Value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		d.Add(Position{n.Line, n.Column}, path, Error, "", "it holds a control character")
		return
	}
	into.SetString(n.Value)
}

func (d decoder) duration(n *yaml.Node, path string, into reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.wrong(n, path, "a duration")
		return
	}
	v, err := ParseDuration(n.Value)
	if err != nil {
		d.Add(Position{n.Line, n.Column}, path, Error, "30d, 12h, 1h30m, 90s or 250ms", "%.40q: %v", n.Value, err)
		return
	}
	into.SetInt(int64(v))
}

// maxDuration keeps sums of durations far from overflow.
const maxDuration = 50 * 365 * 24 * time.Hour

var (
	days = regexp.MustCompile(`^([0-9]+)d(.*)$`)
	// spelled is what time.ParseDuration refuses for its size alone.
	spelled = regexp.MustCompile(`^(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`)
)

// ParseDuration reads a positive duration: Go's spelling, with days of 24 hours
// before it.
func ParseDuration(s string) (time.Duration, error) {
	rest, total := s, time.Duration(0)
	if m := days.FindStringSubmatch(s); m != nil {
		n, err := strconv.Atoi(m[1])
		total, rest = maxDuration+1, m[2]
		if err == nil && n <= int(maxDuration/(24*time.Hour)) {
			total = time.Duration(n) * 24 * time.Hour
		}
	}
	if rest != "" {
		v, err := time.ParseDuration(rest)
		switch {
		case err != nil && strings.Trim(rest, "0123456789") == "":
			return 0, errors.New("it has no unit")
		case err != nil && spelled.MatchString(rest):
			v = maxDuration + 1
		case err != nil:
			return 0, errors.New("it is no duration")
		case v < 0 || strings.HasPrefix(rest, "+"):
			return 0, errors.New("it has a sign")
		}
		total += min(v, maxDuration+1)
	}
	if total <= 0 {
		return 0, errors.New("it is not positive")
	}
	if total > maxDuration {
		return 0, errors.New("it is longer than fifty years")
	}
	return total, nil
}

func (d decoder) sequence(n *yaml.Node, path string, into reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.wrong(n, path, "a sequence")
		return
	}
	into.Set(reflect.MakeSlice(into.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.Positions[at] = Position{item.Line, item.Column}
		d.value(item, at, into.Index(i))
	}
}

// members calls each for every member of a mapping, once for each name.
func (d decoder) members(n *yaml.Node, path string, each func(name string, key, value *yaml.Node, path string)) {
	first := make(map[string]*yaml.Node)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := Position{key.Line, key.Column}
		if key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0 || key.ShortTag() == "!!merge" {
			d.Add(at, path, Error, "write the members out", "a member's name is plain text")
			continue
		}
		name := key.Value
		member := Join(path, name)
		if before := first[name]; before != nil {
			d.Add(at, member, Error, "remove one of them", "it is there twice: first on line %d", before.Line)
			continue
		}
		first[name] = key
		each(name, key, value, member)
	}
}

// Join appends a member's name to a path; a name that is not plain is quoted.
func Join(path, name string) string {
	if !plainName.MatchString(name) {
		name = fmt.Sprintf("%.40q", name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// note keeps where a member stands: a scalar or a list on its line at its
// value, anything else at its name.
func (d decoder) note(path string, key, value *yaml.Node) {
	d.Positions[path] = Position{key.Line, key.Column}
	if value.Kind == yaml.ScalarNode || value.Kind == yaml.SequenceNode && value.Style&yaml.FlowStyle != 0 {
		d.Positions[path] = Position{value.Line, value.Column}
	}
}

func (d decoder) mapping(n *yaml.Node, path string, into reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.wrong(n, path, "a mapping of names")
		return
	}
	into.Set(reflect.MakeMap(into.Type()))
	d.members(n, path, func(name string, key, value *yaml.Node, member string) {
		d.note(member, key, value)
		v := reflect.New(into.Type().Elem()).Elem()
		d.value(value, member, v)
		into.SetMapIndex(reflect.ValueOf(name), v)
	})
}

func (d decoder) structure(n *yaml.Node, path string, into reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.wrong(n, path, "a mapping")
		return
	}
	fields, required, lines, rest := fieldsOf(into)
	seen := make(map[string]bool)
	d.members(n, path, func(name string, key, value *yaml.Node, member string) {
		field, ok := fields[name]
		if !ok && rest {
			return
		}
		if !ok {
			d.Add(Position{key.Line, key.Column}, member, Error, Suggest(name, slices.Sorted(maps.Keys(fields))), "there is no such member")
			return
		}
		seen[name] = true
		d.note(member, key, value)
		if lines[name] && value.Kind == yaml.ScalarNode {
			value.Value = strings.TrimRight(value.Value, "\n")
			d.lines(value, member, field)
			return
		}
		d.value(value, member, field)
	})
	for _, name := range required {
		if !seen[name] {
			at := Locate(d.Positions, path)
			d.Add(at, path, Error, "", "%s is missing", name)
		}
	}
}

// lines is value for text that may have several lines.
func (d decoder) lines(n *yaml.Node, path string, into reflect.Value) {
	whole := n.Value
	n.Value = strings.ReplaceAll(whole, "\n", " ")
	d.value(n, path, into)
	if into.String() != "" {
		into.SetString(whole)
	}
}

// fieldsOf returns the fields of a struct by their names in the file, the names of
// those that must be there and of those that may have several lines, and whether
// there may be others.
func fieldsOf(v reflect.Value) (fields map[string]reflect.Value, required []string, lines map[string]bool, rest bool) {
	fields, lines = make(map[string]reflect.Value), make(map[string]bool)
	for i := range v.NumField() {
		tag, ok := v.Type().Field(i).Tag.Lookup("yaml")
		if !ok {
			tag = v.Type().Field(i).Tag.Get("json")
		}
		name, option, _ := strings.Cut(tag, ",")
		rest = rest || ok && name == "" && option == "rest"
		if name == "" || name == "-" {
			continue
		}
		fields[name] = v.Field(i)
		lines[name] = option == "lines"
		if option == "required" {
			required = append(required, name)
		}
	}
	return fields, required, lines, rest
}

// Suggest returns a hint for a name that is none of known.
func Suggest(name string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if n := edits(name, k); n < distance {
			best, distance = k, n
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	if len(known) == 0 {
		return ""
	}
	return "one of " + strings.Join(known, ", ")
}

// edits is the Levenshtein distance of two short names.
func edits(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j]+1, row[j+1]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
