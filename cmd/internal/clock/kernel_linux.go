package clock

import (
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The two clocks are read one after the other, and the process may be held up in
// between. It is tried again until both were read within closeEnough, at most
// readTries times; the closest pair counts.
const (
	closeEnough = 50 * time.Microsecond
	readTries   = 5
)

// Read reads the clocks of this machine. It may be called concurrently and takes
// about two microseconds.
func Read() Reading {
	r := Glance()
	r.Synchronised = synchronised()
	return r
}

// Glance is Read without the kernel's word on whether the clock is synchronised,
// which takes most of the time.
func Glance() Reading {
	r := Reading{BootID: bootID()}
	closest := time.Duration(-1)
	for range readTries {
		before := sinceBoot()
		wall := time.Now()
		took := sinceBoot() - before
		if closest < 0 || took < closest {
			closest, r.Wall, r.Boot = took, wall.Round(0), before+took/2
		}
		if took <= closeEnough {
			break
		}
	}
	return r
}

func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // Linux has had this clock since 2.6.39; without it every moment is a step
	}
	return time.Duration(t.Nano())
}

// bootID is the kernel's name for this boot.
var bootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
})

// synchronised asks the kernel, without changing anything: adjtimex(2) needs no
// right for that, but a container may forbid it altogether.
func synchronised() Sync {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	switch {
	case err != nil:
		return Unknown
	case state == unix.TIME_ERROR, t.Status&unix.STA_UNSYNC != 0:
		return Unsynchronised
	}
	return Synchronised
}
