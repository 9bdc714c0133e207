package confine

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The filter is written out here, not taken from a library: those for Go leave
// calls by another architecture's numbers to the default, which is to allow, or
// do not look at the thread that TSYNC could not reach.

// denied are system calls that no module needs. calls_ARCH.go has those that
// only some architectures know.
var denied = []uint32{
	// Other processes.
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP,
	unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_GETFD, unix.SYS_PIDFD_SEND_SIGNAL,
	unix.SYS_PROCESS_MADVISE, unix.SYS_PROCESS_MRELEASE, unix.SYS_MOVE_PAGES, unix.SYS_MIGRATE_PAGES,
	unix.SYS_TKILL, // names no process that could be compared
	// Mounts and namespaces.
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_MOUNT_SETATTR,
	unix.SYS_OPEN_TREE, unix.SYS_OPEN_TREE_ATTR, unix.SYS_MOVE_MOUNT,
	unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK,
	unix.SYS_UNSHARE, unix.SYS_SETNS,
	// The kernel and the machine.
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_SYSLOG, unix.SYS_VHANGUP,
	unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_CLOCK_ADJTIME,
	// Ways around paths, and other users' keys.
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_FANOTIFY_INIT,
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
}

// namespaces are the flags of clone(2) that make one.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// filterCalls installs the filter in all threads.
func filterCalls(rules Rules, r *Report) error {
	if auditArch == 0 {
		r.miss("system calls (processes, signals, sockets): no filter for %s", runtime.GOARCH)
		return nil
	}
	prog := program(rules, uint32(os.Getpid()))
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(prog)
	switch {
	case errno == unix.ENOSYS, errno == unix.EINVAL: // no seccomp, or no filters, in this kernel
		r.miss("system calls (processes, signals, sockets): the kernel has no seccomp filters")
	case errno != 0:
		r.miss("system calls (processes, signals, sockets): seccomp: %v", errno)
	case thread != 0: // seccomp(2): one that cannot be synchronised; nothing is installed
		return fmt.Errorf("seccomp: thread %d has a filter of its own", thread)
	default:
		r.Seccomp = true
	}
	return nil
}

// program returns the filter for the process pid. It ends with allowing.
//
// The kernel finds out by itself which calls are allowed whatever their
// arguments, and does not run the filter for those (Linux 5.11, seccomp_cache).
func program(rules Rules, pid uint32) []unix.SockFilter {
	var p assembler
	p.begin()
	nrs := slices.Concat(denied, deniedHere)
	if !rules.Exec {
		nrs = append(nrs, unix.SYS_EXECVE, unix.SYS_EXECVEAT)
		nrs = append(nrs, forks...)
	}
	for _, nr := range nrs {
		p.on(nr, ret(refuse)...)
	}
	// Its arguments are in memory, which a filter cannot read. The C library
	// takes clone(2) where this one is absent.
	p.on(unix.SYS_CLONE3, ret(absent)...)
	if rules.Exec {
		p.on(unix.SYS_CLONE, slices.Concat(arg(0), ifAny(namespaces, refuse), ret(allow))...)
	} else {
		p.on(unix.SYS_CLONE, slices.Concat(arg(0), ifAny(namespaces, refuse), ifAny(unix.CLONE_THREAD, allow), ret(refuse))...)
	}
	for _, nr := range []uint32{unix.SYS_KILL, unix.SYS_TGKILL, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_RT_TGSIGQUEUEINFO} {
		p.on(nr, slices.Concat(arg(0), ifEqual(pid, allow), ret(refuse))...)
	}
	p.on(unix.SYS_PRLIMIT64, slices.Concat(arg(0), ifEqual(0, allow), ifEqual(pid, allow), ret(refuse))...)
	p.on(unix.SYS_PRCTL, slices.Concat(arg(0), ifEqual(unix.PR_SET_DUMPABLE, refuse),
		ifEqual(unix.PR_SET_PDEATHSIG, refuse), ifEqual(unix.PR_SET_PTRACER, refuse), ret(allow))...)
	p.on(unix.SYS_SOCKET, sockets(rules)...)
	p.add(ret(allow)...)
	return p.prog
}

// sockets decides which address families and netlink protocols there are.
func sockets(rules Rules) []unix.SockFilter {
	s := slices.Concat(arg(0), ifEqual(unix.AF_UNIX, allow))
	var netlink []unix.SockFilter
	if rules.Network {
		s = slices.Concat(s, ifEqual(unix.AF_INET, allow), ifEqual(unix.AF_INET6, allow))
		netlink = append(netlink, ifEqual(unix.NETLINK_ROUTE, allow)...) // getaddrinfo(3) asks which addresses it has
	}
	if rules.usesUSB() {
		netlink = append(netlink, ifEqual(unix.NETLINK_KOBJECT_UEVENT, allow)...) // libusb listens for devices
	}
	if netlink != nil {
		then := slices.Concat(arg(2), netlink)
		s = append(s, jump(unix.BPF_JEQ, unix.AF_NETLINK, 0, len(then)))
		s = append(s, then...)
	}
	return append(s, ret(refuse)...)
}

// Actions, by seccomp(2).
const (
	allow  = unix.SECCOMP_RET_ALLOW
	refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	absent = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

// Offsets in struct seccomp_data, by seccomp(2).
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

type assembler struct{ prog []unix.SockFilter }

func (a *assembler) add(s ...unix.SockFilter) { a.prog = append(a.prog, s...) }

// begin refuses what speaks another architecture's numbers, such as 32-bit
// calls, and leaves the number of the call loaded.
func (a *assembler) begin() {
	a.add(load(offArch), jump(unix.BPF_JEQ, auditArch, 1, 0))
	a.add(ret(refuse)...)
	a.add(load(offNr))
	if foreignBit != 0 {
		a.add(ifAny(foreignBit, refuse)...)
	}
}

// on does body, which must end with a return, if the call is nr.
func (a *assembler) on(nr uint32, body ...unix.SockFilter) {
	a.add(jump(unix.BPF_JEQ, nr, 0, len(body)))
	a.add(body...)
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func jump(test uint16, k uint32, yes, no int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, K: k, Jt: uint8(yes), Jf: uint8(no)}
}

func ret(action uint32) []unix.SockFilter {
	return []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: action}}
}

// arg loads the low half of an argument, first on these little-endian machines.
// The kernel looks at no more of what is compared here: they are ints, and the
// flags of clone are below 1<<32.
func arg(n uint32) []unix.SockFilter { return []unix.SockFilter{load(offArgs + 8*n)} }

func ifEqual(k, action uint32) []unix.SockFilter {
	return append([]unix.SockFilter{jump(unix.BPF_JEQ, k, 0, 1)}, ret(action)...)
}

func ifAny(bits, action uint32) []unix.SockFilter {
	return append([]unix.SockFilter{jump(unix.BPF_JSET, bits, 0, 1)}, ret(action)...)
}
