package transittest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// A Server is a Vault to test against.
type Server struct {
	address string
	caFile  string
	root    string
	kind    string
	client  *http.Client
}

// Address is its URL: https://127.0.0.1:PORT.
func (s *Server) Address() string { return s.address }

// CAFile is the PEM file to verify it by; "" stands for the system's roots.
func (s *Server) CAFile() string { return s.caFile }

// RootToken is a token that may do everything.
func (s *Server) RootToken() string { return s.root }

// Kind says what it is, for test names and logs.
func (s *Server) Kind() string { return s.kind }

// callTimeout is longer than anything a test asks as root takes: making an RSA
// key of 4096 bits on a busy machine.
const callTimeout = time.Minute

func newServer(address, caFile, root, kind string) (*Server, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", caFile)
		}
	}
	return &Server{
		address: address, caFile: caFile, root: root, kind: kind,
		client: &http.Client{
			Timeout: callTimeout,
			// Kept connections would end up in the tests that look for leaked goroutines.
			Transport:     &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Call does a request as root and returns the whole JSON of the answer, or nil
// when there is none; path is without /v1/. An error status fails the test.
func (s *Server) Call(t testing.TB, method, path string, body any) map[string]any {
	t.Helper()
	status, reply, err := s.CallAs(s.root, method, path, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if status >= 300 {
		t.Fatalf("%s %s: status %d, errors %q", method, path, status, reply["errors"])
	}
	return reply
}

// CallAs does a request with a token, or without one if it is "", and returns
// the answer whatever its status. A body of type []byte is sent as it is, any
// other as JSON. Reply is nil if the answer has no body.
func (s *Server) CallAs(token, method, path string, body any) (status int, reply map[string]any, err error) {
	return s.do(s.client, token, method, path, body)
}

func (s *Server) do(client *http.Client, token, method, path string, body any) (int, map[string]any, error) {
	var r io.Reader
	if raw, ok := body.([]byte); ok {
		r = bytes.NewReader(raw)
	} else if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, s.address+"/v1/"+path, r)
	if err != nil {
		return 0, nil, err
	}
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, nil, err
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return resp.StatusCode, nil, nil
	}
	var reply map[string]any
	if err := json.Unmarshal(b, &reply); err != nil {
		return resp.StatusCode, nil, fmt.Errorf("the answer with status %d is no JSON object: %w", resp.StatusCode, err)
	}
	return resp.StatusCode, reply, nil
}

// Mount enables a Transit engine of its own for the test and returns its path.
// On a server that outlives the test it is disabled again when the test ends.
func (s *Server) Mount(t testing.TB) string {
	t.Helper()
	path := "transit-" + randomHex(3)
	s.Call(t, "POST", "sys/mounts/"+path, map[string]any{"type": "transit"})
	t.Cleanup(func() {
		// The server may be gone by now, or sealed, on purpose.
		status, _, err := s.CallAs(s.root, "DELETE", "sys/mounts/"+path, nil)
		if s.external() && (err != nil || status >= 300) {
			t.Logf("%s stays enabled: status %d, %v", path, status, err)
		}
	})
	return path
}

// Policy writes a policy under a name of its own and returns the name.
func (s *Server) Policy(t testing.TB, rules string) string {
	t.Helper()
	name := "chancery-test-" + randomHex(3)
	s.Call(t, "PUT", "sys/policies/acl/"+name, map[string]any{"policy": rules})
	t.Cleanup(func() { s.CallAs(s.root, "DELETE", "sys/policies/acl/"+name, nil) })
	return name
}

// Token makes a token as auth/token/create does and returns it.
func (s *Server) Token(t testing.TB, request map[string]any) string {
	t.Helper()
	auth, _ := s.Call(t, "POST", "auth/token/create", request)["auth"].(map[string]any)
	token, _ := auth["client_token"].(string)
	if token == "" {
		t.Fatal("auth/token/create answered without a token")
	}
	return token
}

func (s *Server) external() bool { return strings.HasPrefix(s.kind, "external ") }

// External returns the server that the environment names, if it names one.
func External() (*Server, bool) {
	address, token := os.Getenv("CHANCERY_TEST_VAULT_ADDR"), os.Getenv("CHANCERY_TEST_VAULT_TOKEN")
	if address == "" || token == "" {
		return nil, false
	}
	s, err := newServer(strings.TrimSuffix(address, "/"), os.Getenv("CHANCERY_TEST_VAULT_CACERT"), token, "external Vault")
	if err != nil {
		return nil, false
	}
	_, health, err := s.CallAs("", "GET", "sys/health", nil)
	if err != nil {
		return nil, false
	}
	if v, ok := health["version"].(string); ok {
		s.kind = "external Vault " + v
	}
	return s, true
}

// required says that a real Vault has to be there.
func required() bool { return os.Getenv("CHANCERY_TEST_VAULT") == "required" }

// Either runs a test on a real Vault, if there is one, and on the test server.
func Either(t *testing.T, test func(t *testing.T, s *Server)) {
	t.Helper()
	switch s, err := oneReal(t); {
	case err == nil:
		t.Run("vault", func(t *testing.T) {
			t.Log(s.Kind())
			test(t, s)
		})
	case required():
		t.Error(err)
	default:
		t.Log(err)
	}
	t.Run("fake", func(t *testing.T) { test(t, Fake(t).Server) })
}

// oneReal returns a real server for a test that does not stop it.
func oneReal(t testing.TB) (*Server, error) {
	if s, ok := External(); ok {
		return s, nil
	}
	if os.Getenv("CHANCERY_TEST_VAULT_ADDR") != "" {
		return nil, errors.New("the Vault that CHANCERY_TEST_VAULT_ADDR names cannot be used: only the test server")
	}
	if _, ok := FindVault(); !ok {
		return nil, errors.New("no Vault: only the test server (CHANCERY_TEST_VAULT_BINARY names one)")
	}
	return Vault(t).Server, nil
}

// randomHex returns 2n random digits.
func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// randomUUID returns a random UUID, as Vault names requests and mounts.
func randomUUID() string {
	b := make([]byte, 16)
	rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
