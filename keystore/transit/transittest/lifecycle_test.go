package transittest

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// signs signs with the P-256 key k of a mount and verifies the signature.
func signs(t *testing.T, s *Server, token, mount string) {
	t.Helper()
	data := s.Call(t, "GET", mount+"/keys/k", nil)["data"].(map[string]any)
	block, _ := pem.Decode([]byte(data["keys"].(map[string]any)["1"].(map[string]any)["public_key"].(string)))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("what is signed")
	status, reply, err := s.CallAs(token, "POST", mount+"/sign/k", map[string]any{"input": base64.StdEncoding.EncodeToString(message), "key_version": 1})
	if err != nil || status != 200 {
		t.Fatalf("status %d, %v, %v", status, reply["errors"], err)
	}
	signature, ok := strings.CutPrefix(reply["data"].(map[string]any)["signature"].(string), "vault:v1:")
	der, err := base64.StdEncoding.DecodeString(signature)
	digest := sha256.Sum256(message)
	if !ok || err != nil || !ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), digest[:], der) {
		t.Errorf("signature %q does not verify", signature)
	}
}

func answers(s *Server) bool {
	_, _, err := s.CallAs("", "GET", "sys/health", nil)
	return err == nil
}

func status(t *testing.T, s *Server, token, method, path string) int {
	t.Helper()
	status, _, err := s.CallAs(token, method, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return status
}

func newKey(t *testing.T, s *Server) (mount string) {
	t.Helper()
	mount = s.Mount(t)
	s.Call(t, "POST", mount+"/keys/k", map[string]any{"type": "ecdsa-p256"})
	return mount
}

func TestEitherSigns(t *testing.T) {
	Either(t, func(t *testing.T, s *Server) {
		signs(t, s, s.RootToken(), newKey(t, s))
	})
}

// sealable is what a test does to a server of either kind.
type sealable interface {
	Seal()
	Unseal()
}

func sealing(t *testing.T, s *Server, how sealable) {
	mount := newKey(t, s)
	how.Seal()
	for path, want := range map[string]int{"sys/health": 503, "sys/seal-status": 200, mount + "/keys/k": 503, "auth/token/lookup-self": 503, "sys/internal/ui/mounts/" + mount: 503} {
		if got := status(t, s, s.RootToken(), "GET", path); got != want {
			t.Errorf("sealed, %s: status %d, want %d", path, got, want)
		}
	}
	_, reply, err := s.CallAs(s.RootToken(), "GET", mount+"/keys/k", nil)
	if err != nil || reply["errors"].([]any)[0] != "Vault is sealed" {
		t.Errorf("sealed: %v, %v", reply, err)
	}
	_, health, _ := s.CallAs("", "GET", "sys/health", nil)
	if health["sealed"] != true || health["initialized"] != true || health["cluster_name"] != nil {
		t.Errorf("sealed: health %v", health)
	}
	how.Unseal()
	signs(t, s, s.RootToken(), mount)
}

func TestRealLifecycle(t *testing.T) {
	if _, ok := FindVault(); !ok && !required() {
		t.Skip("no Vault")
	}
	v := Vault(t)
	mount := newKey(t, v.Server)
	sealing(t, v.Server, v)
	for name, stop := range map[string]func(){"stopped": v.Stop, "killed": v.Kill} {
		stop()
		if answers(v.Server) {
			t.Errorf("%s, it answers", name)
		}
		v.Start()
		signs(t, v.Server, v.RootToken(), mount)
	}
	v.Pause()
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(v.Address(), "https://"), time.Second)
	if err != nil {
		t.Errorf("paused, nobody listens: %v", err)
	} else {
		conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("paused, it answers")
		}
		conn.Close()
	}
	v.Resume()
	signs(t, v.Server, v.RootToken(), mount)
}

func TestFakeLifecycle(t *testing.T) {
	f := Fake(t)
	mount := newKey(t, f.Server)
	sealing(t, f.Server, f)
	f.Close()
	if answers(f.Server) {
		t.Error("closed, it answers")
	}
	f.Restart(t)
	signs(t, f.Server, f.RootToken(), mount)

	for _, code := range []int{429, 472, 473, 474, 501, 530} {
		f.Standby(code)
		if got := status(t, f.Server, "", "GET", "sys/health"); got != code {
			t.Errorf("sys/health has status %d, want %d", got, code)
		}
		if got := status(t, f.Server, f.RootToken(), "GET", mount+"/keys/k"); got != 500 {
			t.Errorf("standby: status %d, want 500", got)
		}
	}
	f.Redirect("https://127.0.0.1:1")
	if got := status(t, f.Server, f.RootToken(), "GET", mount+"/keys/k"); got != 307 {
		t.Errorf("standby with a leader: status %d, want 307", got)
	}
	f.Standby(0)
	f.Rotate(t, mount, "k")
	signs(t, f.Server, f.RootToken(), mount)
}

