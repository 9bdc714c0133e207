package confine_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"chancery/keystore/pkcs11/internal/confine"
)

// The test binary executes itself to do one act, confined or not: its
// environment says which, with which rules.
const (
	actEnv   = "CONFINE_TEST_ACT"
	argEnv   = "CONFINE_TEST_ARG"
	rulesEnv = "CONFINE_TEST_RULES" // absent: not confined
	oldEnv   = "CONFINE_TEST_OLD"   // system calls that the kernel shall not have
)

func TestMain(m *testing.M) {
	if name := os.Getenv(actEnv); name != "" {
		os.Exit(child(name))
	}
	os.Exit(m.Run())
}

// An outcome is what a child says on its standard output.
type outcome struct {
	Errno  syscall.Errno
	Text   string // of the error
	Report confine.Report
	Micros int64 // what Apply took
}

func child(name string) int {
	var o outcome
	do := acts[name](os.Getenv(argEnv)) // what is prepared here is older than the confinement
	if text, ok := os.LookupEnv(rulesEnv); ok {
		rules, err := confine.Parse(text)
		if err != nil {
			panic(err)
		}
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil { // as a worker has done
			panic(err)
		}
		for nr := range strings.FieldsSeq(os.Getenv(oldEnv)) {
			forget(nr)
		}
		start := time.Now()
		if o.Report, err = confine.Apply(rules); err != nil {
			panic(err)
		}
		o.Micros = time.Since(start).Microseconds()
	}
	if err := do(); err != nil {
		o.Text = err.Error()
		errors.As(err, &o.Errno)
	}
	json.NewEncoder(os.Stdout).Encode(o)
	return 0
}

// forget makes a system call one that the kernel does not know.
func forget(number string) {
	nr, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		panic(err)
	}
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(nr), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if os.Geteuid() != 0 { // root leaves no_new_privs to the code under test
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			panic(err)
		}
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 || thread != 0 {
		panic(fmt.Sprintf("seccomp: %v, thread %d", errno, thread))
	}
}

// run has a child do an act; without rules it is free.
func run(t *testing.T, name, arg string, rules *confine.Rules) outcome {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), actEnv+"="+name, argEnv+"="+arg,
		"GORACE=atexit_sleep_ms=0") // the race detector's own: a second for each child
	if rules != nil {
		text, err := rules.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, rulesEnv+"="+text)
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	var o outcome
	if err := json.Unmarshal(out, &o); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return o
}

// acts prepare something and return what is then tried.
var acts = map[string]func(arg string) func() error{
	"nothing": func(string) func() error { return func() error { return nil } },
	"read":    func(path string) func() error { return func() error { return open(path, os.O_RDONLY) } },
	"write":   func(path string) func() error { return func() error { return open(path, os.O_WRONLY) } },
	"create": func(path string) func() error {
		return func() error { return open(path+"/new"+strconv.Itoa(os.Getpid()), os.O_WRONLY|os.O_CREATE) }
	},
	"truncate": func(path string) func() error { return func() error { return os.Truncate(path, 0) } },
	"rename": func(path string) func() error {
		return func() error { return os.Rename(path, path) }
	},
	"connect": func(addr string) func() error {
		return func() error {
			port, err := strconv.Atoi(addr)
			if err != nil {
				return err
			}
			return connect(port)
		}
	},
	"socket": func(family string) func() error {
		return func() error {
			n, err := strconv.Atoi(family)
			if err != nil {
				return err
			}
			fd, err := unix.Socket(n, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			unix.Close(fd)
			return err
		}
	},
	// What execve replaces this process with says that there was no error.
	"execve": func(string) func() error {
		return func() error { return syscall.Exec("/proc/self/exe", os.Args, append(bare(), actEnv+"=nothing")) }
	},
	"run": func(path string) func() error { return func() error { return exec.Command(path).Run() } },
	"clone": func(string) func() error {
		return func() error {
			pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
			if pid == 0 && errno == 0 {
				for {
					syscall.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
				}
			}
			return errnoOf(errno)
		}
	},
	"call": func(args string) func() error {
		return func() error {
			var a [4]uintptr
			for i, field := range strings.Fields(strings.ReplaceAll(args, "self", strconv.Itoa(os.Getpid()))) {
				n, err := strconv.ParseUint(field, 0, 64)
				if err != nil {
					return err
				}
				a[i] = uintptr(n)
			}
			_, _, errno := syscall.Syscall(a[0], a[1], a[2], a[3])
			return errnoOf(errno)
		}
	},
	// The same, of a child's process number.
	"memory": onVictim(func(pid int) error { return open(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDONLY) }),
	"kill":   onVictim(func(pid int) error { return unix.Kill(pid, 0) }),
	"tkill": onVictim(func(pid int) error {
		_, _, errno := syscall.Syscall(unix.SYS_TKILL, uintptr(pid), 0, 0)
		return errnoOf(errno)
	}),
	"limit": onVictim(func(pid int) error { return unix.Prlimit(pid, unix.RLIMIT_CORE, nil, &unix.Rlimit{}) }),
	"sleep": func(string) func() error {
		return func() error { time.Sleep(time.Minute); return nil }
	},
	"old thread reads": onOldThread(func(path string) error { return open(path, os.O_RDONLY) }),
	"old thread makes a socket": onOldThread(func(string) error {
		_, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		return err
	}),
	"new threads": func(string) func() error { return newThreads },
	"status":      func(string) func() error { return status },
	"softhsm":     softHSM,
}

func open(path string, flag int) error {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func connect(port int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
}

func errnoOf(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// bare is the environment without this test's variables.
func bare() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "CONFINE_TEST_") {
			env = append(env, e)
		}
	}
	return env
}

// onVictim starts a process before the confinement, for f to be tried on.
func onVictim(f func(pid int) error) func(string) func() error {
	return func(string) func() error {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(bare(), actEnv+"=sleep")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		runtime.LockOSThread() // whose end is the victim's
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		return func() error { return f(cmd.Process.Pid) }
	}
}

// onOldThread has f done by threads that are older than the confinement.
func onOldThread(f func(string) error) func(string) func() error {
	return func(arg string) func() error {
		const threads = 8
		start, done := make(chan bool), make(chan error, threads)
		ready := make(chan bool)
		for range threads {
			go func() {
				runtime.LockOSThread()
				ready <- true
				<-start
				done <- f(arg)
			}()
			<-ready
		}
		return func() error {
			close(start)
			first := <-done
			for range threads - 1 {
				if err := <-done; (err == nil) != (first == nil) {
					return fmt.Errorf("threads differ: %v, %v", first, err)
				}
			}
			return first
		}
	}
}

// newThreads starts threads, which clone3 being absent must not hinder.
func newThreads() error {
	const threads = 20
	hold, ready := make(chan bool), make(chan int, threads)
	for range threads {
		go func() {
			runtime.LockOSThread()
			ready <- unix.Gettid()
			<-hold
		}()
	}
	tids := make(map[int]bool)
	for range threads {
		tids[<-ready] = true
	}
	close(hold)
	if len(tids) != threads {
		return fmt.Errorf("%d threads", len(tids))
	}
	return status()
}

// status reads what the kernel says of each thread of a confined process.
func status() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		text, err := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		if err != nil {
			continue
		}
		for _, want := range []string{"\nNoNewPrivs:\t1\n", "\nSeccomp:\t2\n"} {
			if !strings.Contains(string(text), want) {
				return fmt.Errorf("thread %s has no %q", task.Name(), want)
			}
		}
	}
	return nil
}
