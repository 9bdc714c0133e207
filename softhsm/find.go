package softhsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Where the common distributions put the module: Debian and Ubuntu (twice),
// Fedora and RHEL, Arch, Alpine, openSUSE, NixOS, a build from source, macOS.
var modulePatterns = []string{
	"/usr/lib/softhsm/libsofthsm2.so",
	"/usr/lib/*/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/lib64/softhsm/libsofthsm2.so",
	"/usr/lib64/libsofthsm2.so",
	"/usr/lib/pkcs11/libsofthsm2.so",
	"/usr/lib/libsofthsm2.so",
	"/run/current-system/sw/lib/softhsm/libsofthsm2.so",
	"/usr/local/lib/softhsm/libsofthsm2.so",
	"/usr/local/lib64/softhsm/libsofthsm2.so",
	"/opt/homebrew/lib/softhsm/libsofthsm2.so",
}

// ErrNotInstalled is wrapped by Find's error when there is no module.
var ErrNotInstalled = errors.New("SoftHSM is not installed")

// Find returns the path of the SoftHSM module: what SOFTHSM2_MODULE names if it
// is set, otherwise the first of the places the common distributions use. Its
// error says what to install.
func Find() (string, error) {
	if m := os.Getenv("SOFTHSM2_MODULE"); m != "" {
		if err := isModule(m); err != nil {
			return "", fmt.Errorf("SOFTHSM2_MODULE: %w", err)
		}
		return m, nil
	}
	for _, pattern := range modulePatterns {
		found, _ := filepath.Glob(pattern) // the patterns are well formed
		for _, m := range found {
			if isModule(m) == nil {
				return m, nil
			}
		}
	}
	release, _ := os.ReadFile("/etc/os-release") // its absence only makes the hint more general
	return "", fmt.Errorf("%w (hint: %s)", ErrNotInstalled, installHint(string(release)))
}

func isModule(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", path)
	}
	return nil
}

// installHint returns the command that installs SoftHSM, by the ID and ID_LIKE
// of os-release(5).
func installHint(release string) string {
	ids := " "
	for line := range strings.Lines(release) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if name == "ID" || name == "ID_LIKE" {
			ids += strings.Trim(value, `"'`) + " "
		}
	}
	for _, d := range []struct{ ids, command string }{
		{"debian ubuntu", "apt-get install softhsm2"},
		{"fedora rhel centos", "dnf install softhsm"},
		{"arch", "pacman -S softhsm"},
		{"alpine", "apk add softhsm"},
		{"opensuse suse sles", "zypper install softhsm"},
	} {
		for id := range strings.FieldsSeq(d.ids) {
			if strings.Contains(ids, " "+id+" ") {
				return "run `" + d.command + "`"
			}
		}
	}
	return "install the package softhsm2 (Debian, Ubuntu) or softhsm (others), or set SOFTHSM2_MODULE to libsofthsm2.so"
}
