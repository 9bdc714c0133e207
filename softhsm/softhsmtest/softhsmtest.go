// Package softhsmtest gives a test a SoftHSM token of its own.
package softhsmtest

import (
	"context"
	"errors"
	"maps"
	"os"
	"testing"

	"chancery/softhsm"
	"chancery/softhsm/faultmodule"
)

// New returns a fresh token in a directory that goes away with the test. Where
// SoftHSM is not installed the test fails if the environment variable CI is
// set, and is skipped with the reason otherwise.
func New(t testing.TB) *softhsm.Token {
	t.Helper()
	token := Unwatched(t)
	Watch(t, token)
	return token
}

// Unwatched is New for a test that tears its token itself.
func Unwatched(t testing.TB) *softhsm.Token {
	t.Helper()
	token, err := softhsm.Create(t.Context(), t.TempDir(), "test")
	need(t, err, softhsm.ErrNotInstalled)
	return token
}

// Watch has a token put back, until the test ends, that SoftHSM has torn because a
// process was killed while it logged in.
func Watch(t testing.TB, token *softhsm.Token) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		softhsm.Watch(ctx, token.Dir, func(name string, err error) {
			t.Logf("SoftHSM had torn token %s, which was put back: %v", name, err)
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}

// A FaultyToken is a token behind a module that fails on order. Its Module and
// Env are those of that module; the Token's own are SoftHSM's.
type FaultyToken struct {
	*softhsm.Token
	Module string
	Faults *faultmodule.Module
}

// NewFaulty is New with a module before SoftHSM that Faults gives orders to.
// Where there is no C compiler the test fails or is skipped likewise.
func NewFaulty(t testing.TB) *FaultyToken {
	t.Helper()
	token := New(t)
	faults, err := faultmodule.New(token.Dir, token.Module)
	need(t, err, faultmodule.ErrNoCompiler)
	return &FaultyToken{token, faults.Path, faults}
}

// Env returns the environment that both modules need.
func (f *FaultyToken) Env() map[string]string {
	env := f.Token.Env()
	maps.Copy(env, f.Faults.Env())
	return env
}

// need ends the test unless err is nil: by skipping it if err says that
// something is not installed.
func need(t testing.TB, err, missing error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, missing) && os.Getenv("CI") == "":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}
