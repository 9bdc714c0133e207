package transittest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
)

// recorded is what HashiCorp Vault 1.21.1 answers to the requests of converse, one
// request a line. CHANCERY_TEST_VAULT_RECORD=1 writes it anew from the binary.
const recorded = "testdata/vault-1.21.1.jsonl"

// A conversation asks a server and notes the answers in a form that two servers
// have in common.
type conversation struct {
	t      *testing.T
	s      *Server
	mount  string
	names  *strings.Replacer
	tokens map[string]string
	lines  []string
}

// An exchange is one line of the record.
type exchange struct {
	Request string
	Status  int
	Reply   any
}

// volatile are the members that differ from one run to the next. What is noted
// of them is that they are there, and what they look like.
var volatile = regexp.MustCompile(`^(request_id|entity_id|accessor|id|uuid|client_token|creation_time|issue_time|expire_time|last_renewal|last_renewal_time|` +
	`public_key|signature|cluster_id|cluster_name|build_date|server_time_utc|role_id|secret_id|secret_id_accessor|serial_number|subject_key_id|authority_key_id|echo_duration_ms|warnings)$`)

func (c *conversation) normal(name string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any)
		for k, e := range v {
			out[c.names.Replace(k)] = c.normal(k, e)
		}
		return out
	case []any:
		out := make([]any, 0, len(v))
		for _, e := range v {
			out = append(out, c.normal("", e))
		}
		return out
	case string:
		switch {
		case name == "signature" && len(v) > 9:
			return v[:9] + "…" + encodingOf(v[9:])
		case name == "public_key" && strings.HasPrefix(v, "-----"):
			return fmt.Sprintf("PEM of %d bytes", len(v))
		case name == "public_key":
			return fmt.Sprintf("text of %d bytes", len(v))
		case volatile.MatchString(name) && v != "":
			return "text"
		}
		return c.names.Replace(v)
	case float64:
		if name == "ttl" {
			return float64(int(v+5) / 10 * 10) // a second may have passed
		}
		if volatile.MatchString(name) || name == "1" { // the time an AES key was made
			return "number"
		}
	}
	return v
}

func encodingOf(s string) string {
	if strings.ContainsAny(s, "+/=") {
		return "standard base64"
	}
	if _, err := base64.StdEncoding.DecodeString(s); err == nil {
		return "base64" // either: chance has it that nothing tells
	}
	return "URL base64"
}

