package clock

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// skew is S of these tests: a step is what goes beyond two and a half minutes.
const skew = 5 * time.Minute

const (
	thisBoot  = "7f0b9a54-5f3e-4c58-9a0f-2b7a1c3d4e5f"
	otherBoot = "00000000-0000-4000-8000-000000000001"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A machine is two clocks that a test moves.
type machine struct {
	r Reading
}

func newMachine() *machine {
	return &machine{Reading{Wall: noon, Boot: time.Hour, BootID: thisBoot, Synchronised: Synchronised}}
}

// pass lets time go by on both clocks, the wall clock slewed by ppm.
func (m *machine) pass(d time.Duration, ppm float64) {
	m.r.Boot += d
	m.r.Wall = m.r.Wall.Add(d + time.Duration(ppm*1e-6*float64(d)))
}

func (m *machine) step(d time.Duration) { m.r.Wall = m.r.Wall.Add(d) }

// reboot lets the machine be off for a while.
func (m *machine) reboot(off time.Duration) {
	m.r.Wall = m.r.Wall.Add(off)
	m.r.Boot, m.r.BootID = 20*time.Second, otherBoot
}

// restart returns the Guard of the next process.
func restart(t *testing.T, g *Guard) *Guard {
	t.Helper()
	kept, err := ParseAnchor(g.Anchor().text())
	if err != nil {
		t.Fatal(err)
	}
	return New(skew, kept)
}

func TestWhatAStepIs(t *testing.T) {
	for _, c := range []struct {
		what string
		do   func(m *machine, g *Guard)
		want Change // at the next reading
	}{
		{"nothing happened", func(*machine, *Guard) {}, NoChange},
		{"half the skew forward", func(m *machine, _ *Guard) { m.step(skew / 2) }, NoChange},
		{"half the skew back", func(m *machine, _ *Guard) { m.step(-skew / 2) }, NoChange},
		{"a nanosecond more forward", func(m *machine, _ *Guard) { m.step(skew/2 + 1) }, Stepped},
		{"a nanosecond more back", func(m *machine, _ *Guard) { m.step(-skew/2 - 1) }, Stepped},
		{"an hour back", func(m *machine, _ *Guard) { m.step(-time.Hour) }, Stepped},
		{"a year forward", func(m *machine, _ *Guard) { m.step(365 * 24 * time.Hour) }, Stepped},
		{"suspended to memory over a weekend", func(m *machine, _ *Guard) { m.pass(60*time.Hour, 0) }, NoChange},
		{"paused by its hypervisor for an hour, and told the time", func(m *machine, _ *Guard) { m.step(time.Hour) }, Stepped},
		{"no reading for a day of slewing", func(m *machine, _ *Guard) { m.pass(24*time.Hour, 500) }, NoChange},
		{"a second every ten minutes", func(m *machine, g *Guard) { steps(m, g, 400, time.Second, 20*time.Minute) }, NoChange},
		{"a second every minute, which adds up", func(m *machine, g *Guard) { steps(m, g, 160, time.Second, time.Minute) }, Stepped},
		{"a tenth back every second", func(m *machine, g *Guard) { steps(m, g, 1516, -100*time.Millisecond, time.Second) }, Stepped},
		{"forward and back between two readings", func(m *machine, _ *Guard) { m.step(time.Hour); m.step(-time.Hour) }, NoChange},
	} {
		t.Run(c.what, func(t *testing.T) {
			m, g := newMachine(), New(skew, Anchor{})
			g.Feed(m.r)
			c.do(m, g)
			m.pass(time.Second, 0)
			_, stepped := g.State()
			if got := g.Feed(m.r); got != c.want && (stepped == nil || c.want != Stepped) {
				t.Errorf("%v, want %v", got, c.want)
			}
			if _, trouble := g.State(); (trouble != nil) != (c.want == Stepped) {
				t.Errorf("trouble: %v", trouble)
			}
		})
	}
}

// steps makes n small steps, one each interval, with a reading every second.
func steps(m *machine, g *Guard, n int, step, every time.Duration) {
	for range n {
		m.step(step)
		for range every / time.Second {
			m.pass(time.Second, 0)
			g.Feed(m.r)
		}
	}
}

func TestAStepSettlesWhenTheClockIsPutRight(t *testing.T) {
	m, g := newMachine(), New(skew, Anchor{})
	g.Feed(m.r)
	m.step(time.Hour)
	if g.Feed(m.r) != Stepped {
		t.Fatal("the step was not noticed")
	}
	m.pass(7*24*time.Hour, 0)
	if got := g.Feed(m.r); got != NoChange || g.Agrees(m.r) || !g.Steady().IsZero() {
		t.Fatalf("%v: a step does not become right by waiting", got)
	}
	m.step(-time.Hour + 2*time.Minute)
	if !errors.Is(trouble(g), ErrStepped) || g.Agrees(m.r) {
		t.Error("it is over before it was read")
	}
	if got := g.Feed(m.r); got != Settled || trouble(g) != nil || !g.Agrees(m.r) {
		t.Errorf("%v, trouble %v", got, trouble(g))
	}
	if since := g.Steady(); !since.Equal(m.r.Wall) {
		t.Errorf("steady since %v, want since now, %v", since, m.r.Wall)
	}
}

func trouble(g *Guard) error {
	_, err := g.State()
	return err
}

func TestAConfirmedTimeIsRightFromThenOn(t *testing.T) {
	m, g := newMachine(), New(skew, Anchor{})
	g.Feed(m.r)
	if g.Confirm(0, m.r) {
		t.Error("there was nothing to confirm")
	}
	m.step(time.Hour)
	g.Feed(m.r)
	offset := g.Offset()
	if offset != time.Hour {
		t.Fatalf("offset %v", offset)
	}
	if !g.Confirm(offset, m.r) || trouble(g) != nil || g.Offset() != 0 || !g.Steady().Equal(m.r.Wall) {
		t.Errorf("confirmed: trouble %v, offset %v, steady since %v", trouble(g), g.Offset(), g.Steady())
	}
	m.pass(time.Second, 0)
	if g.Feed(m.r) != NoChange {
		t.Error("a confirmed time is a step")
	}
	m.step(-time.Hour)
	if g.Feed(m.r) != Stepped {
		t.Error("the time from before the confirmation is no step")
	}
}

// What an operator saw is confirmed, and no other step that came meanwhile.
func TestAStepAfterTheOperatorLookedIsNotConfirmed(t *testing.T) {
	m, g := newMachine(), New(skew, Anchor{})
	g.Feed(m.r)
	m.step(time.Hour)
	g.Feed(m.r)
	offset := g.Offset()
	m.step(24 * time.Hour)
	g.Confirm(offset, m.r)
	if g.Agrees(m.r) {
		t.Error("what nobody saw is confirmed")
	}
	if g.Feed(m.r) != Stepped {
		t.Error("what nobody saw is no step")
	}
}

// While the wall clock is not to be gone by, time goes on as it would have.
func TestNothingRunsOutByAStep(t *testing.T) {
	m, g := newMachine(), New(skew, Anchor{})
	if got := g.Time(m.r); !got.Equal(noon) {
		t.Errorf("before the first reading: %v", got)
	}
	g.Feed(m.r)
	for _, step := range []time.Duration{-time.Hour, 365 * 24 * time.Hour} {
		m.step(step)
		m.pass(time.Second, 0)
		right := m.r.Wall.Add(-step)
		if got := g.Time(m.r); !got.Equal(right) {
			t.Errorf("%v, before it is fed: %v, want %v", step, got, right)
		}
		g.Feed(m.r)
		if got := g.Time(m.r); !got.Equal(right) {
			t.Errorf("%v: %v, want %v", step, got, right)
		}
		m.step(-step)
		g.Feed(m.r)
		if got := g.Time(m.r); !got.Equal(m.r.Wall) {
			t.Errorf("settled: %v, want %v", got, m.r.Wall)
		}
	}
}

func TestAcrossProcesses(t *testing.T) {
	for _, c := range []struct {
		what   string
		while  func(m *machine) // the process was down
		want   Change
		steady bool // without interruption
	}{
		{"restarted at once", func(m *machine) { m.pass(time.Second, 0) }, NoChange, true},
		{"down over a night of slewing", func(m *machine) { m.pass(12*time.Hour, -400) }, NoChange, true},
		{"stepped while it was down", func(m *machine) { m.pass(time.Minute, 0); m.step(-time.Hour) }, Stepped, false},
		{"rebooted", func(m *machine) { m.reboot(3 * time.Minute) }, NoChange, false},
		{"off for a year", func(m *machine) { m.reboot(365 * 24 * time.Hour) }, NoChange, false},
		{"rebooted into last year", func(m *machine) { m.reboot(-365 * 24 * time.Hour) }, Stepped, false},
		{"rebooted into what clocks differ by", func(m *machine) { m.reboot(-time.Minute) }, NoChange, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			m, g := newMachine(), New(skew, Anchor{})
			g.Feed(m.r)
			m.pass(time.Hour, 0)
			g.Feed(m.r)
			next := restart(t, g)
			c.while(m)
			if got := next.Feed(m.r); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
			since := next.Steady()
			if c.want == Stepped && !since.IsZero() || c.steady && !since.Equal(noon) || c.want == NoChange && !c.steady && !since.Equal(m.r.Wall) {
				t.Errorf("steady since %v", since)
			}
		})
	}
}

