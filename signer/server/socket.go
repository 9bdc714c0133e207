package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/gofrs/flock"
)

// ErrSocketInUse: another process serves the socket.
var ErrSocketInUse = errors.New("another process serves this socket")

// A Socket is a Unix socket this process alone serves.
type Socket struct {
	net.Listener
	lock *flock.Flock
}

// ListenUnix makes the Unix socket path in a directory only its owner and
// group may enter (mode 0750, made if missing), so that there is no moment
// between bind and chmod in which others could connect. It holds a lock beside
// the socket for as long as it is served: a socket left by a dead process is
// removed, one of a living process is refused with ErrSocketInUse.
func ListenUnix(path string) (*Socket, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("making the socket's directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("looking at the socket's directory: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return nil, fmt.Errorf("socket directory %s has mode %04o: others could connect (hint: chmod 0750 %s)", dir, mode, dir)
	}
	lock := flock.New(path + ".lock")
	got, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	if !got {
		return nil, fmt.Errorf("%s: %w", path, ErrSocketInUse)
	}
	l, err := bind(path)
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &Socket{Listener: l, lock: lock}, nil
}

// bind listens on path, with the lock held.
func bind(path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := listenNarrow(path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("setting the socket's mode: %w", err)
	}
	return l, nil
}

// listenNarrow binds a socket that is never, not even until its mode is set, for
// more than its owner and group, whatever the umask: bind gives the path the mode
// the socket has (unix(7)).
func listenNarrow(path string) (net.Listener, error) {
	narrow := func(_, _ string, c syscall.RawConn) error {
		var chmod error
		err := c.Control(func(fd uintptr) { chmod = syscall.Fchmod(int(fd), 0o660) })
		return errors.Join(err, chmod)
	}
	lc := net.ListenConfig{Control: narrow}
	return lc.Listen(context.Background(), "unix", path)
}

// removeStale removes the socket a dead process left, and nothing else.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for a stale socket: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is there and is no socket (hint: name another path, or remove it)", path)
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) { // someone without our lock serves it, or is too busy to answer
		return fmt.Errorf("%s: %w", path, ErrSocketInUse)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing a stale socket: %w", err)
	}
	return nil
}

// Close stops serving and removes the socket.
func (s *Socket) Close() error {
	err := s.Listener.Close() // unlinks the path
	if e := s.lock.Close(); err == nil {
		err = e
	}
	return err
}
