package transittest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// An operation is what Vault makes of a request's method.
type operation string

const (
	opRead   operation = "read"
	opList   operation = "list"
	opUpdate operation = "update"
	opDelete operation = "delete"
)

// A call is one request on its way through the test server.
type call struct {
	op     operation
	path   string // after /v1/; a list's ends with a slash
	token  *token // who asks; nil at paths that need no token
	secret string // the token as it was sent
	args   []string
	data   map[string]any // what was sent; declared fields have their declared types
	http   *http.Request
}

// A reply is what an endpoint answers. A nil reply is 204 to a change and 404 to
// a question.
type reply struct {
	data     map[string]any
	warnings []string
	auth     map[string]any
}

// A refusal is an error that Vault words for the caller.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// A failure is an error that Vault passes on from inside, listed as its library
// for several errors lists them. Without texts it is a status and an empty list.
type failure struct {
	status int
	texts  []string
}

func (f *failure) Error() string {
	s := "1 error occurred:\n"
	if n := len(f.texts); n != 1 {
		s = fmt.Sprintf("%d errors occurred:\n", n)
	}
	for _, t := range f.texts {
		s += "\t* " + t + "\n"
	}
	return s + "\n"
}

func fail(status int, texts ...string) error { return &failure{status, texts} }

// An answer is what goes to the client.
type answer struct {
	status int
	header map[string]string
	body   any // nil: none
}

func errorAnswer(err error) answer {
	status := http.StatusInternalServerError
	if r, ok := errors.AsType[*refusal](err); ok {
		status = r.status
	} else if f, ok := errors.AsType[*failure](err); ok {
		status = f.status
	}
	return answer{status: status, body: map[string]any{"errors": []string{err.Error()}}}
}

func emptyError(status int) answer {
	return answer{status: status, body: map[string]any{"errors": []string{}}}
}

// injected are the paths whose data stands at the top of the answer as well.
var injected = []string{"sys/auth", "sys/mounts", "sys/capabilities-self", "sys/policy"}

// envelope wraps r as Vault does.
func (c *call) envelope(r *reply, mountType string) answer {
	switch {
	case r == nil && (c.op == opRead || c.op == opList):
		return emptyError(http.StatusNotFound)
	case r == nil:
		return answer{status: http.StatusNoContent}
	}
	if keys, ok := r.data["keys"].([]string); ok && c.op == opList && len(keys) == 0 {
		return emptyError(http.StatusNotFound)
	}
	body := make(map[string]any)
	for _, p := range injected {
		if c.path == p || strings.HasPrefix(c.path, p+"/") {
			for k, v := range r.data {
				body[k] = v
			}
		}
	}
	body["request_id"], body["lease_id"], body["renewable"], body["lease_duration"] = randomUUID(), "", false, 0
	body["data"], body["wrap_info"], body["warnings"], body["auth"] = nil, nil, nil, nil
	body["mount_type"] = mountType
	if r.data != nil {
		body["data"] = r.data
	}
	if len(r.warnings) > 0 {
		body["warnings"] = r.warnings
	}
	if r.auth != nil {
		body["auth"] = r.auth
	}
	return answer{status: http.StatusOK, body: body}
}

// maxBody is how much of a request is read.
const maxBody = 32 << 20

// parse reads a request. Its error is an answer by itself.
func parse(r *http.Request) (*call, error) {
	c := &call{path: strings.TrimPrefix(r.URL.Path, "/v1/"), http: r, secret: r.Header.Get("X-Vault-Token")}
	if b, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok && c.secret == "" {
		c.secret = strings.TrimSpace(b)
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		c.op = opRead
		q := r.URL.Query()
		if l := q.Get("list"); l != "" {
			list, err := strconv.ParseBool(l)
			if err != nil {
				return nil, &failure{status: http.StatusBadRequest}
			}
			q.Del("list")
			if list {
				c.op = opList
			}
		}
		c.data = fromQuery(q)
	case "LIST":
		c.op, c.data = opList, fromQuery(r.URL.Query())
	case http.MethodDelete:
		c.op, c.data = opDelete, fromQuery(r.URL.Query())
	case http.MethodPost, http.MethodPut:
		c.op = opUpdate
		d := json.NewDecoder(r.Body)
		d.UseNumber()
		switch err := d.Decode(&c.data); {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return nil, refuse(http.StatusInternalServerError, "malformed JSON, unclosed containers")
		case err != nil && !errors.Is(err, io.EOF):
			return nil, refuse(http.StatusBadRequest, "error parsing JSON: failed to parse JSON input: %v", err)
		}
	case http.MethodPatch:
		return nil, refuse(http.StatusBadRequest, "mime: no media type") // nothing here can be patched
	case http.MethodOptions:
		c.op = "options"
	default:
		return nil, &failure{status: http.StatusMethodNotAllowed}
	}
	if c.op == opList && !strings.HasSuffix(c.path, "/") {
		c.path += "/"
	}
	if c.data == nil {
		c.data = make(map[string]any)
	}
	return c, nil
}

func fromQuery(q url.Values) map[string]any {
	data := make(map[string]any)
	for k, v := range q {
		data[k] = v[0]
	}
	return data
}

// A kind is the type of a field.
type kind int

const (
	text kind = iota + 1
	number
	flag
	seconds // a number of seconds, or a duration with a unit
	texts   // a list, or one string with commas
	list
	object
)

// convert gives the declared fields their types, and returns the names that
// nobody declared.
func (c *call) convert(fields map[string]kind) (unknown []string, err error) {
	for name, v := range c.data {
		k, ok := fields[name]
		if !ok {
			unknown = append(unknown, name)
			continue
		}
		if v == nil {
			delete(c.data, name)
			continue
		}
		typed, err := convert(k, v)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "Field validation failed: error converting input for field %q: %v", name, err)
		}
		c.data[name] = typed
	}
	return unknown, nil
}

func convert(k kind, v any) (any, error) {
	s, simple := "", true
	switch v := v.(type) {
	case string:
		s = v
	case json.Number:
		s = v.String()
	case bool:
		s = strconv.FormatBool(v)
	default:
		simple = false
	}
	_, isText := v.(string)
	switch {
	case k == list:
		if l, ok := v.([]any); ok {
			return l, nil
		}
	case k == object:
		if m, ok := v.(map[string]any); ok {
			return m, nil
		}
	case k == texts && !simple:
		l, _ := v.([]any)
		out := make([]string, 0, len(l))
		for _, e := range l {
			out = append(out, strings.TrimSpace(fmt.Sprint(e)))
		}
		return out, nil
	case k == texts && s == "":
		return []string{}, nil
	case k == texts:
		out := strings.Split(s, ",")
		for i := range out {
			out[i] = strings.TrimSpace(out[i])
		}
		return out, nil
	case !simple:
	case k == text:
		return s, nil
	case k == number && s == "":
		return 0, nil
	case k == number:
		n, err := strconv.ParseInt(s, 0, 0)
		if err != nil {
			return nil, fmt.Errorf("cannot parse '' as int: %w", err)
		}
		return int(n), nil
	case k == flag && isText && s == "":
		return false, nil
	case k == flag:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return nil, fmt.Errorf("cannot parse '' as bool: %w", err)
		}
		return b, nil
	case k == seconds:
		return parseSeconds(s)
	}
	return nil, fmt.Errorf("'' expected type 'string', got unconvertible type '%T', value: '%v'", v, v)
}

func parseSeconds(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	if d, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseInt(d, 10, 32)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

// field returns a field in its type, or its zero value if it was not sent.
func field[T any](c *call, name string) T {
	v, _ := c.data[name].(T)
	return v
}
