package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"chancery/keystore/audit"
	"chancery/keystore/catalog/postgrestest"
	"chancery/signer/api"
	"chancery/signer/client"
	"chancery/softhsm"
)

// asDaemon makes the test binary be chanceryd.
const asDaemon = "CHANCERYD_TEST_RUN"

func TestMain(m *testing.M) {
	if path := os.Getenv(asHolder); path != "" {
		os.Exit(holdCatalog(path))
	}
	if os.Getenv(asDaemon) != "" {
		os.Exit(run(os.Args[1:], testClocks()))
	}
	flag.Parse()
	sideBySide()
	http.DefaultClient.Timeout = 30 * time.Second // a daemon that does not answer fails a test
	go launchAll()                                // until the process ends
	code := m.Run()
	postgrestest.Stop()
	os.Exit(code)
}

// sideBySide has a scenario run on each processor at a time, unless the command line
// says how many: with more of them the machine is what fails, not the daemon, since
// each has several processes and promises of seconds. It mixes them, since those of one
// file want the same of the machine. And it has the race detector not wait for a second
// in each process that ends.
func sideBySide() {
	given := false
	shuffled := false
	flag.Visit(func(f *flag.Flag) {
		given = given || f.Name == "test.parallel"
		shuffled = shuffled || f.Name == "test.shuffle"
	})
	err := os.Setenv("GORACE", cmp.Or(os.Getenv("GORACE"), "atexit_sleep_ms=10"))
	if !given {
		err = errors.Join(err, flag.Set("test.parallel", strconv.Itoa(max(2, runtime.GOMAXPROCS(0)))))
	}
	if !shuffled {
		err = errors.Join(err, flag.Set("test.shuffle", "1"))
	}
	if err != nil {
		panic(err)
	}
}

// launches are the commands to be started by launchAll.
var launches = make(chan func())

// launchAll starts processes, all from one thread: the kernel sends a process
// its parent-death signal when the thread that started it ends, and a thread to
// which a goroutine was locked ends with that goroutine.
func launchAll() {
	runtime.LockOSThread()
	for start := range launches {
		start()
	}
}

// A chanceryd is a chanceryd process under test.
type chanceryd struct {
	t         *testing.T
	dir       string
	cmd       *exec.Cmd
	endpoints api.Endpoints
	log       *syncBuffer
	exited    chan error
}

// syncBuffer collects what a process writes.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// needSoftHSM skips where there is no SoftHSM, and fails in CI.
func needSoftHSM(t *testing.T) {
	t.Helper()
	if _, err := softhsm.Find(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// needTool returns the path of a program. Where it is missing the test is skipped
// with the package that has it, and fails in CI.
func needTool(t *testing.T, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		lacks(t, fmt.Sprintf("no %s (Debian: %s)", name, debian))
	}
	return path
}

// lacks skips a test for what this machine lacks, and fails it in CI.
func lacks(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// ended waits for a process to end and returns how it did.
func (d *chanceryd) ended() error {
	d.t.Helper()
	select {
	case err := <-d.exited:
		return err
	case <-time.After(time.Minute):
		d.t.Fatalf("the process goes on\n%s", d.log)
		return nil
	}
}

// tempDir is a short directory: the path of a Unix socket has at most 107 bytes.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ch")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// startDev starts chanceryd dev in dir and waits until it is ready. When the
// test ends the daemon is stopped and the whole log verified.
func startDev(t *testing.T, dir string, args ...string) *chanceryd {
	t.Helper()
	d := launch(t, dir, append([]string{"dev", "--dir", dir}, args...)...)
	d.awaitReady()
	return d
}

// launch starts chanceryd and returns at once.
func launch(t *testing.T, dir string, args ...string) *chanceryd {
	t.Helper()
	needSoftHSM(t)
	return launchCommand(t, dir, exec.Command(os.Args[0], args...))
}

func launchCommand(t *testing.T, dir string, cmd *exec.Cmd) *chanceryd {
	t.Helper()
	d := &chanceryd{t: t, dir: dir, cmd: cmd, log: new(syncBuffer), exited: make(chan error, 1)}
	if slices.Contains(cmd.Args, "dev") && !slices.Contains(cmd.Args, "--ports") && isFirst(dir) {
		cmd.Args = append(cmd.Args, "--ports", strconv.Itoa(ports()))
	}
	if d.cmd.Env == nil {
		d.cmd.Env = os.Environ()
	}
	d.cmd.Env = append(d.cmd.Env, asDaemon+"=1")
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.WaitDelay = 10 * time.Second // for who else has its output, such as a tracer that hangs
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	os.Remove(filepath.Join(dir, "endpoints.json"))
	started := make(chan error)
	launches <- func() { started <- d.cmd.Start() }
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	go func() { d.exited <- d.cmd.Wait() }()
	t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			d.stop()
		}
		if t.Failed() {
			t.Logf("the daemon said:\n%s", d.log)
		}
		d.verifyLog()
	})
	return d
}