func (c *conversation) note(request string, status int, reply map[string]any) {
	c.t.Helper()
	var noted any
	if reply != nil {
		noted = c.normal("", reply)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(exchange{c.names.Replace(request), status, noted}); err != nil {
		c.t.Fatal(err)
	}
	c.lines = append(c.lines, strings.TrimSpace(b.String()))
}

// ask sends a request as a token with a name of the conversation.
func (c *conversation) ask(as, method, path string, body any) map[string]any {
	c.t.Helper()
	status, reply, err := c.s.CallAs(c.tokens[as], method, path, body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	said, _ := json.Marshal(body)
	if raw, ok := body.([]byte); ok {
		said = raw
	}
	if as == "approle" || strings.Contains(path, "login") || strings.Contains(path, "cert/certs") {
		said = []byte("…")
	}
	c.note(strings.TrimSpace(fmt.Sprintf("%s %s %s %s", as, method, path, said)), status, reply)
	return reply
}

// token makes a token and gives it a name.
func (c *conversation) token(as, name string, request map[string]any) {
	c.t.Helper()
	auth, _ := c.ask(as, "POST", "auth/token/create", request)["auth"].(map[string]any)
	c.tokens[name], _ = auth["client_token"].(string)
}

type m = map[string]any

func converse(t *testing.T, s *Server, ca *CA) []string {
	c := &conversation{t: t, s: s, mount: s.Mount(t), tokens: map[string]string{"root": s.RootToken(), "bad": "hvs.bad"}}
	policy := s.Policy(t, `path "x" { capabilities = ["deny"] }`)
	c.names = strings.NewReplacer(c.mount, "MOUNT", policy, "POLICY")
	c.basics()
	c.keys()
	c.signing()
	c.versions()
	c.tokensAndPolicies(policy)
	c.logins(policy, ca)
	return c.lines
}

func (c *conversation) basics() {
	c.ask("", "GET", "sys/health", nil)
	c.ask("", "HEAD", "sys/health", nil)
	c.ask("", "POST", "sys/health", nil)
	c.ask("", "GET", "sys/seal-status", nil)
	for _, as := range []string{"", "bad", "root"} {
		c.ask(as, "GET", "nothing/x", nil)
		c.ask(as, "POST", "auth/nothing/login", m{})
		c.ask(as, "GET", c.mount+"/keys/x", nil)
		c.ask(as, "GET", "sys/internal/ui/mounts/"+c.mount, nil)
		c.ask(as, "GET", "sys/internal/ui/mounts/nothing", nil)
		c.ask(as, "GET", c.mount+"/what/ever", nil)
		c.ask(as, "GET", c.mount+"/sign/k", nil)
		c.ask(as, "PATCH", c.mount+"/keys/k", nil)
		c.ask(as, "OPTIONS", c.mount+"/keys/k", nil)
		c.ask(as, "GET", "auth/token/lookup-self", nil)
	}
	c.ask("root", "GET", "sys/internal/ui/mounts/"+c.mount+"/keys/x", nil)
	c.ask("root", "POST", "sys/mounts/"+c.mount, m{"type": "transit"})
	c.ask("root", "POST", "sys/mounts/zzz", m{"type": "nonsense"})
	c.ask("root", "POST", "sys/mounts/zzz", m{})
	c.ask("root", "DELETE", "sys/mounts/nothing", nil)
	c.ask("root", "POST", c.mount+"/keys/k", []byte(`{"type":`))
	c.ask("root", "POST", c.mount+"/keys/k", []byte(`[]`))
}

func (c *conversation) keys() {
	c.ask("root", "LIST", c.mount+"/keys", nil)
	for _, kind := range []string{"ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "ed25519", "rsa-2048", "aes256-gcm96"} {
		c.ask("root", "POST", c.mount+"/keys/"+kind, m{"type": kind})
		c.ask("root", "GET", c.mount+"/keys/"+kind, nil)
	}
	c.ask("root", "POST", c.mount+"/keys/default", nil)
	c.ask("root", "PUT", c.mount+"/keys/open", m{"type": "ed25519", "exportable": true, "allow_plaintext_backup": true, "auto_rotate_period": "2h"})
	c.ask("root", "POST", c.mount+"/keys/ed25519", m{"type": "ed25519"})
	c.ask("root", "POST", c.mount+"/keys/ed25519", m{"type": "rsa-2048"})
	c.ask("root", "POST", c.mount+"/keys/ed25519", m{"type": "rsa-2048", "nonsense": 1})
	c.ask("root", "POST", c.mount+"/keys/bad", m{"type": "nonsense"})
	c.ask("root", "POST", c.mount+"/keys/bad", m{"type": "ecdsa-p256", "auto_rotate_period": "5m"})
	c.ask("root", "POST", c.mount+"/keys/bad", m{"type": "ecdsa-p256", "derived": true})
	c.ask("root", "POST", c.mount+"/keys/bad", m{"type": "ecdsa-p256", "convergent_encryption": true})
	c.ask("root", "POST", c.mount+"/keys/bad", m{"type": "ecdsa-p256", "key_size": 32})
	c.ask("root", "POST", c.mount+"/keys/bad", m{"type": "ecdsa-p256", "exportable": "perhaps"})
	c.ask("root", "POST", c.mount+"/keys/b!d", m{"type": "ecdsa-p256"})
	c.ask("root", "LIST", c.mount+"/keys", nil)
	c.ask("root", "GET", c.mount+"/keys?list=true", nil)
	c.ask("root", "GET", c.mount+"/keys/?list=true", nil)
	c.ask("root", "GET", c.mount+"/keys?list=perhaps", nil)
	c.ask("root", "GET", c.mount+"/keys", nil)
	c.ask("root", "DELETE", c.mount+"/keys/open", nil)
	c.ask("root", "DELETE", c.mount+"/keys/nothing", nil)
	c.ask("root", "POST", c.mount+"/keys/open/config", m{"deletion_allowed": true, "exportable": false})
	c.ask("root", "DELETE", c.mount+"/keys/open", nil)
	c.ask("root", "GET", c.mount+"/keys/open", nil)
	c.ask("root", "POST", c.mount+"/keys/nothing/config", m{"deletion_allowed": true})
	c.ask("root", "POST", c.mount+"/keys/nothing/rotate", nil)
	c.ask("root", "POST", c.mount+"/keys/nothing/trim", m{"min_available_version": 1})
}

func (c *conversation) signing() {
	digest := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, key := range []string{"ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "ed25519", "rsa-2048", "aes256-gcm96", "nothing"} {
		for _, request := range []m{
			{},
			{"input": "AAAA"},
			{"input": "AAAA", "marshaling_algorithm": "jws"},
			{"input": digest, "prehashed": true},
			{"input": digest, "prehashed": true, "hash_algorithm": "sha2-256", "signature_algorithm": "pkcs1v15"},
			{"input": "AAAA", "prehashed": true, "signature_algorithm": "pkcs1v15"},
			{"input": "AAAA", "prehashed": true, "signature_algorithm": "pss"},
			{"input": digest, "prehashed": true, "hash_algorithm": "none"},
			{"input": digest, "prehashed": true, "hash_algorithm": "none", "signature_algorithm": "pkcs1v15"},
			{"input": "AAAA", "hash_algorithm": "sha2-512"},
			{"input": "AAAA", "hash_algorithm": "sha3-256"},
			{"input": "AAAA", "algorithm": "sha2-384"},
			{"input": "AAAA", "hash_algorithm": "nonsense"},
			{"input": "AAAA", "marshaling_algorithm": "nonsense"},
			{"input": "AAAA", "marshaling_algorithm": ""},
			{"input": "AAAA", "signature_algorithm": "nonsense"},
			{"input": "AAAA", "salt_length": "hash"},
			{"input": "AAAA", "salt_length": "20"},
			{"input": "AAAA", "salt_length": 20},
			{"input": "AAAA", "salt_length": "9999"},
			{"input": "AAAA", "salt_length": "-7"},
			{"input": "AAAA", "salt_length": "nonsense"},
			{"input": "A!"},
			{"input": "AAAA", "key_version": 1},
			{"input": "AAAA", "key_version": "1"},
			{"input": "AAAA", "key_version": 2},
			{"input": "AAAA", "key_version": -1},
			{"input": "AAAA", "key_version": "x"},
			{"input": "AAAA", "nonsense": "x"},
			{"input": m{"a": 1}},
			{"batch_input": []any{}},
			{"batch_input": []any{m{"input": "AAAA", "reference": "r"}, m{"input": "A!"}, m{}}},
			{"batch_input": []any{m{"input": "AAAA"}}, "key_version": 2},
		} {
			c.ask("root", "POST", c.mount+"/sign/"+key, request)
		}
		c.ask("root", "POST", c.mount+"/sign/"+key+"/sha2-384", m{"input": "AAAA"})
		c.ask("root", "POST", c.mount+"/sign/"+key+"/nonsense", m{"input": "AAAA"})
	}
}

func (c *conversation) versions() {
	key := c.mount + "/keys/ecdsa-p256"
	for range 2 {
		c.ask("root", "POST", key+"/rotate", nil)
	}
	sign := func(version int) {
		c.ask("root", "POST", c.mount+"/sign/ecdsa-p256", m{"input": "AAAA", "key_version": version})
	}
	trim := func(version any) { c.ask("root", "POST", key+"/trim", m{"min_available_version": version}) }
	config := func(body m) { c.ask("root", "POST", key+"/config", body) }
	sign(0)
	sign(1)
	for _, body := range []m{
		{"min_encryption_version": 4}, {"min_decryption_version": 4}, {"min_encryption_version": -1}, {"min_decryption_version": -1},
		{"min_decryption_version": 0}, {"auto_rotate_period": 5}, {}, {"nonsense": 1},
	} {
		config(body)
	}
	trim(1)
	config(m{"min_decryption_version": 2})
	sign(1)
	config(m{"min_encryption_version": 1})
	config(m{"min_encryption_version": 3})
	sign(1)
	sign(2)
	sign(3)
	c.ask("root", "POST", c.mount+"/sign/ecdsa-p256", m{"batch_input": []any{m{"input": "AAAA"}}, "key_version": 2})
	c.ask("root", "GET", key, nil)
	c.ask("root", "POST", key+"/trim", nil)
	for _, v := range []any{-1, 0, 4, 3, 2, 1} {
		trim(v)
	}
	config(m{"min_decryption_version": 1})
	config(m{"min_encryption_version": 0})
	c.ask("root", "GET", key, nil)
}

func (c *conversation) tokensAndPolicies(policy string) {
	c.ask("root", "GET", "sys/policies/acl/"+policy, nil)
	c.ask("root", "GET", "sys/policies/acl/nothing", nil)
	c.ask("root", "PUT", "sys/policies/acl/"+policy, m{"policy": fmt.Sprintf(`# what a signer may
path "%[1]s/sign/+" { capabilities = ["update"] }
path "%[1]s/sign/rsa*" { capabilities = ["deny"] }
path "%[1]s/keys" { capabilities = ["list"] }
path "%[1]s/keys/*" {
  capabilities = ["read", "delete"] // no more
}
path "%[1]s/keys/ed25519" { capabilities = [] }
`, c.mount)})
	c.ask("root", "PUT", "sys/policies/acl/"+policy+"-bad", m{"policy": `path "x" { capabilities = ["nonsense"] }`})
	for _, request := range []m{
		{"ttl": "1h", "explicit_max_ttl": "30m"}, {"period": "10m"}, {"ttl": "-1h"}, {"ttl": "nonsense"}, {"num_uses": -1},
		{"type": "nonsense"}, {"type": "batch", "num_uses": 3}, {"type": "batch", "period": "1h"}, {"no_parent": true, "ttl": "60s"}, {"ttl": 90, "nonsense": 1},
		{"renewable": false, "ttl": "1h"}, {"ttl": "1h", "no_default_policy": true}, {"ttl": "1000h"}, {},
	} {
		request["policies"] = []string{policy}
		c.token("root", "some", request)
	}
	c.token("root", "signer", m{"policies": []string{policy}, "ttl": "1h", "explicit_max_ttl": "2h"})
	c.token("root", "fixed", m{"policies": []string{policy}, "ttl": "1h", "renewable": false})
	c.token("root", "batch", m{"policies": []string{policy}, "ttl": "1h", "type": "batch"})
	c.token("root", "thrice", m{"policies": []string{policy}, "ttl": "1h", "num_uses": 3})
	for _, as := range []string{"root", "signer", "fixed", "batch"} {
		c.ask(as, "GET", "auth/token/lookup-self", nil)
		c.ask(as, "POST", "auth/token/renew-self", nil)
		c.ask(as, "POST", "auth/token/renew-self", m{"increment": "10m"})
		c.ask(as, "POST", "auth/token/renew-self", m{"increment": "2000h"})
		c.ask(as, "PUT", "auth/token/renew-self", m{"increment": 600})
		c.ask(as, "GET", "auth/token/lookup-self", nil)
		c.ask(as, "POST", "sys/capabilities-self", m{"paths": []string{c.mount + "/sign/ed25519", c.mount + "/keys/ed25519", c.mount + "/keys/x", "nothing/x"}})
		c.ask(as, "POST", "sys/capabilities-self", m{"paths": []string{c.mount + "/sign/rsa-2048"}})
		c.ask(as, "POST", "sys/capabilities-self", m{})
	}
	for _, path := range []string{"/keys/x", "/keys/ed25519", "/nothing", "/sign/x"} {
		c.ask("signer", "GET", c.mount+path, nil)
		c.ask("signer", "POST", c.mount+path, m{"input": "AAAA"})
		c.ask("signer", "LIST", c.mount+path, nil)
		c.ask("signer", "DELETE", c.mount+path, nil)
	}
	c.ask("signer", "POST", c.mount+"/sign/ed25519", m{"input": "AAAA"})
	c.ask("signer", "POST", c.mount+"/sign/rsa-2048", m{"input": "AAAA"})
	c.ask("signer", "POST", c.mount+"/sign/ed25519/sha2-256", m{"input": "AAAA"})
	c.ask("signer", "LIST", c.mount+"/keys", nil)
	c.ask("signer", "GET", "nothing/x", nil)
	c.ask("signer", "GET", "sys/internal/ui/mounts/"+c.mount, nil)
	c.ask("signer", "GET", "sys/internal/ui/mounts/nothing", nil)
	c.ask("signer", "POST", "auth/token/create", m{})
	for range 4 {
		c.ask("thrice", "POST", c.mount+"/sign/ed25519", m{"input": "AAAA"})
	}
	for _, as := range []string{"batch", "signer", "signer"} {
		c.ask(as, "POST", "auth/token/revoke-self", nil)
	}
	c.ask("root", "POST", "auth/token/revoke", m{"token": "nothing"})
	c.ask("root", "POST", "auth/token/revoke", m{})
	c.ask("root", "DELETE", "sys/policies/acl/nothing", nil)
}

func (c *conversation) logins(policy string, ca *CA) {
	root, s := "root", c.s
	c.ask(root, "POST", "sys/auth/approle", m{"type": "approle"})
	c.ask(root, "POST", "sys/auth/approle", m{"type": "approle"})
	c.ask(root, "POST", "sys/auth/other", m{"type": "nonsense"})
	c.ask(root, "POST", "auth/approle/role/daemon", m{"token_policies": policy, "token_ttl": "10m", "token_max_ttl": "1h"})
	c.ask(root, "GET", "auth/approle/role/nothing/role-id", nil)
	data, _ := c.ask(root, "GET", "auth/approle/role/daemon/role-id", nil)["data"].(map[string]any)
	roleID := data["role_id"]
	data, _ = c.ask(root, "POST", "auth/approle/role/daemon/secret-id", nil)["data"].(map[string]any)
	secretID := data["secret_id"]
	for _, body := range []m{
		{}, {"role_id": roleID}, {"role_id": "nothing", "secret_id": "x"}, {"role_id": roleID, "secret_id": "x"}, {"secret_id": secretID},
	} {
		c.ask("", "POST", "auth/approle/login", body)
	}
	auth, _ := c.ask("", "POST", "auth/approle/login", m{"role_id": roleID, "secret_id": secretID})["auth"].(map[string]any)
	c.tokens["logged in"], _ = auth["client_token"].(string)
	c.ask("logged in", "POST", "auth/token/renew-self", nil)
	c.ask("logged in", "POST", "auth/token/renew-self", m{"increment": "5m"})
	c.ask("logged in", "POST", "auth/token/renew-self", m{"increment": "5h"})
	c.ask("logged in", "GET", "auth/token/lookup-self", nil)
	c.ask("", "GET", "auth/approle/login", nil)

	c.ask(root, "POST", "sys/auth/cert", m{"type": "cert"})
	c.ask(root, "POST", "auth/cert/certs/daemon", m{"certificate": ca.PEM(), "token_policies": []string{policy}, "token_ttl": 600})
	c.ask("", "POST", "auth/cert/login", nil)
	certFile, keyFile := ca.ClientCert("daemon")
	other := NewCA(c.t, c.t.TempDir())
	otherCert, otherKey := other.ClientCert("daemon")
	for _, show := range []struct{ cert, key, name string }{
		{certFile, keyFile, ""}, {certFile, keyFile, "daemon"}, {certFile, keyFile, "nothing"}, {otherCert, otherKey, ""},
	} {
		status, reply, err := s.CallWithCert(show.cert, show.key, "POST", "auth/cert/login", m{"name": show.name})
		if err != nil {
			c.t.Fatal(err)
		}
		c.note("login with a certificate as "+show.name, status, reply)
	}
	for _, kind := range []string{"kubernetes", "jwt"} {
		c.ask(root, "POST", "sys/auth/"+kind, m{"type": kind})
		c.ask("", "POST", "auth/"+kind+"/login", m{"jwt": "x"})
	}
}

// The test server answers as the recorded Vault did, and the record is what the
// binary answers where there is one.
func TestTheTestServerAnswersAsVault(t *testing.T) {
	record := os.Getenv("CHANCERY_TEST_VAULT_RECORD") != ""
	if _, ok := FindVault(); ok {
		t.Run("vault", func(t *testing.T) {
			v := Vault(t)
			lines := converse(t, v.Server, v.CA())
			if record {
				if err := os.WriteFile(recorded, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			compare(t, lines)
		})
	} else if record || required() {
		t.Error("no Vault to compare with")
	}
	t.Run("fake", func(t *testing.T) {
		f := Fake(t)
		compare(t, converse(t, f.Server, f.CA()))
	})
}

func compare(t *testing.T, got []string) {
	t.Helper()
	b, err := os.ReadFile(recorded)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(got) != len(want) {
		t.Errorf("%d exchanges, recorded are %d", len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] && !sameButForChance(unhurried(got[i]), unhurried(want[i])) {
			t.Errorf("exchange %d\n got %s\nwant %s", i+1, got[i], want[i])
		}
	}
}

// A namespace is nothing to the community edition; the test server can be the
// other one.
func TestNamespaces(t *testing.T) {
	get := func(s *Server, namespace string) int {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", s.Address()+"/v1/auth/token/lookup-self", nil)
		req.Header.Set("X-Vault-Token", s.RootToken())
		req.Header.Set("X-Vault-Namespace", namespace)
		resp, err := s.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	Either(t, func(t *testing.T, s *Server) {
		if strings.HasPrefix(s.Kind(), "external") {
			t.Skip("it may be any edition")
		}
		if got := get(s, "team/prod"); got != 200 {
			t.Errorf("status %d, want 200", got)
		}
	})
	f := Fake(t)
	f.Namespaces("team/prod")
	for namespace, want := range map[string]int{"": 200, "root": 200, "team/prod": 200, "team/prod/": 200, "team": 404} {
		if got := get(f.Server, namespace); got != want {
			t.Errorf("namespace %q: status %d, want %d", namespace, got, want)
		}
	}
}