func TestTokensRunOutAndAreRevoked(t *testing.T) {
	f := Fake(t)
	mount := newKey(t, f.Server)
	policy := f.Policy(t, `path "`+mount+`/sign/k" { capabilities = ["update"] }`)
	f.AppRole("approle", "role", "secret", []string{policy}, RoleTTL{TTL: time.Minute, Max: 90 * time.Second})
	login := func() string {
		auth, _ := f.Call(t, "POST", "auth/approle/login", map[string]any{"role_id": "role", "secret_id": "secret"})["auth"].(map[string]any)
		return auth["client_token"].(string)
	}
	valid := func(token string) bool { return status(t, f.Server, token, "GET", "auth/token/lookup-self") == 200 }
	renew := func(token string) int { return status(t, f.Server, token, "POST", "auth/token/renew-self") }

	token := login()
	signs(t, f.Server, token, mount)
	f.AdvanceTokens(50 * time.Second)
	if got := renew(token); got != 200 {
		t.Errorf("renewing: status %d", got)
	}
	f.AdvanceTokens(35 * time.Second)
	if !valid(token) {
		t.Error("renewed, it has run out")
	}
	f.AdvanceTokens(10 * time.Second) // more than its 90 seconds
	if valid(token) || renew(token) != 403 {
		t.Error("it outlives its max TTL")
	}
	token = login()
	if !f.Revoke(token) || valid(token) || f.Revoke(token) {
		t.Error("a revoked token is valid")
	}
	if !valid(f.RootToken()) {
		t.Error("the root token has run out")
	}
}

func TestLoginsOfTheTestServer(t *testing.T) {
	f := Fake(t)
	f.JWTRole("kubernetes", "kubernetes", "daemon", []string{"j1", "j2"}, nil, RoleTTL{TTL: time.Hour})
	f.JWTRole("corp/jwt", "jwt", "daemon", []string{"j1"}, nil, RoleTTL{Period: time.Hour})
	f.CertRole("cert", "daemon", f.CA(), nil, RoleTTL{})
	for _, c := range []struct {
		mount, role, jwt string
		want             int
	}{
		{"kubernetes", "daemon", "j2", 200}, {"kubernetes", "daemon", "j3", 403}, {"kubernetes", "other", "j1", 400},
		{"corp/jwt", "daemon", "j1", 200}, {"corp/jwt", "daemon", "j2", 400}, {"corp/jwt", "other", "j1", 400},
	} {
		got, _, err := f.CallAs("", "POST", "auth/"+c.mount+"/login", map[string]any{"role": c.role, "jwt": c.jwt})
		if err != nil || got != c.want {
			t.Errorf("%s as %s: status %d, want %d (%v)", c.mount, c.role, got, c.want, err)
		}
	}
	certFile, keyFile := f.CA().ClientCert("daemon")
	if got, _, err := f.CallWithCert(certFile, keyFile, "POST", "auth/cert/login", nil); err != nil || got != 200 {
		t.Errorf("cert: status %d, %v", got, err)
	}
}

func TestManyAtOnce(t *testing.T) {
	f := Fake(t)
	mount := newKey(t, f.Server)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				signs(t, f.Server, f.RootToken(), mount)
				f.Script(Rule{Path: "nothing", Status: 500})
				f.AdvanceTokens(time.Second)
			}
		})
	}
	wg.Wait()
}

func TestPriorityOfRules(t *testing.T) {
	for _, c := range []struct{ path, higher, lower string }{
		{"a/b", "a/b", "a/*"},
		{"a/b", "a/b", "a/+"},
		{"a/b/c", "a/b/*", "a/+/c"},
		{"a/b/c", "a/+/c", "a/+/*"},
		{"a/b/c", "a/+/*", "+/b/c"},
		{"a/b/c", "a/b/*", "a/*"},
		{"a/b/c", "+/b/c", "+/+/c"},
	} {
		if !matches(c.higher, c.path) || !matches(c.lower, c.path) {
			t.Errorf("%s or %s does not match %s", c.higher, c.lower, c.path)
		}
		if !ranks(c.higher, c.lower) || ranks(c.lower, c.higher) {
			t.Errorf("%s does not go before %s", c.higher, c.lower)
		}
	}
	for pattern, path := range map[string]string{"a/+": "a/b/c", "a/b": "a/b/", "a/b*": "a/c", "+/b": "a/c", "a": "ab"} {
		if matches(pattern, path) {
			t.Errorf("%s matches %s", pattern, path)
		}
	}
}
