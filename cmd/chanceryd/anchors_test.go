package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/cmd/internal/config"
	"chancery/keystore/audit"
)

// aCheckpoint is one on its way, which nobody there looks at.
func aCheckpoint(size int64) audit.Published {
	c := audit.Checkpoint{Origin: "localhost/audit/dev/lifecycle", Size: size}
	return audit.Published{Name: "lifecycle", Note: []byte(c.String() + "\n— localhost/audit/dev AAAAAAAA\n"), Checkpoint: c}
}

func atNoon() time.Time { return time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC) }

// newSender returns what sends to an anchor and waits for so long at most.
func newSender(t *testing.T, c config.LogAnchor, patience time.Duration) func(audit.Published) error {
	t.Helper()
	send, err := sender(c, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	return func(p audit.Published) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return send(ctx, p)
	}
}

// A note that came right after another was refused as if that one were stuck.
func TestAFileAnchorKeepsEveryNote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "anchor")
	send := newSender(t, config.LogAnchor{File: path}, anchorDeadline)
	var want strings.Builder
	for size := range int64(100) {
		p := aCheckpoint(size)
		if err := send(p); err != nil {
			t.Fatal(err)
		}
		want.Write(p.Note)
		want.WriteString("\n")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want.String() {
		t.Errorf("%q, %v", got, err)
	}
}

// S11: what hangs is told from what works, and nothing waits for it.
func TestS11AnAnchorThatHangs(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDONLY|syscall.O_NONBLOCK, 0) // so that it can be opened for writing
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, c := range map[string]config.LogAnchor{
		"a pipe":                 {File: fifo},
		"a URL that is silent":   {URL: "http://" + silent.Addr().String()},
		"a directory":            {File: dir},
		"a syslog that is away":  {Syslog: "unix:" + filepath.Join(dir, "nobody")},
		"a URL that nobody has":  {URL: "http://127.0.0.1:1/"},
		"a device without space": {File: "/dev/full"},
	} {
		began := time.Now()
		if err := newSender(t, c, 100*time.Millisecond)(aCheckpoint(1)); err == nil {
			t.Errorf("%s: no error", name)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: after %v", name, took)
		}
	}
}

func TestAURLAnchorGetsTheNote(t *testing.T) {
	var got []byte
	status := http.StatusNoContent
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ = io.ReadAll(r.Body)
		if r.Method != http.MethodPost || r.URL.Path != "/here" {
			status = http.StatusTeapot
		}
		http.Redirect(w, r, "/elsewhere", status)
	}))
	defer s.Close()
	send := newSender(t, config.LogAnchor{URL: s.URL + "/here"}, anchorDeadline)
	p := aCheckpoint(7)
	if err := send(p); err != nil || string(got) != string(p.Note) {
		t.Errorf("%q, %v", got, err)
	}
	for _, status = range []int{http.StatusFound, http.StatusTemporaryRedirect, http.StatusForbidden, http.StatusInternalServerError} {
		if err := send(p); err == nil || !strings.Contains(err.Error(), strconv.Itoa(status)) {
			t.Errorf("%d: %v", status, err)
		}
	}
}

func TestASyslogAnchorGetsTheNote(t *testing.T) {
	p := aCheckpoint(7)
	quoted := strconv.QuoteToASCII(string(p.Note))
	t.Run("unix", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log")
		conn, err := net.ListenPacket("unixgram", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		wantMessage(t, newSender(t, config.LogAnchor{Syslog: "unix:" + path}, anchorDeadline), p, datagram(conn),
			"<109>"+atNoon().Local().Format(time.Stamp)+" chanceryd: checkpoint "+quoted)
	})
	t.Run("udp", func(t *testing.T) {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		wantMessage(t, newSender(t, config.LogAnchor{Syslog: "udp://" + conn.LocalAddr().String()}, anchorDeadline), p, datagram(conn), wanted5424(t, quoted))
	})
	t.Run("tcp", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		want := wanted5424(t, quoted)
		wantMessage(t, newSender(t, config.LogAnchor{Syslog: "tcp://" + l.Addr().String()}, anchorDeadline), p, func() (string, error) {
			conn, err := l.Accept()
			if err != nil {
				return "", err
			}
			defer conn.Close()
			all, err := io.ReadAll(bufio.NewReader(conn))
			return string(all), err
		}, fmt.Sprintf("%d %s", len(want), want))
	})
	if back, err := strconv.Unquote(quoted); err != nil || back != string(p.Note) {
		t.Errorf("the note does not come back: %q, %v", back, err)
	}
}

func wanted5424(t *testing.T, quoted string) string {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return "<109>1 2026-11-27T12:00:00.000000Z " + host + " chanceryd - checkpoint - " + quoted
}

func datagram(conn net.PacketConn) func() (string, error) {
	return func() (string, error) {
		b := make([]byte, 64<<10)
		n, _, err := conn.ReadFrom(b)
		return string(b[:n]), err
	}
}

func wantMessage(t *testing.T, send func(audit.Published) error, p audit.Published, receive func() (string, error), want string) {
	t.Helper()
	type message struct {
		text string
		err  error
	}
	got := make(chan message, 1)
	go func() {
		text, err := receive()
		got <- message{text, err}
	}()
	if err := send(p); err != nil {
		t.Fatal(err)
	}
	if m := <-got; m.err != nil || m.text != want {
		t.Errorf("got  %q, %v\nwant %q", m.text, m.err, want)
	}
}

// An anchor is sent what is new, once, and what failed again.
func TestAnAnchorIsSentWhatIsNew(t *testing.T) {
	dir := t.TempDir()
	put := func(p audit.Published) {
		t.Helper()
		at := filepath.Join(dir, p.Name)
		if err := os.MkdirAll(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(at, "checkpoint"), p.Note, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var sent []int64
	fails := error(nil)
	at := &anchor{name: "test", send: func(_ context.Context, p audit.Published) error {
		if fails == nil {
			sent = append(sent, p.Size)
		}
		return fails
	}}
	a := &anchors{dir: dir, log: slog.New(slog.DiscardHandler), all: []*anchor{at}}
	sizes := map[string]int64{}
	round := func() error {
		err := a.round(t.Context(), at, sizes)
		a.tell(at, err, atNoon())
		return err
	}
	put(aCheckpoint(3))
	if err := errors.Join(round(), round()); err != nil || len(sent) != 1 || at.Trouble() != "" {
		t.Fatalf("%v, %v, %q", sent, err, at.Trouble())
	}
	put(aCheckpoint(5))
	fails = errors.New("it is away")
	if err := round(); err == nil || !strings.Contains(at.Trouble(), "away") {
		t.Fatalf("%v, %q", err, at.Trouble())
	}
	fails = nil
	if err := errors.Join(round(), round()); err != nil || len(sent) != 2 || sent[1] != 5 || at.Trouble() != "" {
		t.Errorf("%v, %v, %q", sent, err, at.Trouble())
	}
}
