package confine_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"chancery/keystore/pkcs11/internal/confine"
)

func TestLockMemory(t *testing.T) {
	if err := confine.LockMemory(nil); err != nil {
		t.Error(err)
	}
	page := os.Getpagesize()
	b, err := unix.Mmap(-1, 0, 4*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	across := b[2*page-3 : 2*page+3] // two pages
	if err := confine.LockMemory(across); errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EPERM) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true, true, false} {
		flags := vmFlags(t, uintptr(unsafe.Pointer(&b[i*page])))
		if locked, kept := strings.Contains(flags, " lo"), strings.Contains(flags, " dd"); locked != want || kept != want {
			t.Errorf("page %d: flags%s", i, flags)
		}
	}
}

// vmFlags returns the flags of the mapping at addr, by smaps of proc(5).
func vmFlags(t *testing.T, addr uintptr) string {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	var start, end uintptr
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &start, &end); n == 2 {
			continue
		}
		if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && start <= addr && addr < end {
			return flags
		}
	}
	t.Skip("no VmFlags in smaps")
	return ""
}
