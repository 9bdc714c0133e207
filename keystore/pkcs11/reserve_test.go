package pkcs11_test

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/pkcs11"
)

// A reserves hears from a provider's log which process waits to be the next worker.
type reserves struct {
	slog.Handler
	pid  atomic.Int64
	pids sync.Map // of all that have waited
}

func (r *reserves) Enabled(context.Context, slog.Level) bool { return true }

func (r *reserves) Handle(_ context.Context, rec slog.Record) error {
	if rec.Message == "a reserve waits" {
		rec.Attrs(func(a slog.Attr) bool {
			if a.Key == "pid" {
				r.pid.Store(a.Value.Int64())
				r.pids.Store(int(a.Value.Int64()), true)
			}
			return true
		})
	}
	return nil
}

// withReserves opens a provider, with one worker unless cfg says otherwise.
func withReserves(t *testing.T, cfg pkcs11.Config) (*pkcs11.Provider, *reserves) {
	t.Helper()
	r := &reserves{Handler: slog.DiscardHandler}
	cfg.Log = slog.New(r)
	return open(t, cfg), r
}

// await waits until there is one besides the worker, and nobody else, and returns
// its process.
func (r *reserves) await(t *testing.T, p *pkcs11.Provider) (pid int) {
	t.Helper()
	eventually(t, "a worker and its reserve", func() bool {
		pid = int(r.pid.Load())
		pids, worker := children(t), p.WorkerPID()
		return len(pids) == 2 && pid != worker && slices.Contains(pids, worker) && slices.Contains(pids, pid)
	})
	return pid
}

// What waits has loaded the module and has seen nothing of the token: it serves
// when a worker ends, and another one waits then.
func TestTheReserveIsTheNextWorker(t *testing.T) {
	cfg, _, m := faulty(t)
	p, r := withReserves(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	for range 5 {
		reserve := r.await(t, p)
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
		r.await(t, p)
		if n := m.Count("C_Initialize") - initialised; n != 1 {
			t.Errorf("%d processes initialised the module: the worker, and who else?", n)
		}
	}
}

// What it was: when workers were told to go one after the other, the second went as
// soon as the first had been followed, and the one after it was executed while one
// alone served.
func TestWorkersThatAreRelievedAreFollowedByReserves(t *testing.T) {
	cfg, _, _ := faulty(t)
	cfg.Workers = 2
	p, r := withReserves(t, cfg)
	for range 3 {
		ref, k := newKey(t, p, keystore.ES256)
		eventually(t, "both workers hold the key", func() bool {
			var signers sync.WaitGroup
			for range 8 {
				signers.Go(func() {
					if _, err := k.Sign(t.Context(), message); err != nil {
						t.Error(err)
					}
				})
			}
			signers.Wait()
			return len(pkcs11.Holding(p, ref.ID)) == 2
		})
		before := p.WorkerPIDs()
		if err := p.Drop(t.Context(), ref.ID); err != nil {
			t.Fatal(err)
		}
		eventually(t, "two others serve", func() bool {
			pids := p.WorkerPIDs()
			return len(pids) == 2 && !slices.ContainsFunc(pids, func(pid int) bool { return slices.Contains(before, pid) })
		})
		for _, pid := range p.WorkerPIDs() {
			if _, waited := r.pids.Load(pid); !waited {
				t.Errorf("process %d serves, which was executed when one had gone", pid)
			}
		}
	}
}

// Nobody notices the end of a reserve.
func TestAReserveThatEndsIsReplaced(t *testing.T) {
	cfg, _, m := faulty(t)
	p, r := withReserves(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	initialised := m.Count("C_Initialize")
	for range 3 {
		reserve := r.await(t, p)
		if err := syscall.Kill(reserve, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another one", func() bool { return r.await(t, p) != reserve })
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
	p, r := withReserves(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	for range 20 {
		reserve := r.await(t, p)
		worker := p.WorkerPID()
		syscall.Kill(worker, syscall.SIGKILL)
		syscall.Kill(reserve, syscall.SIGKILL)
		if _, err := k.Sign(t.Context(), message); err != nil {
			t.Error(err)
		}
	}
}

// What it was: a file that the module reads was replaced by another while the
// reserve waited, which could not open it, and its token was told to be gone.
func TestAReserveThatIsOutOfDateSaysNothingOfTheToken(t *testing.T) {
	cfg, token, _ := faulty(t)
	p, r := withReserves(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	for range 3 {
		r.await(t, p)
		conf, err := os.ReadFile(token.Conf)
		if err != nil {
			t.Fatal(err)
		}
		write(t, token.Conf+".new", conf)
		if err := os.Rename(token.Conf+".new", token.Conf); err != nil {
			t.Fatal(err)
		}
		if err := p.SignalWorker(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Sign(t.Context(), message); err != nil {
			t.Error(err)
		}
	}
}

// What it was: a reserve that hung was waited for as long as a start may take.
func TestAReserveThatHangsIsNotWaitedFor(t *testing.T) {
	cfg, _, _ := faulty(t)
	p, r := withReserves(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	if err := syscall.Kill(r.await(t, p), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := p.SignalWorker(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // a start has ten
	defer cancel()
	if _, err := k.Sign(ctx, message); err != nil {
		t.Error(err)
	}
}
