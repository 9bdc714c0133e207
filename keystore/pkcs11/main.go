package pkcs11

import (
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	workerName = "chancery-pkcs11-worker" // argv[0] of a worker
	workerEnv  = "CHANCERY_PKCS11_WORKER" // and set in its environment
	workerFD   = 3
)

// Main makes this process a worker if it was executed as one, and then does not
// return. Otherwise it returns at once. It is the first line of main, and of
// the TestMain of every test binary that opens a Provider.
func Main() {
	if os.Args[0] != workerName || os.Getenv(workerEnv) == "" {
		return
	}
	os.Exit(work())
}

func work() int {
	if err := protect(); err != nil {
		os.Stderr.WriteString("protecting the worker: " + err.Error() + "\n")
		return 1
	}
	// The heap is small and short-lived; two threads sign and one does the rest.
	debug.SetGCPercent(50)
	runtime.GOMAXPROCS(max(2, min(4, runtime.NumCPU())))
	lanes, err := strconv.Atoi(os.Getenv(workerEnv))
	if err != nil || lanes < 1 {
		return 2 // not executed by a Provider
	}
	report, err := confineModule()
	if err != nil {
		os.Stderr.WriteString("confining the module: " + err.Error() + "\n")
		return 1
	}
	w := newWorker(workerFD)
	w.report = report
	if err := w.run(lanes); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	unix.Close(workerFD) // all is done: the daemon need not wait for what exiting takes
	return 0
}

// protect drops what a worker must not have: a core dump, other processes'
// eyes, inherited descriptors, the terminal's signals. That the parent's death
// kills it was arranged before it was executed.
func protect() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	// It ends when its socket does, so that the daemon can drain first.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	return closeInherited()
}

// closeInherited closes every descriptor above the socket that this process did
// not open itself. The runtime's own are anonymous inodes.
func closeInherited() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= workerFD {
			continue
		}
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(target, "anon_inode:") {
			continue // already gone: it was ReadDir's
		}
		unix.Close(fd)
	}
	return nil
}
