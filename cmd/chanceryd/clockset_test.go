package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/renameio/v2"

	"chancery/cmd/internal/clock"
)

// testClock names the file that sets the clock of a daemon under test: how far its
// wall clock is off, such as "-1h", and with a word "synchronised" behind it what
// the kernel is to say.
const testClock = "CHANCERYD_TEST_CLOCK"

// testClocks are the machine's, with the wall clock set as the file says.
func testClocks() clocks {
	path := os.Getenv(testClock)
	if path == "" {
		return systemClocks()
	}
	set := func() (offset time.Duration, synchronised bool) {
		b, err := os.ReadFile(path)
		if err != nil {
			panic(err)
		}
		words := strings.Fields(string(b))
		if offset, err = time.ParseDuration(words[0]); err != nil {
			panic(err)
		}
		return offset, len(words) > 1
	}
	read := func() clock.Reading {
		offset, synchronised := set()
		r := clock.Glance()
		r.Wall, r.Synchronised = r.Wall.Add(offset), clock.Unsynchronised
		if synchronised {
			r.Synchronised = clock.Synchronised
		}
		return r
	}
	now := func() time.Time {
		offset, _ := set()
		return time.Now().Add(offset)
	}
	return clocks{now, read, read}
}

// setClock sets the clock of the daemon that is, or is to be, in dir.
func setClock(t *testing.T, dir, to string) {
	t.Helper()
	if err := renameio.WriteFile(dir+".clock", []byte(to), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startDevAt starts chanceryd dev with a clock that the test sets.
func startDevAt(t *testing.T, dir, clock string) *chanceryd {
	t.Helper()
	needSoftHSM(t)
	setClock(t, dir, clock)
	cmd := exec.Command(os.Args[0], "dev", "--dir", dir)
	cmd.Env = append(os.Environ(), testClock+"="+dir+".clock")
	d := launchCommand(t, dir, cmd)
	d.awaitReady()
	return d
}
