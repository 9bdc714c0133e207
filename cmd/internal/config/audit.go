package config

import (
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"time"

	"chancery/keystore/audit/witness"
)

// How often witnesses and anchors get what is new, where the file does not say.
const (
	DefaultWitnessEvery = 10 * time.Second
	DefaultAnchorEvery  = time.Minute
)

// shortestKeepActs: a month that has just ended is there for whoever reviews it.
const shortestKeepActs = 31 * 24 * time.Hour

// Audit says what becomes of the logs beside their directory.
type Audit struct {
	// KeepActs is how long a month of acts is kept after its end; 0: for ever.
	KeepActs  time.Duration `yaml:"keep_acts"`
	Witnesses *Witnesses    `yaml:"witnesses"` // nil: none
	Anchors   []LogAnchor   `yaml:"anchors"`
}

// Witnesses says who has to cosign the checkpoints.
type Witnesses struct {
	PolicyFile string        `yaml:"policy,required"` // C2SP tlog-policy
	Every      time.Duration `yaml:"every"`

	Policy *witness.Policy `yaml:"-"` // of the file
}

// A LogAnchor is a place that signed checkpoints are sent to, outside the node:
// exactly one of File, Syslog and URL.
type LogAnchor struct {
	File   string        `yaml:"file"`   // appended to
	Syslog string        `yaml:"syslog"` // unix:PATH, udp://HOST:PORT or tcp://HOST:PORT
	URL    string        `yaml:"url"`    // POST
	CA     string        `yaml:"ca"`     // of the URL; empty: the system's
	Every  time.Duration `yaml:"every"`
}

// Name returns what the anchor is called in logs and metrics.
func (a LogAnchor) Name() string {
	switch {
	case a.File != "":
		return "file " + a.File
	case a.Syslog != "":
		return "syslog " + a.Syslog
	}
	return a.URL
}

func (a Audit) equal(o Audit) bool {
	return reflect.DeepEqual(a, o)
}

func (a *Audit) fill(dir string) {
	if w := a.Witnesses; w != nil {
		absolute(&w.PolicyFile, dir)
		if w.Every == 0 {
			w.Every = DefaultWitnessEvery
		}
	}
	for i := range a.Anchors {
		at := &a.Anchors[i]
		absolute(&at.File, dir)
		absolute(&at.CA, dir)
		if at.Every == 0 {
			at.Every = DefaultAnchorEvery
		}
	}
}

func (k checker) audit() {
	if k.has("audit.keep_acts") && k.Audit.KeepActs < shortestKeepActs {
		k.errorf("audit.keep_acts", "400d, or what your rules ask for", "%v is less than a month", k.Audit.KeepActs)
	}
	k.witnesses()
	seen := make(map[string]bool)
	for i, a := range k.Audit.Anchors {
		path := fmt.Sprintf("audit.anchors[%d]", i)
		k.anchor(path, a)
		if name := a.Name(); name != "" && seen[name] {
			k.errorf(path, "remove one of them", "%s is there twice", name)
		} else {
			seen[name] = true
		}
	}
}

func (k checker) witnesses() {
	w := k.Audit.Witnesses
	if w == nil || w.PolicyFile == "" {
		return
	}
	text, err := read(w.PolicyFile)
	if err == nil {
		w.Policy, err = witness.ParsePolicy(text)
	}
	if err != nil {
		k.errorf("audit.witnesses.policy", "", "%v", reason(err))
		return
	}
	if err := checkTrusted(w.PolicyFile); err != nil {
		k.errorf("audit.witnesses.policy", "chown root and chmod go-w the file and its directory", "%v", err)
	}
}

func (k checker) anchor(path string, a LogAnchor) {
	said := 0
	for _, s := range []string{a.File, a.Syslog, a.URL} {
		if s != "" {
			said++
		}
	}
	switch {
	case said != 1:
		k.errorf(path, "{file: PATH}, {syslog: unix:/dev/log} or {url: https://…}", "an anchor is one of file, syslog and url")
	case a.CA != "" && a.URL == "":
		k.errorf(path+".ca", "remove it", "only a url has a certificate")
	case a.Syslog != "":
		if _, _, err := SyslogAddress(a.Syslog); err != nil {
			k.errorf(path+".syslog", "unix:/dev/log, udp://HOST:514 or tcp://HOST:601", "%v", err)
		}
	case a.URL != "":
		u, err := url.Parse(a.URL)
		switch {
		case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
			k.errorf(path+".url", "https://anchors.example.com/chancery", "%.80q is no http or https URL", a.URL)
		case u.Scheme == "http" && !isLoopback(u.Hostname()):
			k.errorf(path+".url", "https", "checkpoints leave this machine over https only")
		case u.User != nil:
			k.errorf(path+".url", "", "a password does not stand in the configuration")
		}
	}
	if a.CA != "" {
		if _, err := readCertificates(a.CA); err != nil {
			k.errorf(path+".ca", "", "%v", err)
		}
	}
}

// SyslogAddress returns the network and the address of an anchor's syslog, as
// package net takes them.
func SyslogAddress(s string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok && strings.HasPrefix(path, "/") {
		return "unixgram", path, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "udp" && u.Scheme != "tcp" || u.Port() == "" || u.Hostname() == "" || u.Path != "" || u.User != nil {
		return "", "", fmt.Errorf("%.80q is no address of a syslog", s)
	}
	return u.Scheme, u.Host, nil
}
