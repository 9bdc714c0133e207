package load

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeProc writes /proc as it would be with a daemon, 10, of two workers, and
// somebody else's process.
func fakeProc(t *testing.T) *Family {
	proc := t.TempDir()
	for pid, stat := range map[int]string{
		10: "10 (chanceryd) S 1 10 10 0 -1 4194304 1 2 3 4 500 100 7 3 20 0 9 0 1 2 3",
		11: "11 (worker) of) S 10 10 10 0 -1 4194304 1 2 3 4 30 20 0 0 20 0 1 0 1 2 3",
		12: "12 (worker) S 10 10 10 0 -1 4194304 1 2 3 4 10 5 0 0 20 0 1 0 1 2 3",
		13: "13 (else) S 1 10 10 0 -1 4194304 1 2 3 4 900 900 0 0 20 0 1 0 1 2 3",
	} {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		if err := os.MkdirAll(filepath.Join(dir, "fd"), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"stat": stat, "fd/0": "", "fd/1": "",
			"smaps_rollup": "55d0-7ffc ---p 00000000 00:00 0  [rollup]\nRss:  9000 kB\nPss:       " + strconv.Itoa(pid) + "00 kB\nPss_Dirty: 1 kB\n",
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return &Family{proc: proc, pid: 10}
}

func TestTheCPUTimeOfADaemonAndItsWorkers(t *testing.T) {
	f := fakeProc(t)
	got, err := f.Usage()
	// Of workers that have ended the daemon has 0.1 s.
	if want := (Usage{Daemon: 6 * time.Second, Workers: 750 * time.Millisecond}); err != nil || got != want {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if d := got.Sub(Usage{Daemon: time.Second, Workers: 250 * time.Millisecond}); d != (Usage{5 * time.Second, 500 * time.Millisecond}) {
		t.Errorf("the difference is %v", d)
	}
}

func TestTheMemoryOfADaemonAndItsWorkers(t *testing.T) {
	f := fakeProc(t)
	got, err := f.Memory()
	if diff := cmp.Diff(Memory{Daemon: 1000, Workers: 2300, Count: 2}, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if n, err := f.Descriptors(); err != nil || n != 2 {
		t.Errorf("%d descriptors, %v", n, err)
	}
}

func TestAProcessThatIsNotThere(t *testing.T) {
	f := fakeProc(t)
	f.pid = 99
	if _, err := f.Usage(); err == nil {
		t.Error("it has used CPU time")
	}
	if _, err := f.Memory(); err == nil {
		t.Error("it has memory")
	}
}

func TestStatThatIsNone(t *testing.T) {
	for _, text := range []string{"", "10 chanceryd S", "10 (a) S 1 2 3", "10 (a) S x 10 10 0 -1 4194304 1 2 3 4 500 100 7 3 20"} {
		if _, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

func TestAnEndpointIsATarget(t *testing.T) {
	for _, c := range []struct{ endpoint, name, network, address, server string }{
		{"unix:/run/sign.sock", "", "unix", "/run/sign.sock", "localhost"},
		{"unix:/run/sign.sock", "keys.example", "unix", "/run/sign.sock", "keys.example"},
		{"https://keys.example", "", "tcp", "keys.example:443", "keys.example"},
		{"https://127.0.0.1:8443", "localhost", "tcp", "127.0.0.1:8443", "localhost"},
		{"https://[::1]:8443", "", "tcp", "[::1]:8443", "::1"},
	} {
		got, err := NewTarget(c.endpoint, c.name, tlsNone, nil)
		if err != nil || got.Network != c.network || got.Address != c.address || got.ServerName != c.server {
			t.Errorf("%s: %+v, %v", c.endpoint, got, err)
		}
	}
	for _, bad := range []string{"", "http://keys.example", "https://", "keys.example:443"} {
		if _, err := NewTarget(bad, "", tlsNone, nil); err == nil {
			t.Errorf("%q is a target", bad)
		}
	}
}
