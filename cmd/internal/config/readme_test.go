package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chancery/cmd/internal/config/policyfile"
)

// The keystore that README shows loads, in place of the development token's.
func TestTheKeystoreInREADMELoads(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```yaml\nkeystores:\n")
	block, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("README shows no keystore")
	}
	dir := world(t)
	block = strings.ReplaceAll(block, "/opt/vendor/lib/libvendor-pkcs11.so", filepath.Join(dir, "module.so"))
	before, rest, _ := strings.Cut(devText(t, dir, false), "keystores:\n")
	_, after, _ := strings.Cut(rest, "\nlisteners:\n")
	cfg, findings := loadText(t, dir, before+"keystores:\n"+block+"\nlisteners:\n"+after)
	for _, f := range findings {
		t.Error(f)
	}
	if cfg == nil {
		t.Fatal("no configuration")
	}
	p := cfg.Keystores["hsm"].PKCS11
	if p.Workers != 2 || !p.Confine.Network || p.Confine.Off || len(p.Confine.Read) != 1 || len(p.Confine.Write) != 1 {
		t.Errorf("%+v", p)
	}
}

// So does the one in a Vault, where its files are.
func TestTheVaultInREADMELoads(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```yaml\nkeystores:\n  vault:\n")
	block, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("README shows no keystore in a Vault")
	}
	dir := world(t)
	for path, as := range map[string]string{"/etc/chancery/vault-ca.pem": "ca.crt", "/run/credentials/chancery.service/secret-id": "secret-id"} {
		if !strings.Contains(block, path) {
			t.Errorf("it does not name %s", path)
		}
		block = strings.ReplaceAll(block, path, filepath.Join(dir, as))
	}
	if err := os.WriteFile(filepath.Join(dir, "secret-id"), []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, findings := loadText(t, dir, strings.Replace(devText(t, dir, false), "\nlisteners:\n", "  vault:\n"+block+"\nlisteners:\n", 1))
	for _, f := range findings {
		t.Error(f)
	}
	if v := cfg.Keystores["vault"].Transit; v == nil || len(v.Addresses) != 2 || v.Auth.Method != "approle" || v.Auth.RoleID == "" {
		t.Errorf("%+v", v)
	}
}

func TestConfinementIsChecked(t *testing.T) {
	dir := world(t)
	text := devText(t, dir, false)
	for line, want := range map[string]string{
		"confine: {read: [etc/vendor.conf]}":       "no path for a module",
		"confine: {write: [/]}":                    "no path for a module",
		"confine: {write: [//..]}":                 "no path for a module",
		"confine: {off: true, read: [/etc/v]}":     "off confines nothing",
		"confine: {reed: [/etc/v]}":                "reed",
		"workers: 9":                               "9 workers",
		"workers: 0x2":                             "whole number",
		"workers: two":                             "whole number",
		"workers: -1":                              "-1 workers",
		"verify: all":                              "",
		"verify: sampled":                          "warning: keystores.hsm.pkcs11.verify: a wrong signature by this token can leave",
		"verify: some":                             "no way to verify",
		"confine: {off: true}":                     "",
		"confine: {read: [/etc/v], network: true}": "",
	} {
		_, findings := loadText(t, dir, strings.Replace(text, "    pkcs11:\n", "    pkcs11:\n      "+line+"\n", 1))
		said := ""
		for _, f := range findings {
			said += f.String() + "\n"
		}
		if want == "" && said != "" || !strings.Contains(said, want) {
			t.Errorf("%s: %q, want it to say %q", line, said, want)
		}
	}
	for _, name := range []string{"CHANCERY_PKCS11_RULES", "GOTRACEBACK", "LD_PRELOAD"} {
		_, findings := loadText(t, dir, strings.Replace(text, "        SOFTHSM2_CONF:", "        "+name+":", 1))
		if len(findings) != 1 || !strings.Contains(findings[0].String(), "no environment variable for a worker") {
			t.Errorf("%s: %v", name, findings)
		}
	}
}

// So does the catalog of several nodes.
func TestTheCatalogInREADMELoads(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```yaml\ncatalog:\n")
	block, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("README shows no catalog")
	}
	dir := world(t)
	put(t, filepath.Join(dir, "db-password"), "x\n", 0o600)
	cfg, findings := loadText(t, dir, strings.Replace(devText(t, dir, false), "\nkeystores:\n", "\ncatalog:\n"+block+"\nkeystores:\n", 1))
	for _, f := range findings {
		t.Error(f)
	}
	if cfg == nil || !cfg.Catalog.Shared() || cfg.Catalog.Postgres.PasswordFile != filepath.Join(dir, "db-password") {
		t.Errorf("%+v", cfg)
	}
}

// What becomes of the logs loads too, with a witness policy where it says.
func TestTheAuditSectionInREADMELoads(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```yaml\naudit:\n")
	block, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("README shows no audit section")
	}
	dir := world(t)
	put(t, filepath.Join(dir, "witness.policy"), "quorum none\n", 0o600)
	cfg, findings := loadText(t, dir, audited(t, dir, strings.ReplaceAll(strings.TrimRight(block, "\n")[2:], "\n  ", "\n")))
	for _, f := range findings {
		t.Error(f)
	}
	if a := cfg.Audit; a.KeepActs == 0 || a.Witnesses == nil || len(a.Anchors) != 3 {
		t.Errorf("%+v", a)
	}
}

// The rule that README shows loads, and its cases hold of the development policy.
func TestThePolicyInREADMELoads(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(begin string) string {
		_, rest, ok := strings.Cut(string(readme), "```yaml\n"+begin)
		text, _, closed := strings.Cut(rest, "```")
		if !ok || !closed {
			t.Fatalf("README has no %q", begin)
		}
		return begin + text
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	clients := "clients: [{name: ci, spiffe: [example.com]}]\n"
	if p, findings := policyfile.Load(write("rule.yaml", clients+block("policy:\n  - rule: billing\n"))); p == nil {
		t.Error(findings)
	}
	write("dev/config.yaml", devText(t, world(t), false))
	cases, findings := policyfile.LoadCases(write("cases.yaml", block("config: dev/config.yaml\n")))
	if cases == nil {
		t.Fatal(findings)
	}
	p, findings := policyfile.Load(cases.Config)
	if p == nil {
		t.Fatal(findings)
	}
	for _, r := range cases.Run(p) {
		if !r.Passed {
			t.Errorf("%+v", r)
		}
	}
}
