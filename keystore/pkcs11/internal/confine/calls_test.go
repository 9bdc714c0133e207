package confine

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// decide runs the filter as the kernel would.
func decide(t *testing.T, prog []unix.SockFilter, arch, nr uint32, args ...uint64) uint32 {
	t.Helper()
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		switch in := prog[pc]; in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = field(in.K, arch, nr, args)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			pc += branch(in, acc == in.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			pc += branch(in, acc&in.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		default:
			t.Fatalf("instruction %d: code %#x", pc, in.Code)
		}
	}
	t.Fatal("the filter has no end")
	return 0
}

func field(offset, arch, nr uint32, args []uint64) uint32 {
	switch {
	case offset == offNr:
		return nr
	case offset == offArch:
		return arch
	case int(offset-offArgs)/8 < len(args):
		return uint32(args[(offset-offArgs)/8])
	}
	return 0
}

func branch(in unix.SockFilter, yes bool) int {
	if yes {
		return int(in.Jt)
	}
	return int(in.Jf)
}

func TestProgram(t *testing.T) {
	if auditArch == 0 {
		t.Skip("no filter for this architecture")
	}
	const (
		pid    = 4711
		thread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD
		high   = 1 << 40 // which the kernel drops from an int
	)
	none, exec, network := Rules{}, Rules{Exec: true}, Rules{Network: true}
	for _, test := range []struct {
		name  string
		rules Rules
		arch  uint32
		nr    uint32
		args  []uint64
		want  uint32
	}{
		{"a call", none, auditArch, unix.SYS_READ, nil, allow},
		{"the same by another architecture", none, unix.AUDIT_ARCH_I386, unix.SYS_READ, nil, refuse},
		{"a thread", none, auditArch, unix.SYS_CLONE, []uint64{thread}, allow},
		{"a process", none, auditArch, unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}, refuse},
		{"a process, allowed", exec, auditArch, unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}, allow},
		{"a thread in a user namespace", none, auditArch, unix.SYS_CLONE, []uint64{thread | unix.CLONE_NEWUSER}, refuse},
		{"a process in a user namespace", exec, auditArch, unix.SYS_CLONE, []uint64{unix.CLONE_NEWUSER}, refuse},
		{"execve, allowed", exec, auditArch, unix.SYS_EXECVE, nil, allow},
		{"ptrace, execve allowed", exec, auditArch, unix.SYS_PTRACE, nil, refuse},
		{"tgkill in here", none, auditArch, unix.SYS_TGKILL, []uint64{pid, pid + 1}, allow},
		{"tgkill elsewhere", none, auditArch, unix.SYS_TGKILL, []uint64{pid + 1, pid + 1}, refuse},
		{"all processes", none, auditArch, unix.SYS_KILL, []uint64{1<<64 - 1}, refuse},
		{"IPv4", none, auditArch, unix.SYS_SOCKET, []uint64{unix.AF_INET}, refuse},
		{"IPv4 with a bit too many", none, auditArch, unix.SYS_SOCKET, []uint64{high | unix.AF_INET}, refuse},
		{"Unix with a bit too many", none, auditArch, unix.SYS_SOCKET, []uint64{high | unix.AF_UNIX}, allow},
		{"packets", network, auditArch, unix.SYS_SOCKET, []uint64{unix.AF_PACKET}, refuse},
		{"the kernel's ciphers", network, auditArch, unix.SYS_SOCKET, []uint64{unix.AF_ALG}, refuse},
		{"netlink, routes", network, auditArch, unix.SYS_SOCKET, []uint64{unix.AF_NETLINK, 3, unix.NETLINK_ROUTE}, allow},
		{"netlink, audit", network, auditArch, unix.SYS_SOCKET, []uint64{unix.AF_NETLINK, 3, unix.NETLINK_AUDIT}, refuse},
		{"dumpable", none, auditArch, unix.SYS_PRCTL, []uint64{high | unix.PR_SET_DUMPABLE, 1}, refuse},
	} {
		if got := decide(t, program(test.rules, pid), test.arch, test.nr, test.args...); got != test.want {
			t.Errorf("%s: action %#x, want %#x", test.name, got, test.want)
		}
	}
	if runtime.GOARCH == "amd64" {
		if got := decide(t, program(none, pid), auditArch, 0x40000000|unix.SYS_PTRACE); got != refuse {
			t.Errorf("ptrace of x32: action %#x", got)
		}
	}
}
