package softhsm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// A Token is an initialised SoftHSM token.
type Token struct {
	Dir     string // the directory it was made in
	Module  string // path of the SoftHSM module
	Conf    string // path of softhsm2.conf
	Label   string
	Serial  string
	PINFile string // path of the file that holds the user PIN
}

// URI returns the RFC 7512 URI of the token, by its serial number, with its PIN
// file as pin-source.
func (t *Token) URI() string {
	source := strings.ReplaceAll(url.QueryEscape(t.PINFile), "+", "%20")
	return "pkcs11:serial=" + url.PathEscape(t.Serial) + "?pin-source=" + strings.ReplaceAll(source, "%2F", "/")
}

// Env returns the environment SoftHSM needs to find the token.
func (t *Token) Env() map[string]string { return map[string]string{"SOFTHSM2_CONF": t.Conf} }

// Create makes a token called label in dir, which it makes too if need be, and
// returns it. It returns an error wrapping fs.ErrExist if dir has a token of
// that label. The label is one to 32 letters, digits, dots, hyphens and
// underscores.
//
// It must not run twice at once in one directory.
func Create(ctx context.Context, dir, label string) (*Token, error) {
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`).MatchString(label) {
		return nil, fmt.Errorf("token label %q: want up to 32 letters, digits, '.', '_' or '-'", label)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	t, err := describe(dir, label)
	if err != nil {
		return nil, err
	}
	if err := prepare(t); err != nil {
		return nil, err
	}
	if _, err := t.find(ctx, t.Conf); err == nil {
		return nil, fmt.Errorf("token %q in %s: %w", label, dir, fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := t.make(ctx); err != nil {
		return nil, fmt.Errorf("making token %q: %w", label, err)
	}
	return t, nil
}

// Open returns the token called label that Create made in dir, or an error
// wrapping fs.ErrNotExist.
func Open(dir, label string) (*Token, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	t, err := describe(dir, label)
	if err != nil {
		return nil, err
	}
	for _, f := range []string{t.Conf, t.PINFile} {
		if _, err := os.Stat(f); err != nil {
			return nil, fmt.Errorf("opening token %q: %w", label, err)
		}
	}
	serial, err := os.ReadFile(t.serialFile())
	if err == nil {
		t.Serial = strings.TrimSpace(string(serial))
		return t, nil
	}
	// Create was interrupted after the token appeared and before its serial
	// number was written down.
	if t.Serial, err = t.find(context.Background(), t.Conf); err != nil {
		return nil, fmt.Errorf("opening token %q: %w", label, err)
	}
	return t, writeFile(t.serialFile(), t.Serial+"\n")
}

func describe(dir, label string) (*Token, error) {
	module, err := Find()
	if err != nil {
		return nil, err
	}
	return &Token{
		Dir: dir, Module: module, Label: label,
		Conf:    filepath.Join(dir, "softhsm2.conf"),
		PINFile: filepath.Join(dir, label+".pin"),
	}, nil
}

func (t *Token) serialFile() string { return filepath.Join(t.Dir, t.Label+".serial") }
func (t *Token) tokens() string     { return filepath.Join(t.Dir, "tokens") }

// prepare makes the directory and its softhsm2.conf.
func prepare(t *Token) error {
	if err := os.MkdirAll(t.tokens(), 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(t.Conf); err == nil {
		return nil
	}
	return writeFile(t.Conf, conf(t.tokens()))
}

func conf(tokens string) string {
	return "# Made by chancery. SOFTHSM2_CONF names this file.\n" +
		"directories.tokendir = " + tokens + "\n" +
		"objectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
}

// make initialises the token in a directory beside, then moves it into place.
func (t *Token) make(ctx context.Context) error {
	stage, err := os.MkdirTemp(t.Dir, "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	stageConf := filepath.Join(stage, "softhsm2.conf")
	if err := errors.Join(os.Mkdir(filepath.Join(stage, "tokens"), 0o700),
		writeFile(stageConf, conf(filepath.Join(stage, "tokens")))); err != nil {
		return err
	}
	pin, soPIN := rand.Text(), rand.Text()
	cmd, err := t.util(ctx, stageConf, "--init-token", "--free", "--label", t.Label)
	if err != nil {
		return err
	}
	if err := typePINs(ctx, cmd, []string{soPIN, soPIN, pin, pin}); err != nil {
		return err
	}
	if t.Serial, err = t.find(ctx, stageConf); err != nil {
		return err
	}
	made, err := os.ReadDir(filepath.Join(stage, "tokens"))
	if err != nil {
		return err
	}
	if len(made) != 1 {
		return fmt.Errorf("softhsm2-util made %d tokens", len(made))
	}
	name := made[0].Name()
	err = errors.Join(
		t.keep(filepath.Join(stage, "tokens", name)),
		writeFile(filepath.Join(t.Dir, t.Label+".so-pin"), soPIN+"\n"),
		writeFile(t.PINFile, pin+"\n"))
	if err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(stage, "tokens", name), filepath.Join(t.tokens(), name)); err != nil {
		return err
	}
	return errors.Join(syncDir(t.tokens()), writeFile(t.serialFile(), t.Serial+"\n"))
}

// find returns the serial number of the one token with t's label that SoftHSM
// sees with the given configuration, or an error wrapping fs.ErrNotExist.
func (t *Token) find(ctx context.Context, conf string) (string, error) {
	cmd, err := t.util(ctx, conf, "--show-slots")
	if err != nil {
		return "", err
	}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("softhsm2-util --show-slots: %w", err)
	}
	serials := serialsOf(out, t.Label)
	switch len(serials) {
	case 0:
		return "", fmt.Errorf("token %q: %w", t.Label, fs.ErrNotExist)
	case 1:
		return serials[0], nil
	}
	return "", fmt.Errorf("%d tokens are called %q", len(serials), t.Label)
}

// serialsOf returns the serial numbers of the tokens called label in what
// softhsm2-util --show-slots prints. The serial number comes before the label.
func serialsOf(slots []byte, label string) []string {
	var serials []string
	serial := ""
	for line := range bytes.Lines(slots) {
		name, value, _ := strings.Cut(string(line), ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(name) {
		case "Serial number":
			serial = value
		case "Label":
			if value == label && serial != "" {
				serials = append(serials, serial)
			}
		}
	}
	return serials
}

// util returns softhsm2-util, to be run with nothing of our environment.
func (t *Token) util(ctx context.Context, conf string, args ...string) (*exec.Cmd, error) {
	path, err := exec.LookPath("softhsm2-util")
	if err != nil {
		return nil, fmt.Errorf("%w: no softhsm2-util in PATH (hint: it comes with the package softhsm2 or softhsm)", ErrNotInstalled)
	}
	cmd := exec.CommandContext(ctx, path, append(args, "--module", t.Module)...)
	cmd.Env = []string{"SOFTHSM2_CONF=" + conf}
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	return cmd, nil
}

// writeFile writes a file of mode 0600 that is whole or absent, durably.
func writeFile(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return errors.Join(os.Rename(f.Name(), path), syncDir(filepath.Dir(path)))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
