package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// The rows about where the keys are, and what the daemon is started with.
func TestVaultPlaces(t *testing.T) {
	abreast(t, map[string]func(*testing.T){
		"misspelt":                               misspeltPlaces,
		"V15 the mount is enabled anew":          theMountIsEnabledAnew,
		"V15 the mount is another at once":       theMountIsAnotherAtOnce,
		"V16 the environment changes nothing":    theEnvironmentChangesNothing,
		"V16 an environment that cannot be read": anEnvironmentThatCannotBeRead,
	})
}

// relaunch starts the daemon anew with another configuration, with which vaulted
// does not sign.
func (f *faked) relaunch(oldnew ...string) {
	f.t.Helper()
	f.others.stop()
	f.stop()
	edit(f.t, filepath.Join(f.dir, "config.yaml"), oldnew...)
	f.chanceryd = startDevUnready(f.t, f.dir)
	f.issuer, f.operator = f.client("issuer"), f.client("operator")
	f.others = f.crowd(3, othersPause, "web")
}

// A vaultPlace is one row of the fault matrix about a configuration that names
// another place than the keys are at.
type vaultPlace struct {
	row   string
	wrong func(f *faked) (right, wrong string) // in the configuration
	state keystore.TokenState
	says  string
}

var vaultPlaces = []vaultPlace{
	{row: "V15 a mount that is not there", state: keystore.TokenUnavailable, says: "enable it: vault secrets enable -path=transot transit",
		wrong: func(f *faked) (string, string) { return "mount: '" + f.mount + "'", "mount: transot" }},
	{row: "V15 a namespace that is not there", state: keystore.TokenAuthRejected, says: "check the namespace",
		wrong: func(f *faked) (string, string) {
			return "mount: '" + f.mount + "'", "namespace: team/prod\n      mount: '" + f.mount + "'"
		}},
	{row: "V15 another engine's mount", state: keystore.TokenUnavailable, says: "an engine of type",
		wrong: func(f *faked) (string, string) { return "mount: '" + f.mount + "'", "mount: sys" }},
}

// V15: with a mount or namespace that is misspelt the state says so. The keys are
// not taken for lost, and none is made in their place.
func misspeltPlaces(t *testing.T) {
	f := newFaked(t)
	f.fake.Namespaces("team")
	kids := f.published("vaulted")
	for _, v := range vaultPlaces {
		t.Run(v.row, func(t *testing.T) { // f stays the parent's, whose daemon goes on
			right, wrong := v.wrong(f)
			from := len(f.fake.Requests())
			f.relaunch(right, wrong)
			f.awaitState(v.state)
			if s := f.status(); !strings.Contains(s.Error, v.says) || !strings.Contains(s.Error, "(hint: ") {
				t.Errorf("the mount is %+v", s)
			}
			for range 20 {
				if p := wantCode(t, f.signs(), api.CodeBackendUnavailable); p.RetryAfter < 1 {
					t.Error("503 without Retry-After")
				}
				time.Sleep(100 * time.Millisecond)
			}
			if _, err := f.operator.Rotate(t.Context(), "vaulted", rotateFor("a drill")); err == nil {
				t.Error("a rotation was taken")
			}
			for _, r := range f.fake.Requests()[from:] {
				if r.Method == "PUT" && strings.Contains(r.Path, "/keys/") {
					t.Errorf("a key was asked for: %s", r.Path)
				}
			}
			if now := f.published("vaulted"); fmt.Sprint(now) != fmt.Sprint(kids) {
				t.Errorf("I13: published %v, before %v", now, kids)
			}
			f.again(wrong, right)
			f.wantNoneLost()
			t.Attr("provoked", strings.Join(strings.Fields(wrong), " "))
			t.Attr("seen", fmt.Sprintf("%s: …%s…; 503 backend_unavailable, no key asked for, none lost", v.state, v.says))
			t.Attr("recovered", "with the next start")
			t.Attr("promises", "I13")
		})
	}
	f.wantNoStrays()
	f.end()
}

