package witness_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/audit/witness"
)

// foreign returns the path of a program that scripts/verifiers builds.
func foreign(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("CHANCERY_TEST_VERIFIERS")
	if dir == "" {
		t.Skip("no foreign verifiers: scripts/verifiers/build makes them, CHANCERY_TEST_VERIFIERS names their directory")
	}
	return filepath.Join(dir, name)
}

// A heldKey is a log key in memory.
type heldKey struct{ private ed25519.PrivateKey }

func (k heldKey) Public() crypto.PublicKey      { return k.private.Public() }
func (k heldKey) Algorithm() keystore.Algorithm { return keystore.EdDSA }
func (k heldKey) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(k.private, message), nil
}

// A realLog is what package audit writes.
type realLog struct {
	*audit.Log
	dir  string
	vkey string
}

func newRealLog(t *testing.T) realLog {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := heldKey{private}
	l := realLog{dir: filepath.Join(t.TempDir(), "audit")}
	l.Log, err = audit.Open(t.Context(), audit.Config{
		Dir: l.dir, Host: "localhost:8443", Node: "dev", Interval: time.Hour,
		Keys: func(context.Context) (audit.Keys, error) { return audit.Keys{Active: key}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(context.WithoutCancel(t.Context())) })
	if l.vkey, err = l.VKey(keystore.EdDSA, key.Public()); err != nil {
		t.Fatal(err)
	}
	return l
}

// enter enters n records into lifecycle, and makes a checkpoint.
func (l realLog) enter(t *testing.T, n int) {
	t.Helper()
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			for range (n + 15 - i) / 16 {
				rec := keystore.Record{Principal: "chancery", Action: keystore.ActKeyActivate, Outcome: keystore.OutcomeDone, KeySet: "web"}
				if _, err := l.Lifecycle(t.Context(), rec); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	callers.Wait()
	if err := l.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// serve serves what is public of lifecycle and, beside it, entry bundles (C2SP
// tlog-tiles), which Chancery shows nobody and a foreign verifier wants.
func (l realLog) serve(t *testing.T) string {
	var leaves [][]byte
	for e, err := range audit.Entries(l.dir, audit.Filter{Log: "lifecycle"}) {
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, e.Entry.Append(nil))
	}
	at := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		if bundle, ok := strings.CutPrefix(name, "tile/entries/"); ok {
			tile, err := tlog.ParseTilePath("tile/8/data/" + bundle)
			if err != nil {
				t.Error(err)
				return
			}
			for i := tile.N << 8; i < tile.N<<8+int64(tile.W); i++ {
				w.Write(binary.BigEndian.AppendUint16(nil, uint16(len(leaves[i]))))
				w.Write(leaves[i])
			}
			return
		}
		if !audit.IsPublic("lifecycle/" + name) {
			http.NotFound(w, r)
			return
		}
		http.ServeFile(w, r, filepath.Join(l.dir, "lifecycle", filepath.FromSlash(name)))
	}))
	t.Cleanup(at.Close)
	return at.URL
}

// TestTesseraVerifiesTheServedTiles: its fsck makes root and tiles again from the
// entries, and compares.
func TestTesseraVerifiesTheServedTiles(t *testing.T) {
	program := foreign(t, "fsck")
	l := newRealLog(t)
	l.enter(t, 3000)
	key := filepath.Join(t.TempDir(), "vkey")
	if err := os.WriteFile(key, []byte(l.vkey), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func() string {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, program, "--storage_url", l.serve(t)+"/", "--origin", "localhost:8443/audit/dev/lifecycle",
			"--public_key", key, "--ui=false", "--v=1").CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("Completed ranges")) {
			t.Fatalf("fsck: %v\n%s", err, out)
		}
		return string(out)
	}
	if out := check(); strings.Contains(out, "fsck failed") { // its exit status does not tell
		t.Errorf("fsck finds fault:\n%s", out)
	}
	// The last tile: fsck stops for ever at a wrong one before it.
	path := filepath.Join(l.dir, "lifecycle", "tile", "0", "011.p", "184")
	tile, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tile[100] ^= 1
	if err := os.WriteFile(path, tile, 0o640); err != nil {
		t.Fatal(err)
	}
	if out := check(); !strings.Contains(out, "fsck failed") {
		t.Errorf("fsck does not find a changed tile:\n%s", out)
	}
}

