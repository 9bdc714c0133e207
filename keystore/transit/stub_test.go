package transit

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A stub is a Vault without a network, for tests in a synctest bubble: its answer
// is a function of what is asked.
type stub struct {
	mu     sync.Mutex
	seen   []asked
	answer func(method, path, token string) (status int, body string)
}

type asked struct {
	what  string // "GET sys/health"
	token string
	at    time.Time
}

// What a stub answers in place of a status.
const (
	cut     = 0  // the connection is cut, after the request was sent
	nowhere = -1 // there is no connection
	silent  = -2 // there is no answer
)

// RoundTrip implements http.RoundTripper.
func (s *stub) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	path, token := strings.TrimPrefix(r.URL.Path, "/v1/"), r.Header.Get("X-Vault-Token")
	s.mu.Lock()
	s.seen = append(s.seen, asked{r.Method + " " + path, token, time.Now()})
	answer := s.answer
	s.mu.Unlock()
	status, body := answer(r.Method, path, token)
	switch status {
	case cut:
		return nil, io.ErrUnexpectedEOF
	case nowhere:
		return nil, &dialError{syscall.ECONNREFUSED}
	case silent:
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if after, ok := strings.CutPrefix(body, "after "); ok {
		header.Set("Retry-After", after)
	}
	return &http.Response{
		StatusCode: status, Header: header, Request: r, Proto: "HTTP/1.1",
		Body: io.NopCloser(bytes.NewReader([]byte(body))), ContentLength: int64(len(body)),
	}, nil
}

// set changes the answers.
func (s *stub) set(answer func(method, path, token string) (int, string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// all returns the requests whose method and path match.
func (s *stub) all(pattern string) []asked {
	re := regexp.MustCompile(pattern)
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []asked
	for _, a := range s.seen {
		if re.MatchString(a.what) {
			out = append(out, a)
		}
	}
	return out
}

func (s *stub) count(pattern string) int { return len(s.all(pattern)) }

// busiest returns how many of the requests there were within the worst d.
func busiest(all []asked, d time.Duration) int {
	most := 0
	for i, first := range all {
		n := 0
		for _, a := range all[i:] {
			if a.at.Sub(first.at) < d {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// A stage is a login and its cluster, of which the servers are stubs.
type stage struct {
	*login
	file string // of the credentials
	log  *bytes.Buffer
}

// play runs a login in a bubble with each stub as a server.
func play(t *testing.T, auth Auth, stubs []*stub, act func(t *testing.T, s *stage)) {
	t.Helper()
	s := &stage{file: filepath.Join(t.TempDir(), "credentials"), log: new(bytes.Buffer)}
	s.write(t, "s.first")
	synctest.Test(t, func(t *testing.T) {
		auth.File = s.file
		cfg := &Config{Name: "vault", Auth: auth, Log: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
		cfg.fill()
		s.login = newLogin(cfg, func() {})
		c := &cluster{login: s.login, changed: s.login.wake, trial: func() *request {
			return &request{method: "POST", path: strings.TrimPrefix(trialPath, "PUT "), body: struct{}{}, within: time.Second}
		}}
		s.login.cluster = c
		for i, stub := range stubs {
			server, err := newServer(cfg, []string{"https://a", "https://b", "https://c"}[i])
			if err != nil {
				t.Fatal(err)
			}
			server.transport.RegisterProtocol("https", stub) // in place of connections
			c.servers = append(c.servers, server)
		}
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { c.watch(ctx, time.Second) })
		all.Go(func() { s.login.run(ctx) })
		act(t, s)
		stop()
		all.Wait()
	})
}

// write puts credentials into the file.
func (s *stage) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// using returns the token in use.
func (s *stage) using() secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token
}

// traffic asks for something every 10 ms for d, as callers do.
func (s *stage) traffic(t *testing.T, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err, ok := s.problem(); err != nil || !ok {
			continue // they are refused before
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		s.cluster.do(ctx, &request{method: "POST", path: "transit/sign/k", body: struct{}{}, within: time.Second})
		cancel()
	}
}