// A restart confirms nothing, whether or not the former process had noticed.
func TestARestartConfirmsNothing(t *testing.T) {
	m, g := newMachine(), New(skew, Anchor{})
	g.Feed(m.r)
	m.step(time.Hour)
	g.Feed(m.r)
	for range 3 {
		g = restart(t, g)
		m.pass(time.Minute, 0)
		if got := g.Feed(m.r); got != Stepped || g.Offset().Round(time.Second) != time.Hour {
			t.Fatalf("%v by %v", got, g.Offset())
		}
	}
	g = restart(t, g)
	m.step(-time.Hour)
	if got := g.Feed(m.r); got != Settled || trouble(g) != nil {
		t.Errorf("put right while it was down: %v, %v", got, trouble(g))
	}
	g = restart(t, g)
	m.step(time.Hour)
	g.Feed(m.r)
	g.Confirm(g.Offset(), m.r)
	g = restart(t, g)
	if got := g.Feed(m.r); got != NoChange {
		t.Errorf("confirmed before the restart: %v", got)
	}
}

// After a reboot nobody knows how long the machine was off, so that the clock is
// right again once it is past what it was.
func TestAClockThatWasBehindAfterAReboot(t *testing.T) {
	m, g := newMachine(), New(skew, Anchor{})
	g.Feed(m.r)
	g = restart(t, g)
	m.reboot(-time.Hour)
	if g.Feed(m.r) != Stepped {
		t.Fatal("the clock went back and nobody noticed")
	}
	if text := trouble(g).Error(); !strings.Contains(text, "went back by at least 1h0m20s over the last boot") {
		t.Error(text)
	}
	if got := g.Time(m.r); got.Before(noon) {
		t.Errorf("time went back to %v", got)
	}
	again := restart(t, g)
	if again.Feed(m.r) != Stepped {
		t.Error("a restart made it right")
	}
	m.step(30 * time.Hour)
	for what, g := range map[string]*Guard{"noticed": g, "restarted": again, "restarted once more": restart(t, g)} {
		if got := g.Feed(m.r); got == Stepped || trouble(g) != nil || !g.Steady().Equal(m.r.Wall) {
			t.Errorf("%s: %v, trouble %v, steady since %v", what, got, trouble(g), g.Steady())
		}
		m.pass(time.Second, 0)
		if got := g.Feed(m.r); got != NoChange || g.Offset() != 0 {
			t.Errorf("%s, the next reading: %v, offset %v", what, got, g.Offset())
		}
		m.pass(-time.Second, 0)
	}
}

