package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
)

func everything() Config {
	cfg := example()
	cfg.Revoked.Serials = []string{"abc"}
	r := &cfg.Rules[0]
	r.Require = Require{UIDs: []int64{0, 1<<32 - 2}, GIDs: []int64{5}, PINs: []string{strings.Repeat("0a", 32)}}
	r.When, r.Audiences, r.Scopes, r.MaxClaims, r.MaxBytes = "ttl < 60 && typ != '<&>'", []string{"a"}, []string{"s"}, 5, 1000
	r.Claims = ClaimRules{Required: []string{"sub"}, Forbidden: []string{"x"}, Forced: map[string]any{"n": int64(9007199254740993), "s": "t", "b": true}}
	cfg.Rules[2].MaxNames = 4
	return cfg
}

func TestTheTextOfAPolicyIsThePolicy(t *testing.T) {
	p := mustNew(t, everything())
	sum := sha256.Sum256(p.Text())
	if p.Hash() != hex.EncodeToString(sum[:]) {
		t.Errorf("hash %s", p.Hash())
	}
	again, err := Read(p.Text())
	if err != nil || again.Hash() != p.Hash() {
		t.Fatalf("%v, %v", again, err)
	}
}

// What is read as a text is written as the same bytes.
func FuzzRead(f *testing.F) {
	f.Add(string(mustNew(f, everything()).Text()))
	f.Add(string(mustNew(f, example()).Text()))
	f.Add(`{"revoked":{}}`)
	f.Add(` {"revoked":{},"x":1}`)
	f.Add(`{"revoked":{}}{}`)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Read([]byte(text))
		if err == nil && string(p.Text()) != text {
			t.Fatalf("%q is written as %q", text, p.Text())
		}
	})
}
