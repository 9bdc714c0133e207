package confine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// Rules say what a worker needs beyond what every worker has. Paths are
// absolute and in their shortest form.
type Rules struct {
	Module  string   `json:"module"`            // the module; it and its directory are read
	Read    []string `json:"read,omitempty"`    // files, or directories and all below
	Write   []string `json:"write,omitempty"`   // the same, to be read and written; devices and Unix sockets too
	Network bool     `json:"network,omitempty"` // TCP and UDP, to any address
	Exec    bool     `json:"exec,omitempty"`    // processes of its own, from what it may read
}

const (
	maxPaths = 256
	maxRules = 32 << 10 // bytes of JSON; execve(2) takes no string above 128 KiB
)

// Marshal returns the rules as one line of JSON, which Parse reads.
func (r Rules) Marshal() (string, error) {
	if err := r.check(); err != nil {
		return "", err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	if len(text) > maxRules {
		return "", fmt.Errorf("rules of %d bytes: more than %d", len(text), maxRules)
	}
	return string(text), nil
}

// Parse reads what Marshal wrote, and nothing else.
func Parse(text string) (Rules, error) {
	if len(text) > maxRules {
		return Rules{}, fmt.Errorf("rules of %d bytes: more than %d", len(text), maxRules)
	}
	var r Rules
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Rules{}, fmt.Errorf("rules: %w", err)
	}
	// JSON has many spellings; this is the one we write.
	again, err := r.Marshal()
	if err != nil {
		return Rules{}, err
	}
	if !bytes.Equal([]byte(again), []byte(text)) {
		return Rules{}, errors.New("rules are not in the form that Marshal writes")
	}
	return r, nil
}

func (r Rules) check() error {
	if err := checkPath(r.Module); err != nil {
		return fmt.Errorf("module: %w", err)
	}
	if n := len(r.Read) + len(r.Write); n > maxPaths {
		return fmt.Errorf("%d paths: more than %d", n, maxPaths)
	}
	for _, path := range r.Read {
		if err := checkPath(path); err != nil {
			return fmt.Errorf("read: %w", err)
		}
	}
	for _, path := range r.Write {
		if err := checkPath(path); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}

func checkPath(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return fmt.Errorf("%q is not an absolute path", path)
	case path == "/":
		return errors.New(`"/" is everything (hint: name the directories that the module uses)`)
	case filepath.Clean(path) != path:
		return fmt.Errorf("path %q is not in its shortest form, %q", path, filepath.Clean(path))
	case !utf8.ValidString(path) || strings.ContainsRune(path, 0):
		return fmt.Errorf("path %q is not UTF-8 text", path)
	}
	return nil
}

// usesUSB reports whether the rules name USB devices.
func (r Rules) usesUSB() bool {
	for _, path := range r.Write {
		if path == usbDevices || strings.HasPrefix(path, usbDevices+"/") {
			return true
		}
	}
	return false
}
