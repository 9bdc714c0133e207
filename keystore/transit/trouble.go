package transit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"chancery/keystore"
)

// A kind is what an answer, or the lack of one, means for whoever asked.
type kind uint8

const (
	unreachable kind = iota + 1 // no answer: the request may have been carried out, unless unsent
	sealed                      // it holds its keys shut until somebody unseals it
	blank                       // it was never initialised
	standby                     // it serves nobody and knows no one who does
	limited                     // a quota: later
	stale                       // it does not know yet what another node wrote
	broken                      // any other 5xx
	denied                      // the token is refused, or may not do this
	absent                      // there is nothing at that path of an engine
	noRoute                     // there is no engine at that path
	refused                     // the request is wrong, for the state that it met
	tooLarge                    // its storage refuses so much
)

var kindNames = map[kind]string{
	unreachable: "unreachable", sealed: "sealed", blank: "not initialised", standby: "on standby without an active node",
	limited: "refused by a quota", stale: "behind another node", broken: "failing", denied: "permission denied",
	absent: "not found", noRoute: "no such mount or namespace", refused: "refused", tooLarge: "too large for its storage",
}

// A trouble is why a request got no good answer. It holds what Vault said, cut,
// and nothing that was sent.
type trouble struct {
	kind       kind
	status     int // 0: no answer
	text       string
	retryAfter time.Duration
	unsent     bool  // for certain nothing of it reached Vault
	cut        bool  // the connection ended before an answer came
	cause      error // of unreachable
}

func (t *trouble) Error() string {
	s := kindNames[t.kind]
	if t.status != 0 {
		s += fmt.Sprintf(" (%d)", t.status)
	}
	if t.text != "" {
		s += ": " + t.text
	}
	return s
}

// Unwrap says which of keystore's errors it is for a caller. What absent and
// refused mean depends on what was asked, and is for who asked to say.
func (t *trouble) Unwrap() []error {
	var errs []error
	if t.cause != nil {
		errs = append(errs, t.cause)
	}
	switch t.kind {
	case limited:
		return append(errs, keystore.ErrOverloaded)
	case absent, refused:
		return errs
	}
	return append(errs, keystore.ErrUnavailable)
}

// down reports whether the server it came from serves nobody now.
func (t *trouble) down() bool {
	return t.kind == sealed || t.kind == blank || t.kind == standby
}

// failed reports whether another try may do better.
func (t *trouble) failed() bool { return t.kind == broken || t.cut }

// serves reports whether an active node gave the answer; nil is a good one.
func (t *trouble) serves() bool {
	return t == nil || t.kind != unreachable && t.kind != broken && !t.down()
}

// done reports whether a request that met the trouble may have been carried out.
func (t *trouble) done() bool {
	return t.kind == unreachable && !t.unsent || t.kind == broken
}

// troubleOf returns the trouble err is, or nil.
func troubleOf(err error) *trouble {
	t, _ := errors.AsType[*trouble](err)
	return t
}

func isKind(err error, k kind) bool {
	t := troubleOf(err)
	return t != nil && t.kind == k
}

// mostText is how much is kept of what Vault says, in bytes.
const mostText = 300

// readTrouble says what an answer with an error status means. It is pure.
//
// Vault answers an absent key with an empty list of errors, and a path without an
// engine with a text: that difference is what keeps a mount that was misspelt or
// disabled from looking like keys that are gone.
func readTrouble(status int, header http.Header, body []byte) *trouble {
	var reply map[string]json.RawMessage // exact names
	var texts []string
	said := json.Unmarshal(body, &reply) == nil && json.Unmarshal(reply["errors"], &texts) == nil && texts != nil
	t := &trouble{status: status, text: clean(strings.Join(texts, "; "))}
	says := func(member, value string) bool { return string(reply[member]) == value } // sys/health has members in place of errors
	if bytes.Contains(body, []byte("HTTP request to an HTTPS server")) {
		t.text = "the server speaks TLS (hint: https)"
	}
	lower := strings.ToLower(t.text)
	switch {
	case status == http.StatusNotImplemented, status >= 500 && strings.Contains(lower, "not initialized"), says("initialized", "false"):
		t.kind = blank
	case status == http.StatusServiceUnavailable && (says("sealed", "true") || strings.Contains(lower, "sealed")):
		t.kind = sealed
	case status >= 300 && status < 400, status >= 472 && status <= 474, status == 530,
		status == http.StatusInternalServerError && strings.Contains(lower, "active cluster node"):
		t.kind = standby
	case status == http.StatusTooManyRequests:
		t.kind, t.retryAfter = limited, retryAfter(header)
	case status == http.StatusPreconditionFailed:
		t.kind = stale
	case status >= 500:
		t.kind = broken
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		t.kind = denied
	case status == http.StatusNotFound && said && len(texts) == 0:
		t.kind = absent
	case status == http.StatusNotFound:
		t.kind = noRoute
	case status == http.StatusRequestEntityTooLarge:
		t.kind = tooLarge
	default:
		t.kind = refused
	}
	return t
}

// retryAfter reads the header in seconds, the one form Vault writes (RFC 9110
// Section 10.2.3).
func retryAfter(header http.Header) time.Duration {
	n, err := strconv.ParseUint(header.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// clean returns text from outside as it may stand in a log: cut, on one line,
// without control characters or any that change the direction of others.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
	if s = strings.Join(strings.Fields(s), " "); len(s) > mostText {
		s = strings.ToValidUTF8(s[:mostText], "") + "…"
	}
	return s
}
