package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestS08AnOlderCatalogIsRefused: yesterday's copy of the catalog, or none,
// beside today's log.
func TestS08AnOlderCatalogIsRefused(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	d := startDev(t, dir)
	d.stop()
	path := filepath.Join(dir, "catalog.db")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d = startDev(t, dir)
	if _, err := d.client("operator").Rotate(t.Context(), "devices", rotateFor("a new catalog")); err != nil {
		t.Fatal(err)
	}
	d.stop()
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, spoiled := range []struct {
		name string
		file []byte // nil: none
	}{{"an older copy", old}, {"none", nil}} {
		for _, left := range []string{path, path + "-wal", path + "-shm"} {
			os.Remove(left)
		}
		if spoiled.file != nil {
			if err := os.WriteFile(path, spoiled.file, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d := launch(t, dir, "dev", "--dir", dir)
		if err := d.ended(); err == nil || !strings.Contains(d.log.String(), "restore the newest copy") {
			t.Errorf("%s: the daemon ended with %v and said\n%s", spoiled.name, err, d.log)
		}
	}
	os.Remove(path)
	if err := os.WriteFile(path, now, 0o600); err != nil {
		t.Fatal(err)
	}
	d = startDev(t, dir)
	d.sign(d.client("issuer"), "web", `{}`)
}
