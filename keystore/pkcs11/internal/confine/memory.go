package confine

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LockMemory keeps the pages that b lies on out of swap and of core dumps, until
// the process ends. It says nothing of copies of b. The error is no reason to
// stop: RLIMIT_MEMLOCK may allow less (mlock(2)).
func LockMemory(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	size := uintptr(os.Getpagesize())
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	before := start % size
	length := (before + uintptr(len(b)) + size - 1) / size * size
	if _, _, errno := unix.Syscall(unix.SYS_MLOCK, start-before, length, 0); errno != 0 {
		return fmt.Errorf("mlock: %w (hint: the limit of locked memory, LimitMEMLOCK= of a unit)", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start-before, length, unix.MADV_DONTDUMP); errno != 0 {
		return fmt.Errorf("madvise(MADV_DONTDUMP): %w", errno)
	}
	return nil
}
