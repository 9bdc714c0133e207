// Package softhsmtest gives a test a SoftHSM token of its own.
package softhsmtest

import (
	"errors"
	"os"
	"testing"

	"chancery/softhsm"
)

// New returns a fresh token in a directory that goes away with the test. Where
// SoftHSM is not installed the test fails if the environment variable CI is
// set, and is skipped with the reason otherwise.
func New(t testing.TB) *softhsm.Token {
	t.Helper()
	token, err := softhsm.Create(t.Context(), t.TempDir(), "test")
	switch {
	case err == nil:
		return token
	case errors.Is(err, softhsm.ErrNotInstalled) && os.Getenv("CI") == "":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
	return nil
}
