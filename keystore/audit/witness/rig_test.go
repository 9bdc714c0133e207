package witness

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery/keystore/audit"
)

const node = "log.example/audit/dev"

// A testLog is a log on disk in the layout of package audit, as anyone may write
// it: it can be split and rolled back.
type testLog struct {
	testing.TB
	dir     string // the audit directory
	name    string
	signers []note.Signer
	hashes  []tlog.Hash // as tlog stores them
	size    int64
}

func newTestLog(t testing.TB) *testLog {
	l := &testLog{TB: t, dir: t.TempDir(), name: "lifecycle"}
	l.signers = []note.Signer{newLogKey(t)}
	if err := os.Mkdir(filepath.Join(l.dir, l.name), 0o750); err != nil {
		t.Fatal(err)
	}
	return l
}

// A logKey is a log key in memory.
type logKey struct {
	note.Signer
	vkey string
}

func newLogKey(t testing.TB) logKey {
	t.Helper()
	private, vkey, err := note.GenerateKey(rand.Reader, node)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return logKey{s, vkey}
}

func (k logKey) verifier(t testing.TB) note.Verifier {
	t.Helper()
	v, err := audit.ParseVKey(k.vkey)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (k logKey) id() string { return fmt.Sprintf("%s+%08x", k.Name(), k.KeyHash()) }

func (l *testLog) key() logKey { return l.signers[0].(logKey) }

func (l *testLog) origin() string { return node + "/" + l.name }

func (l *testLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		found[i] = l.hashes[at]
	}
	return found, nil
}

// fork returns another log that is the same up to now.
func (l *testLog) fork() *testLog {
	other := *l
	other.dir = l.TempDir()
	other.hashes = append([]tlog.Hash(nil), l.hashes...)
	return &other
}

// add appends n entries that say what.
func (l *testLog) add(n int, what string) *testLog {
	l.Helper()
	for range n {
		more, err := tlog.StoredHashes(l.size, fmt.Appendf(nil, "%s %d", what, l.size), l)
		if err != nil {
			l.Fatal(err)
		}
		l.hashes = append(l.hashes, more...)
		l.size++
	}
	return l
}

func (l *testLog) root(size int64) tlog.Hash {
	l.Helper()
	h, err := tlog.TreeHash(size, l)
	if err != nil {
		l.Fatal(err)
	}
	return h
}

// checkpoint returns the signed checkpoint of the first size entries.
func (l *testLog) checkpoint(size int64) []byte {
	l.Helper()
	c := audit.Checkpoint{Origin: l.origin(), Size: size, Root: l.root(size)}
	signed, err := note.Sign(&note.Note{Text: c.String()}, l.signers...)
	if err != nil {
		l.Fatal(err)
	}
	return signed
}

// request returns what asks to cosign size entries after old.
func (l *testLog) request(old, size int64) Request {
	l.Helper()
	r := Request{Old: old, Note: l.checkpoint(size)}
	if old > 0 && old < size {
		var err error
		if r.Proof, err = tlog.ProveTree(size, old, l); err != nil {
			l.Fatal(err)
		}
	}
	return r
}

// publish writes tiles and the checkpoint of all entries.
func (l *testLog) publish() *testLog {
	l.Helper()
	for _, tile := range tlog.NewTiles(tileHeight, 0, l.size) {
		b, err := tlog.ReadTileData(tile, l)
		if err != nil {
			l.Fatal(err)
		}
		l.write(tileName(tile), b)
	}
	l.write("checkpoint", l.checkpoint(l.size))
	return l
}

func (l *testLog) write(name string, b []byte) {
	l.Helper()
	path := filepath.Join(l.dir, l.name, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		l.Fatal(err)
	}
	if err := os.WriteFile(path+".tmp", b, 0o640); err != nil {
		l.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		l.Fatal(err)
	}
}

func newCosigner(t testing.TB, name string) *audit.Cosigner {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c, err := audit.NewCosigner(name, private)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newServer opens a witness of l's keys in a directory of its own.
func newServer(t testing.TB, l *testLog, change ...func(*ServerConfig)) *Server {
	t.Helper()
	cfg := ServerConfig{Dir: t.TempDir(), Name: "witness.example/w1"}
	for _, s := range l.signers {
		cfg.Logs = append(cfg.Logs, s.(logKey).verifier(t))
	}
	for _, f := range change {
		f(&cfg)
	}
	s, err := OpenServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// cosignedBy fails the test unless line is a cosignature of signed by k.
func cosignedBy(t testing.TB, k audit.WitnessKey, signed []byte, line string) {
	t.Helper()
	_, by, err := audit.OpenCosigned(append(bytes.Clone(signed), line...), []audit.WitnessKey{k})
	if err != nil || len(by) != 1 {
		t.Fatalf("cosignature %q: %v, %v", line, by, err)
	}
}

func lines(s ...string) string { return strings.Join(s, "\n") + "\n" }
