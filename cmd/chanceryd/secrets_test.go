package main

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"chancery/keystore/audit"
)

const nobodyUID = 65534

// asNobody runs a program as an unprivileged user, in the groups given.
func asNobody(t *testing.T, gid string, args ...string) *exec.Cmd {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	needTool(t, "setpriv", "util-linux")
	return exec.Command("setpriv", append([]string{fmt.Sprintf("--reuid=%d", nobodyUID), "--regid=" + gid, "--clear-groups"}, args...)...)
}

// TestA20OtherUsers: the sockets are out of other users' reach; a user who is
// let in counts for nothing without a certificate, and for nothing beside one.
func TestA20OtherUsers(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	for _, socket := range []string{d.endpoints.Socket, d.endpoints.Ops} {
		for path, want := range map[string]os.FileMode{socket: os.ModeSocket | 0o660, filepath.Dir(socket): os.ModeDir | 0o750} {
			if info, err := os.Stat(path); err != nil || info.Mode() != want {
				t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
			}
		}
	}
	public := tempDir(t) // the issuer's certificate, for another user to read
	copyFile(t, d.cert("issuer"), filepath.Join(public, "crt"))
	copyFile(t, d.key("issuer"), filepath.Join(public, "key"))
	copyFile(t, filepath.Join(d.dir, "ca.crt"), filepath.Join(public, "ca"))
	for _, path := range []string{public, d.dir, filepath.Join(d.dir, "run")} { // the way to the sockets' own directories
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	curl := func(gid string, identity ...string) (string, error) {
		args := append([]string{"curl", "-sS", "-m", "20", "--unix-socket", d.endpoints.Socket, "--cacert", filepath.Join(public, "ca"),
			"https://localhost/v1/sign/jwt", "-d", `{"keyset":"edge","claims":{}}`}, identity...)
		out, err := asNobody(t, gid, args...).CombinedOutput()
		return string(out), err
	}
	identity := []string{"--cert", filepath.Join(public, "crt"), "--key", filepath.Join(public, "key")}
	if out, err := curl(fmt.Sprint(nobodyUID), identity...); err == nil {
		t.Errorf("another user reached the socket: %s", out)
	} else {
		t.Logf("another user with the issuer's certificate: %s", strings.TrimSpace(out))
	}
	if out, err := curl("0"); err == nil {
		t.Errorf("a user of the group without a certificate: %s", out)
	}
	d.wantHandshakeEntry("no client certificate", fmt.Sprint("uid ", nobodyUID))
	if out, err := curl("0", identity...); err != nil || !strings.Contains(out, `"token"`) {
		t.Errorf("a user of the group with the issuer's certificate: %v: %s", err, out)
	}
	// A directory that others may enter is refused, not narrowed in silence.
	d.stop()
	if err := os.Chmod(filepath.Dir(d.endpoints.Socket), 0o755); err != nil {
		t.Fatal(err)
	}
	again := launch(t, d.dir, "dev", "--dir", d.dir)
	if err := again.ended(); err == nil || !strings.Contains(again.log.String(), "others could connect") {
		t.Errorf("a socket directory of mode 0755: %v\n%s", err, again.log)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestA23NoSecretsInOutputs: PINs and private keys stand in their files and
// nowhere else that the daemon writes, whatever goes wrong.
func TestA23NoSecretsInOutputs(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	pin, err := os.ReadFile(filepath.Join(d.dir, "softhsm", "chancery-dev.pin"))
	if err != nil {
		t.Fatal(err)
	}
	canaries := []string{strings.TrimSpace(string(pin))}
	keys, err := filepath.Glob(filepath.Join(d.dir, "*", "*.key"))
	if err != nil || len(keys) != 6 {
		t.Fatalf("%d private keys, %v", len(keys), err)
	}
	for _, path := range keys {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		canaries = append(canaries, string(block.Bytes[36:68]), strings.Split(string(text), "\n")[1])
	}
	c := d.http("issuer")
	token := d.sign(d.client("issuer"), "web", `{"secret":"claim-canary"}`).Token
	canaries = append(canaries, token[len(token)-40:], "claim-canary")
	post(t, c, "/v1/sign/jwt", `{"keyset":"web","claims":{"iss":"claim-canary"}}`)
	post(t, c, "/v1/sign/jwt", `{"keyset":"web","claims":{"secret":"claim-canary",}}`)
	outputs := make(map[string]string)
	for _, path := range []string{"/metrics", "/readyz?verbose"} {
		_, outputs[path] = d.get(d.endpoints.Admin + path)
	}
	ops := d.httpWith(d.endpoints.Ops, d.pair("operator"))
	for _, path := range []string{"/v1/ops/tokens", "/v1/keysets", "/v1/keysets/web/history", "/v1/audit/dev/lifecycle/entries"} {
		r, err := send(t, ops, http.MethodGet, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		outputs[path] = string(r.body)
	}
	for _, pid := range append(d.workers(), d.cmd.Process.Pid) {
		for _, file := range []string{"cmdline", "environ"} {
			path := fmt.Sprintf("/proc/%d/%s", pid, file)
			outputs[path] = readProc(t, path)
		}
		if limits := readProc(t, fmt.Sprintf("/proc/%d/limits", pid)); !hasNoCore(limits) {
			t.Errorf("process %d may dump core:\n%s", pid, limits)
		}
	}
	// What is wrong with a PIN file must not quote it.
	if err := os.WriteFile(filepath.Join(d.dir, "softhsm", "chancery-dev.pin"), append(pin, "\nmore\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(d.dir, "softhsm", "chancery-dev.pin"), 0o644); err != nil {
		t.Fatal(err)
	}
	check := exec.Command(os.Args[0], "check", "--config", filepath.Join(d.dir, "config.yaml"))
	check.Env = append(os.Environ(), asDaemon+"=1")
	said, _ := check.CombinedOutput()
	outputs["check"] = string(said)
	d.stop()
	outputs["the daemon's output"] = d.log.String()
	for at, err := range audit.Entries(d.dir+"/audit", audit.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		outputs["log"] += string(at.Entry.Append(nil)) + "\n"
	}
	for name, text := range outputs {
		if len(text) == 0 {
			t.Errorf("%s is empty", name)
		}
		for i, canary := range canaries {
			if strings.Contains(text, canary) {
				t.Errorf("%s holds secret %d", name, i)
			}
		}
	}
}

func readProc(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func hasNoCore(limits string) bool {
	for line := range strings.Lines(limits) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
			f := strings.Fields(rest)
			return len(f) >= 2 && f[0] == "0" && f[1] == "0"
		}
	}
	return false
}

// TestA23ProcessesAreNotDumpable: run as an ordinary user, daemon and workers
// belong to root in /proc: no debugger of the same user gets at their memory.
func TestA23ProcessesAreNotDumpable(t *testing.T) {
	t.Parallel()
	needSoftHSM(t)
	dir := tempDir(t)
	program := filepath.Join(dir, "chanceryd")
	text, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, text, 0o755); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "d")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := asNobody(t, fmt.Sprint(nobodyUID), program, "dev", "--dir", data)
	for path, mode := range map[string]os.FileMode{dir: 0o755, data: 0o700} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(data, nobodyUID, nobodyUID); err != nil {
		t.Fatal(err)
	}
	d := launchCommand(t, data, cmd)
	d.awaitReady()
	pids := append(d.workers(), cmd.Process.Pid)
	if len(pids) < 2 {
		t.Fatalf("no worker among %v", pids)
	}
	for _, pid := range pids {
		if status := readProc(t, fmt.Sprintf("/proc/%d/status", pid)); !strings.Contains(status, fmt.Sprintf("Uid:\t%d", nobodyUID)) {
			t.Errorf("process %d is not nobody's:\n%s", pid, status)
		}
		info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 {
			t.Errorf("process %d is dumpable: its memory belongs to uid %d", pid, owner)
		}
	}
	d.sign(d.client("issuer"), "web", `{}`)
}
