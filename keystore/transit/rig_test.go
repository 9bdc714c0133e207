package transit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
	"chancery/keystore/transit"
	"chancery/keystore/transit/transittest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("chancery/keystore/transit/transittest.launchAll")) // it starts processes until the end
}

// policy is README's, for a mount.
func policy(mount string) string {
	return fmt.Sprintf(`
path "%[1]s/keys" { capabilities = ["list"] }
path "%[1]s/keys/+" { capabilities = ["create", "update", "read", "delete"] }
path "%[1]s/keys/+/config" { capabilities = ["update"] }
path "%[1]s/sign/+" { capabilities = ["update"] }
`, mount)
}

// A journal is a log, safe to read while it is written.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// eventually waits until ok returns nil.
func eventually(t *testing.T, within time.Duration, ok func() error) {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %v: %v", within, err)
		}
	}
}

// becomes waits until the keystore is in a state, and returns what it says.
func becomes(t *testing.T, p *transit.Provider, want keystore.TokenState) keystore.TokenStatus {
	t.Helper()
	var s keystore.TokenStatus
	eventually(t, 15*time.Second, func() error {
		if s = p.Status()[0]; s.State != want {
			return fmt.Errorf("it is %s (%s), want %s", s.State, s.Err, want)
		}
		return nil
	})
	return s
}

const jwt = keystore.PurposeJWT

// signer makes a key and opens it.
func signer(t *testing.T, p *transit.Provider, alg keystore.Algorithm) (keystore.KeyRef, keystore.BatchSigner) {
	t.Helper()
	ref := keystore.KeyRef{ID: keystore.NewKeyID(), Algorithm: alg}
	var err error
	if ref.SPKI, err = p.Generate(t.Context(), ref.ID, jwt, alg); err != nil {
		t.Fatal(err)
	}
	k, err := p.Open(t.Context(), ref, jwt)
	if err != nil {
		t.Fatal(err)
	}
	return ref, k.(keystore.BatchSigner)
}

// name is that of a key in Transit.
func name(ref keystore.KeyRef) string {
	return "chancery-jwt-" + strings.ToLower(string(ref.Algorithm)) + "-" + ref.ID.String()
}

// signs has a key sign within d.
func signs(t *testing.T, k keystore.Key, d time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	message := keystoretest.Message(jwt, k.Algorithm())
	sig, err := k.Sign(ctx, message)
	if err != nil {
		return err
	}
	return keystore.Verify(k.Algorithm(), k.Public(), message, sig)
}

// file writes text to a file of its own.
func file(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// rewrite replaces a file as an agent does, all at once.
func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// fake is a test server with a mount, and a keystore there by approle.
func fake(t *testing.T, ttl transittest.RoleTTL, change ...func(*transit.Config)) (*transittest.FakeServer, *transit.Provider, transit.Config) {
	t.Helper()
	f := transittest.Fake(t)
	mount := f.Mount(t)
	f.AppRole("approle", "the-role", "canary-secret-id", []string{f.Policy(t, policy(mount))}, ttl)
	cfg := transit.Config{
		Name: "vault", Addresses: []string{f.Address()}, Mount: mount, TLS: transit.TLS{CA: f.CAFile()},
		Auth: transit.Auth{Method: transit.MethodAppRole, RoleID: "the-role", File: file(t, "canary-secret-id\n")},
	}
	for _, c := range change {
		c(&cfg)
	}
	p := open(t, cfg)
	return f, p, cfg
}

// saying is an error of what a keystore says of itself.
func saying(s keystore.TokenStatus) error { return fmt.Errorf("it is %s, and says %q", s.State, s.Err) }
