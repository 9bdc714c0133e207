package pkcs11_test

import (
	"os"
	"testing"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
	"chancery/keystore/pkcs11"
	"chancery/softhsm"
	"chancery/softhsm/softhsmtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(parentEnv) != "" {
		parent()
	}
	os.Exit(m.Run())
}

func config(t testing.TB, token *softhsm.Token) pkcs11.Config {
	return pkcs11.Quick(pkcs11.Config{
		Name: "test", Module: token.Module, URI: token.URI(), Env: token.Env(), StateDir: t.TempDir(),
	})
}

func open(t testing.TB, cfg pkcs11.Config) *pkcs11.Provider {
	t.Helper()
	p, err := pkcs11.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestContract(t *testing.T) {
	cfg := config(t, softhsmtest.New(t))
	keystoretest.Run(t, func(t *testing.T) keystore.Provider { return open(t, cfg) })
}
