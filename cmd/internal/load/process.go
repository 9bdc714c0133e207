package load

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// A Family is a daemon and its worker processes, read from /proc.
type Family struct {
	proc string // "/proc"
	pid  int
}

// NewFamily returns that of a process, or an error if /proc does not show it.
func NewFamily(pid int) (*Family, error) {
	f := &Family{proc: "/proc", pid: pid}
	if _, err := f.stat(pid); err != nil {
		return nil, err
	}
	return f, nil
}

// PID is the daemon's.
func (f *Family) PID() int { return f.pid }

// A Usage is the CPU time that processes have used since they began, and those that
// ended under them.
type Usage struct{ Daemon, Workers time.Duration }

// Sub returns what was used since earlier. Workers that began meanwhile are in it;
// of those that ended, the time counts as the daemon's children.
func (u Usage) Sub(earlier Usage) Usage {
	return Usage{u.Daemon - earlier.Daemon, u.Workers - earlier.Workers}
}

// procStat is what is read of /proc/PID/stat (proc_pid_stat(5)).
type procStat struct {
	parent         int
	used, children time.Duration // the second: of children that ended and were waited for
}

// tick is the unit of times in /proc, USER_HZ, which is 100 on every architecture
// that Linux has left.
const tick = 10 * time.Millisecond

func (f *Family) stat(pid int) (s procStat, err error) {
	b, err := os.ReadFile(filepath.Join(f.proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return s, err
	}
	return parseStat(b)
}

func parseStat(b []byte) (s procStat, err error) {
	end := bytes.LastIndexByte(b, ')') // the name before it may hold anything
	if end < 0 {
		return s, errors.New("/proc/PID/stat has no name")
	}
	fields := bytes.Fields(b[end+1:]) // state is the first, field 3
	if len(fields) < 15 {
		return s, errors.New("/proc/PID/stat is cut")
	}
	var n [15]int64
	for _, i := range []int{1, 11, 12, 13, 14} {
		if n[i], err = strconv.ParseInt(string(fields[i]), 10, 64); err != nil {
			return s, fmt.Errorf("/proc/PID/stat: %w", err)
		}
	}
	return procStat{int(n[1]), time.Duration(n[11]+n[12]) * tick, time.Duration(n[13]+n[14]) * tick}, nil
}

// Workers returns the processes whose parent the daemon is.
func (f *Family) Workers() ([]int, error) {
	entries, err := os.ReadDir(f.proc)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if s, err := f.stat(pid); err == nil && s.parent == f.pid {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Usage reads the CPU time used until now.
func (f *Family) Usage() (Usage, error) {
	s, err := f.stat(f.pid)
	if err != nil {
		return Usage{}, err
	}
	pids, err := f.Workers()
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Daemon: s.used, Workers: s.children}
	for _, pid := range pids {
		if s, err := f.stat(pid); err == nil {
			u.Workers += s.used
		}
	}
	return u, nil
}

// A Memory is the proportional set size (PSS) of the processes, in kB.
type Memory struct {
	Daemon  int64 `json:"daemon_kb"`
	Workers int64 `json:"workers_kb"`
	Count   int   `json:"workers"`
}

// Memory reads smaps_rollup, which only root and, for a process that may be traced,
// its user may.
func (f *Family) Memory() (m Memory, err error) {
	if m.Daemon, err = f.pss(f.pid); err != nil {
		return m, err
	}
	pids, err := f.Workers()
	if err != nil {
		return m, err
	}
	for _, pid := range pids {
		kb, err := f.pss(pid)
		if errors.Is(err, os.ErrNotExist) { // it ended
			continue
		}
		if err != nil {
			return m, err
		}
		m.Workers += kb
		m.Count++
	}
	return m, nil
}

func (f *Family) pss(pid int) (int64, error) {
	b, err := os.ReadFile(filepath.Join(f.proc, strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("Pss:")); ok {
			return strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 10, 64)
		}
	}
	return 0, fmt.Errorf("smaps_rollup of process %d has no Pss", pid)
}

// Descriptors counts the daemon's open files, which only root and its user may.
func (f *Family) Descriptors() (int, error) {
	entries, err := os.ReadDir(filepath.Join(f.proc, strconv.Itoa(f.pid), "fd"))
	return len(entries), err
}
