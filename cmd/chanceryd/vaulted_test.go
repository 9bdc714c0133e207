package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/transit/transittest"
	"chancery/signer/api"
	"chancery/signer/client"
)

// A vaulted is a daemon with a SoftHSM token and a mount of a Vault: the key sets
// web, legacy and edge are on the token, the key set vaulted is in the mount.
type vaulted struct {
	*chanceryd
	vault    *transittest.Server
	mount    string
	file     string // of the token
	token    string
	issuer   *client.Client
	operator *client.Client
	others   *crowd   // who sign with web all the while
	loads    []*crowd // who signed with vaulted
}

// leastPolicy is the policy that README documents, for a mount.
func leastPolicy(t *testing.T, mount string) string {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```hcl\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("README has no policy")
	}
	return strings.ReplaceAll(string(block[1]), `"transit/`, `"`+mount+`/`)
}

// leastToken makes a token with that policy.
func leastToken(t *testing.T, s *transittest.Server, mount string, more map[string]any) string {
	t.Helper()
	name := s.Policy(t, leastPolicy(t, mount))
	body := map[string]any{"policies": []string{name}, "period": "24h"}
	for k, v := range more {
		body[k] = v
	}
	auth, _ := s.Call(t, "POST", "auth/token/create", body)["auth"].(map[string]any)
	token, _ := auth["client_token"].(string)
	if token == "" {
		t.Fatal("no token was made")
	}
	return token
}

// newVaulted starts the daemon of a vaulted, with three clients on web.
func newVaulted(t *testing.T, s *transittest.Server, args ...string) *vaulted {
	t.Helper()
	return newVaultedAt(t, s, s.Address(), args...)
}

// newVaultedAt has the daemon reach the Vault at another address.
func newVaultedAt(t *testing.T, s *transittest.Server, address string, args ...string) *vaulted {
	t.Helper()
	v := &vaulted{vault: s, mount: s.Mount(t)}
	dir := tempDir(t)
	v.file = filepath.Join(dir, "token")
	v.giveToken(t, leastToken(t, s, v.mount, nil))
	v.chanceryd = startDev(t, dir, append([]string{
		"--transit", address, "--transit-token-file", v.file, "--transit-ca", s.CAFile(), "--transit-mount", v.mount,
	}, args...)...)
	v.begin()
	return v
}

func (v *vaulted) giveToken(t *testing.T, token string) {
	t.Helper()
	v.token = token
	if err := os.WriteFile(v.file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// othersPause is between the requests of one of those who sign with web.
const othersPause = 40 * time.Millisecond

func (v *vaulted) begin() {
	v.t.Helper()
	v.issuer, v.operator = v.client("issuer"), v.client("operator")
	v.within(30*time.Second, "vaulted signs", v.signs)
	v.within(30*time.Second, "vaulted has a successor", func() error {
		if n := len(v.published("vaulted")); n < 2 {
			return fmt.Errorf("%d keys published", n)
		}
		return nil
	})
	v.others = v.crowd(3, othersPause, "web")
}

// signs signs with vaulted once.
func (v *vaulted) signs() error {
	began := time.Now()
	reply, err := v.issuer.SignJWT(v.t.Context(), api.SignJWTRequest{KeySet: "vaulted", Claims: []byte(`{"sub":"vault"}`)})
	if took := time.Since(began); took > requestWithin {
		v.t.Errorf("I6: a request took %v", took)
	}
	if err != nil {
		return err
	}
	if _, err := v.verifier("vaulted").Verify(v.t.Context(), reply.Token); err != nil {
		v.t.Errorf("I2: what was released does not verify: %v", err)
	}
	return nil
}

// status returns how the mount is doing.
func (v *vaulted) status() api.Token {
	v.t.Helper()
	list, err := v.operator.Tokens(v.t.Context())
	if err != nil {
		v.t.Fatal(err)
	}
	for _, token := range list.Tokens {
		if token.Keystore == "vault" {
			return token
		}
	}
	v.t.Fatal("the keystore is not listed")
	return api.Token{}
}

// awaitState waits until the mount is in a state.
func (v *vaulted) awaitState(want keystore.TokenState) {
	v.t.Helper()
	v.within(15*time.Second, fmt.Sprintf("the mount is %s", want), func() error {
		if s := v.status(); s.State != string(want) {
			return fmt.Errorf("it is %s: %s", s.State, s.Error)
		}
		return nil
	})
}

// keyOf returns the name of the Transit key of a version of vaulted.
func (v *vaulted) keyOf(version int) string {
	v.t.Helper()
	return "chancery-jwt-es256-" + v.keyID("keyset = 'vaulted' AND number = ?", version)
}

// end stops the clients and the daemon, and looks at the whole log: everything that
// was released is in it, and the key sets elsewhere were never refused.
func (v *vaulted) end() {
	v.t.Helper()
	v.others.stop()
	for _, a := range v.others.problems(false) {
		v.t.Errorf("web was refused: %v", a.err)
	}
	v.wantVerified(v.others.replies())
	v.stop()
	v.proven()
	v.wantRecorded(v.others.replies())
	for _, load := range v.loads {
		v.wantRecorded(load.replies())
	}
}

func TestVaultedSigns(t *testing.T) {
	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
		v := newVaulted(t, s)
		if s := v.status(); s.State != "ready" || s.Error != "" || s.Unconfined != "" {
			t.Errorf("the mount is %+v", s)
		}
		v.end()
	})
}
