package pkcs11_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
	"chancery/keystore/pkcs11"
	"chancery/softhsm"
	"chancery/softhsm/faultmodule"
	"chancery/softhsm/softhsmtest"
)

// faulty returns the configuration of a SoftHSM token behind the fault module.
func faulty(t *testing.T) (pkcs11.Config, *softhsm.Token, *faultmodule.Module) {
	t.Helper()
	token := softhsmtest.NewFaulty(t)
	cfg := config(t, token.Token)
	cfg.Module, cfg.Env = token.Module, token.Env()
	cfg.Confinement.Write = []string{filepath.Dir(cfg.Env["FAULTMODULE_CONTROL"])} // and the counters beside it
	return cfg, token.Token, token.Faults
}

func order(t *testing.T, m *faultmodule.Module, orders ...string) {
	t.Helper()
	if err := m.Order(orders...); err != nil {
		t.Fatal(err)
	}
}

// rounds returns the full count of a long scenario in the soak, and the short
// one otherwise, and says which.
func rounds(t *testing.T, short, full int, what string) int {
	t.Helper()
	if os.Getenv("CHANCERY_SOAK") == "1" {
		t.Logf("all %d %s", full, what)
		return full
	}
	t.Logf("%d of %d %s (CHANCERY_SOAK=1 for all)", short, full, what)
	return short
}

// The contract holds behind the fault module as long as it has no orders.
func TestContractBehindTheFaultModule(t *testing.T) {
	cfg, _, _ := faulty(t)
	keystoretest.Run(t, func(t *testing.T) keystore.Provider { return open(t, cfg) })
}

