// Package confine takes from the process that is about to load a PKCS#11 module
// everything that the module does not need, for good and in all its threads.
//
// After [Apply], as far as the kernel has the means and the [Report] says so:
//
//   - It opens no file beyond what every module needs (libraries, the resolver's
//     and TLS configuration, /proc/self, the null and random devices), the
//     module's own directory and what the rules name; it writes only below what
//     the rules name to be written. In particular it reads neither the daemon's
//     configuration nor its keys nor its PIN files.
//   - It makes no Internet socket, unless the rules allow the network, and none
//     of the rarer families at all. Unix sockets stay.
//   - It starts no other process and executes nothing, unless the rules allow it.
//   - It traces, reads, signals or limits no other process, and undoes nothing of
//     what protects it: it stays not dumpable and dies with the daemon.
//   - It asks the kernel for nothing that administers a machine.
//
// What is refused answers an error, EACCES for files and EPERM for system calls,
// and never kills: modules probe, and live with a refusal.
//
// Besides its library, most modules need something that only the operator can
// name, as "read" or as "write", which is reading and writing:
//
//	SoftHSM               read its configuration, write directories.tokendir
//	YubiHSM, over HTTP    read its configuration; network
//	YubiHSM, over USB     read its configuration, write /dev/bus/usb
//	Luna                  read /etc/Chrystoki.conf, its certificates; network
//	CloudHSM              read /opt/cloudhsm, write /opt/cloudhsm/run; network
//	p11-kit's client      write the socket in /run/user/UID/p11-kit
//	openCryptoki          read /etc/opencryptoki, write /var/lib/opencryptoki,
//	                      /var/lock/opencryptoki, /run/pkcsslotd.socket, /dev/shm
//
// A path stands for the file that it leads to now, and all below if that is a
// directory. A file that its writer replaces by another is lost to the rules
// until the next process; naming its directory avoids that.
//
// Not restricted are how much memory and processor time it takes, the scheduling
// of other processes of its user, System V IPC, and what the operator allowed:
// with the network, any address.
package confine

import (
	"fmt"
	"runtime"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// A Report says what confines this process.
type Report struct {
	NoNewPrivs bool     `json:"no_new_privs"`      // executing a file gains nothing
	Landlock   int      `json:"landlock"`          // the ABI in force; 0: none
	Seccomp    bool     `json:"seccomp"`           // system calls are filtered
	Missing    []string `json:"missing,omitempty"` // what could not be done, for an operator to read
}

func (r *Report) miss(format string, args ...any) {
	r.Missing = append(r.Missing, fmt.Sprintf(format, args...))
}

// Apply confines this process, all its threads and all it will start. It is to
// be called once, before the module is loaded: its threads must be the Go
// runtime's, which take part when they are asked to.
//
// What the kernel cannot do is in the report. An error means that the rules are
// not to be followed, or that some threads are confined and others are not;
// then the module must not be loaded.
func Apply(rules Rules) (Report, error) {
	var r Report
	if err := rules.check(); err != nil {
		return r, err
	}
	runtime.LockOSThread() // which installs the filter for the others
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return r, fmt.Errorf("prctl(PR_SET_NO_NEW_PRIVS): %w", err)
	}
	restrictFiles(rules, &r)
	// After Landlock, which may need a system call that the filter refuses.
	if err := filterCalls(rules, &r); err != nil {
		return r, err
	}
	missSockets(rules, &r)
	if !r.Seccomp && r.Landlock == 0 {
		// Each of them would have done this for all threads.
		if err := ll.AllThreadsPrctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return r, fmt.Errorf("prctl(PR_SET_NO_NEW_PRIVS) on all threads: %w", err)
		}
	}
	r.NoNewPrivs = true
	return r, nil
}

// missSockets says what of the network stays open where no filter closes it.
func missSockets(rules Rules, r *Report) {
	if r.Seccomp || rules.Network {
		return
	}
	if r.Landlock < 4 {
		r.miss("TCP connections: neither a filter nor Landlock ABI %d can restrict them", r.Landlock)
	}
	if r.Landlock < 10 {
		r.miss("UDP: neither a filter nor Landlock ABI %d can restrict it", r.Landlock)
	}
}