func TestASmallerSkewIsLessPatient(t *testing.T) {
	m, g := newMachine(), New(skew, Anchor{})
	g.Feed(m.r)
	m.step(time.Minute)
	if g.Feed(m.r) != NoChange {
		t.Fatal("a minute is a step")
	}
	g.Set(time.Second)
	if g.Feed(m.r) != Stepped {
		t.Error("a minute is no step for a skew of a second")
	}
}

func TestWhatAPersonReads(t *testing.T) {
	m, g := newMachine(), New(skew, Anchor{})
	g.Feed(m.r)
	m.step(-90 * time.Second * 60)
	g.Feed(m.r)
	const want = "the wall clock stepped by -1h30m0s against boot time at 2026-03-01T12:00:00Z; nothing is signed (hint: correct the clock and it goes on by itself, or `chancery clock confirm --reason WHY` if the new time is right)"
	if got := trouble(g).Error(); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	m.step(180 * time.Second * 60)
	g.Feed(m.r)
	if got := trouble(g).Error(); !strings.Contains(got, "by +1h30m0s ") {
		t.Error(got)
	}
}

func TestAnUnsynchronisedClockIsAnotherMatter(t *testing.T) {
	m, g := newMachine(), New(skew, Anchor{})
	for s, ok := range map[Sync]bool{Synchronised: true, Unsynchronised: false, Unknown: false} {
		m.r.Synchronised = s
		g.Feed(m.r)
		if err := g.Unsynchronised(); ok != (err == nil) || !ok && !errors.Is(err, ErrUnsynchronised) {
			t.Errorf("%v: %v", s, err)
		}
		if trouble(g) != nil {
			t.Errorf("%v: %v", s, trouble(g))
		}
	}
}

