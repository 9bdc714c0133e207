package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// policyName is where the texts of policies are kept in the directory of logs.
const policyName = "policy"

// KeepPolicy keeps the text of a policy beside the logs in dir, as
// policy/HASH.json, whose SHA-256 is the hash by which entries name the policy.
// When it returns without error the text is on stable storage. It never
// overwrites: a text that is there already stays, and one that is not what its
// name says is an error.
func KeepPolicy(dir string, text []byte) (hash string, err error) {
	sum := sha256.Sum256(text)
	hash = hex.EncodeToString(sum[:])
	path := policyPath(dir, hash)
	switch _, err := PolicyText(dir, hash); {
	case err == nil:
		return hash, nil
	case !errors.Is(err, fs.ErrNotExist):
		return hash, err
	}
	if err := makeDir(dir, filepath.Dir(path)); err != nil {
		return hash, fmt.Errorf("keeping the text of the policy: %w", err)
	}
	if err := create(path, text); err != nil {
		return hash, fmt.Errorf("keeping the text of the policy: %w", err)
	}
	return hash, nil
}

// PolicyText returns the text of the policy with this hash that is kept beside the
// logs in dir. It returns an error wrapping fs.ErrNotExist if there is none, and
// another if what is there is not that policy.
func PolicyText(dir, hash string) ([]byte, error) {
	text, err := os.ReadFile(policyPath(dir, hash))
	if err != nil {
		return nil, fmt.Errorf("reading the text of a policy: %w", err)
	}
	if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != hash {
		return nil, fmt.Errorf("%s is not the policy it is named for (hint: move it away and keep it, someone changed it)", policyPath(dir, hash))
	}
	return text, nil
}

func policyPath(dir, hash string) string { return filepath.Join(dir, policyName, hash+".json") }

// create puts content under path, which must not exist yet, at once or not at
// all, on stable storage.
func create(path string, content []byte) error {
	unfinished := path + newSuffix
	f, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Link(unfinished, path) // unlike a rename, it never replaces
	}
	if err = errors.Join(err, removeIfThere(unfinished)); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
