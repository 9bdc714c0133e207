package main

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// Two directories whose ports were picked by themselves could be given the same,
// when one of their daemons was down just then: only what is chosen stays free.
func TestDevOnChosenPorts(t *testing.T) {
	t.Parallel()
	dir, first := tempDir(t), ports()
	d := startDev(t, dir, "--ports", strconv.Itoa(first))
	for i, url := range []string{d.endpoints.API, d.endpoints.Public, d.endpoints.Admin} {
		if !strings.HasSuffix(url, fmt.Sprintf(":%d", first+i)) {
			t.Errorf("%s, want port %d", url, first+i)
		}
	}
	d.stop()
	for _, other := range []int{first + 3, -1, 65534} {
		out, status := chancerydSays(t, "dev", "--dir", dir, "--ports", strconv.Itoa(other))
		if status != exitUsage || !strings.Contains(out, "--ports") {
			t.Errorf("--ports %d then: exit status %d\n%s", other, status, out)
		}
		if other > first && other < 60000 {
			continue
		}
		if out, status := chancerydSays(t, "dev", "--dir", tempDir(t), "--ports", strconv.Itoa(other)); status != exitUsage || !strings.Contains(out, "between 1 and 65533") {
			t.Errorf("--ports %d at first: exit status %d\n%s", other, status, out)
		}
	}
}
