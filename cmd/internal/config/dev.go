package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

// DevOptions is what chanceryd dev found or chose.
type DevOptions struct {
	Node   string            // empty: dev
	Dir    string            // absolute
	Module string            // the PKCS#11 module
	Token  string            // RFC 7512 URI
	Env    map[string]string // of the worker
	Fast   bool              // rotations to watch

	// Transit is a second keystore, vault, for a key set vaulted; nil: there is
	// none. Its addresses, mount, ca and auth's method and file are written.
	Transit *Transit

	// Postgres is where the catalog is; nil: in Dir. PublicURL is that of the first
	// node of several, which a further one serves as well; empty: this node's own.
	Postgres  *Postgres
	PublicURL string

	APIPort, PublicPort, AdminPort int // on 127.0.0.1
}

// DevSocket is the longest of the socket paths in a development configuration,
// from its directory.
const DevSocket = "run/sign/sign.sock"

//go:embed dev.yaml.tmpl
var devTemplate string

// devWindows are the times of a development configuration.
type devWindows struct{ Every, MaxAge, CacheFor, Skew, MaxTTL, DefaultTTL time.Duration }

var (
	devUsual = devWindows{30 * 24 * time.Hour, DefaultMaxAge, DefaultCacheFactor * DefaultMaxAge, DefaultSkew, time.Hour, DefaultTTL}
	devFast  = devWindows{20 * time.Second, 2 * time.Second, 4 * time.Second, time.Second, 10 * time.Second, 10 * time.Second}
)

// Dev returns the commented configuration chanceryd dev starts with. It loads
// without findings where the files it names are.
func Dev(o DevOptions) ([]byte, error) {
	if o.Node == "" {
		o.Node = "dev"
	}
	if o.PublicURL == "" {
		o.PublicURL = fmt.Sprintf("http://127.0.0.1:%d", o.PublicPort)
	}
	if !filepath.IsAbs(o.Dir) {
		return nil, errors.New("the development directory is not an absolute path")
	}
	t, err := template.New("dev").Funcs(template.FuncMap{"q": quote, "d": formatDuration}).Parse(devTemplate)
	if err != nil {
		return nil, fmt.Errorf("parsing the template of the development configuration: %w", err)
	}
	windows := devUsual
	if o.Fast {
		windows = devFast
	}
	var out bytes.Buffer
	err = t.Execute(&out, struct {
		DevOptions
		W         devWindows
		DevSocket string
	}{o, windows, DevSocket})
	if err != nil {
		return nil, fmt.Errorf("writing the development configuration: %w", err)
	}
	return out.Bytes(), nil
}

// quote writes s as a YAML single-quoted scalar (YAML 1.2 Section 7.3.2), in
// which only the quote itself is special.
func quote(s string) (string, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", fmt.Errorf("%q holds a control character", s)
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'", nil
}

// formatDuration writes d as a person would: 30d, 15m, 20s.
func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if d%u.unit == 0 {
			return fmt.Sprintf("%d%s", d/u.unit, u.name)
		}
	}
	return d.String()
}
