package transit_test

import (
	"os"
	"path/filepath"
	"testing"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
	"chancery/keystore/transit"
	"chancery/keystore/transit/transittest"
)

// config is how a mount of s is reached with a token.
func config(t testing.TB, s *transittest.Server, mount, token string) transit.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return transit.Config{
		Name: "vault", Addresses: []string{s.Address()}, Mount: mount, TLS: transit.TLS{CA: s.CAFile()},
		Auth: transit.Auth{Method: transit.MethodToken, File: file},
	}
}

func open(t testing.TB, cfg transit.Config) *transit.Provider {
	t.Helper()
	p, err := transit.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestContract(t *testing.T) {
	t.Parallel()
	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
		mount := s.Mount(t)
		keystoretest.Run(t, func(t *testing.T) keystore.Provider {
			return open(t, config(t, s, mount, s.RootToken()))
		})
	})
}
