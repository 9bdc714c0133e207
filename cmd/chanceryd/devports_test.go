package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
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

// ports returns the first of three ports that no other daemon of this process was
// given: one that picks free ones may be given those of a daemon that is down for a
// moment. They lie above those that chanceryd dev picks from, and below those that
// systems give to outgoing connections.
func ports() int {
	for {
		first := lastPort + 3*int((portsGiven.Add(1)-1)%256) // up to 32767
		if allFree(first) {
			return first
		}
	}
}

var portsGiven atomic.Int64

// isFirst reports whether no chanceryd dev was started in dir yet.
func isFirst(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "dev.json"))
	return err != nil
}

// allFree reports whether nothing listens on the three ports from first on.
func allFree(first int) bool {
	for port := first; port < first+3; port++ {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}
