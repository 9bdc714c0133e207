package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTextsOfPoliciesAreKeptByTheirHashAndNeverOverwritten(t *testing.T) {
	dir := t.TempDir()
	text := []byte(`{"rules":[]}`)
	sum := sha256.Sum256(text)
	want := hex.EncodeToString(sum[:])
	if _, err := PolicyText(dir, want); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: %v", err)
	}
	for range 2 { // as at a second start
		if hash, err := KeepPolicy(dir, text); err != nil || hash != want {
			t.Fatalf("%s, %v", hash, err)
		}
	}
	path := filepath.Join(dir, "policy", want+".json")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o027 != 0 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if got, err := PolicyText(dir, want); err != nil || string(got) != string(text) {
		t.Errorf("%s, %v", got, err)
	}
	if found, _ := os.ReadDir(filepath.Dir(path)); len(found) != 1 {
		t.Errorf("left behind: %v", found)
	}

	if err := os.WriteFile(path, []byte("{}"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := PolicyText(dir, want); err == nil || !strings.Contains(err.Error(), "is not the policy it is named for") {
		t.Errorf("changed: %v", err)
	}
	if _, err := KeepPolicy(dir, text); err == nil {
		t.Error("what somebody put in its place was taken for it, or overwritten")
	}
	if got, _ := os.ReadFile(path); string(got) != "{}" {
		t.Errorf("overwritten with %s", got)
	}
}

// What a crash left unfinished is no text, and is in nobody's way.
func TestAnUnfinishedTextIsWrittenAnew(t *testing.T) {
	dir := t.TempDir()
	text := []byte(`{"rules":[]}`)
	hash, err := KeepPolicy(dir, text)
	if err != nil {
		t.Fatal(err)
	}
	path := policyPath(dir, hash)
	if err := os.Rename(path, path+newSuffix); err != nil || os.Truncate(path+newSuffix, 3) != nil {
		t.Fatal(err)
	}
	if _, err := KeepPolicy(dir, text); err != nil {
		t.Fatal(err)
	}
	if got, err := PolicyText(dir, hash); err != nil || string(got) != string(text) {
		t.Errorf("%s, %v", got, err)
	}
}
