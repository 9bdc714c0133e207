package pkcs11

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
)

// Whoever comes is sent to the worker that has least to do.
func TestTheLeastLoadedWorkerIsAsked(t *testing.T) {
	h := hall{limit: 10}
	a, b := &generation{number: 1, view: 1}, &generation{number: 2, view: 2}
	h.add(a, 4)
	first, _ := h.enter(t.Context(), false)
	second, _ := h.enter(t.Context(), false)
	h.add(b, 4)
	for range 2 {
		if p, err := h.enter(t.Context(), false); err != nil || p.worker != b {
			t.Fatalf("sent to %v, %v", p.worker, err)
		}
	}
	first.leave()
	second.leave()
	if p, err := h.enter(t.Context(), false); err != nil || p.worker != a {
		t.Errorf("sent to %v, %v", p.worker, err)
	}
}

// One line for all workers: whoever waited longest has whatever comes free
// first, whoever comes again after his worker ended goes before all others.
func TestOneLineForAllWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hall{limit: 100}
		a, b := &generation{number: 1, view: 1}, &generation{number: 2, view: 2}
		h.add(a, 1)
		h.add(b, 1)
		atA, _ := h.enter(t.Context(), false)
		atB, _ := h.enter(t.Context(), false)
		var mu sync.Mutex
		var order []int
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				at, err := h.enter(t.Context(), i == 19)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				time.Sleep(time.Second)
				at.leave()
			})
			synctest.Wait()
		}
		atB.leave() // only one of them serves for now
		time.Sleep(3500 * time.Millisecond)
		atA.leave()
		all.Wait()
		want := append([]int{19}, order[1:]...)
		if !slices.Equal(order, want) || !slices.IsSorted(order[1:]) || len(order) != 20 {
			t.Errorf("served in the order %v", order)
		}
	})
}

func TestAWorkerThatGoesTakesNothingNewAndLosesNothing(t *testing.T) {
	h := hall{limit: 10}
	a, b := &generation{number: 1, view: 1}, &generation{number: 2, view: 2}
	h.add(a, 4)
	at, _ := h.enter(t.Context(), false)
	empty := h.remove(a)
	select {
	case <-empty:
		t.Error("it is said to have nothing to do")
	default:
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := h.enter(ctx, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("sent to one that goes: %v", err)
	}
	at.hold() // something was asked
	at.leave()
	h.add(b, 4)
	if next, err := h.enter(t.Context(), false); err != nil || next.worker != b {
		t.Errorf("sent to %v, %v", next.worker, err)
	}
	at.leave() // and is answered
	<-empty
	<-h.remove(a) // again
}

// When a token will not serve soon, everybody hears why at once, from those who
// wait on; when it is starting they wait.
func TestEverybodyIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hall{limit: 100}
		reason := &answerError{keystore.ErrUnavailable, "it is broken"}
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if _, err := h.enter(t.Context(), false); err != error(reason) {
					t.Errorf("one who waited: %v", err)
				}
			})
		}
		synctest.Wait()
		h.refuse(reason)
		all.Wait()
		if _, err := h.enter(t.Context(), true); err != error(reason) {
			t.Errorf("one who came later: %v", err)
		}
		h.refuse(nil)
		all.Go(func() {
			at, err := h.enter(t.Context(), false)
			if err != nil {
				t.Error(err)
				return
			}
			at.leave()
		})
		synctest.Wait()
		h.add(&generation{number: 1, view: 1}, 1)
		all.Wait()
	})
}

// What it was: a worker that was starting while a key was destroyed came to serve
// with what it had seen before.
func TestAWorkerThatHasSeenWhatIsNoMoreDoesNotServe(t *testing.T) {
	h := hall{limit: 10}
	a, b := &generation{number: 1, view: 1}, &generation{number: 2, view: 2}
	h.add(a, 4)
	if going := h.renew(2); !slices.Equal(going, []*generation{a}) {
		t.Errorf("%v are to go", going)
	}
	if h.add(b, 4) {
		t.Error("one that had started before came to serve")
	}
	if !h.add(&generation{number: 3, view: 3}, 4) {
		t.Error("one that started afterwards does not serve")
	}
}

// What it was: a worker that died between its start and its service took seats
// for ever, and each who had one of them panicked when he left.
func TestAWorkerThatHasEndedDoesNotServe(t *testing.T) {
	h := hall{limit: 10}
	g := &generation{number: 1, view: 1}
	<-h.remove(g)
	if h.add(g, 4) || len(h.workers()) != 0 {
		t.Error("it was opened")
	}
}

func TestTheHallIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hall{limit: 3}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if _, err := h.enter(ctx, false); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, keystore.ErrUnavailable) {
					t.Errorf("one that waited: %v", err)
				}
			})
		}
		synctest.Wait()
		if _, err := h.enter(ctx, false); !errors.Is(err, keystore.ErrOverloaded) || errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("one too many: %v", err)
		}
		all.Go(func() { // who has been served half is not sent away
			if _, err := h.enter(ctx, true); errors.Is(err, keystore.ErrOverloaded) {
				t.Error(err)
			}
		})
		all.Wait()
		if h.line.Len() != 0 {
			t.Errorf("%d wait", h.line.Len())
		}
	})
}
