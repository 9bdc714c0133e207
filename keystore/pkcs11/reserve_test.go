package pkcs11_test

import (
	"slices"
	"syscall"
	"testing"

	"chancery/keystore"
	"chancery/keystore/pkcs11"
)

// reserveOf waits until there is one besides the worker, and returns its process.
func reserveOf(t *testing.T, p *pkcs11.Provider) (pid int) {
	t.Helper()
	eventually(t, "a worker and its reserve", func() bool {
		pids, worker := children(t), p.WorkerPID()
		if worker == 0 || len(pids) != 2 || !slices.Contains(pids, worker) {
			return false
		}
		pid = pids[0]
		if pid == worker {
			pid = pids[1]
		}
		return true
	})
	return pid
}

// What waits has loaded the module and has seen nothing of the token: it serves
// when a worker ends, and another one waits then.
func TestTheReserveIsTheNextWorker(t *testing.T) {
	cfg, _, m := faulty(t)
	p := open(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	for range 5 {
		reserve := reserveOf(t, p)
		eventually(t, "the reserve waits", p.HasReserve)
		initialised := m.Count("C_Initialize")
		if err := p.SignalWorker(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Sign(t.Context(), message); err != nil {
			t.Fatal(err)
		}
		if pid := p.WorkerPID(); pid != reserve {
			t.Errorf("process %d serves, not %d, which waited", pid, reserve)
		}
		reserveOf(t, p)
		eventually(t, "another one waits", p.HasReserve)
		if n := m.Count("C_Initialize") - initialised; n != 1 {
			t.Errorf("%d processes initialised the module: the worker, and who else?", n)
		}
	}
}

// Nobody notices the end of a reserve.
func TestAReserveThatEndsIsReplaced(t *testing.T) {
	cfg, _, m := faulty(t)
	p := open(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	initialised := m.Count("C_Initialize")
	for range 3 {
		reserve := reserveOf(t, p)
		eventually(t, "the reserve waits", p.HasReserve)
		if err := syscall.Kill(reserve, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another one", func() bool { return reserveOf(t, p) != reserve })
		if _, err := k.Sign(t.Context(), message); err != nil {
			t.Error(err)
		}
	}
	if s := p.Status()[0]; s.State != keystore.TokenReady || s.Restarts != 0 || m.Count("C_Initialize") != initialised {
		t.Errorf("%s, %d restarts", s.State, s.Restarts)
	}
}

// What it was: a reserve that was killed together with the worker was taken in its
// place, and its end made a token unavailable whose next worker was about to serve.
func TestAReserveThatDiesWithTheWorkerIsNotTaken(t *testing.T) {
	cfg, _, _ := faulty(t)
	p := open(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	for range 20 {
		reserve := reserveOf(t, p)
		eventually(t, "the reserve waits", p.HasReserve)
		worker := p.WorkerPID()
		syscall.Kill(worker, syscall.SIGKILL)
		syscall.Kill(reserve, syscall.SIGKILL)
		if _, err := k.Sign(t.Context(), message); err != nil {
			t.Error(err)
		}
	}
}
