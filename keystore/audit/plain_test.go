//go:build unix

package audit

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A pipe in the place of a file used to hang verification until it was killed.
func TestAPipeInThePlaceOfAFile(t *testing.T) {
	r := ledger(t)
	for _, name := range []string{"lifecycle/checkpoint", "lifecycle/journal-1", "lifecycle/journal-9", "acts/2026-10/pack", "lifecycle/handover-3", "acts/2026-10/checkpoint"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "audit")
			if err := os.CopyFS(dir, os.DirFS(r.cfg.Dir)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, filepath.FromSlash(name))
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			rep, err := verify(ctx, dir, Options{Keys: []string{r.key.vkey(t)}}, 0)
			told := err != nil && strings.Contains(err.Error(), "it is no file") || err == nil && !rep.OK()
			if !told {
				t.Errorf("%v, %v", err, rep)
			}
			// One file ended the whole review, and nothing was said of the other logs.
			if small := strings.Contains(name, "checkpoint") || strings.Contains(name, "handover"); small && (err != nil || len(rep.Logs) != 3) {
				t.Errorf("%v, %v", err, rep)
			}
		})
	}
}
