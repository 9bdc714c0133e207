package audit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chancery/keystore"
)

// The test binary runs itself as a process that may be killed, or that has a
// file system of its own.

func TestMain(m *testing.M) {
	if child := os.Getenv("AUDIT_TEST_CHILD"); child != "" {
		os.Exit(runChild(child))
	}
	os.Exit(m.Run())
}

// childKey is a log key that parent and child share.
func childKey() *softKey {
	return &softKey{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize)), keystore.EdDSA}
}

func childConfig(dir string) Config {
	return Config{
		Dir: dir, Host: host, Node: node, JournalSize: 64 << 10, Interval: 5 * time.Millisecond,
		Keys: func(context.Context) (Keys, error) { return Keys{Active: childKey()}, nil },
	}
}

func child(ctx context.Context, mode, dir string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "AUDIT_TEST_CHILD="+mode, "AUDIT_TEST_DIR="+dir)
	cmd.Stderr = nil
	return cmd
}

func runChild(mode string) int {
	run := map[string]func(dir string) error{"append": childAppends, "full": childFillsDisk, "eio": childMeetsEIO}[mode]
	if err := run(os.Getenv("AUDIT_TEST_DIR")); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}

// childAppends enters without end, and prints each receipt.
func childAppends(dir string) error {
	l, err := Open(context.Background(), childConfig(dir))
	if err != nil {
		return err
	}
	var out sync.Mutex
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				rec := signed(i)
				rec.JTI = fmt.Sprintf("%d-%d-%d", os.Getpid(), worker, i)
				enter := l.Act
				if i%10 == 9 {
					enter = l.Lifecycle
				}
				receipt, err := enter(context.Background(), rec)
				if err != nil {
					return
				}
				out.Lock()
				fmt.Println(receipt.Entry, rec.JTI)
				out.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.New("the log failed")
}

// TestI1KillAtAnyMoment is the short form: 5 kills. Each receipt that was seen
// has to be in the log afterwards, with the same content, and the log verifies.
func TestI1KillAtAnyMoment(t *testing.T) {
	const kills = 5
	dir := filepath.Join(t.TempDir(), "audit")
	receipts := map[string]string{}
	for i := range kills {
		cmd := child(t.Context(), "append", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before := len(receipts)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			entry, jti, ok := strings.Cut(lines.Text(), " ")
			if !ok {
				break // cut by the kill
			}
			receipts[entry] = jti
			if len(receipts)-before == 150+157*i {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || len(receipts) == before {
			t.Fatalf("the child ended by itself: %v", err)
		}
		rep, err := Verify(t.Context(), dir, Options{Keys: []string{childKey().vkey(t)}})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range rep.Logs {
			if l.Proven > l.Entries {
				t.Errorf("%s: %d proven of %d", l.Name, l.Proven, l.Entries)
			}
		}
	}
	l, err := Open(t.Context(), childConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	rep, err := Verify(t.Context(), dir, Options{Keys: []string{childKey().vkey(t)}})
	if err != nil || !rep.OK() {
		t.Fatalf("after %d kills: %+v, %v", kills, rep.Problems, err)
	}
	all := len(receipts)
	for e, err := range Entries(dir, Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if jti, ok := receipts[e.Name()]; ok && jti == e.Entry.JTI {
			delete(receipts, e.Name())
		}
	}
	if len(receipts) > 0 {
		t.Errorf("%d of %d receipts are not in the log", len(receipts), all)
	}
	t.Logf("%d kills, %d receipts, %d entries", kills, all, rep.Entries())
}

// childFillsDisk runs in a mount namespace of its own.
func childFillsDisk(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		return err
	}
	ctx := context.Background()
	cfg := childConfig(filepath.Join(dir, "audit"))
	d := newFaultyDisk() // which only counts
	cfg.disk = d
	l, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	if _, err := l.Act(ctx, signed(0)); err != nil {
		return err
	}
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, zeros{}); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("filling the disk: %w", err)
	}
	n := 1
	for ; ; n++ {
		if _, err = l.Act(ctx, signed(n)); err != nil {
			break
		}
	}
	if !errors.Is(err, keystore.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) || l.Health() == nil {
		return fmt.Errorf("on a full disk: %w, health %w", err, l.Health())
	}
	l.Refuse(refusedBy("someone", "forbidden"))
	if err := errors.Join(f.Close(), os.Remove(ballast)); err != nil {
		return err
	}
	tries := d.count("create")
	for end := time.Now().Add(time.Minute); l.Health() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("space is back, and it did not recover: %w", l.Health())
		}
	}
	// How long it waits between two tries is told by TestS09NoSpaceForTheNextJournal.
	if n := d.count("create") - tries; n > 1 {
		return fmt.Errorf("space was back, and it took %d tries more to recover", n)
	}
	if _, err := l.Act(ctx, signed(n)); err != nil {
		return err
	}
	if err := l.Close(ctx); err != nil {
		return err
	}
	v, err := VKeyFor(keyName(host, node), keystore.EdDSA, childKey().Public())
	if err != nil {
		return err
	}
	rep, err := Verify(ctx, cfg.Dir, Options{Keys: []string{v}})
	if err != nil || !rep.OK() || rep.Logs[1].Entries < int64(n) {
		return fmt.Errorf("after recovery: %+v, %w", rep, err)
	}
	return nil
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func TestS09DiskIsFullAndThenIsNot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for a file system of its own")
	}
	cmd := child(t.Context(), "full", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if out, err := cmd.Output(); errors.Is(err, syscall.EPERM) {
		t.Skip("the kernel refuses a mount namespace here")
	} else if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// childMeetsEIO is traced: some of its syncs fail.
func childMeetsEIO(dir string) error {
	ctx := context.Background()
	l, err := Open(ctx, childConfig(dir))
	if err != nil {
		return err
	}
	failed, acked := 0, 0
	for i := range 30 {
		if _, err := l.Act(ctx, signed(i)); err != nil {
			failed++
			for l.Health() != nil {
				time.Sleep(time.Millisecond)
			}
			continue
		}
		acked++
	}
	for range 3 { // the injection may meet the last checkpoint's entries too
		if err = l.Close(ctx); err == nil {
			break
		}
	}
	n := 0
	for _, err := range Entries(dir, Filter{Log: actsName}) {
		if err != nil {
			return err
		}
		n++
	}
	if failed == 0 || n != acked {
		return fmt.Errorf("%d failed, %d acknowledged, %d in the log", failed, acked, n)
	}
	return nil
}

func TestS10FsyncFailsUnderStrace(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil && os.Getenv("CI") != "" {
		t.Fatalf("%v: scripts/test installs it", err)
	} else if err != nil {
		t.Skip("strace is not installed")
	}
	cmd := child(t.Context(), "eio", filepath.Join(t.TempDir(), "audit"))
	cmd.Args = append([]string{strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=7", "--"}, cmd.Args...)
	cmd.Path = strace
	if out, err := cmd.CombinedOutput(); err != nil {
		if bytes.Contains(out, []byte("ptrace(")) && bytes.Contains(out, []byte("Operation not permitted")) {
			t.Skipf("the kernel lets nobody trace here: %s", out)
		}
		t.Errorf("%v\n%s", err, out)
	}
}
