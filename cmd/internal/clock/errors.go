package clock

import (
	"errors"
	"fmt"
	"time"
)

// ErrStepped: the wall clock was stepped, and nobody knows which time is right.
var ErrStepped = errors.New("the wall clock was stepped")

// A StepError is why a wall clock cannot be gone by. It wraps ErrStepped.
type StepError struct {
	Offset time.Duration // from the agreed time; forward is positive
	At     time.Time     // when it was noticed, by the agreed time
	Reboot bool          // it was behind at the start, after a boot
}

// Error says what is wrong, and what a person does about it.
func (e *StepError) Error() string {
	const hint = "nothing is signed (hint: correct the clock and it goes on by itself, or `chancery clock confirm --reason WHY` if the new time is right)"
	at := e.At.UTC().Format(time.RFC3339)
	if e.Reboot {
		return fmt.Sprintf("the wall clock went back by at least %v over the last boot, noticed at %s; %s", -e.rounded(), at, hint)
	}
	return fmt.Sprintf("the wall clock stepped by %s against boot time at %s; %s", e.Signed(), at, hint)
}

// Unwrap returns ErrStepped.
func (e *StepError) Unwrap() error { return ErrStepped }

// Signed returns the offset for people, with its sign.
func (e *StepError) Signed() string {
	if d := e.rounded(); d < 0 {
		return d.String()
	}
	return "+" + e.rounded().String()
}

// rounded is the offset as exact as matters, so that what is said of it does not
// change with each reading of a clock that is slewed.
func (e *StepError) rounded() time.Duration {
	if e.Offset.Abs() >= time.Minute {
		return e.Offset.Round(time.Second)
	}
	return e.Offset.Round(time.Millisecond)
}

type unsynchronisedError struct{ sync Sync }

func (e *unsynchronisedError) Error() string {
	if e.sync == Unknown {
		return ErrUnsynchronised.Error() + ": the kernel does not say (hint: let the daemon call adjtimex, or say accept_unsynchronised_clock: true)"
	}
	return ErrUnsynchronised.Error() + " (hint: start chrony, ntpd or systemd-timesyncd, or say accept_unsynchronised_clock: true)"
}

func (e *unsynchronisedError) Unwrap() error { return ErrUnsynchronised }
