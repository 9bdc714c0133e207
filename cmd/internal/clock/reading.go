package clock

import "time"

// A Reading is what the clocks of this machine said at one moment.
type Reading struct {
	Wall         time.Time     // without a monotonic reading
	Boot         time.Duration // since the boot, sleep included
	BootID       string        // of this boot, a UUID; empty: the kernel does not tell
	Synchronised Sync
}

// origin returns what the wall clock would have said at the boot. It stays the
// same while both clocks go alike.
func (r Reading) origin() time.Time { return r.Wall.Add(-r.Boot) }

// Sync is whether the kernel says that something keeps the wall clock right.
type Sync uint8

// What the kernel may say.
const (
	Unknown        Sync = iota // it does not say, or may not be asked
	Unsynchronised             // nothing does
	Synchronised
)

func (s Sync) String() string {
	switch s {
	case Unsynchronised:
		return "unsynchronised"
	case Synchronised:
		return "synchronised"
	}
	return "unknown"
}