// TestLitewitnessCosigns what a Feeder shows it.
func TestLitewitnessCosigns(t *testing.T) {
	program, enrol := foreign(t, "litewitness"), foreign(t, "enrol")
	l := newRealLog(t)
	l.enter(t, 5)
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	socket, fingerprint := serveAgent(t, private)
	where := freeAddress(t)
	db := filepath.Join(dir, "litewitness.db")
	ctx, end := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, program, "-name", "foreign.example/w", "-db", db, "-ssh-agent", socket, "-key", fingerprint, "-listen", where)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() { end(); <-ended })
	untilAnswers(t, where, ended)
	if out, err := exec.Command(enrol, db, "localhost:8443/audit/dev/lifecycle", l.vkey).CombinedOutput(); err != nil {
		t.Fatalf("enrol: %v\n%s", err, out)
	}

	key, err := audit.NewWitnessKey("foreign.example/w", private.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	policy, err := witness.ParsePolicy([]byte(fmt.Sprintf("witness w %s http://%s\nquorum w\n", key.VKey(), where)))
	if err != nil {
		t.Fatal(err)
	}
	kept := make(chan string, 100)
	f, err := witness.NewFeeder(witness.Config{
		Dir: l.dir, Policy: policy, State: filepath.Join(dir, "state"), Every: 20 * time.Millisecond,
		Keep: func(name string, signed []byte) error {
			err := l.KeepWitnessed(name, signed)
			kept <- name
			return err
		},
		Told: func(c witness.Contradiction) error { t.Errorf("told %+v", c); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	feeding, stop := context.WithCancel(t.Context())
	fed := make(chan struct{})
	go func() { f.Run(feeding); close(fed) }()
	defer func() { stop(); <-fed }()
	for size := int64(5); size <= 605; size += 300 { // the first, and two with a proof
		for witnessedSize(t, l, policy) != size {
			select {
			case <-kept:
			case <-ended:
				t.Fatalf("litewitness ended: %s", said.String())
			case <-time.After(time.Minute):
				t.Fatalf("%d entries are witnessed, want %d: %+v", witnessedSize(t, l, policy), size, f.Standings())
			}
		}
		if size < 605 {
			l.enter(t, 300)
		}
	}
}

func witnessedSize(t *testing.T, l realLog, policy *witness.Policy) int64 {
	t.Helper()
	rep, err := audit.Verify(t.Context(), l.dir, audit.Options{Keys: []string{l.vkey}, Witnesses: policy})
	if err != nil || !rep.OK() {
		t.Fatalf("verifying: %+v, %v", rep, err)
	}
	if rep.Logs[0].Witnessed == nil {
		return 0
	}
	return rep.Logs[0].Witnessed.Size
}

// serveAgent serves an SSH agent with that key alone, which is where litewitness
// wants it, and returns its socket and the key's fingerprint.
func serveAgent(t *testing.T, private ed25519.PrivateKey) (socket, fingerprint string) {
	t.Helper()
	keys := agent.NewKeyring()
	if err := keys.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "agent") // a socket's path is at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(keys, c)
		}
	}()
	return socket, ssh.FingerprintSHA256(public)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// untilAnswers returns when something listens at addr.
func untilAnswers(t *testing.T, addr string, ended <-chan struct{}) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-ended:
			t.Fatal("it ended at once")
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Fatal("it does not listen")
}

// TestTesseraIsCosigned: Tessera's smallest log publishes nothing without our
// witness, whose cosignatures it verifies.
func TestTesseraIsCosigned(t *testing.T) {
	program := foreign(t, "posix-oneshot")
	private, vkey, err := note.GenerateKey(rand.Reader, "tessera.example/log")
	if err != nil {
		t.Fatal(err)
	}
	logKey, err := audit.ParseVKey(vkey)
	if err != nil {
		t.Fatal(err)
	}
	s, err := witness.OpenServer(witness.ServerConfig{Dir: t.TempDir(), Name: "auditor.example/w1", Logs: []note.Verifier{logKey}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	at := httptest.NewServer(s)
	defer at.Close()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	policy := write("policy", fmt.Sprintf("witness w1 %s %s\nquorum w1\n", s.Key().VKey(), at.URL))
	key := write("key", private)
	for i, n := range []int{3, 260, 1} { // the first, and two with a proof
		for j := range n {
			write(fmt.Sprintf("entry-%d-%03d", i, j), fmt.Sprintf("entry %d %d", i, j))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := exec.CommandContext(ctx, program, "--storage_dir", filepath.Join(dir, "log"), "--private_key", key,
			"--witness_policy_file", policy, "--entries", filepath.Join(dir, fmt.Sprintf("entry-%d-*", i))).CombinedOutput()
		cancel()
		if err != nil {
			t.Fatalf("posix-oneshot: %v\n%s", err, out)
		}
		signed, err := os.ReadFile(filepath.Join(dir, "log", "checkpoint"))
		if err != nil {
			t.Fatal(err)
		}
		c, by, err := audit.OpenCosigned(signed, []audit.WitnessKey{s.Key()})
		if err != nil || len(by) != 1 {
			t.Errorf("after %d runs it publishes %q: %v, %v", i+1, signed, by, err)
		}
		if size, err := s.Size("tessera.example/log"); err != nil || size != c.Size || size == 0 {
			t.Errorf("after %d runs the witness has %d entries (%v), the log %d", i+1, size, err, c.Size)
		}
	}
}
