package server

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "door") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "api.sock")
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

func TestA20SocketIsForItsGroup(t *testing.T) {
	path := socketPath(t)
	s, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if m := mode(t, filepath.Dir(path)); m.Perm() != 0o750 {
		t.Errorf("the directory has mode %v", m)
	}
	if m := mode(t, path); m.Perm() != 0o660 || m.Type() != os.ModeSocket {
		t.Errorf("the socket has mode %v", m)
	}
	if m := mode(t, path+".lock"); m.Perm()&0o022 != 0 {
		t.Errorf("the lock has mode %v", m)
	}
}

func TestA20DirectoryForOthersIsRefused(t *testing.T) {
	for perm, ok := range map[os.FileMode]bool{
		0o700: true, 0o750: true, 0o710: true, 0o755: false, 0o770: false, 0o751: false, 0o777: false, 0o754: false,
	} {
		path := socketPath(t)
		if err := os.Mkdir(filepath.Dir(path), perm); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(path), perm); err != nil {
			t.Fatal(err)
		}
		s, err := ListenUnix(path)
		if (err == nil) != ok {
			t.Errorf("mode %04o: %v", perm, err)
		}
		if err == nil {
			s.Close()
		} else if !strings.Contains(err.Error(), "hint") {
			t.Errorf("%v has no next move", err)
		}
	}
}

func TestS22SecondInstance(t *testing.T) {
	path := socketPath(t)
	first, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(path); !errors.Is(err, ErrSocketInUse) {
		t.Errorf("the second: %v", err)
	}
	c, err := net.Dial("unix", path) // the first is not disturbed
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the first: %v", err)
	}
	again, err := ListenUnix(path)
	if err != nil {
		t.Fatalf("after the first: %v", err)
	}
	again.Close()
}

// leave makes a socket that nobody listens on, as a killed process does.
func leave(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestS22StaleSocket(t *testing.T) {
	path := socketPath(t)
	leave(t, path)
	s, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// Someone who serves the path without our lock keeps it, also when too busy to
// accept.
func TestS22ServedBySomeoneElse(t *testing.T) {
	path := socketPath(t)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for range 3 { // the first waits to be accepted; then the queue is full
		if _, err := ListenUnix(path); !errors.Is(err, ErrSocketInUse) {
			t.Errorf("%v", err)
		}
	}
	if m := mode(t, path); m.Type() != os.ModeSocket {
		t.Errorf("their socket is now %v", m)
	}
}

func TestOnlySocketsAreRemoved(t *testing.T) {
	make := map[string]func(path string) error{
		"a file":      func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"a link to a socket": func(path string) error {
			leave(t, path+".real")
			return os.Symlink(path+".real", path)
		},
	}
	for what, make := range make {
		path := socketPath(t)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), make(path)); err != nil {
			t.Fatal(err)
		}
		before := mode(t, path)
		if _, err := ListenUnix(path); err == nil || !strings.Contains(err.Error(), "hint") {
			t.Errorf("%s: %v", what, err)
		}
		if mode(t, path) != before {
			t.Errorf("%s is no more", what)
		}
	}
}

func TestPeers(t *testing.T) {
	path := socketPath(t)
	s, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	for want, l := range map[string]net.Listener{"uid " + strconv.Itoa(os.Getuid()): s, "127.0.0.1": tcp} {
		c, err := net.Dial(l.Addr().Network(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := peerOf(accepted); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		c.Close()
		accepted.Close()
	}
	ours, _ := net.Pipe()
	if got := peerOf(ours); got != "unknown" {
		t.Errorf("a pipe's peer is %q", got)
	}
}
