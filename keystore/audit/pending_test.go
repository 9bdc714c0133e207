package audit

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhenEntriesAreACrowd(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		what   string
		n      int           // in each group
		after  time.Duration // from one to the next
		groups int
		thick  bool
	}{
		{"one after another", 1, 300 * time.Microsecond, 100, false},
		{"four callers", 2, 700 * time.Microsecond, 100, false},
		{"sixteen callers", 5, 900 * time.Microsecond, 100, true},
		{"sixteen callers that are gathered", 12, 2200 * time.Microsecond, 100, true},
		{"four callers that were gathered", 4, 2200 * time.Microsecond, 100, false},
		{"sixteen callers that have just come", 5, 900 * time.Microsecond, 3, false},
		{"a batch after a while", 64, time.Second, 1, false},
		{"the first of a log", 1, math.MaxInt64, 1, false}, // its product with the rate was negative, and less than anything
	} {
		crowd := crowd{at: at, since: at}
		for i := range c.groups {
			crowd.took(c.n, at.Add(time.Duration(i+1)*c.after))
		}
		if crowd.thick != c.thick {
			t.Errorf("%s: a crowd: %v, want %v", c.what, crowd.thick, c.thick)
		}
	}
}

// While many come, what was only started waits for others; an act that somebody waits
// for, and who says that nothing else is done, have all of it written.
func TestACrowdIsGatheredUntilSomebodyWaits(t *testing.T) {
	r := newRig(t)
	r.close()
	r.cfg.pause = time.Hour // nobody waits for that
	r.open()
	r.act(1)
	s := r.log.acts
	n := 1
	next := func() (p Pending) { n++; return r.log.Start(signed(n)) }
	gather := func(what string) Pending {
		t.Helper()
		for range 100 { // until the committer has seen that many come
			for range 5 {
				for range 100 {
					next()
				}
				r.log.Hurry()
				waitFor(t, "all are entered", func() bool { return s.current().length() == int64(n) })
			}
			p := next()
			time.Sleep(20 * time.Millisecond) // ten pauses of the usual length
			if s.current().length() < int64(n) {
				return p
			}
		}
		t.Fatalf("%s: nothing is gathered", what)
		return nil
	}
	gather("an act")
	r.act(n + 1)
	n++
	p := gather("a hurry")
	r.log.Hurry()
	if receipt, err := p.Wait(t.Context()); err != nil || receipt.Index != int64(n-1) {
		t.Errorf("%+v, %v", receipt, err)
	}
	gather("the end")
	r.close() // which waits for everything entered
	r.sound()
	if all := r.all(Filter{Log: "acts"}); len(all) < n {
		t.Errorf("%d entries of %d", len(all), n)
	}
}

func TestWhatAGroupWaitsFor(t *testing.T) {
	const pause = crowdPause
	for _, c := range []struct {
		what   string
		thick  bool
		begun  int64
		wanted time.Duration // when one of them is waited for; 0: never
		urgent time.Duration // when an act is entered, likewise
		want   time.Duration
	}{
		{what: "a few callers", begun: crowdBegun, want: 0},
		{what: "many, whose signatures take long", begun: crowdBegun + 1, wanted: pause / 4, want: pause / 4},
		{what: "many, and an act beside them", begun: crowdBegun + 1, urgent: pause / 4, want: pause / 4},
		{what: "many, whose signatures take for ever", begun: crowdBegun + 1, want: pause},
		{what: "fast ones: somebody always waits", thick: true, begun: crowdBegun + 1, wanted: pause / 4, want: pause},
		{what: "fast ones, and an act", thick: true, begun: 1, urgent: pause / 4, want: pause / 4},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			wanted, urgent := make(chan struct{}, 1), make(chan struct{}, 1)
			for at, ch := range map[time.Duration]chan struct{}{c.wanted: wanted, c.urgent: urgent} {
				if at > 0 {
					time.AfterFunc(at, func() { tell(ch) })
				}
			}
			crowd := crowd{pause: pause, thick: c.thick, at: start}
			crowd.wait(c.begun, wanted, urgent)
			if took := time.Since(start); took != c.want {
				t.Errorf("%s: written after %v, want %v", c.what, took, c.want)
			}
		})
	}
}

// Entries by slow keys were written each by itself: the log was synced as often as
// there were signatures. Those who leave are not counted, and what they left is entered.
func TestEntriesBySlowKeysAreGatheredUntilOneIsWaitedFor(t *testing.T) {
	r := newRig(t)
	r.close()
	r.cfg.pause = time.Hour // nobody waits for that
	r.open()
	r.act(1)
	s := r.log.acts
	n := 1
	var pending []Pending
	for held := false; !held; { // the first ones are written before there are many
		if n > 100 {
			t.Fatal("all are written, and nobody waits for any")
		}
		n++
		pending = append(pending, r.log.Start(signed(n)))
		time.Sleep(10 * crowdPause)
		if held = s.current().length() < int64(n); held {
			time.Sleep(100 * time.Millisecond) // or it is only slow
			held = s.current().length() < int64(n)
		}
	}
	for _, p := range pending {
		if _, err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 20 {
		var pending []Pending
		time.Sleep(crowdAfter) // so that they do not come fast
		for range 2 * crowdBegun {
			n++
			pending = append(pending, r.log.Start(signed(n)))
		}
		for i, p := range pending {
			if i%2 == round%2 {
				p.Leave()
			} else if _, err := p.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if begun := s.begun.Load(); begun != 0 {
			t.Fatalf("%d entries are waited for, or never will be", begun)
		}
	}
	r.close()
	r.sound()
	if all := r.all(Filter{Log: "acts"}); len(all) < n {
		t.Errorf("%d entries of %d", len(all), n)
	}
}
