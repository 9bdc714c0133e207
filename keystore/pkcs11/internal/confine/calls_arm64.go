package confine

import "golang.org/x/sys/unix"

const (
	auditArch  = unix.AUDIT_ARCH_AARCH64
	foreignBit = 0 // no second set of numbers
)

var forks, deniedHere []uint32 // fork is clone(2) here
