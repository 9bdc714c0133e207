package pkcs11_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
	"chancery/keystore/pkcs11"
)

// A rig is a real module with a token of its own, for one test.
type rig struct {
	module string
	label  string
	pin    string
	env    map[string]string
	needs  pkcs11.Confinement
}

// config returns a configuration for the rig's token, with a state of its own.
func (r rig) config(t *testing.T) pkcs11.Config {
	t.Helper()
	pin := filepath.Join(t.TempDir(), "pin")
	write(t, pin, []byte(r.pin))
	return pkcs11.Quick(pkcs11.Config{
		Name: "test", Module: r.module, Env: r.env, Confinement: r.needs, StateDir: t.TempDir(),
		URI: "pkcs11:token=" + strings.ReplaceAll(r.label, " ", "%20") + "?pin-source=" + pin,
	})
}

// contract runs the suite on the rig's token.
func (r rig) contract(t *testing.T) {
	cfg := r.config(t)
	keystoretest.Run(t, func(t *testing.T) keystore.Provider { return open(t, cfg) })
}

// need ends the test where one of the files, given by patterns, is not there.
func need(t *testing.T, packages string, patterns ...string) (found []string) {
	t.Helper()
	for _, pattern := range patterns {
		files, _ := filepath.Glob(pattern) // the patterns are well formed
		if len(files) == 0 {
			missing(t, fmt.Sprintf("no %s (hint: apt-get install %s)", pattern, packages))
		}
		found = append(found, files[0])
	}
	return found
}

const apartEnv = "CHANCERY_TEST_APART"

// apart runs the test once more in a process with mounts and System V memory of
// its own, and returns false when that has passed. In there it returns true.
// What a module has under a fixed path of the whole machine is in there the
// test's alone.
func apart(t *testing.T) bool {
	t.Helper()
	if os.Getenv(apartEnv) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, for mounts of its own")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), apartEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWIPC, Pdeathsig: syscall.SIGKILL}
	out, err := runLocked(cmd)
	switch {
	case os.IsPermission(err):
		t.Skipf("this machine gives no mounts of one's own: %v", err)
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	default:
		t.Logf("%s", out)
	}
	return false
}

// runLocked runs a command that dies with this process, and returns its output.
func runLocked(cmd *exec.Cmd) (out []byte, err error) {
	runtime.LockOSThread() // Pdeathsig is about the thread
	defer runtime.UnlockOSThread()
	return cmd.CombinedOutput()
}

// mount puts a directory of the test's own in the place of another, in a
// process that is apart.
func mount(t *testing.T, dir, place string) {
	t.Helper()
	if err := unix.Mount(dir, place, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("mounting over %s: %v", place, err)
	}
}

// server starts a server that ends with the test, or with this process.
func server(t *testing.T, env map[string]string, name string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Env = environ(env)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Pdeathsig is about the thread
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			said := out.String()
			t.Logf("%s said at last:\n%s", name, said[max(0, len(said)-1000):])
		}
	})
}

// environ is env as a process takes it, and nothing else but a PATH.
func environ(env map[string]string) []string {
	all := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	for name, value := range env {
		all = append(all, name+"="+value)
	}
	return all
}

// ran runs a command with input, and ends the test if it fails.
func ran(t *testing.T, env map[string]string, input string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = environ(env)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// awaitFile waits until there is a file.
func awaitFile(t *testing.T, path string) {
	t.Helper()
	eventually(t, path, func() bool { _, err := os.Stat(path); return err == nil })
}

// run runs a command and says nothing of what it said.
func run(env map[string]string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = environ(env)
	return cmd.Run()
}
