package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"chancery/cmd/internal/config"
	"chancery/keystore/transit"
)

// devVault is the Vault that chanceryd dev was told of; the zero value is none.
type devVault struct {
	Address   string `json:"address"`
	TokenFile string `json:"token_file"`
	CA        string `json:"ca,omitempty"`
	Mount     string `json:"mount"`
}

// flags adds the flags that say it.
func (v *devVault) flags(f *pflag.FlagSet, when string) {
	f.StringVar(&v.Address, "transit", "", "the address of a Vault"+when)
	f.StringVar(&v.TokenFile, "transit-token-file", "", "the file with the token to use it by"+when)
	f.StringVar(&v.CA, "transit-ca", "", "the certificates it is known by; default the system's"+when)
	f.StringVar(&v.Mount, "transit-mount", "", "where its Transit engine is; default transit"+when)
}

// keystore returns the keystore there, or nil.
func (v devVault) keystore() *config.Transit {
	if v == (devVault{}) {
		return nil
	}
	return &config.Transit{
		Addresses: []string{v.Address}, Mount: v.Mount, CA: v.CA,
		Auth: config.Auth{Method: string(transit.MethodToken), File: v.TokenFile},
	}
}

// checked returns v with absolute paths and nothing left out, or a usage error.
func (v devVault) checked() (devVault, error) {
	wrong := func(hint, format string, args ...any) (devVault, error) {
		return devVault{}, usageError{hinted{fmt.Errorf(format, args...), hint}}
	}
	if v == (devVault{}) {
		return v, nil
	}
	if v.Address == "" || v.TokenFile == "" {
		return wrong("chanceryd dev --dir DIR --transit https://vault.example.com:8200 --transit-token-file FILE", "--transit and --transit-token-file belong together")
	}
	v.Mount = cmp.Or(v.Mount, transit.DefaultMount)
	for _, f := range []struct {
		flag   string
		path   *string
		secret bool
	}{{"--transit-token-file", &v.TokenFile, true}, {"--transit-ca", &v.CA, false}} {
		if *f.path == "" {
			continue
		}
		abs, err := filepath.Abs(*f.path)
		if err != nil {
			return v, err
		}
		*f.path = abs
		switch info, err := os.Stat(abs); {
		case err != nil:
			return wrong("name a file that is there", "%s: %w", f.flag, err)
		case !info.Mode().IsRegular():
			return wrong("name a file", "%s: %s is no file", f.flag, abs)
		case f.secret && info.Mode().Perm()&0o077 != 0:
			return wrong("chmod 0600 it", "%s: %s has mode %04o: others can read or change it", f.flag, abs, info.Mode().Perm())
		}
	}
	cfg := config.Keystore{Name: "vault", Transit: v.keystore()}.TransitConfig()
	err := cfg.Check()
	if fault, ok := errors.AsType[*transit.Fault](err); ok {
		flag := map[string]string{"addresses[0]": "--transit", "mount": "--transit-mount"}[fault.Path]
		return wrong(fault.Hint, "%s: %s", cmp.Or(flag, fault.Path), fault.Text)
	}
	return v, err
}
