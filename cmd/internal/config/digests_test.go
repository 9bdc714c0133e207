package config

import (
	"os"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
)

// withDigests is the development configuration with a key set of purpose digest and
// a rule for it, as they are written here.
func withDigests(t *testing.T, dir, keyset, rule string) string {
	t.Helper()
	text := devText(t, dir, false)
	text = strings.Replace(text, "\n  devices: #", "\n  release:\n"+indent(keyset, 4)+"  devices: #", 1)
	if rule != "" {
		text = strings.Replace(text, "  - rule: operator", "  - rule: release\n"+indent(rule, 4)+"  - rule: operator", 1)
	}
	return text
}

func indent(text string, n int) string {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimSuffix(text, "\n") + "\n") {
		b.WriteString(strings.Repeat(" ", n) + line)
	}
	return b.String()
}

const (
	release = "purpose: digest\nalgorithm: ES256\nkeystore: hsm"
	signs   = "principals: ['dev:spiffe:spiffe://chancery.dev/release']\nactions: [digest.sign]\nkeysets: [release]"
)

func TestDigestKeySets(t *testing.T) {
	dir := world(t)
	for _, c := range []struct {
		name         string
		keyset, rule string
		want         string // part of the one finding; empty: there is none
	}{
		{"as it should be", release, signs, ""},
		{"a time to retain", release + "\nretain: 365d", signs, ""},
		{"every algorithm of digests", strings.Replace(release, "ES256", "PS384", 1), signs, ""},
		{"a rule for whatever there is", release, strings.Replace(signs, "[release]", "['*']", 1), ""},
		{"a rule that also signs tokens", release, strings.Replace(strings.Replace(signs, "[digest.sign]", "[digest.sign, jwt.sign]", 1), "[release]", "[web, release]", 1) + "\nmax_ttl: 1h", ""},
		{"off unless a rule says so", release, "", "warning: keysets.release: no rule lets anybody have digests signed by this key set"},
		{"EdDSA", strings.Replace(release, "ES256", "EdDSA", 1), signs, "error: keysets.release.algorithm: EdDSA signs messages and no digests"},
		{"a rotation by the clock", release + "\nrotate_every: 90d", signs, "error: keysets.release.rotate_every: key sets of purpose digest rotate on request only"},
		{"a token's lifetime", release + "\nmax_ttl: 1h", signs, "error: keysets.release.max_ttl: only key sets of purpose jwt have this"},
		{"an issuer", release + "\nissuer: https://example.com", signs, "error: keysets.release.issuer: only key sets of purpose jwt have this"},
		{"nothing retained", release + "\nretain: 0s", signs, "error: keysets.release.retain: \"0s\": it is not positive"},
		{"a key set of tokens that retains", strings.Replace(release, "digest", "jwt", 1) + "\nretain: 365d", "", "error: keysets.release.retain: only key sets of purpose digest have this"},
		{"A05: digests by a key of tokens", release, strings.Replace(signs, "[release]", "[release, web]", 1), `keysets[1]: key set web is of purpose "jwt" and signs no digests`},
		{"A05: digests by a key of an authority", release, strings.Replace(signs, "[release]", "[devices, release]", 1), `keysets[0]: key set devices is of purpose "ca" and signs no digests`},
		{"A05: tokens by a key of digests", release, signs + "\n- rule: tokens\n  principals: ['dev:spiffe:spiffe://chancery.dev/other']\n  actions: [jwt.sign]\n  keysets: [release]\n  max_ttl: 1h", `keysets[0]: key set release is of purpose "digest" and signs no JWT`},
		{"a limit of tokens", release, signs + "\nmax_ttl: 1h", "max_ttl: only a rule to sign has this limit"},
		{"a signer who operates", release, strings.Replace(signs, "[digest.sign]", "[digest.sign, keyset.rotate]", 1), "would both sign and operate"},
		{"a signer who audits", release, strings.Replace(signs, "[digest.sign]", "[digest.sign, audit.read]", 1), "would both sign and read the log"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := withDigests(t, dir, c.keyset, c.rule)
			if before, after, ok := strings.Cut(c.rule, "\n- rule: "); ok { // a second rule
				text = withDigests(t, dir, c.keyset, before)
				text = strings.Replace(text, "  - rule: operator", indent("- rule: "+after, 2)+"  - rule: operator", 1)
			}
			_, findings := loadText(t, dir, text)
			if c.want == "" {
				for _, f := range findings {
					t.Error(f)
				}
				return
			}
			if len(findings) != 1 || !strings.Contains(findings[0].String(), c.want) {
				t.Errorf("want %q alone, got %v", c.want, findings)
			}
		})
	}
}

// A05: an authority's certificate is never made for a key of digests.
func TestA05NoAuthorityHasADigestKeySet(t *testing.T) {
	dir := world(t)
	text := strings.Replace(withDigests(t, dir, release, signs), "keyset: devices", "keyset: release", 1)
	_, findings := loadText(t, dir, text)
	if len(findings) == 0 || !strings.Contains(findings[len(findings)-1].String()+findings[0].String(), `key set release is of purpose "digest", not ca`) {
		t.Errorf("findings %v", findings)
	}
}

// Signatures have no expiry, so how long a version is known after it stopped signing
// is what is said, and ten years where nothing is.
func TestRetain(t *testing.T) {
	dir := world(t)
	for said, want := range map[string]time.Duration{"": 3650 * 24 * time.Hour, "\nretain: 400d": 400 * 24 * time.Hour} {
		cfg, findings := loadText(t, dir, withDigests(t, dir, release+said, signs))
		if len(findings) > 0 {
			t.Fatal(findings)
		}
		ks := cfg.KeySets["release"]
		spec := ks.Spec()
		if ks.Retain != want || spec.Schedule.Lifetime != want || spec.Schedule.Ahead || spec.Schedule.Every != 0 || spec.Purpose != keystore.PurposeDigest {
			t.Errorf("%q: %+v, %+v", said, ks, spec)
		}
		other, _ := loadText(t, dir, withDigests(t, dir, release+"\nretain: 401d", signs))
		if cfg.NeedsRestart(other) != "keysets" {
			t.Error("another time to retain is put in force by a reload")
		}
	}
}

// What README says of key sets of purpose digest loads.
func TestTheDigestKeySetInREADMELoads(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(begin string) string {
		_, rest, ok := strings.Cut(string(readme), "```yaml\n"+begin+"\n")
		text, _, closed := strings.Cut(rest, "```")
		if !ok || !closed {
			t.Fatalf("README shows no %q", begin)
		}
		return text
	}
	dir := world(t)
	text := strings.Replace(devText(t, dir, false), "\n  devices: #", "\n"+block("keysets:")+"  devices: #", 1)
	text = strings.Replace(text, "  - rule: operator", block("policy:")+"  - rule: operator", 1)
	cfg, findings := loadText(t, dir, text)
	for _, f := range findings {
		t.Error(f)
	}
	if cfg == nil || cfg.KeySets["release"].Retain != DefaultRetain {
		t.Error("it is not what is in force where nothing is said")
	}
}
