package pkcs11_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"chancery/keystore"
	"chancery/keystore/pkcs11"
	"chancery/softhsm"
	"chancery/softhsm/softhsmtest"
)

// waitFor returns the status once the token is in a state.
func waitFor(t *testing.T, p *pkcs11.Provider, state keystore.TokenState) keystore.TokenStatus {
	t.Helper()
	eventually(t, string(state), func() bool { return p.Status()[0].State == state })
	return p.Status()[0]
}

// missing ends a test for want of a tool, which fails it where CI is set:
// scripts/test has installed all of them.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// spied returns a configuration whose module writes every call to a file.
func spied(t *testing.T, token *softhsm.Token) (pkcs11.Config, func() string) {
	t.Helper()
	spies, _ := filepath.Glob("/usr/lib/*/pkcs11/pkcs11-spy.so")
	if len(spies) == 0 {
		missing(t, "no pkcs11-spy.so (it comes with opensc)")
	}
	cfg := config(t, token)
	out := filepath.Join(t.TempDir(), "spy.log")
	cfg.Module, cfg.Confinement.Write = spies[0], []string{filepath.Dir(out)}
	cfg.Env = map[string]string{"PKCS11SPY": token.Module, "PKCS11SPY_OUTPUT": out, "SOFTHSM2_CONF": token.Conf}
	return cfg, func() string {
		b, err := os.ReadFile(out)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(b)
	}
}

