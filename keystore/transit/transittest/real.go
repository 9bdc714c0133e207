package transittest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Real is a HashiCorp Vault that the test runs: one process with a file
// storage, so that it finds its keys again when it is started again. Its methods
// wait until they are done, and fail the test if they cannot be.
type Real struct {
	*Server
	t      testing.TB
	binary string
	dir    string
	ca     *CA
	unseal string // the one share of the unseal key

	cmd    *exec.Cmd
	exited chan error // holds how it ended
}

// FindVault returns the path of the vault binary, if there is one.
func FindVault() (path string, ok bool) {
	path = os.Getenv("CHANCERY_TEST_VAULT_BINARY")
	if path == "" {
		cache, err := os.UserCacheDir() // $XDG_CACHE_HOME, or ~/.cache
		if err != nil {
			return "", false
		}
		path = filepath.Join(cache, "chancery", "vault-1.21.1")
	}
	info, err := os.Stat(path)
	return path, err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// startWithin is how long a Vault on a busy machine takes to start, to stop or to
// be unsealed.
const startWithin = time.Minute

// Vault starts a Vault, initialised and unsealed, and stops it when the test ends.
// Without a binary the test is skipped, or fails where a Vault is required.
func Vault(t testing.TB) *Real {
	t.Helper()
	binary, ok := FindVault()
	if !ok {
		if required() {
			t.Fatalf("no Vault at %q", binary)
		}
		t.Skipf("no Vault at %q", binary)
	}
	dir, err := os.MkdirTemp("", "vault") // t.TempDir is long, and gone before the log is shown
	if err != nil {
		t.Fatal(err)
	}
	r := &Real{t: t, binary: binary, dir: dir, ca: NewCA(t, dir)}
	t.Cleanup(r.end)
	port := r.configure()
	if r.Server, err = newServer("https://127.0.0.1:"+port, r.ca.File(), "", "HashiCorp Vault"); err != nil {
		t.Fatal(err)
	}
	r.launch()
	r.initialize()
	r.Unseal()
	_, health, err := r.CallAs("", "GET", "sys/health", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.kind = fmt.Sprint("HashiCorp Vault ", health["version"])
	return r
}

// CA is the one that made the server's certificate.
func (r *Real) CA() *CA { return r.ca }

// Log is the file that Vault logs to.
func (r *Real) Log() string { return filepath.Join(r.dir, "vault.log") }

func (r *Real) end() {
	if r.cmd != nil {
		r.cmd.Process.Kill()
		<-r.exited
	}
	if r.t.Failed() {
		if b, err := os.ReadFile(r.Log()); err == nil {
			r.t.Logf("Vault said:\n%s", b)
		}
	}
	os.RemoveAll(r.dir)
}

// configure writes its configuration, and returns the port it will listen on.
func (r *Real) configure() string {
	r.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	certFile, keyFile := r.ca.ServerCert()
	b, err := json.Marshal(map[string]any{
		"storage":       map[string]any{"file": map[string]any{"path": filepath.Join(r.dir, "data")}},
		"listener":      []any{map[string]any{"tcp": map[string]any{"address": address, "tls_cert_file": certFile, "tls_key_file": keyFile}}},
		"api_addr":      "https://" + address,
		"disable_mlock": true, // it needs a capability, and the keys are only for tests
	})
	if err == nil {
		err = os.WriteFile(r.config(), b, 0o600)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(address)
	return port
}

func (r *Real) config() string { return filepath.Join(r.dir, "vault.json") }

// launch starts the process and waits until it answers.
func (r *Real) launch() {
	r.t.Helper()
	if r.cmd != nil {
		r.t.Fatal("Vault is running already")
	}
	logFile, err := os.OpenFile(r.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	defer logFile.Close()
	cmd := exec.Command(r.binary, "server", "-config="+r.config())
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "VAULT_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := launched(cmd.Start); err != nil {
		r.t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	r.cmd, r.exited = cmd, exited
	r.await("it answers", func() error {
		_, _, err := r.CallAs("", "GET", "sys/seal-status", nil)
		return err
	})
}

// launches are what launchAll starts.
var (
	launches    = make(chan func())
	launchStart sync.Once
)

// launchAll starts processes until the test process ends, all from one thread: a
// process gets its parent-death signal when the thread that started it ends.
func launchAll() {
	runtime.LockOSThread()
	for start := range launches {
		start()
	}
}

func launched(start func() error) error {
	launchStart.Do(func() { go launchAll() })
	result := make(chan error)
	launches <- func() { result <- start() }
	return <-result
}

// await repeats try until it succeeds. It fails the test when the process ends or
// time is up.
func (r *Real) await(what string, try func() error) {
	r.t.Helper()
	deadline := time.Now().Add(startWithin)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case ended := <-r.exited:
			r.cmd = nil
			r.t.Fatalf("waiting until %s: Vault ended: %v", what, ended)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("waiting until %s: %v", what, err)
		}
	}
}

func (r *Real) initialize() {
	r.t.Helper()
	status, reply, err := r.CallAs("", "PUT", "sys/init", map[string]any{"secret_shares": 1, "secret_threshold": 1})
	if err != nil || status != 200 {
		r.t.Fatalf("initialising: status %d, %v", status, err)
	}
	r.root, _ = reply["root_token"].(string)
	if shares, ok := reply["keys"].([]any); ok && len(shares) == 1 {
		r.unseal, _ = shares[0].(string)
	}
	if r.root == "" || r.unseal == "" {
		r.t.Fatal("initialising: the answer holds no token or no key")
	}
}

// Unseal makes a sealed Vault serve.
func (r *Real) Unseal() {
	r.t.Helper()
	status, reply, err := r.CallAs("", "PUT", "sys/unseal", map[string]any{"key": r.unseal})
	if err != nil || status != 200 || reply["sealed"] != false {
		r.t.Fatalf("unsealing: status %d, sealed %v, %v", status, reply["sealed"], err)
	}
	r.await("it is active", func() error { return r.health(200) })
}

// Seal makes Vault forget its keys until it is unsealed.
func (r *Real) Seal() {
	r.t.Helper()
	r.Call(r.t, "PUT", "sys/seal", nil)
	r.await("it is sealed", func() error { return r.health(503) })
}

func (r *Real) health(want int) error {
	status, _, err := r.CallAs("", "GET", "sys/health", nil)
	if err == nil && status != want {
		err = fmt.Errorf("sys/health has status %d", status)
	}
	return err
}

// Stop ends the process in good order.
func (r *Real) Stop() {
	r.t.Helper()
	r.stop(syscall.SIGTERM)
}

// Kill ends the process as a crash would.
func (r *Real) Kill() {
	r.t.Helper()
	r.stop(syscall.SIGKILL)
}

func (r *Real) stop(s syscall.Signal) {
	r.t.Helper()
	r.signal(s)
	select {
	case <-r.exited:
		r.cmd = nil
	case <-time.After(startWithin):
		r.t.Fatal("Vault does not end")
	}
}

// Start starts it again on the same port, and unseals it.
func (r *Real) Start() {
	r.t.Helper()
	r.launch()
	r.Unseal()
}

// Pause makes the process stand still: its connections stay open and nobody
// answers on them.
func (r *Real) Pause() {
	r.t.Helper()
	r.signal(syscall.SIGSTOP)
	stat := fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid)
	r.await("it stands still", func() error {
		b, err := os.ReadFile(stat)
		if err != nil {
			return err
		}
		// The state follows the name, which is in brackets.
		if _, after, ok := strings.Cut(string(b), ") "); !ok || after[0] != 'T' {
			return errors.New("it runs")
		}
		return nil
	})
}

// Resume undoes Pause.
func (r *Real) Resume() {
	r.t.Helper()
	r.signal(syscall.SIGCONT)
	r.await("it answers", func() error {
		_, _, err := r.CallAs("", "GET", "sys/seal-status", nil)
		return err
	})
}

func (r *Real) signal(s syscall.Signal) {
	r.t.Helper()
	if r.cmd == nil {
		r.t.Fatal("Vault is not running")
	}
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}
