package softhsm_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/softhsm"
	"chancery/softhsm/softhsmtest"
)

func TestATokenIsFoundAgain(t *testing.T) {
	made := softhsmtest.New(t)
	opened, err := softhsm.Open(made.Dir, made.Label)
	if err != nil {
		t.Fatal(err)
	}
	if *opened != *made {
		t.Errorf("opened %+v, made %+v", opened, made)
	}
	if made.Serial == "" || !strings.Contains(made.URI(), made.Serial) {
		t.Errorf("serial %q, URI %q", made.Serial, made.URI())
	}
	if _, err := softhsm.Create(t.Context(), made.Dir, made.Label); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second token of the same label: %v, want %v", err, fs.ErrExist)
	}
	second, err := softhsm.Create(t.Context(), made.Dir, "second")
	if err != nil {
		t.Fatal(err)
	}
	if second.Serial == made.Serial {
		t.Error("two tokens have one serial number")
	}
	if _, err := softhsm.Open(made.Dir, "third"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a token never made: %v, want %v", err, fs.ErrNotExist)
	}
}

func TestPINsAreOurs(t *testing.T) {
	token := softhsmtest.New(t)
	for _, name := range []string{token.Label + ".pin", token.Label + ".so-pin"} {
		path := filepath.Join(token.Dir, name)
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", name, fi.Mode().Perm())
		}
		pin, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(strings.TrimSpace(string(pin))) < 26 {
			t.Errorf("%s holds %d characters", name, len(pin))
		}
	}
}

func TestATokenInterruptedBeforeItsSerialWasWritten(t *testing.T) {
	made := softhsmtest.New(t)
	if err := os.Remove(filepath.Join(made.Dir, made.Label+".serial")); err != nil {
		t.Fatal(err)
	}
	opened, err := softhsm.Open(made.Dir, made.Label)
	if err != nil {
		t.Fatal(err)
	}
	if opened.Serial != made.Serial {
		t.Errorf("serial %q, want %q", opened.Serial, made.Serial)
	}
}

// A process that is killed while it logs in used to leave a token that nothing
// finds any more.
func TestATornTokenIsMended(t *testing.T) {
	for _, size := range []int64{0, 100} {
		made := softhsmtest.Unwatched(t)
		object := objectOf(t, made)
		if mended, err := softhsm.Mend(made.Dir); err != nil || len(mended) > 0 {
			t.Errorf("a whole token: mended %v, %v", mended, err)
		}
		if err := os.Truncate(object, size); err != nil {
			t.Fatal(err)
		}
		if serial, err := made.FindSerial(t.Context()); err == nil {
			t.Fatalf("with %d bytes of its object, SoftHSM still finds token %s", size, serial)
		}
		mended, err := softhsm.Mend(made.Dir)
		if err != nil || len(mended) != 1 {
			t.Errorf("mended %v, %v", mended, err)
		}
		if serial, err := made.FindSerial(t.Context()); err != nil || serial != made.Serial {
			t.Errorf("after it was mended SoftHSM finds %q, %v; want %q", serial, err, made.Serial)
		}
	}
}

// What it was: a token that was torn while it was used stayed lost until the next
// start of whoever had made it.
func TestATornTokenIsMendedWhileItIsUsed(t *testing.T) {
	made := softhsmtest.New(t) // which watches it
	if err := os.Truncate(objectOf(t, made), 0); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		serial, err := made.FindSerial(t.Context())
		if err == nil && serial == made.Serial {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("SoftHSM finds %q, %v", serial, err)
		}
	}
}

// What it was: a token that was torn after its PIN had been changed got its old PIN
// back while it was watched.
func TestWatchUndoesNothing(t *testing.T) {
	made := softhsmtest.New(t) // which watches it
	object := objectOf(t, made)
	changed, err := os.ReadFile(object)
	if err != nil {
		t.Fatal(err)
	}
	changed[len(changed)-1] ^= 1
	if err := os.WriteFile(object, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(made.Dir, "kept", filepath.Base(filepath.Dir(object)))
	for _, path := range []string{kept, object} { // first it is kept, then torn and put back
		if path == object {
			if err := os.Truncate(object, 0); err != nil {
				t.Fatal(err)
			}
		}
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			now, err := os.ReadFile(path)
			if err == nil && bytes.Equal(now, changed) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s is not what it was changed to, %v", path, err)
			}
		}
	}
}

// A whole object that differs, as after a change of PIN, is not undone, neither
// then nor when it is torn later; a deleted token is not brought back.
func TestMendUndoesNothing(t *testing.T) {
	made := softhsmtest.Unwatched(t)
	object := objectOf(t, made)
	changed, err := os.ReadFile(object)
	if err != nil {
		t.Fatal(err)
	}
	changed[len(changed)-1] ^= 1
	if err := os.WriteFile(object, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, torn := range []bool{false, true} {
		if torn {
			if err := os.Truncate(object, 0); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := softhsm.Mend(made.Dir); err != nil {
			t.Fatal(err)
		}
		if now, err := os.ReadFile(object); err != nil || !bytes.Equal(now, changed) {
			t.Errorf("torn %v: the object is not what it was changed to, %v", torn, err)
		}
	}
	if err := os.RemoveAll(filepath.Dir(object)); err != nil {
		t.Fatal(err)
	}
	if mended, err := softhsm.Mend(made.Dir); err != nil || len(mended) > 0 {
		t.Errorf("a deleted token: mended %v, %v", mended, err)
	}
	if _, err := os.Stat(filepath.Dir(object)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a deleted token's directory: %v", err)
	}
}

// objectOf returns the path of the one token's object.
func objectOf(t *testing.T, made *softhsm.Token) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(made.Dir, "tokens", "*", "token.object"))
	if err != nil || len(found) != 1 {
		t.Fatalf("token objects: %v, %v", found, err)
	}
	return found[0]
}

func TestFindSaysWhatToInstall(t *testing.T) {
	for release, want := range map[string]string{
		"ID=debian\n": "apt-get install softhsm2",
		"ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n":                "apt-get install softhsm2",
		"NAME=Rocky\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"": "dnf install softhsm",
		"ID=alpine":  "apk add softhsm",
		"ID=arch":    "pacman -S softhsm",
		"ID=unheard": "SOFTHSM2_MODULE",
		"":           "SOFTHSM2_MODULE",
	} {
		if got := softhsm.InstallHint(release); !strings.Contains(got, want) {
			t.Errorf("for %q: %q, want it to say %q", release, got, want)
		}
	}
	t.Setenv("SOFTHSM2_MODULE", "/nowhere/libsofthsm2.so")
	if _, err := softhsm.Find(); err == nil || !strings.Contains(err.Error(), "SOFTHSM2_MODULE") {
		t.Errorf("a module that is not there: %v", err)
	}
}
