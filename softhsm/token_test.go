package softhsm_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
