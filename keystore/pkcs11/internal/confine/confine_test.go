package confine_test

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	llsyscall "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"chancery/keystore/pkcs11/internal/confine"
)

const free = syscall.Errno(0)

// needFilter skips where calls are not filtered, needLandlock where files are not.
func needFilter(t *testing.T) {
	t.Helper()
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("no filter for this architecture")
	}
	if _, err := os.Stat("/proc/sys/kernel/seccomp"); err != nil {
		t.Skip("the kernel has no seccomp filters")
	}
}

func needLandlock(t *testing.T, abi int) {
	t.Helper()
	if has, err := llsyscall.LandlockGetABIVersion(); err != nil || has < abi {
		t.Skipf("the kernel has no Landlock ABI %d", abi)
	}
}

// someRules name a module, a directory to read and one to write.
func someRules(t *testing.T) *confine.Rules {
	dir := t.TempDir()
	r := &confine.Rules{Module: dir + "/lib/module.so", Read: []string{dir + "/read"}, Write: []string{dir + "/write"}}
	for _, d := range []string{"lib", "read", "write", "outside"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, d, "file"), []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// TestFiles tries each act free, where it must work, and confined.
func TestFiles(t *testing.T) {
	needLandlock(t, 3)
	r := someRules(t)
	outside := filepath.Join(filepath.Dir(r.Read[0]), "outside")
	for _, test := range []struct {
		act, arg string
		want     syscall.Errno
	}{
		{"read", outside + "/file", unix.EACCES},
		{"read", outside, unix.EACCES}, // the directory
		{"read", "/etc/fstab", unix.EACCES},
		{"read", "/proc/1/status", unix.EACCES},
		{"read", "/dev/zero", free},
		{"read", "/etc/passwd", free},
		{"read", "/proc/self/maps", free},
		{"read", filepath.Dir(r.Module) + "/file", free},
		{"read", r.Read[0] + "/file", free},
		{"write", r.Read[0] + "/file", unix.EACCES},
		{"create", r.Read[0], unix.EACCES},
		{"truncate", r.Read[0] + "/file", unix.EACCES},
		{"read", r.Write[0] + "/file", free},
		{"write", r.Write[0] + "/file", free},
		{"create", r.Write[0], free},
		{"truncate", r.Write[0] + "/file", free},
		{"rename", r.Write[0] + "/file", free},
		{"write", "/dev/null", free},
		{"create", "/tmp", unix.EACCES},
		{"old thread reads", outside + "/file", unix.EACCES},
	} {
		t.Run(test.act+" "+test.arg, func(t *testing.T) {
			if _, err := os.Stat(test.arg); err != nil {
				t.Skip(err)
			}
			if test.act == "create" && test.arg == "/tmp" {
				defer removeNew(test.arg)
			}
			try(t, test.act, test.arg, r, free, test.want)
		})
	}
}

func removeNew(dir string) {
	made, _ := filepath.Glob(dir + "/new[0-9]*")
	for _, f := range made {
		os.Remove(f)
	}
}

// try does an act without and with rules.
func try(t *testing.T, act, arg string, r *confine.Rules, without, with syscall.Errno) {
	t.Helper()
	if o := run(t, act, arg, nil); o.Errno != without || o.Text != "" && o.Errno == 0 {
		t.Fatalf("free: %q, want errno %d", o.Text, without)
	}
	if o := run(t, act, arg, r); o.Errno != with || o.Text != "" && o.Errno == 0 {
		t.Errorf("confined: %q, want errno %d", o.Text, with)
	}
}

func TestCalls(t *testing.T) {
	needFilter(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	call := func(nr int, args string) string { return strconv.Itoa(nr) + " " + args }
	for _, test := range []struct {
		name, act, arg string
		without, with  syscall.Errno
	}{
		{"execve", "execve", "", free, unix.EPERM},
		{"a program", "run", "/bin/true", free, unix.EPERM},
		{"fork", "clone", "", free, unix.EPERM},
		{"clone3", "call", call(unix.SYS_CLONE3, "0 0"), unix.EINVAL, unix.ENOSYS},
		{"ptrace", "call", call(unix.SYS_PTRACE, "1 0x7fffffff 0"), unix.ESRCH, unix.EPERM},
		{"process_vm_readv", "call", call(unix.SYS_PROCESS_VM_READV, "self 0 0"), free, unix.EPERM},
		{"unshare", "call", call(unix.SYS_UNSHARE, "0"), free, unix.EPERM},
		{"dumpable again", "call", call(unix.SYS_PRCTL, "4 1"), free, unix.EPERM},
		{"outliving the daemon", "call", call(unix.SYS_PRCTL, "1 0"), free, unix.EPERM},
		{"a thread's name", "call", call(unix.SYS_PRCTL, "15 0"), unix.EFAULT, unix.EFAULT},
		{"io_uring", "call", call(unix.SYS_IO_URING_SETUP, "0 0"), unix.EFAULT, unix.EPERM},
		{"signal to itself", "call", call(unix.SYS_KILL, "self 0"), free, free},
		{"signal to another", "kill", "", free, unix.EPERM},
		{"signal to another's thread", "tkill", "", free, unix.EPERM},
		{"another's limits", "limit", "", free, unix.EPERM},
		{"its own limits", "call", call(unix.SYS_PRLIMIT64, "0 7 0"), free, free},
		{"Unix socket", "socket", strconv.Itoa(unix.AF_UNIX), free, free},
		{"IPv4 socket", "socket", strconv.Itoa(unix.AF_INET), free, unix.EPERM},
		{"IPv6 socket", "socket", strconv.Itoa(unix.AF_INET6), free, unix.EPERM},
		{"netlink socket", "socket", strconv.Itoa(unix.AF_NETLINK), free, unix.EPERM},
		{"TCP", "connect", port, free, unix.EPERM},
		{"an older thread's socket", "old thread makes a socket", "", free, unix.EPERM},
		{"threads", "new threads", "", free, free},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := someRules(t)
			if test.act == "new threads" {
				if o := run(t, test.act, test.arg, nil); !strings.Contains(o.Text, "NoNewPrivs") && !strings.Contains(o.Text, "Seccomp") {
					t.Fatalf("free: %q, want no confinement", o.Text)
				}
				if o := run(t, test.act, test.arg, r); o.Text != "" {
					t.Error(o.Text)
				}
				return
			}
			if test.name == "io_uring" && run(t, test.act, test.arg, nil).Errno != test.without {
				t.Skip("the kernel has no io_uring to deny")
			}
			try(t, test.act, test.arg, r, test.without, test.with)
		})
	}
}