// A wrong PIN is offered once, whatever restarts or dies, until an operator
// says otherwise.
func TestP10WrongPINIsOneAttempt(t *testing.T) {
	token := softhsmtest.New(t)
	right, err := os.ReadFile(token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	wrong := []byte("a-wrong-PIN-7391")
	write(t, token.PINFile, wrong)
	cfg, calls := spied(t, token)
	var log bytes.Buffer
	var mu sync.Mutex
	cfg.Log = slog.New(slog.NewTextHandler(&lockedWriter{&mu, &log}, nil))
	logins := func() int { return strings.Count(calls(), "C_Login\n") }
	for range 3 {
		p := open(t, cfg)
		s := waitFor(t, p, keystore.TokenPINRejected)
		if err := p.Probe(t.Context()); !errors.Is(err, keystore.ErrPINRejected) || !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("probe: %v, want %v", err, keystore.ErrPINRejected)
		} else if strings.Contains(err.Error()+s.Err, string(wrong)) {
			t.Error("the PIN is in an error")
		}
		p.Close()
	}
	if n := logins(); n != 1 {
		t.Errorf("%d logins with one wrong PIN, want 1", n)
	}
	// The same wrong PIN from another file is the same PIN.
	write(t, token.PINFile, append(wrong, '\n'))
	p := open(t, cfg)
	waitFor(t, p, keystore.TokenPINRejected)
	if n := logins(); n != 1 {
		t.Errorf("%d logins after the file was rewritten, want 1", n)
	}
	// An operator who has written the file anew gets one more attempt, and not
	// another one for asking again. What it was: each retry was a login with the
	// PIN that was known to be refused.
	for range 3 {
		if err := p.Retry(t.Context(), token.Serial); !errors.Is(err, keystore.ErrPINRejected) {
			t.Errorf("retry with the same PIN: %v, want %v", err, keystore.ErrPINRejected)
		} else if strings.Contains(err.Error(), string(wrong)) {
			t.Error("the PIN is in an error")
		}
	}
	if err := p.Retry(t.Context(), token.Serial); err == nil || !strings.Contains(err.Error(), "still holds") {
		t.Errorf("retry with the same PIN: %v", err)
	}
	if n := logins(); n != 2 {
		t.Errorf("%d logins after the file was rewritten and four retries, want 2", n)
	}
	write(t, token.PINFile, right)
	if err := p.Retry(t.Context(), token.Label); err != nil {
		t.Errorf("retry with the right PIN: %v", err)
	}
	if n := logins(); n != 3 {
		t.Errorf("%d logins with the right PIN too, want 3", n)
	}
	if err := p.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	p.Close()
	ledger, _ := filepath.Glob(filepath.Join(cfg.StateDir, "pin-*.json"))
	if len(ledger) != 1 {
		t.Fatalf("ledgers: %v", ledger)
	}
	book, err := os.ReadFile(ledger[0])
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, secret := range []string{string(wrong), strings.TrimSpace(string(right))} {
		if strings.Contains(log.String()+string(book), secret) {
			t.Error("a PIN is in the log or in the ledger")
		}
	}
	if err := p.Retry(t.Context(), "another"); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("retry of another token: %v", err)
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (w *lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPINFileMustBeItsOwners(t *testing.T) {
	token := softhsmtest.New(t)
	if err := os.Chmod(token.PINFile, 0o640); err != nil {
		t.Fatal(err)
	}
	p := open(t, config(t, token))
	if s := waitFor(t, p, keystore.TokenUnavailable); !strings.Contains(s.Err, "0640") {
		t.Errorf("state says %q", s.Err)
	}
	if err := os.Chmod(token.PINFile, 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, p, keystore.TokenReady) // by itself
}

// What it was: closing logged "token state unavailable: closed" as a warning.
func TestACloseIsNoWarning(t *testing.T) {
	for _, ready := range []bool{true, false} {
		cfg := config(t, softhsmtest.New(t))
		var log bytes.Buffer
		var mu sync.Mutex
		cfg.Log = slog.New(slog.NewTextHandler(&lockedWriter{&mu, &log}, nil))
		p := open(t, cfg)
		if ready {
			waitFor(t, p, keystore.TokenReady)
		}
		p.Close()
		if s := log.String(); strings.Contains(s, "WARN") || !strings.Contains(s, "closed") {
			t.Errorf("ready %v:\n%s", ready, s)
		}
	}
}

func TestP14ModuleDoesNotLoad(t *testing.T) {
	cfg := config(t, softhsmtest.New(t))
	cfg.Module = "/nowhere/module.so"
	p := open(t, cfg)
	waitFor(t, p, keystore.TokenUnavailable)
	if err := p.Probe(t.Context()); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("probe: %v, want %v", err, keystore.ErrUnavailable)
	}
}

func TestP16SlotsAreRefused(t *testing.T) {
	cfg := config(t, softhsmtest.New(t))
	cfg.URI = strings.Replace(cfg.URI, "serial=", "slot-id=0;serial=", 1)
	if _, err := pkcs11.Open(cfg); err == nil || !strings.Contains(err.Error(), "slot") {
		t.Errorf("slot-id: %v", err)
	}
}

func TestP17TwoTokensOfOneLabel(t *testing.T) {
	token := softhsmtest.New(t)
	twin := softhsmtest.New(t)
	// Another token of the same label appears where the first one is.
	from, err := filepath.Glob(filepath.Join(twin.Dir, "tokens", "*"))
	if err != nil || len(from) != 1 {
		t.Fatal(from, err)
	}
	if err := os.Rename(from[0], filepath.Join(token.Dir, "tokens", filepath.Base(from[0]))); err != nil {
		t.Fatal(err)
	}
	cfg := config(t, token)
	byLabel := cfg
	byLabel.StateDir, byLabel.URI = t.TempDir(), "pkcs11:token="+token.Label+"?pin-source="+token.PINFile
	waitFor(t, open(t, byLabel), keystore.TokenAmbiguous)
	waitFor(t, open(t, cfg), keystore.TokenReady) // by serial number
}

// What it was: two keystores that name one token differently both offered it a
// wrong PIN, and both made keys on it.
func TestP17OneTokenUnderTwoNames(t *testing.T) {
	token := softhsmtest.New(t)
	first, calls := spied(t, token)
	logins := func() int { return strings.Count(calls(), "C_Login\n") }
	first.Name = "first"
	p := open(t, first)
	waitFor(t, p, keystore.TokenReady)
	kill(t, p)
	before := logins()
	second := first
	second.Name, second.URI = "second", "pkcs11:token="+token.Label+"?pin-source="+token.PINFile
	q := open(t, second)
	s := waitFor(t, q, keystore.TokenUnavailable)
	if !strings.Contains(s.Err, "keystore first") || !strings.Contains(s.Err, "hint") {
		t.Errorf("state says %q", s.Err)
	}
	if err := q.Retry(t.Context(), token.Label); !errors.Is(err, keystore.ErrUnavailable) || !strings.Contains(err.Error(), "keystore first") {
		t.Errorf("retry: %v", err)
	}
	if n := logins() - before; n != 0 {
		t.Errorf("%d logins to a token that is in use", n)
	}
	if err := p.Probe(t.Context()); err != nil {
		t.Errorf("the first one: %v", err)
	}
	p.Close()
	waitFor(t, q, keystore.TokenReady) // by itself
}

func TestP30TokenReplaced(t *testing.T) {
	token := softhsmtest.New(t)
	twin := softhsmtest.New(t)
	cfg := config(t, token)
	cfg.URI = "pkcs11:token=" + token.Label + "?pin-source=" + token.PINFile
	p := open(t, cfg)
	if err := p.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Close()
	cfg.Env, cfg.URI = twin.Env(), "pkcs11:token="+twin.Label+"?pin-source="+twin.PINFile
	p = open(t, cfg)
	s := waitFor(t, p, keystore.TokenChanged)
	if err := p.Probe(t.Context()); !errors.Is(err, keystore.ErrTokenChanged) {
		t.Errorf("probe: %v, want %v", err, keystore.ErrTokenChanged)
	}
	if !strings.Contains(s.Err, token.Serial) || !strings.Contains(s.Err, twin.Serial) {
		t.Errorf("state says %q", s.Err)
	}
	if err := p.Retry(t.Context(), twin.Label); err != nil { // an operator means it
		t.Error(err)
	}
}

// What it was: the outcome of a retry that found no token was none of keystore's
// errors, an internal one to the API. And the token that held the keys had been
// forgotten by then: the next one of that name would have been taken for it.
func TestP30RetryWithoutAToken(t *testing.T) {
	token := softhsmtest.New(t)
	twin := softhsmtest.New(t)
	cfg := config(t, token)
	cfg.URI = "pkcs11:token=" + token.Label + "?pin-source=" + token.PINFile
	p := open(t, cfg)
	waitFor(t, p, keystore.TokenReady)
	p.Close()
	cfg.Env, cfg.URI = twin.Env(), "pkcs11:token="+twin.Label+"?pin-source="+twin.PINFile
	p = open(t, cfg)
	waitFor(t, p, keystore.TokenChanged)
	tokens, away := filepath.Join(twin.Dir, "tokens"), filepath.Join(twin.Dir, "away")
	if err := errors.Join(os.Rename(tokens, away), os.Mkdir(tokens, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := p.Retry(t.Context(), twin.Label); !errors.Is(err, keystore.ErrUnavailable) || errors.Is(err, keystore.ErrTokenChanged) {
		t.Errorf("retry without a token: %v, want %v", err, keystore.ErrUnavailable)
	}
	if err := errors.Join(os.Remove(tokens), os.Rename(away, tokens)); err != nil {
		t.Fatal(err)
	}
	s := waitFor(t, p, keystore.TokenChanged)
	if !strings.Contains(s.Err, "`chancery token retry test`") {
		t.Errorf("the hint does not name the keystore: %s", s.Err)
	}
	if err := p.Retry(t.Context(), twin.Label); err != nil {
		t.Error(err)
	}
}

func TestP30TokenDeletedWhileItSigns(t *testing.T) {
	token := softhsmtest.New(t)
	p := open(t, config(t, token))
	_, k := newKey(t, p, keystore.ES256)
	if err := os.RemoveAll(filepath.Join(token.Dir, "tokens")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(token.Dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign(t.Context(), message); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("sign: %v, want %v", err, keystore.ErrUnavailable)
	}
	waitFor(t, p, keystore.TokenUnavailable)
}

func TestP30ProbeKeyGone(t *testing.T) {
	token := softhsmtest.New(t)
	cfg := config(t, token)
	p := open(t, cfg)
	if err := p.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	ref, ok := p.ProbeKey()
	if !ok {
		t.Fatal("no probe key")
	}
	p.Close()
	for _, kind := range []string{"privkey", "pubkey"} {
		tool(t, token, "--delete-object", "--type", kind, "--id", ref.ID.String())
	}
	p = open(t, cfg)
	waitFor(t, p, keystore.TokenChanged)
	// It is the probe key that is not found, and nothing that a caller asked for.
	if err := p.Probe(t.Context()); !errors.Is(err, keystore.ErrTokenChanged) || errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("probe: %v, want %v", err, keystore.ErrTokenChanged)
	}
}

// tool runs OpenSC's pkcs11-tool, logged in, on a token.
func tool(t *testing.T, token *softhsm.Token, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("pkcs11-tool")
	if err != nil {
		missing(t, "no pkcs11-tool (it comes with opensc)")
	}
	pin, err := os.ReadFile(token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), path, append([]string{
		"--module", token.Module, "--token-label", token.Label, "--login", "--pin", strings.TrimSpace(string(pin))}, args...)...)
	cmd.Env = []string{"SOFTHSM2_CONF=" + token.Conf}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("pkcs11-tool %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestI8KeysAreSignOnly(t *testing.T) {
	token := softhsmtest.New(t)
	p := open(t, config(t, token))
	for _, alg := range []keystore.Algorithm{keystore.ES256, keystore.RS256, keystore.EdDSA} {
		newKey(t, p, alg)
	}
	out := tool(t, token, "--list-objects", "--type", "privkey")
	keys := strings.Split(out, "Private Key Object")[1:]
	if len(keys) != 4 { // and the probe key
		t.Errorf("%d private keys:\n%s", len(keys), out)
	}
	for _, k := range keys {
		for _, want := range []string{"Usage:      sign\n", "sensitive, always sensitive, never extractable, local"} {
			if !strings.Contains(k, want) {
				t.Errorf("not %q:\n%s", want, k)
			}
		}
	}
}

func TestNoPrivateValueIsEverRead(t *testing.T) {
	cfg, calls := spied(t, softhsmtest.New(t))
	p := open(t, cfg)
	for _, alg := range []keystore.Algorithm{keystore.ES256, keystore.PS256, keystore.EdDSA} {
		_, k := newKey(t, p, alg)
		if _, err := k.Sign(t.Context(), message); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Close()
	log := calls()
	if !strings.Contains(log, "C_Sign\n") {
		t.Fatal("the spy saw no signature")
	}
	for _, name := range []string{"CKA_VALUE ", "CKA_PRIVATE_EXPONENT", "CKA_PRIME_1", "CKA_PRIME_2", "CKA_EXPONENT_1", "CKA_COEFFICIENT", "C_WrapKey", "C_Logout"} {
		if strings.Contains(log, name) {
			t.Errorf("the log shows %s", name)
		}
	}
}

// P27: however many signatures, no search and no login more.
func TestP27NothingIsSearchedToSign(t *testing.T) {
	cfg, calls := spied(t, softhsmtest.New(t))
	p := open(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	searches := strings.Count(calls(), "C_FindObjectsInit\n")
	for range 10 {
		if _, err := k.Sign(t.Context(), message); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(calls(), "C_FindObjectsInit\n"); n != searches {
		t.Errorf("%d searches for ten signatures", n-searches)
	}
}

func TestP25KeysNotAsRequired(t *testing.T) {
	token := softhsmtest.New(t)
	label := pkcs11.LabelOf(keystore.PurposeJWT, keystore.ES256)
	id := keystore.NewKeyID()
	tool(t, token, "--keypairgen", "--key-type", "EC:prime256v1", "--id", id.String(), "--label", label, "--usage-sign", "--usage-derive")
	p := open(t, config(t, token)) // only now: SoftHSM may miss what another process makes meanwhile
	_, err := p.Find(t.Context(), id, keystore.PurposeJWT, keystore.ES256)
	if !errors.Is(err, keystore.ErrAttributes) || !strings.Contains(err.Error(), "CKA_DERIVE") {
		t.Errorf("a key that derives: %v", err)
	}
	list, err := p.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(o keystore.Object) bool { return o.ID == id.String() })
	if i < 0 || !slices.Contains(list[i].Missing, "CKA_DERIVE") || list[i].SPKI == nil {
		t.Errorf("listed as %+v", list)
	}
}

func TestP17TwoKeysOfOneID(t *testing.T) {
	token := softhsmtest.New(t)
	p := open(t, config(t, token))
	ref, _ := newKey(t, p, keystore.ES256)
	label := pkcs11.LabelOf(keystore.PurposeJWT, keystore.ES256)
	p.Close()
	tool(t, token, "--keypairgen", "--key-type", "EC:prime256v1", "--id", ref.ID.String(), "--label", label, "--usage-sign")
	p = open(t, config(t, token)) // SoftHSM may miss what another process makes meanwhile
	if _, err := p.Find(t.Context(), ref.ID, keystore.PurposeJWT, keystore.ES256); !errors.Is(err, keystore.ErrAmbiguous) {
		t.Errorf("%v, want %v", err, keystore.ErrAmbiguous)
	}
}

func TestP19HalfPairsAreListedAndNotUsed(t *testing.T) {
	token := softhsmtest.New(t)
	p := open(t, config(t, token))
	private, _ := newKey(t, p, keystore.ES256)
	public, _ := newKey(t, p, keystore.ES256)
	p.Close()
	tool(t, token, "--delete-object", "--type", "pubkey", "--id", private.ID.String())
	tool(t, token, "--delete-object", "--type", "privkey", "--id", public.ID.String())
	tool(t, token, "--keypairgen", "--key-type", "EC:prime256v1") // without CKA_ID
	p = open(t, config(t, token))
	if _, err := p.Find(t.Context(), private.ID, keystore.PurposeJWT, keystore.ES256); !errors.Is(err, keystore.ErrAttributes) {
		t.Errorf("P20, a private half alone: %v, want %v", err, keystore.ErrAttributes)
	}
	if _, err := p.Find(t.Context(), public.ID, keystore.PurposeJWT, keystore.ES256); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("a public half alone: %v, want %v", err, keystore.ErrNotFound)
	}
	if _, err := p.Generate(t.Context(), public.ID, keystore.PurposeJWT, keystore.ES256); !errors.Is(err, keystore.ErrExists) {
		t.Errorf("generating under its id: %v, want %v", err, keystore.ErrExists)
	}
	list, err := p.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for id, missing := range map[string]string{"": "CKA_ID", public.ID.String(): "private half"} {
		if !slices.ContainsFunc(list, func(o keystore.Object) bool { return o.ID == id && slices.Contains(o.Missing, missing) }) {
			t.Errorf("nothing listed with id %q missing %s: %+v", id, missing, list)
		}
	}
	if !slices.ContainsFunc(list, func(o keystore.Object) bool { return o.ID == private.ID.String() && o.SPKI == nil }) {
		t.Errorf("the private half is not listed: %+v", list)
	}
}