// wantNoneLost demands that no version's key was ever said to be missing.
func (f *faked) wantNoneLost() {
	f.t.Helper()
	if lost := f.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActKeyMissing}); len(lost) > 0 {
		f.t.Errorf("keys were taken for lost: %+v", lost)
	}
	for _, v := range f.versions() {
		if len(v.Alarms) > 0 {
			f.t.Errorf("version %d: %v", v.Version, v.Alarms)
		}
	}
}

// V15: the mount is disabled under the daemon, with all its keys, and enabled anew.
// That is another one: nothing is made in it until an operator says so.
func theMountIsEnabledAnew(t *testing.T) {
	f := newManual(t)
	f.fake.Call(t, "DELETE", "sys/mounts/"+f.mount, nil)
	f.within(5*time.Second, "vaulted does not sign", f.refused)
	f.awaitState(keystore.TokenUnavailable)
	if s := f.status(); !strings.Contains(s.Error, "vault secrets enable -path="+f.mount) {
		t.Errorf("the mount is %+v", s)
	}
	from := len(f.fake.Requests())
	f.fake.Call(t, "POST", "sys/mounts/"+f.mount, map[string]any{"type": "transit"})
	f.awaitState(keystore.TokenChanged)
	for range 20 {
		wantCode(t, f.signs(), api.CodeBackendUnavailable)
		time.Sleep(100 * time.Millisecond)
	}
	if s := f.status(); s.State != string(keystore.TokenChanged) || !strings.Contains(s.Hint, "token retry") {
		t.Errorf("the mount is %+v", s)
	}
	f.wantNothingMade(from)
	if lost := f.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActKeyMissing}); len(lost) > 0 {
		t.Errorf("keys were taken for lost: %+v", lost)
	}
	if _, err := f.operator.TokenRetry(t.Context(), "vault"); err != nil {
		t.Fatal(err)
	}
	retried := time.Now()
	f.awaitState(keystore.TokenReady)
	f.within(25*time.Second, "a rotation is taken", func() error {
		_, err := f.operator.Rotate(t.Context(), "vaulted", rotateFor("the mount is another one"))
		return err
	})
	f.within(10*time.Second, "vaulted signs", f.signs)
	t.Attr("recovered", time.Since(retried).Round(time.Millisecond).String()+" after token retry and rotation now")
	f.othersUnharmed(t, 0)
	t.Attr("provoked", "vault secrets disable; vault secrets enable")
	t.Attr("seen", "unavailable, then changed; 503, nothing made and nothing lost before token retry")
	f.end()
}

// V15: it is no different when there was no moment without a mount.
func theMountIsAnotherAtOnce(t *testing.T) {
	f := newFaked(t)
	from := len(f.fake.Requests())
	f.fake.Call(t, "DELETE", "sys/mounts/"+f.mount, nil)
	f.fake.Call(t, "POST", "sys/mounts/"+f.mount, map[string]any{"type": "transit"})
	c := f.crowd(4, 20*time.Millisecond, "vaulted")
	f.awaitState(keystore.TokenChanged)
	time.Sleep(5 * time.Second) // a key in doubt would be given up by now
	c.stop()
	wantUnavailable(t, c.problems(false), api.CodeBackendUnavailable)
	if len(c.replies()) > 0 {
		t.Error("something was signed by a key that is gone")
	}
	f.wantNothingMade(from)
	f.othersUnharmed(t, 0)
	t.Attr("provoked", "vault secrets disable and enable at once")
	t.Attr("seen", fmt.Sprintf("changed; %d × 503, nothing made", len(c.problems(false))))
	f.end()
}

func (f *faked) refused() error {
	if err := f.signs(); err == nil {
		return errors.New("it does")
	}
	return nil
}

// wantNothingMade demands that no key was asked for from a request on.
func (f *faked) wantNothingMade(from int) {
	f.t.Helper()
	for _, r := range f.fake.Requests()[from:] {
		if r.Method == "PUT" && strings.Contains(r.Path, "/keys/") {
			f.t.Errorf("a key was asked for: %s", r.Path)
		}
	}
}

