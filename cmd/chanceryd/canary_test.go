package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// I12: what a daemon was started with goes no further. Workers, which run a
// vendor's code, have nothing of its environment; what it answers has not; and
// when it is ended the hard way, it writes neither PIN nor token, nor a core.
func TestI12NothingSecretIsInheritedOrDumped(t *testing.T) {
	t.Parallel()
	needSoftHSM(t)
	dir := tempDir(t)
	env := map[string]string{
		"VAULT_TOKEN": "hvs.canary-vault", "BAO_TOKEN": "s.canary-bao", "CHANCERY_KEY": "/canary-key", "PGPASSWORD": "canary-database",
		"AWS_SECRET_ACCESS_KEY": "canary-cloud", "PKCS11_PIN": "canary-pin",
	}
	cmd := exec.Command(os.Args[0], "dev", "--dir", dir)
	cmd.Env, cmd.Dir = os.Environ(), dir
	var canaries []string
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
		canaries = append(canaries, value)
	}
	d := launchCommand(t, dir, cmd)
	d.awaitReady()
	pin, err := os.ReadFile(filepath.Join(dir, "softhsm", "chancery-dev.pin"))
	if err != nil {
		t.Fatal(err)
	}
	token := d.sign(d.client("issuer"), "web", `{"secret":"canary-claim"}`).Token
	canaries = append(canaries, strings.TrimSpace(string(pin)), token[len(token)-40:], "canary-claim")

	outputs := map[string]string{}
	operator := d.httpWith(d.endpoints.Ops, d.pair("operator"))
	for _, path := range []string{"/v1/openapi.json", "/v1/ops/nodes", "/v1/ops/tokens", "/v1/keysets/web/plan", "/v1/keysets/web/history"} {
		r, err := send(t, operator, http.MethodGet, path, nil)
		if err != nil || r.status != http.StatusOK {
			t.Fatalf("%s: %d %v", path, r.status, err)
		}
		outputs[path] = string(r.body)
	}
	r := post(t, operator, "/v1/ops/reconcile", `{}`)
	outputs["reconcile"] = string(r.body)
	for _, path := range []string{"/metrics", "/readyz?verbose"} {
		_, outputs[path] = d.get(d.endpoints.Admin + path)
	}
	workers := d.workers()
	if len(workers) == 0 {
		t.Fatal("there are no workers")
	}
	for _, pid := range workers {
		for _, file := range []string{"environ", "cmdline"} {
			path := fmt.Sprintf("/proc/%d/%s", pid, file)
			outputs[path] = readProc(t, path)
		}
	}
	for _, pid := range append(workers, d.cmd.Process.Pid) {
		if limits := readProc(t, fmt.Sprintf("/proc/%d/limits", pid)); !hasNoCore(limits) {
			t.Errorf("process %d may dump core:\n%s", pid, limits)
		}
	}

	// SIGABRT and SIGQUIT ask for a core, and Go writes every stack.
	if err := syscall.Kill(workers[0], syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.exited:
	case <-time.After(30 * time.Second):
		t.Fatal("the daemon goes on after SIGQUIT")
	}
	outputs["what it said"] = d.log.String()
	if !strings.Contains(outputs["what it said"], "goroutine ") {
		t.Error("it wrote no stacks: there is nothing to look at")
	}
	for where, text := range outputs {
		if text == "" {
			t.Errorf("%s is empty", where)
		}
		for _, canary := range canaries {
			if strings.Contains(text, canary) {
				t.Errorf("%s holds %.20q", where, canary)
			}
		}
	}
	cores, err := filepath.Glob(filepath.Join(dir, "core*"))
	if err != nil || len(cores) > 0 {
		t.Errorf("%q, %v", cores, err)
	}
}
