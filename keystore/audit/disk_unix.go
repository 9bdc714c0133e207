//go:build unix

package audit

import "syscall"

// nonblocking has a pipe opened without a wait for whoever writes it.
const nonblocking = syscall.O_NONBLOCK
