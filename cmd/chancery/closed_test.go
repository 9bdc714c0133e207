package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// writeYear makes a log in dir/audit with 50 acts in each month from August to
// November, of which August is removed and the others but the last are packed,
// and its key in dir/audit.vkey.
func writeYear(ctx context.Context, dir string) error {
	key := fileKey{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))}
	var clock atomic.Int64
	cfg := audit.Config{
		Dir: filepath.Join(dir, "audit"), Host: "localhost:8443", Node: "dev", Interval: time.Hour, JournalSize: 64 << 10,
		Keys:     func(context.Context) (audit.Keys, error) { return audit.Keys{Active: key}, nil },
		Now:      func() time.Time { return time.Unix(0, clock.Load()) },
		KeepActs: 60 * 24 * time.Hour,
	}
	clock.Store(time.Date(2026, 8, 3, 0, 0, 0, 0, time.UTC).UnixNano())
	log, err := audit.Open(ctx, cfg)
	if err != nil {
		return err
	}
	for month := time.August; month <= time.November; month++ {
		clock.Store(time.Date(2026, month, 20, 0, 0, 0, 0, time.UTC).UnixNano())
		for i := range 50 {
			if _, err := log.Act(ctx, keystore.Record{
				Principal: "dev:spiffe:spiffe://chancery.dev/issuer", Action: keystore.ActSignJWT, Outcome: keystore.OutcomeDone,
				KeySet: "web", Version: 1, JTI: fmt.Sprintf("%s-%d", strings.ToLower(month.String()), i),
			}); err != nil {
				return err
			}
		}
		if err := log.Checkpoint(ctx); err != nil {
			return err
		}
	}
	there := func(month, file string) bool { return exists(filepath.Join(cfg.Dir, "acts", month, file)) }
	packed := func(month string) bool { return there(month, "pack") && !there(month, "journal-1") }
	err = until(ctx, func() bool {
		for range audit.Entries(cfg.Dir, audit.Filter{Action: keystore.ActAuditPrune}) {
			return packed("2026-08") && packed("2026-09") && packed("2026-10")
		}
		return false
	})
	if err := errors.Join(err, log.Close(ctx)); err != nil {
		return err
	}
	clock.Add(int64(time.Hour))
	if log, err = audit.Open(ctx, cfg); err != nil { // which removes what is due
		return err
	}
	err = until(ctx, func() bool { return !exists(filepath.Join(cfg.Dir, "acts", "2026-08")) })
	vkey, err2 := log.VKey(keystore.EdDSA, key.Public())
	return errors.Join(err, err2, log.Close(ctx), os.WriteFile(filepath.Join(dir, "audit.vkey"), []byte(vkey+"\n"), 0o600))
}

func until(ctx context.Context, is func() bool) error {
	for ; !is(); time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// Packed and removed months are to an auditor what months were before.
func TestAuditorsReadClosedMonths(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := writeYear(ctx, dir); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"audit", "verify"}, `(?m)^removed: localhost:8443/audit/dev/acts/2026-08, 50 entries, as the policy says \(keep_acts 60d; entry localhost:8443/audit/dev/lifecycle#\d+\)$`},
		{[]string{"audit", "verify"}, `acts/2026-09 +│ 50 +│ 50 `},
		{[]string{"audit", "verify"}, `, 0 problems\n$`},
		{[]string{"audit", "verify", "--json"}, `"pruned":\[\{"name":"acts/2026-08"`},
		{[]string{"audit", "list", "--log", "acts/2026-09", "--last", "1", "--json"}, `^\{.*"seq":49,.*"jti":"september-49"`},
	} {
		var out, stderr bytes.Buffer
		a := &app{out: &out, err: &stderr, getenv: func(string) string { return "" }}
		if status := a.run(t.Context(), append([]string{"--dir", dir}, test.args...)); status != exitDone {
			t.Fatalf("%v: exit %d, %s%s", test.args, status, out.String(), stderr.String())
		}
		if !regexp.MustCompile(test.want).MatchString(out.String()) {
			t.Errorf("%v: no %q in\n%s", test.args, test.want, out.String())
		}
	}
}
