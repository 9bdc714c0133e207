package keystore

import "time"

// A Node is a daemon that signs and serves by a catalog, as the catalog knows
// it. Its times are by the catalog's clock.
type Node struct {
	Name       string
	Epoch      int64     // of its enrolment: a write under an older one is refused
	EnrolledAt time.Time // when this epoch began
	SeenAt     time.Time // when it last renewed its leases
	Revision   int64     // of the snapshot it then went by

	// SignsUntil and PublishesUntil are when its leases end unless it renews them.
	// Zero: they last until it stops, because it alone holds the catalog.
	SignsUntil     time.Time
	PublishesUntil time.Time

	StoppedAt time.Time // since when it neither signs nor serves, as it said; zero: it may
	Forgotten *Fact     // an operator said that it does not come back; nil: it may
}

// MaySign reports whether the node may release signatures at a moment, by a
// snapshot of before.
func (n *Node) MaySign(at time.Time) bool { return n.may(n.SignsUntil, at) }

// MayServe reports whether the node may serve sets at a moment, from a snapshot
// of before.
func (n *Node) MayServe(at time.Time) bool { return n.may(n.PublishesUntil, at) }

func (n *Node) may(until, at time.Time) bool {
	if !n.StoppedAt.IsZero() {
		return at.Before(n.StoppedAt)
	}
	return until.IsZero() || at.Before(until)
}

// ServedUntil returns the last moment at which the node may have served a set
// from a snapshot of before; false if there is no such moment yet.
func (n *Node) ServedUntil() (time.Time, bool) {
	if !n.StoppedAt.IsZero() {
		return n.StoppedAt, true
	}
	return n.PublishesUntil, !n.PublishesUntil.IsZero()
}

// An Ack is a node's word that every set it serves from At on has a version, by
// the catalog's clock.
type Ack struct {
	Node    string
	Version int
	At      time.Time
}

// A Moment is what a change of the catalog is decided by, inside its
// transaction: the catalog's clock, which never goes back from one change to
// the next, and the nodes as they are then.
type Moment struct {
	Now   time.Time
	Nodes []Node // by name
}