// V16: nothing of the environment that Vault's own client heeds changes anything,
// and what it cannot read is refused with the way out.
func theEnvironmentChangesNothing(t *testing.T) {
	var f *faked
	elsewhere, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	met := make(chan string, 100)
	go func() {
		for {
			c, err := elsewhere.Accept()
			if err != nil {
				return
			}
			met <- c.RemoteAddr().String()
			c.Close()
		}
	}()
	f = prepared(t, func(f *faked) []string {
		// Proxies are not asked for what is on loopback; 0.0.0.0 is not, by that rule.
		at := f.fake.Address()
		return []string{"addresses: ['" + at + "']", "addresses: ['https://0.0.0.0" + at[strings.LastIndex(at, ":"):] + "']\n      server_name: 127.0.0.1"}
	})
	cmd := exec.Command(os.Args[0], "dev", "--dir", f.dir)
	proxy, wrong := "http://"+elsewhere.Addr().String(), "https://"+elsewhere.Addr().String()
	cmd.Env = append(os.Environ(),
		"VAULT_ADDR="+wrong, "VAULT_AGENT_ADDR="+wrong, "VAULT_PROXY_ADDR="+wrong, "VAULT_TOKEN=hvs.nobody", "VAULT_NAMESPACE=elsewhere",
		"VAULT_SKIP_VERIFY=true", "VAULT_CACERT="+filepath.Join(f.dir, "ca.crt"), "VAULT_TLS_SERVER_NAME=elsewhere",
		`VAULT_HEADERS={"Authorization":"Bearer x"}`, "VAULT_WRAP_TTL=60", "VAULT_MAX_RETRIES=9", "VAULT_CLIENT_TIMEOUT=1ms", "VAULT_RATE_LIMIT=0.001:1",
		"VAULT_HTTP_PROXY="+proxy, "HTTPS_PROXY="+proxy, "HTTP_PROXY="+proxy, "https_proxy="+proxy, "http_proxy="+proxy, "NO_PROXY=", "no_proxy=")
	f.fake.Namespaces("team") // a namespace that is not there is noticed
	f.chanceryd = launchCommand(t, f.dir, cmd)
	f.awaitReady()
	f.begin()
	for range 20 {
		if err := f.signs(); err != nil {
			t.Error(err)
		}
	}
	if s := f.status(); s.State != string(keystore.TokenReady) || s.Error != "" {
		t.Errorf("the mount is %+v", s)
	}
	select {
	case who := <-met:
		t.Errorf("%s came where only the environment points", who)
	default:
	}
	t.Attr("provoked", "VAULT_ADDR, VAULT_TOKEN, VAULT_NAMESPACE, VAULT_SKIP_VERIFY, VAULT_HEADERS, proxies and others")
	t.Attr("seen", "ready, and nobody is asked elsewhere")
	f.end()
}

// What Vault's own client could not read of the environment is not read.
func anEnvironmentThatCannotBeRead(t *testing.T) {
	f := prepared(t, func(*faked) []string { return nil })
	cmd := exec.Command(os.Args[0], "dev", "--dir", f.dir)
	cmd.Env = append(os.Environ(), "VAULT_MAX_RETRIES=x", "VAULT_SKIP_VERIFY=perhaps", "VAULT_CLIENT_TIMEOUT=x", "VAULT_RATE_LIMIT=x",
		"VAULT_HEADERS=x", "VAULT_CLIENT_CERT=/nowhere", "VAULT_CACERT=/nowhere", "VAULT_ADDR=%", "HTTPS_PROXY=%")
	f.chanceryd = launchCommand(t, f.dir, cmd)
	f.awaitReady()
	f.begin()
	if err := f.signs(); err != nil {
		t.Error(err)
	}
	t.Attr("provoked", "VAULT_MAX_RETRIES=x and others")
	t.Attr("seen", "ignored")
	f.end()
}
