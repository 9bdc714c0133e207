package pkcs11

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chancery/keystore"
)

func TestTheBreakerOpensAfterWorkersThatDidNothingUseful(t *testing.T) {
	const useless, good = false, true
	for _, v := range []struct {
		name  string
		ends  []bool // usefully?
		apart time.Duration
		open  bool
	}{
		{"a few", []bool{useless, useless, useless, useless, useless}, time.Second, false},
		{"enough", []bool{useless, useless, useless, useless, useless, useless}, time.Second, true},
		{"a useful one between", []bool{useless, useless, useless, good, useless, useless, useless}, time.Second, false},
		{"useful ones only", []bool{good, good, good, good, good, good, good, good}, time.Millisecond, false},
		{"too far apart", []bool{useless, useless, useless, useless, useless, useless, useless, useless}, 3 * time.Second, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			var b breaker
			now, opened := time.Unix(1e9, 0), false
			for _, usefully := range v.ends {
				opened = b.ended(now, usefully) || opened
				now = now.Add(v.apart)
			}
			if opened != v.open || b.open != v.open {
				t.Errorf("opened %v, is open %v, want %v", opened, b.open, v.open)
			}
		})
	}
}

func TestTheBreakersPausesGrowUntilItHasBeenUseful(t *testing.T) {
	var b breaker
	now := time.Unix(1e9, 0)
	trip := func() {
		for range breakerEnds {
			if b.ended(now, false) {
				return
			}
		}
		t.Fatal("it does not open")
	}
	trip()
	var pauses []time.Duration
	for range 7 {
		pauses = append(pauses, b.pause())
		b.failed()
	}
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		if pauses[i] != want*time.Second {
			t.Errorf("pause %d is %v, want %v", i, pauses[i], want*time.Second)
		}
	}
	b.passed(now)
	if b.open {
		t.Error("open after a tryout that succeeded")
	}
	if !b.ended(now, false) {
		t.Error("the first useless worker after a tryout does not open it again")
	}
	if b.pause() != longestBreak {
		t.Errorf("and then it is left alone for %v, want %v", b.pause(), longestBreak)
	}
	b.passed(now)
	b.ended(now, true)
	trip()
	if b.pause() != firstBreak {
		t.Errorf("after a useful worker it is left alone for %v, want %v", b.pause(), firstBreak)
	}
}

func TestPausesGrow(t *testing.T) {
	for failures, want := range []time.Duration{0, 0, 50, 100, 200, 250, 250} {
		if got := backoff(failures, 250*time.Millisecond); got != want*time.Millisecond {
			t.Errorf("after %d failures %v, want %v", failures, got, want*time.Millisecond)
		}
	}
	if got := backoff(1000, longPause); got != longPause {
		t.Errorf("after a thousand %v", got)
	}
	for range 1000 {
		if d := jitter(time.Second); d < 3*time.Second/4 || d > 5*time.Second/4 {
			t.Fatalf("a second with jitter is %v", d)
		}
	}
}

// However the starts come, no more than the budget begin within its time.
func TestTheBudgetIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := budget{workers: rapid.IntRange(1, 6).Draw(t, "workers"), within: 30 * time.Second}
		now := time.Unix(1e9, 0)
		var begun []time.Time
		for _, gap := range rapid.SliceOfN(rapid.IntRange(0, 20_000), 1, 60).Draw(t, "gaps") {
			now = now.Add(time.Duration(gap) * time.Millisecond)
			now = now.Add(b.wait(now)) // whoever has to wait does
			begun = append(begun, now)
		}
		for i := b.workers; i < len(begun); i++ {
			if d := begun[i].Sub(begun[i-b.workers]); d < b.within {
				t.Fatalf("%d starts within %v", b.workers+1, d)
			}
		}
	})
	if wait := new(budget).wait(time.Now()); wait != 0 {
		t.Errorf("without a budget %v", wait)
	}
}

func TestAKeyInQuarantineIsTriedOnceInAWhile(t *testing.T) {
	now := time.Unix(1e9, 0)
	clock := func() time.Time { return now }
	var q quarantine
	fault := errors.New("CKR_DEVICE_ERROR")
	for i := range quarantineMarks {
		if _, err := q.refuses(clock); err != nil {
			t.Fatalf("after %d marks: %v", i, err)
		}
		q.failed(clock, fault, 1)
	}
	for pause := firstQuarantine; pause < 2*longQuarantine; pause *= 2 {
		pause := min(pause, longQuarantine)
		now = now.Add(pause - time.Millisecond)
		if _, err := q.refuses(clock); !errors.Is(err, keystore.ErrUnavailable) {
			t.Fatalf("just before %v were over: %v", pause, err)
		}
		now = now.Add(time.Millisecond)
		if _, err := q.refuses(clock); err != nil {
			t.Fatalf("after %v: %v", pause, err)
		}
		if _, err := q.refuses(clock); err == nil {
			t.Fatal("a second one is let through while the first is tried")
		}
		q.failed(clock, fault, 1)
	}
	q.signed()
	if _, err := q.refuses(clock); err != nil {
		t.Errorf("after it has signed: %v", err)
	}
	for range quarantineMarks - 1 {
		q.failed(clock, fault, 1)
	}
	if _, err := q.refuses(clock); err != nil {
		t.Errorf("a few marks later: %v", err)
	}
}

func TestTwoWrongSignaturesAreEnough(t *testing.T) {
	var q quarantine
	q.failed(time.Now, keystore.ErrSignature, 2)
	if _, err := q.refuses(time.Now); err != nil {
		t.Errorf("after one: %v", err)
	}
	q.failed(time.Now, keystore.ErrSignature, 2)
	if _, err := q.refuses(time.Now); err == nil || errors.Is(err, keystore.ErrSignature) {
		t.Errorf("after two: %v", err)
	}
}
