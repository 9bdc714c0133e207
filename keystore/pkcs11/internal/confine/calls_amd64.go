package confine

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_X86_64
	// Set in the numbers of x32, a third way to make the same calls.
	foreignBit = 0x40000000
)

var (
	forks      = []uint32{unix.SYS_FORK, unix.SYS_VFORK}
	deniedHere = []uint32{unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_MODIFY_LDT, unix.SYS_USELIB}
)