// P10, I7: whatever ends and starts, a wrong PIN is one attempt.
func TestP10AHundredRestartsAndKillsAreOneAttempt(t *testing.T) {
	cfg, token, m := faulty(t)
	cfg.Workers = 2
	right, err := os.ReadFile(token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	write(t, token.PINFile, []byte("not-the-PIN\n"))
	for range 100 {
		p := open(t, cfg)
		if err := p.Probe(t.Context()); !errors.Is(err, keystore.ErrPINRejected) {
			t.Fatalf("probe: %v", err)
		}
		p.Close()
	}
	killed := 0
	for range 100 {
		p := open(t, cfg)
		for end := time.Now().Add(10 * time.Millisecond); time.Now().Before(end); {
			for _, pid := range children(t) { // whatever it is doing
				if syscall.Kill(pid, syscall.SIGKILL) == nil {
					killed++
				}
			}
		}
		p.Close()
	}
	if n := m.Count("C_Login"); n != 1 {
		t.Errorf("C_Login was called %d times", n)
	}
	write(t, token.PINFile, right)
	p := open(t, cfg)
	if err := p.Probe(t.Context()); err != nil {
		t.Errorf("with the right PIN: %v", err)
	}
	t.Attr("provoked", fmt.Sprintf("a wrong PIN; 100 restarts, %d kills", killed))
	t.Attr("seen", "C_Login called once")
	t.Attr("promises", "I7")
}

// children returns the processes that this one has begun and not waited for.
func children(t *testing.T) (pids []int) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		if err != nil {
			continue // the thread has gone
		}
		for _, field := range strings.Fields(string(b)) {
			var pid int
			fmt.Sscan(field, &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}

// P12: a module that hangs, again and again. Each time the token signs again
// when the deadline has passed, and nothing is left behind.
func TestP12NothingIsLeftOfModulesThatHang(t *testing.T) {
	cfg, _, m := faulty(t)
	cfg.Deadlines.Sign = 100 * time.Millisecond
	p, r := withReserves(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	r.await(t, p) // when the clerk has gone
	once := func() time.Duration {
		for range 10 { // a worker that has done nothing yet is soon left alone
			if _, err := k.Sign(t.Context(), message); err != nil {
				t.Fatal(err)
			}
		}
		order(t, m, "C_Sign hang times=1")
		began := time.Now()
		if _, err := k.Sign(t.Context(), message); err != nil { // by another worker, when the first was killed
			t.Fatal(err)
		}
		return time.Since(began)
	}
	once()
	descriptors, threads := count(t, "fd"), count(t, "task")
	var took []time.Duration
	n := rounds(t, 20, 1000, "hangs")
	for range n {
		took = append(took, once())
	}
	slices.Sort(took)
	eventually(t, "nothing is left behind", func() bool {
		return len(children(t)) == 2 && count(t, "fd") <= descriptors && count(t, "task") <= threads+2
	})
	over := took[len(took)*99/100] - cfg.Deadlines.Sign
	t.Logf("from a hang to the signature by another worker: p50 %v, p99 %v, %v at most", took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
	t.Attr("provoked", fmt.Sprintf("C_Sign hang, %d times", n))
	t.Attr("seen", "each signed by the next worker; no descriptor, thread or process left")
	t.Attr("recovered", fmt.Sprintf("%v after the deadline (p99)", over.Round(time.Millisecond)))
}

// P18, I5: killed again and again while it makes a key. Nothing is overwritten,
// every key that came to be of it is listed, and those before it sign.
func TestP18KilledAgainAndAgainWhileGenerating(t *testing.T) {
	cfg, _, m := faulty(t)
	p := open(t, cfg)
	before, k := newKey(t, p, keystore.ES256)
	n := rounds(t, 20, 100, "kills")
	tried := map[string]bool{}
	for i := range n {
		order(t, m, []string{
			"C_GenerateKeyPair kill times=1", "C_GenerateKeyPair after kill times=1",
			"C_GenerateKeyPair after rv CKR_DEVICE_ERROR times=1", "C_GenerateKeyPair segv times=1",
		}[i%4])
		id := keystore.NewKeyID()
		tried[id.String()] = true
		if _, err := p.Generate(t.Context(), id, keystore.PurposeJWT, keystore.ES256); !errors.Is(err, keystore.ErrUncertain) {
			t.Errorf("a generation that was cut short: %v", err)
		}
	}
	order(t, m)
	made := m.Count("C_GenerateKeyPair") - 2 // the probe key's and the first one's
	if made != uint64(n) {
		t.Errorf("C_GenerateKeyPair was called %d times for %d keys: some were tried again", made, n)
	}
	objects, err := p.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	for _, o := range objects {
		if tried[o.ID] {
			left++
		}
	}
	if left != n/2 {
		t.Errorf("%d are listed of the %d whose generation went through", left, n/2)
	}
	if _, err := k.Sign(t.Context(), message); err != nil {
		t.Errorf("the key before them: %v", err)
	}
	if spki, err := p.Find(t.Context(), before.ID, keystore.PurposeJWT, before.Algorithm); err != nil || string(spki) != string(before.SPKI) {
		t.Errorf("the key before them is another one: %v", err)
	}
	t.Attr("provoked", fmt.Sprintf("C_GenerateKeyPair kill, after kill, after rv, segv: %d times", n))
	t.Attr("promises", "I5")
	t.Attr("seen", fmt.Sprintf("each tried once, all %d that came to be are listed", left))
}

// P29: a search that fails is done once more, by another worker.
func TestP29ASearchThatFailsIsDoneAgain(t *testing.T) {
	cfg, _, m := faulty(t)
	p := open(t, cfg)
	ref, _ := newKey(t, p, keystore.ES256)
	order(t, m, "C_FindObjectsInit rv CKR_GENERAL_ERROR times=1")
	if _, err := p.Find(t.Context(), ref.ID, keystore.PurposeJWT, ref.Algorithm); err != nil {
		t.Error(err)
	}
	if n := m.Count("C_FindObjectsInit:ordered"); n != 1 {
		t.Errorf("%d searches failed", n)
	}
}

// P26: a vendor that lets nobody sign in read-only sessions, whatever it calls
// that.
func TestP26NoReadOnlySessions(t *testing.T) {
	for _, code := range []string{"CKR_SESSION_READ_ONLY", "CKR_FUNCTION_FAILED", "CKR_SESSION_PARALLEL_NOT_SUPPORTED"} {
		cfg, _, m := faulty(t)
		order(t, m, "C_OpenSession rv "+code+" mode=ro")
		p := open(t, cfg)
		_, k := newKey(t, p, keystore.ES256)
		if _, err := k.Sign(t.Context(), message); err != nil {
			t.Errorf("%s: %v", code, err)
		}
		if n := m.Count("C_OpenSession:ordered"); n == 0 {
			t.Errorf("%s: no read-only session was refused", code)
		}
	}
	t.Attr("provoked", "C_OpenSession rv … mode=ro")
	t.Attr("seen", "signs in read-write sessions")
}

// P24: a digest of the wrong length does not reach the token.
func TestP24AWrongDigestDoesNotReachTheToken(t *testing.T) {
	cfg, _, m := faulty(t)
	p := open(t, cfg)
	id := keystore.NewKeyID()
	spki, err := p.Generate(t.Context(), id, keystore.PurposeDigest, keystore.ES256)
	if err != nil {
		t.Fatal(err)
	}
	k, err := p.Open(t.Context(), keystore.KeyRef{ID: id, Algorithm: keystore.ES256, SPKI: spki}, keystore.PurposeDigest)
	if err != nil {
		t.Fatal(err)
	}
	before := m.Count("C_SignInit")
	for _, n := range []int{0, 1, 20, 31, 33, 48, 64, 1000} {
		if _, err := k.Sign(t.Context(), make([]byte, n)); !errors.Is(err, keystore.ErrMessage) {
			t.Errorf("a digest of %d bytes: %v, want %v", n, err, keystore.ErrMessage)
		}
	}
	if n := m.Count("C_SignInit"); n != before {
		t.Errorf("the token was asked %d times", n-before)
	}
	if _, err := k.Sign(t.Context(), make([]byte, 32)); err != nil {
		t.Error(err)
	}
	t.Attr("provoked", "digests of eight wrong lengths")
	t.Attr("seen", "refused, C_SignInit not called")
}

// Session copies sign, and are gone when the key leaves active: with their
// process, which the device does not outlive.
func TestCopiesAreDroppedWithTheirWorkers(t *testing.T) {
	cfg, _, m := faulty(t)
	cfg.Workers = 2
	p := open(t, cfg)
	both(t, p)
	ref, k := newKey(t, p, keystore.ES256)
	stop := signing(t, k, 8)
	eventually(t, "both have signed", func() bool { n := pkcs11.Signed(p); return len(n) == 2 && n[0] > 0 && n[1] > 0 })
	stop()
	if n := m.Count("C_CopyObject"); n != 2 {
		t.Errorf("%d copies, want one for each worker", n)
	}
	if err := p.Destroy(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := k.Sign(ctx, message); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("a key that was destroyed: %v, want %v", err, keystore.ErrNotFound)
	}
}

// A worker of a breaker's last resort: nothing is asked of the token while it is
// left alone but what tries it out, and an operator need not wait for that.
func TestP04AnOperatorEndsThePause(t *testing.T) {
	cfg, token, m := faulty(t)
	p := open(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	order(t, m, "C_Sign rv CKR_DEVICE_ERROR")
	eventually(t, "the token is left alone", func() bool {
		k.Sign(t.Context(), message)
		return p.Status()[0].State == keystore.TokenUnavailable
	})
	order(t, m)
	if err := p.Retry(t.Context(), token.Serial); err != nil {
		t.Errorf("retry: %v", err)
	}
	if _, err := k.Sign(t.Context(), message); err != nil {
		t.Errorf("after the retry: %v", err)
	}
}
