package pkcs11

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"chancery/keystore/pkcs11/internal/confine"
)

// A Confinement says what a module may do beyond what every module needs. The
// zero value is the tightest; see the package confine for what that is and what
// the usual modules need besides.
type Confinement struct {
	Read    []string // files, or directories and all below
	Write   []string // the same, to be read and written; devices and Unix sockets too
	Network bool     // TCP and UDP
	Exec    bool     // processes of its own
	Off     bool     // no confinement at all, which is said wherever the token is told of
}

// rulesEnv holds a worker's rules; without it the worker is not confined.
const rulesEnv = "CHANCERY_PKCS11_RULES"

// notConfined is what is said of a worker that has no rules.
const notConfined = "the module is not confined: the configuration says so"

// rules returns what the worker of cfg may do: what cfg says, and what follows
// from the module's environment. A path in it is one that the module uses: it may
// read it. SoftHSM's configuration names another one, which it writes.
func (c Confinement) rules(module string, env map[string]string) confine.Rules {
	r := confine.Rules{Module: filepath.Clean(module), Network: c.Network, Exec: c.Exec}
	for _, path := range c.Read {
		r.Read = append(r.Read, filepath.Clean(path))
	}
	for _, path := range c.Write {
		r.Write = append(r.Write, filepath.Clean(path))
	}
	for name, value := range env {
		path := filepath.Clean(value)
		if !filepath.IsAbs(path) || path == "/" {
			continue
		}
		if _, err := os.Stat(path); err == nil {
			r.Read = append(r.Read, path)
		}
		if name == "SOFTHSM2_CONF" {
			if dir := tokenDir(path); dir != "" {
				r.Write = append(r.Write, dir)
			}
		}
	}
	slices.Sort(r.Read)
	slices.Sort(r.Write)
	r.Read, r.Write = slices.Compact(r.Read), slices.Compact(r.Write)
	return r
}

// tokenDir returns the directory of the tokens that a softhsm2.conf(5) names, or
// "".
func tokenDir(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), "=")
		if !ok || strings.TrimSpace(name) != "directories.tokendir" {
			continue
		}
		if dir := filepath.Clean(strings.TrimSpace(value)); filepath.IsAbs(dir) && dir != "/" {
			return dir
		}
	}
	return ""
}

// confinementEnv returns the variable that tells a worker its rules, "" if it has
// none.
func (c Config) confinementEnv() (string, error) {
	if c.Confinement.Off {
		return "", nil
	}
	text, err := c.Confinement.rules(c.Module, c.Env).Marshal()
	if err != nil {
		return "", err
	}
	return rulesEnv + "=" + text, nil
}

// confineModule takes from this worker what its module does not need, and
// returns the report as the answer to hello is to have it.
func confineModule() ([]byte, error) {
	text := os.Getenv(rulesEnv)
	os.Unsetenv(rulesEnv)
	if text == "" {
		return json.Marshal(confine.Report{Missing: []string{notConfined}})
	}
	rules, err := confine.Parse(text)
	if err != nil {
		return nil, err
	}
	report, err := confine.Apply(rules)
	if err != nil {
		return nil, err
	}
	return json.Marshal(report)
}

// RefusedVariable reports whether an environment variable is not a module's to
// have: the dynamic linker's, the Go runtime's and our own.
func RefusedVariable(name string) bool {
	for _, prefix := range []string{"LD_", "GO", "CHANCERY_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
