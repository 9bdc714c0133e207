package witness

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery/keystore/audit"
)

// TestMain runs a witness instead of the tests when it is told to.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CHANCERY_TEST_WITNESS"); dir != "" {
		if err := serveUntilKilled(dir, os.Getenv("CHANCERY_TEST_LOG")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// serveUntilKilled prints where the witness listens, and ends with its input.
func serveUntilKilled(dir, vkey string) error {
	key, err := audit.ParseVKey(vkey)
	if err != nil {
		return err
	}
	s, err := OpenServer(ServerConfig{Dir: dir, Name: "killed", Logs: []note.Verifier{key}})
	if err != nil {
		return err
	}
	at := httptest.NewServer(s)
	fmt.Println(at.URL, s.Key().VKey())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// A victim is a witness in a process of its own.
type victim struct {
	cmd  *exec.Cmd
	ask  *Client
	vkey string
}

func startVictim(t *testing.T, dir, vkey string) victim {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CHANCERY_TEST_WITNESS="+dir, "CHANCERY_TEST_LOG="+vkey)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	var url, key string
	if _, err := fmt.Fscanln(bufio.NewReader(out), &url, &key); err != nil {
		t.Fatal(err)
	}
	ask, err := NewClient(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ask.Close)
	return victim{cmd, ask, key}
}

// TestAWitnessThatIsKilled: it is killed at any moment while two callers show it
// two trees that split; all that it ever cosigned is of one.
func TestAWitnessThatIsKilled(t *testing.T) {
	l := newTestLog(t).add(400, "entry")
	split := newTestLog(t).add(400, "another entry")
	split.signers = l.signers
	dir := t.TempDir()
	cosigned := map[int64]tlog.Hash{}
	answers := make(chan audit.Checkpoint)
	for range 6 {
		w := startVictim(t, dir, l.key().vkey)
		key, err := audit.ParseWitnessKey(w.vkey)
		if err != nil {
			t.Fatal(err)
		}
		ctx, dead := context.WithCancel(t.Context())
		callers := 0
		for _, side := range []*testLog{l, split} {
			callers++
			go func() {
				show(ctx, w.ask, key, side, answers)
				answers <- audit.Checkpoint{}
			}()
		}
		kill := time.AfterFunc(time.Duration(10+rand.IntN(60))*time.Millisecond, func() { w.cmd.Process.Kill() })
		go func() { w.cmd.Wait(); dead() }()
		for callers > 0 {
			c := <-answers
			if c.Size == 0 {
				callers--
				continue
			}
			if had, ok := cosigned[c.Size]; ok && had != c.Root {
				t.Errorf("two trees of %d entries were cosigned", c.Size)
			}
			cosigned[c.Size] = c.Root
		}
		kill.Stop()
		w.cmd.Process.Kill()
		<-ctx.Done()
	}
	if len(cosigned) < 2 {
		t.Errorf("%d checkpoints were cosigned: nothing was tried", len(cosigned))
	}
}

// show shows the witness checkpoints of l, each an entry longer, until ctx ends.
func show(ctx context.Context, ask *Client, key audit.WitnessKey, l *testLog, answers chan<- audit.Checkpoint) {
	old, size := int64(0), int64(1)
	for ctx.Err() == nil && size <= l.size {
		req := l.request(old, size)
		lines, err := ask.Add(ctx, req)
		switch conflict, isConflict := errors.AsType[*Conflict](err); {
		case err == nil:
			c, by, err := audit.OpenCosigned(append(bytes.Clone(req.Note), lines...), []audit.WitnessKey{key})
			if err == nil && len(by) == 1 {
				answers <- c
			}
			old, size = size, size+1
		case isConflict:
			old, size = conflict.Size, conflict.Size+1
		case errors.Is(err, ErrInconsistent): // the other's tree it is
			return
		case errors.Is(err, ErrUnreachable):
			return
		}
	}
}
