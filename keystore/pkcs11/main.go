package pkcs11

import (
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	workerName = "chancery-pkcs11-worker" // argv[0] of a worker
	workerEnv  = "CHANCERY_PKCS11_WORKER" // and set in its environment
	workerFD   = 3
)

// init makes this process a worker if it was executed as one, and then does not
// return. A worker needs nothing of the program around it: what most of the
// program's other packages prepare before main would be a third of what starting
// a worker takes, and a token that crashes waits for that each time.
func init() {
	if os.Args[0] == workerName && os.Getenv(workerEnv) != "" {
		os.Exit(work())
	}
}

func work() int {
	if err := protect(); err != nil {
		os.Stderr.WriteString("protecting the worker: " + err.Error() + "\n")
		return 1
	}
	debug.SetGCPercent(-1) // until it serves: there is not enough to collect
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
	// A crash of the module ends it at once, and says by which signal. The runtime
	// would first describe every thread.
	for _, s := range []syscall.Signal{syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGABRT} {
		if err := defaultAction(s); err != nil {
			return err
		}
	}
	// What the module may start must not keep the socket open when it ends.
	unix.CloseOnExec(workerFD)
	return closeInherited()
}

// defaultAction has the kernel do with a signal what it does in a program that
// says nothing of it (signal(7)).
func defaultAction(s syscall.Signal) error {
	const setSize = 8            // of a sigset_t, in bytes
	var action [4 * setSize]byte // a struct sigaction of zeros: SIG_DFL, no flags, an empty mask
	if _, _, errno := unix.Syscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&action)), 0, setSize, 0, 0); errno != 0 {
		return errno
	}
	return nil
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
