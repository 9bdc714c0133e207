package load

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// PeerPID returns the process that listens at a Unix socket, as the kernel knows it
// (SO_PEERCRED of unix(7)).
func (t Target) PeerPID(ctx context.Context) (int, error) {
	if t.Network != "unix" {
		return 0, errors.New("only a Unix socket says whose it is")
	}
	conn, err := new(net.Dialer).DialContext(ctx, t.Network, t.Address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	if cred.Pid <= 0 {
		return 0, errors.New("the server is in another namespace of processes")
	}
	return int(cred.Pid), nil
}

// OwnCPU returns the CPU time this process has used.
func OwnCPU() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
