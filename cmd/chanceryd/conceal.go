package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// conceal keeps what the process holds in memory, PINs among it, out of core
// dumps and away from other processes of the same user. Workers do the same for
// themselves: a process is dumpable again after exec.
func conceal() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hiding the process's memory: %w", err)
	}
	return nil
}