// Time daemons slew at 500 ppm at most: whatever they do, however late readings
// are, is no step; and any one step beyond half the skew is noticed at once.
func TestSlewsAreNoStepsAndStepsAre(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(10*time.Minute)).Draw(rt, "skew"))
		m, g := newMachine(), New(s, Anchor{})
		g.Feed(m.r)
		for range rapid.IntRange(0, 200).Draw(rt, "readings") {
			m.pass(time.Duration(rapid.Int64Range(0, int64(3*time.Hour)).Draw(rt, "gap")), rapid.Float64Range(-500, 500).Draw(rt, "ppm"))
			if got := g.Feed(m.r); got != NoChange {
				rt.Fatalf("slewing: %v, offset %v of %v", got, g.Offset(), s/2)
			}
			if rapid.Bool().Draw(rt, "restarted") {
				g = New(s, g.Anchor())
			}
		}
		g.Feed(m.r)
		if !g.Steady().Equal(noon) {
			rt.Fatalf("steady since %v, want %v", g.Steady(), noon)
		}
		step := time.Duration(rapid.Int64Range(int64(s/2+1+s/100), int64(1000*24*time.Hour)).Draw(rt, "step"))
		if rapid.Bool().Draw(rt, "back") {
			step = -step
		}
		m.step(step)
		m.pass(time.Duration(rapid.Int64Range(0, int64(min(time.Second, s))).Draw(rt, "late")), 0)
		if g.Agrees(m.r) || g.Feed(m.r) != Stepped || g.Agrees(m.r) {
			rt.Fatalf("a step of %v for a skew of %v was not noticed: offset %v", step, s, g.Offset())
		}
		if rapid.Bool().Draw(rt, "confirmed") {
			if !g.Confirm(g.Offset(), m.r) || g.Feed(m.r) != NoChange {
				rt.Fatal("confirmed, and yet a step")
			}
			return
		}
		m.step(-step + time.Duration(rapid.Int64Range(-int64(s/4), int64(s/4)).Draw(rt, "left")))
		if got := g.Feed(m.r); got != Settled {
			rt.Fatalf("back: %v, offset %v of %v", got, g.Offset(), s/2)
		}
	})
}

// However steps and slews follow each other, the agreed time never follows the
// wall clock faster than SlewRate, and agreeing means within half the skew.
func TestTheAgreedTimeIsNeverStepped(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m, g := newMachine(), New(skew, Anchor{})
		g.Feed(m.r)
		agreed, since := g.Anchor().Wall, m.r.Boot
		for range rapid.IntRange(1, 300).Draw(rt, "readings") {
			m.step(time.Duration(rapid.Int64Range(-int64(3*time.Minute), int64(3*time.Minute)).Draw(rt, "step")))
			m.pass(time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(rt, "gap")), rapid.Float64Range(-1e5, 1e5).Draw(rt, "ppm"))
			g.Feed(m.r)
			if off := g.Offset().Abs(); g.Agrees(m.r) != (off <= skew/2) || g.Agrees(m.r) != (trouble(g) == nil) {
				rt.Fatalf("offset %v, agrees %v, trouble %v", off, g.Agrees(m.r), trouble(g))
			}
		}
		elapsed := m.r.Boot - since
		moved := g.Anchor().Wall.Sub(agreed) - elapsed
		if moved.Abs() > time.Duration(SlewRate*float64(elapsed))+time.Microsecond {
			rt.Fatalf("the agreed time moved by %v in %v", moved, elapsed)
		}
	})
}
