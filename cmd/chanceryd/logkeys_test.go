package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

func TestFormerLogKeys(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	version := func(number int, state keystore.State, stopped time.Duration, change ...func(*keystore.Version)) keystore.Version {
		v := keystore.Version{
			Number: number, State: state, KID: keystore.KID(fmt.Sprint("kid-", number)),
			ActivatedAt: now.Add(-2 * time.Hour), StoppedAt: now.Add(-stopped),
		}
		for _, f := range change {
			f(&v)
		}
		return v
	}
	set := &keystore.KeySet{
		Purpose: keystore.PurposeAudit, Promises: []keystore.Promise{{At: now.Add(-time.Hour), CacheFor: 30 * time.Minute}},
		Versions: []keystore.Version{
			version(1, keystore.Retired, time.Minute),
			version(2, keystore.Retiring, time.Minute, func(v *keystore.Version) { v.Compromised = &keystore.Fact{} }),
			version(3, keystore.Retiring, time.Minute, func(v *keystore.Version) { v.Suspended = &keystore.Fact{} }),
			version(4, keystore.Retiring, 30*time.Minute),
			version(5, keystore.Retiring, 30*time.Minute-1),
			version(6, keystore.Active, 0),
			version(7, keystore.Published, 0, func(v *keystore.Version) { v.ActivatedAt = time.Time{} }),
		},
	}
	only := func(kids ...keystore.KID) func(*keystore.KeySet, keystore.KID) bool {
		return func(_ *keystore.KeySet, kid keystore.KID) bool { return slices.Contains(kids, kid) }
	}
	tests := []struct {
		what     string
		answered func(*keystore.KeySet, keystore.KID) bool
		want     []int
	}{
		{"without witnesses", nil, []int{5}},
		{"no witness has answered for any", only(), []int{4, 5}},
		{"all have for the active one", only("kid-6"), nil},
		{"all have for the one before it", only("kid-5"), []int{5}},
		{"all have for those that are over", only("kid-4", "kid-1"), []int{4, 5}},
		{"a key that has not signed is none to answer for", only("kid-7"), []int{4, 5}},
	}
	for _, test := range tests {
		var got []int
		for _, v := range formers(set, test.answered, now) {
			got = append(got, v.Number)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.what, got, test.want)
		}
	}
}

// Whoever kept the log's first key verifies, offline, what was signed after it was
// rotated, and finds the way to the new key on the public listener.
func TestFirstLogKeyVerifiesAfterARotation(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	d := startDev(t, dir, "--fast")
	vkeys, err := os.ReadFile(filepath.Join(dir, "audit.vkey"))
	if err != nil {
		t.Fatal(err)
	}
	old, _, _ := strings.Cut(string(vkeys), "\n")
	verify := func() *audit.Report {
		t.Helper()
		report, err := audit.Verify(context.Background(), filepath.Join(dir, "audit"), audit.Options{Keys: []string{old}})
		if err != nil {
			t.Fatal(err)
		}
		if !report.OK() {
			t.Fatalf("it does not verify by the first key: %v", report.Problems)
		}
		return report
	}
	verify()
	reply, err := d.client("operator").Rotate(t.Context(), "audit", rotateFor("a drill"))
	if err != nil {
		t.Fatal(err)
	}
	issuer := d.client("issuer")
	d.within(time.Minute, "the next key signs, and the first no more", func() error {
		d.sign(issuer, "web", `{"sub":"alice"}`)
		found, _ := filepath.Glob(filepath.Join(dir, "audit", "lifecycle", "handover-*"))
		if report := verify(); len(found) == 0 || report.Logs[0].Announced == "" {
			return fmt.Errorf("handovers %v, lifecycle rests on %s", found, report.Logs[0].Key)
		}
		return nil
	})
	report := verify()
	next := report.LogKeys[slices.IndexFunc(report.LogKeys, func(k audit.LogKey) bool { return string(k.KID) == reply.To.KID })]
	if report.Logs[0].Key != next.Key {
		t.Errorf("lifecycle rests on %s, want %s", report.Logs[0].Key, next.Key)
	}
	resp, err := http.Get(d.endpoints.Public + "/audit/dev/lifecycle/" + next.By)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("%s: status %d", next.By, resp.StatusCode)
	}
	d.stop()
	verify()
}
