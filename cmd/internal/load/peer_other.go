//go:build !linux

package load

import (
	"context"
	"errors"
	"time"
)

// errLinux: what is read of the kernel is Linux's.
var errLinux = errors.New("only on Linux")

// PeerPID is for Linux only.
func (t Target) PeerPID(context.Context) (int, error) { return 0, errLinux }

// OwnCPU is for Linux only.
func OwnCPU() (time.Duration, error) { return 0, errLinux }
