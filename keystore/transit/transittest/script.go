package transittest

import (
	"encoding/json"
	"net/http"
	"regexp"
	"sync"
	"time"
)

// A Rule makes the test server misbehave. It matches requests, and acts on
// them in the order of its fields.
type Rule struct {
	Method string // "": any
	Path   string // regular expression on the path after /v1/; "": any
	Token  string // accessor of the token that asks; "": any
	Skip   int    // so many matching requests pass before it acts
	Times  int    // so many matching requests it acts on; 0: all

	Delay  time.Duration // before anything; ends when the client goes or the server closes
	Hang   bool          // no answer until the client goes, the script changes or the server closes; it is then not done
	Refuse bool          // the connection is cut and nothing is done
	Status int           // answered so and nothing is done

	// Mangle changes the JSON of the true answer, after it was done. Numbers in
	// it are float64.
	Mangle      func(reply map[string]any)
	Drop        bool // done, but the connection is cut in place of an answer
	StatusAfter int  // done, but answered so

	Body   string            // of the answer with Status or StatusAfter; "": {"errors":["scripted"]}
	Header map[string]string // of that answer
}

// A Seen is a request that the test server has seen.
type Seen struct {
	Method string
	Path   string // after /v1/
	Time   time.Time
	Token  string // accessor of its token; "": none, or none the server knew
}

type script struct {
	mu      sync.Mutex
	rules   []*active
	changed chan struct{} // closed when the rules are replaced
	seen    []Seen
}

// An active rule counts what it has matched.
type active struct {
	Rule
	path    *regexp.Regexp
	matched int
	changed chan struct{}
}

// Script replaces the rules by these; the first that matches a request acts.
// Requests that hang get no answer.
func (f *FakeServer) Script(rules ...Rule) {
	s := &f.script
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed != nil {
		close(s.changed)
	}
	s.rules, s.changed = nil, make(chan struct{})
	for _, r := range rules {
		s.rules = append(s.rules, &active{Rule: r, path: regexp.MustCompile(r.Path), changed: s.changed})
	}
}

// Requests returns what the server has seen since it started or since Reset.
func (f *FakeServer) Requests() []Seen {
	f.script.mu.Lock()
	defer f.script.mu.Unlock()
	return append([]Seen(nil), f.script.seen...)
}

// Count returns how many requests of Requests have the method ("": any) and a
// path that matches the regular expression.
func (f *FakeServer) Count(method, path string) int {
	re, n := regexp.MustCompile(path), 0
	for _, s := range f.Requests() {
		if (method == "" || s.Method == method) && re.MatchString(s.Path) {
			n++
		}
	}
	return n
}

// Reset forgets the rules and the requests seen.
func (f *FakeServer) Reset() {
	f.Script()
	f.script.mu.Lock()
	defer f.script.mu.Unlock()
	f.script.seen = nil
}

// match notes a request and returns the rule that acts on it, or nil.
func (s *script) match(method, path, accessor string) *active {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, Seen{method, path, time.Now(), accessor})
	for _, r := range s.rules {
		if r.Method != "" && r.Method != method || r.Token != "" && r.Token != accessor || !r.path.MatchString(path) {
			continue
		}
		r.matched++
		if r.matched <= r.Skip || r.Times > 0 && r.matched > r.Skip+r.Times {
			continue
		}
		return r
	}
	return nil
}

// wait delays or hangs and reports whether the request is over without an answer.
func (a *active) wait(r *http.Request) bool {
	if a.Delay > 0 {
		select {
		case <-time.After(a.Delay):
		case <-r.Context().Done():
			return true
		}
	}
	if !a.Hang {
		return false
	}
	select {
	case <-a.changed:
		cut(r)
	case <-r.Context().Done():
	}
	return true
}

func (a *active) scripted(status int) answer {
	body := a.Body
	if body == "" {
		body = `{"errors":["scripted"]}`
	}
	return answer{status: status, header: a.Header, body: body}
}

// mangled returns what change makes of a body's JSON.
func mangled(body any, change func(map[string]any)) any {
	b, err := json.Marshal(body)
	if err != nil {
		return body
	}
	var m map[string]any
	if json.Unmarshal(b, &m) != nil || m == nil {
		return body
	}
	change(m)
	return m
}