func TestMemoryOfAnotherProcess(t *testing.T) {
	needLandlock(t, 1)
	try(t, "memory", "", someRules(t), free, unix.EACCES)
}

func TestWhatIsAllowed(t *testing.T) {
	needFilter(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	network, programs, usb := someRules(t), someRules(t), someRules(t)
	network.Network, programs.Exec, usb.Write = true, true, []string{"/dev/bus/usb"}
	try(t, "connect", port, network, free, free)
	try(t, "socket", strconv.Itoa(unix.AF_NETLINK), network, free, free)
	try(t, "socket", strconv.Itoa(unix.AF_INET6), network, free, free)
	try(t, "execve", "", network, free, unix.EPERM)
	try(t, "run", "/bin/true", programs, free, free)
	try(t, "connect", port, programs, free, unix.EPERM)
	try(t, "call", strconv.Itoa(unix.SYS_CLONE3)+" 0 0", programs, unix.EINVAL, unix.ENOSYS)
	ueventOf := func(protocol int) string {
		return strconv.Itoa(unix.SYS_SOCKET) + " " + strconv.Itoa(unix.AF_NETLINK) + " 3 " + strconv.Itoa(protocol)
	}
	try(t, "call", ueventOf(unix.NETLINK_KOBJECT_UEVENT), usb, free, free)
	try(t, "call", ueventOf(unix.NETLINK_ROUTE), usb, free, unix.EPERM)
	try(t, "call", ueventOf(unix.NETLINK_KOBJECT_UEVENT), network, free, unix.EPERM)
}

func TestStatus(t *testing.T) {
	needFilter(t)
	if o := run(t, "status", "", nil); o.Text == "" {
		t.Fatal("a free process is confined")
	}
	if o := run(t, "status", "", someRules(t)); o.Text != "" {
		t.Error(o.Text)
	}
}

func TestReport(t *testing.T) {
	needFilter(t)
	needLandlock(t, 1)
	r := someRules(t)
	r.Read = append(r.Read, "/nonexistent/conf")
	o := run(t, "nothing", "", r)
	t.Logf("%d µs: %+v", o.Micros, o.Report)
	if !o.Report.NoNewPrivs || !o.Report.Seccomp || o.Report.Landlock < 1 {
		t.Errorf("report %+v", o.Report)
	}
	if missing := strings.Join(o.Report.Missing, "\n"); !strings.Contains(missing, "nothing to read: /nonexistent/conf: no such file or directory") {
		t.Errorf("a path that is not there is not said: %q", missing)
	}
}

// TestOlderKernels: a kernel that cannot confine is said, and no error; what it
// can do is done in all threads.
func TestOlderKernels(t *testing.T) {
	needFilter(t)
	needLandlock(t, 4)
	const seccomp, landlock = unix.SYS_SECCOMP, unix.SYS_LANDLOCK_CREATE_RULESET
	for _, test := range []struct {
		name     string
		old      []int
		filtered bool
		landlock bool
		missing  []string
	}{
		{"no Landlock", []int{landlock}, true, false, []string{"file access: the kernel has no Landlock"}},
		{"no filters", []int{seccomp}, false, true, []string{"system calls (processes, signals, sockets): the kernel has no seccomp filters", "UDP: "}},
		// The order matters: the last is forgotten by the call that it forgets.
		{"neither", []int{landlock, seccomp}, false, false, []string{"file access: the kernel has no Landlock", "no seccomp filters", "TCP connections: ", "UDP: "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var old []string
			for _, nr := range test.old {
				old = append(old, strconv.Itoa(nr))
			}
			t.Setenv(oldEnv, strings.Join(old, " "))
			// The filter that forgets is a filter too, so that status has it.
			o := run(t, "new threads", "", someRules(t))
			if o.Text != "" {
				t.Error(o.Text)
			}
			if !o.Report.NoNewPrivs || o.Report.Seccomp != test.filtered || (o.Report.Landlock > 0) != test.landlock {
				t.Errorf("report %+v", o.Report)
			}
			for _, want := range test.missing {
				if !strings.Contains(strings.Join(o.Report.Missing, "\n"), want) {
					t.Errorf("missing %q, want %q", o.Report.Missing, want)
				}
			}
		})
	}
}
