package api

import "time"

// NodeList answers GET /v1/ops/nodes.
type NodeList struct {
	Nodes []Node `json:"nodes"`
}

// The states of a node.
const (
	NodeLive      = "live"
	NodeLate      = "late"      // its signing lease is over, its publishing lease is not
	NodeGone      = "gone"      // both are over
	NodeStopped   = "stopped"   // it said that it stops
	NodeForgotten = "forgotten" // an operator said that it does not come back
)

// Node is one daemon that signs and serves by the catalog. Its times are by the
// catalog's clock.
type Node struct {
	Name       string    `json:"name"`
	Self       bool      `json:"self,omitempty"` // it answers
	Epoch      int64     `json:"epoch"`
	State      string    `json:"state"`
	EnrolledAt time.Time `json:"enrolled_at"`
	SeenAt     time.Time `json:"seen_at"`
	Revision   int64     `json:"revision"` // of the snapshot it went by when it was seen

	// SignsUntil and PublishesUntil are when its leases end unless it is seen again;
	// null: not before it stops, because it alone holds the catalog.
	SignsUntil     *time.Time `json:"signs_until"`
	PublishesUntil *time.Time `json:"publishes_until"`

	StoppedAt *time.Time `json:"stopped_at,omitempty"`
	Forgotten *Asked     `json:"forgotten,omitempty"`
	WaitedFor []string   `json:"waited_for"` // the versions that wait for it: "web version 3"
}

// ForgetRequest is the body of POST /v1/ops/nodes/NAME/forget. Force forgets a
// node that is live.
type ForgetRequest struct {
	Reason string `json:"reason"`
	Force  bool   `json:"force,omitempty"`
}

// ForgetReply answers a ForgetRequest: the node's writes are refused, and nothing
// waits for it after ServedUntil.
type ForgetReply struct {
	Name string `json:"name"`
	// ServedUntil is the last moment at which it may serve a key set; null: it
	// has no lease that ends.
	ServedUntil *time.Time `json:"served_until"`
	Entry       string     `json:"entry"`
}
