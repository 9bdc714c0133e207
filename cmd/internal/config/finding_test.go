package config

import (
	"path/filepath"
	"strings"
	"testing"
)

// dev/t.yaml was called t.yaml, which no editor finds.
func TestFindingsNameTheFileAsItWasGiven(t *testing.T) {
	dir := world(t)
	if _, findings := loadText(t, dir, "node: 7"); !strings.HasPrefix(findings[0].String(), dir+"/config.yaml:1:1: error: ") {
		t.Error(findings[0])
	}
	t.Chdir(filepath.Dir(dir))
	given := filepath.Join(filepath.Base(dir), "config.yaml")
	if _, findings := Load(given); !strings.HasPrefix(findings[0].String(), given+":1:1: error: ") {
		t.Error(findings[0])
	}
	if _, findings := Load("none.yaml"); findings[0].String() != "none.yaml: error: "+filepath.Join(filepath.Dir(dir), "none.yaml")+": no such file or directory" {
		t.Error(findings[0])
	}
}

// What is wrong in one place is told once, and what is wrong in two is told at
// once: a number among serials was refused as a number and as no serial, and a
// certificate that is missing was not looked for when its key was missing too.
func TestEachMistakeOnce(t *testing.T) {
	dir := world(t)
	good := devText(t, dir, false)
	for _, c := range []struct {
		old, new string
		want     []string
	}{
		{"serials: []", "serials: [12]", []string{`revoked.serials[0]: want text, and YAML reads "12" as !!int`}},
		{"serials: []", `serials: ["12", 0x]`, []string{`revoked.serials[1]: "0x"`}},
		{"actions: [csr.sign]", "actions: [12, csr.sign]", []string{"policy[1].actions[0]: want text"}},
		{"max_ttl: 1h\n  - rule: ca", "max_ttl: soon\n  - rule: ca", []string{"policy[0].max_ttl: \"soon\": it is no duration"}},
		{"usages: [server, client]", "usages: [server, 12]", []string{"profiles.tls.usages[1]: want text"}},
		{"max_ttl: 24h\n        default", "max_ttl: soon\n        default", []string{"profiles.tls.max_ttl: \"soon\": it is no duration"}},
		{
			"certificate: pki/server.crt\n    key: pki/server.key", "certificate: pki/no.crt\n    key: pki/no.key",
			[]string{"listeners.signing.certificate: DIR/pki/no.crt: no such file", "listeners.signing.key: DIR/pki/no.key: no such file"},
		},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if text == good {
			t.Errorf("%q is not in the file", c.old)
			continue
		}
		_, findings := loadText(t, dir, text)
		if len(findings) != len(c.want) {
			t.Errorf("%q: %d findings, want %d: %v", c.new, len(findings), len(c.want), findings)
			continue
		}
		for i, want := range c.want {
			if got := strings.ReplaceAll(findings[i].String(), dir, "DIR"); !strings.Contains(got, want) {
				t.Errorf("%q: %s, want %q", c.new, got, want)
			}
		}
	}
}

func TestPosition(t *testing.T) {
	dir := world(t)
	cfg, _ := loadText(t, dir, "node: dev\nkeysets:\n  web:\n    purpose: jwt\n    rotate_every: 30d\n    algorithms: [ES256,\n      RS256]\npolicy:\n  - rule: a\n")
	for path, want := range map[string][2]int{
		"node": {1, 7}, "keysets": {2, 1}, "keysets.web": {3, 3}, "keysets.web.purpose": {4, 14}, "keysets.web.rotate_every": {5, 19},
		"keysets.web.max_age": {3, 3}, "keysets.web.algorithms": {6, 17}, "keysets.web.algorithms[1]": {7, 7},
		"policy[0].rule": {9, 11}, "policy[0].max_ttl": {9, 5}, "listeners.ops": {1, 1},
	} {
		if at := locate(cfg.positions, path); at != (position{Line: want[0], Column: want[1]}) {
			t.Errorf("%s at %d:%d, want %d:%d", path, at.Line, at.Column, want[0], want[1])
		}
	}
	f := cfg.At("keysets.web.algorithm", Warning, "the token lacks it", "")
	if got := strings.TrimPrefix(f.String(), dir); got != "/config.yaml:3:3: warning: keysets.web.algorithm: the token lacks it" {
		t.Error(got)
	}
}

// An error of the token with a hint of its own got a second one behind it.
func TestOneHintInALine(t *testing.T) {
	dir := world(t)
	cfg, _ := loadText(t, dir, "node: dev\n")
	f := cfg.At("node", Warning, "not checked: no such token (hint: name it by serial)", "start the token")
	if f.Message != "not checked: no such token" || f.Hint != "name it by serial" {
		t.Error(f)
	}
	if f := cfg.At("node", Warning, "not checked", "start the token"); f.Hint != "start the token" {
		t.Error(f)
	}
}

// A finding is one line on a terminal, whatever the file holds.
func TestA22FindingsHoldNoControlCharacters(t *testing.T) {
	dir := world(t)
	_, findings := loadText(t, dir, "\"a\\e[31m\\n\": 1\nnode: \"\\e]0;x\\a\"\npublic_url: \"http://\\u009b\"\nkeystores: {hsm: {pkcs11: {module: \"/\\u202e\", token: x}}}\n")
	for _, f := range findings {
		if strings.ContainsAny(f.String(), "\x1b\n\a\u009b") {
			t.Errorf("%q", f.String())
		}
	}
	if len(findings) == 0 {
		t.Error("no findings")
	}
}
