package api

import "time"

// CompromiseRequest is the body of POST /v1/keysets/NAME/compromise.
type CompromiseRequest struct {
	Reason string `json:"reason"`
	KID    string `json:"kid,omitempty"` // absent: the active version
}

// CompromiseAllRequest is the body of POST /v1/ops/compromise. Token or Node is
// said, one of the two.
type CompromiseAllRequest struct {
	Reason string `json:"reason"`
	Token  string `json:"token,omitempty"` // a keystore's name, or its token's serial or label
	Node   string `json:"node,omitempty"`
}

// CompromiseReply answers both: what became of each version. Asked again of one it
// says the same, as far as that has not changed since.
type CompromiseReply struct {
	Compromised []Compromised `json:"compromised"`
	Node        *Forgotten    `json:"node,omitempty"` // of a node
	Next        []string      `json:"next"`           // what an operator does now, in words
}

// Compromised is what became of one version: it neither signs nor is published
// any more, and what it signed is rejected by who looks.
type Compromised struct {
	KeySet      string    `json:"keyset"`
	Purpose     string    `json:"purpose"`
	Version     int       `json:"version"`
	KID         string    `json:"kid"` // empty: its key was being made
	At          time.Time `json:"at"`  // since when
	By          string    `json:"by"`
	Reason      string    `json:"reason"`
	StateBefore string    `json:"state_before"`
	Already     bool      `json:"already"` // it was compromised before this was asked

	// LiveTokens is how many tokens, or certificates of an authority, that this node
	// has entered as signed by it are not expired, or how many signatures of digests,
	// which never are; all of them are rejected from now on. Null: they could not be counted in time. Other nodes' logs are not in it.
	LiveTokens *int64     `json:"live_tokens"`
	LiveUntil  *time.Time `json:"live_until"` // when the last of these would have expired
	CountedOn  string     `json:"counted_on"` // the node whose log it is
	// ExpHorizon is a time that no token it signed on any node outlives.
	ExpHorizon *time.Time `json:"exp_horizon"`

	Exposure  Exposure   `json:"exposure"`
	Successor *Successor `json:"successor"` // null: none signs in its place, or it was not signing
	Gap       *Gap       `json:"gap"`       // null: the key set signs without a break

	Recorded bool   `json:"recorded"` // in catalog and log; otherwise that follows
	Durable  bool   `json:"durable"`  // that it does not sign survives a restart
	Entry    string `json:"entry"`    // empty while it is not recorded
}

// Exposure is how long what is forged with the key may be accepted. Verifiers
// that never fetch the set again accept it until they are restarted. Of a version
// that is not on record it is told as if it were: other nodes do not know of it
// before that.
type Exposure struct {
	Caches  *time.Time `json:"caches_until"`  // by caches that comply; null: none has it
	CutOff  *time.Time `json:"cut_off_until"` // behind a node that cannot be reached; null: there is no other
	Signing *time.Time `json:"signed_until"`  // by then no node signs with it any more; null: it was not signing
}

// Successor is the version that signs in place of a compromised one.
type Successor struct {
	VersionRef
	SignsSince time.Time `json:"signs_since"`
	// RejectedUntil is until when verifiers may reject its tokens, since on_gap is
	// sign_early; null: none does.
	RejectedUntil *time.Time `json:"rejected_until"`
}

// Gap is the time in which no version of a key set signs.
type Gap struct {
	From  time.Time  `json:"from"`
	Until *time.Time `json:"until"`          // null: time alone does not end it
	Held  string     `json:"held,omitempty"` // what its end waits for
}

// Forgotten is the node whose keys are compromised.
type Forgotten struct {
	Name      string `json:"name"`
	Forgotten bool   `json:"forgotten"`
	Error     string `json:"error,omitempty"` // why it is not
}