func (d *chanceryd) awaitReady() {
	d.t.Helper()
	path := filepath.Join(d.dir, "endpoints.json")
	d.within(60*time.Second, "the daemon is ready", func() error {
		select {
		case err := <-d.exited:
			d.exited <- err
			d.t.Fatalf("the daemon ended: %v\n%s", err, d.log)
		default:
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return json.Unmarshal(b, &d.endpoints)
	})
}

// within tries until do succeeds, and fails the test if it has not in time.
func (d *chanceryd) within(limit time.Duration, what string, do func() error) {
	d.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("not within %v: %s: %v\n%s", limit, what, err, d.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// stop ends the daemon with SIGTERM and expects exit status 0.
func (d *chanceryd) stop() {
	d.t.Helper()
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-d.exited:
		if err != nil {
			d.t.Errorf("the daemon ended with %v\n%s", err, d.log)
		}
	case <-time.After(30 * time.Second):
		d.t.Errorf("the daemon did not end within 30 s of SIGTERM\n%s", d.log)
		d.kill()
	}
}

// kill ends the daemon with SIGKILL.
func (d *chanceryd) kill() {
	d.t.Helper()
	tracer := d.tracer()
	d.cmd.Process.Kill()
	select {
	case <-d.exited:
		return
	case <-time.After(5 * time.Second):
	}
	if tracer != 0 { // it may have lost count of what it stopped, and then it waits for ever
		syscall.Kill(tracer, syscall.SIGKILL)
	}
	select {
	case <-d.exited:
	case <-time.After(time.Minute):
		d.t.Fatalf("the daemon goes on after SIGKILL\n%s", d.log)
	}
}

// tracer returns the pid of what traces the daemon; 0: nothing does.
func (d *chanceryd) tracer() (pid int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		return 0 // it has ended
	}
	_, rest, _ := strings.Cut(string(b), "TracerPid:")
	fmt.Sscan(rest, &pid)
	return pid
}

// workers returns the pids of the daemon's worker processes.
func (d *chanceryd) workers() []int {
	var pids []int
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil {
			continue
		}
		var pid, parent int
		var state string
		rest := string(b[bytes.LastIndexByte(b, ')')+1:])
		fmt.Sscan(string(b), &pid)
		fmt.Sscan(rest, &state, &parent)
		if parent == d.cmd.Process.Pid && state != "Z" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// client returns a client at the door of role.
func (d *chanceryd) client(role string) *client.Client {
	d.t.Helper()
	endpoint := "unix:" + d.endpoints.Socket
	if role == "operator" || role == "auditor" {
		endpoint = "unix:" + d.endpoints.Ops
	}
	cfg, err := client.LoadConfig(endpoint, d.cert(role), d.key(role), filepath.Join(d.dir, "ca.crt"))
	if err != nil {
		d.t.Fatal(err)
	}
	cfg.Connections = 64
	c, err := client.New(cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(c.Close)
	return c
}

func (d *chanceryd) cert(role string) string { return filepath.Join(d.dir, "clients", role+".crt") }
func (d *chanceryd) key(role string) string  { return filepath.Join(d.dir, "clients", role+".key") }

// http returns a plain HTTP client over the signing socket with a certificate,
// for what a well-behaved client would not send.
func (d *chanceryd) http(role string) *http.Client {
	d.t.Helper()
	pair, err := tls.LoadX509KeyPair(d.cert(role), d.key(role))
	if err != nil {
		d.t.Fatal(err)
	}
	return d.httpWith(d.endpoints.Socket, pair)
}

func (d *chanceryd) httpWith(socket string, certs ...tls.Certificate) *http.Client {
	tr := &http.Transport{
		DialContext:     dialUnix(socket),
		TLSClientConfig: &tls.Config{RootCAs: d.roots(), ServerName: "localhost", Certificates: certs},
	}
	d.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func (d *chanceryd) roots() *x509.CertPool {
	d.t.Helper()
	pem, err := os.ReadFile(filepath.Join(d.dir, "ca.crt"))
	if err != nil {
		d.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

// issuer is the issuer of a key set's tokens.
func (d *chanceryd) issuer(keyset string) string { return d.endpoints.Public + "/issuers/" + keyset }

// verifier returns a relying party for a key set's tokens.
func (d *chanceryd) verifier(keyset string) *client.Verifier {
	d.t.Helper()
	v, err := client.NewVerifier(client.VerifierConfig{Issuer: d.issuer(keyset), JWKS: d.issuer(keyset) + "/jwks.json"})
	if err != nil {
		d.t.Fatal(err)
	}
	return v
}

// sign signs claims with a key set and fails the test if it cannot.
func (d *chanceryd) sign(c *client.Client, keyset, claims string) *api.SignJWTReply {
	d.t.Helper()
	reply, err := c.SignJWT(d.t.Context(), api.SignJWTRequest{KeySet: keyset, Claims: json.RawMessage(claims)})
	if err != nil {
		d.t.Fatalf("signing with %s: %v", keyset, err)
	}
	return reply
}

// verifyLog verifies the whole log as an auditor does, without the daemon.
func (d *chanceryd) verifyLog() {
	d.t.Helper()
	vkeys, err := os.ReadFile(filepath.Join(d.dir, "audit.vkey"))
	if errors.Is(err, os.ErrNotExist) {
		return // it never got so far
	}
	if err != nil {
		d.t.Error(err)
		return
	}
	report, err := audit.Verify(context.Background(), filepath.Join(d.dir, "audit"), audit.Options{Keys: strings.Fields(string(vkeys))})
	if err != nil {
		d.t.Errorf("verifying the log: %v", err)
		return
	}
	if report == nil {
		return
	}
	for _, p := range report.Problems {
		d.t.Errorf("the log: %s", p)
	}
	entriesFit(d.t, d.dir)
}

// logged returns the entries of the log that a filter wants.
func (d *chanceryd) logged(f audit.Filter) []audit.Entry {
	d.t.Helper()
	var found []audit.Entry
	for at, err := range audit.Entries(filepath.Join(d.dir, "audit"), f) {
		if err != nil {
			d.t.Fatalf("reading the log: %v", err)
		}
		found = append(found, at.Entry)
	}
	return found
}

// problem returns the problem an error wraps, and fails the test if there is none.
func problem(t *testing.T, err error) *api.Problem {
	t.Helper()
	p, ok := errors.AsType[*api.Problem](err)
	if !ok {
		t.Fatalf("want a problem, have %v", err)
	}
	return p
}

func wantCode(t *testing.T, err error, code api.Code) *api.Problem {
	t.Helper()
	p := problem(t, err)
	if p.Code != code {
		t.Errorf("code %q (%s), want %q", p.Code, p.Detail, code)
	}
	if p.Status != code.Status() {
		t.Errorf("%s came with status %d, want %d", code, p.Status, code.Status())
	}
	return p
}

func dialUnix(path string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", path)
	}
}

// rotateFor is a request to rotate.
func rotateFor(reason string) api.OperateRequest { return api.OperateRequest{Reason: reason} }
