package audit

import (
	"fmt"
	"slices"
	"time"
)

// A Report is what Verify found. The log is as its keys signed it if there are
// no Problems and KeyVerified; the entries of a log beyond its Proven are in
// order but under no signature yet.
type Report struct {
	KeyVerified bool        `json:"key_verified"` // every log that has entries is proven by one of the keys, or one they announced
	Logs        []LogReport `json:"logs"`
	LogKeys     []LogKey    `json:"log_keys"` // that were trusted: those given, then those announced, in the order they were
	Pruned      []Pruned    `json:"pruned,omitempty"`
	Problems    []Problem   `json:"problems"`
	Unwitnessed []string    `json:"unwitnessed"` // names of logs of which no quorum of witnesses has cosigned a checkpoint

	Uses  []UseReport  `json:"uses,omitempty"`  // of each key whose uses are numbered, by kid
	Peers []PeerReport `json:"peers,omitempty"` // of each other node whose log was seen, by origin

	Before *Before `json:"before,omitempty"` // what Options.State says was verified before; nil: nothing
}

// A LogReport tells of one log.
type LogReport struct {
	Name          string    `json:"name"`   // "lifecycle" or "acts/YYYY-MM"
	Origin        string    `json:"origin"` // empty: nothing in it tells
	Entries       int64     `json:"entries"`
	Proven        int64     `json:"proven"`         // entries under the checkpoint, if they are what it signs
	Unsigned      int64     `json:"unsigned"`       // entries behind it
	First         time.Time `json:"first,omitzero"` // time of the first entry
	Last          time.Time `json:"last,omitzero"`
	ProvenUntil   time.Time `json:"proven_until,omitzero"`   // time of the last proven entry
	Root          string    `json:"root"`                    // of all entries, in base64
	UnsignedSince time.Time `json:"unsigned_since,omitzero"` // time of the first entry behind the checkpoint
	Key           string    `json:"key"`                     // NAME+ID of the key that signed; empty: no checkpoint
	Verified      bool      `json:"verified"`                // signed by a given or announced key, or closed in a lifecycle that is
	Closed        string    `json:"closed,omitempty"`
	Announced     string    `json:"announced,omitempty"`   // the entry that announced Key, if it was not given
	Compromised   string    `json:"compromised,omitempty"` // the entry that says that Key was compromised before it signed this

	Before int64 `json:"before,omitempty"` // of Entries: those not looked at now, as Options.State says they were

	Witnessed *Witnessed `json:"witnessed,omitempty"` // how far a quorum of witnesses knows it; nil: it is unwitnessed
}

// A Problem is something that is not as it was written, or that cannot be judged.
type Problem struct {
	Log   string `json:"log"`   // its name
	Index int64  `json:"index"` // of the entry, or -1
	What  string `json:"what"`
	Kind  Kind   `json:"kind"`
}

// A Kind says what a Problem means: that a log is not the one that was written, or
// that nobody can tell with what Verify was given.
type Kind string

// The kinds. What has another one counts as Changed.
const (
	Changed    Kind = "changed"     // the log contradicts itself, its signatures, or what is known of it
	KeyUnknown Kind = "key_unknown" // it is signed by no key that was given, or announced under one
	Away       Kind = "away"        // it cannot be reached
	Unsigned   Kind = "unsigned"    // its last entries are under no checkpoint, for longer than one takes
	Nothing    Kind = "nothing"     // there is nothing to verify, or nothing to compare it with
)

// Judged reports whether p says that the log was changed. Otherwise it may be
// sound, or not.
func (p Problem) Judged() bool {
	return !slices.Contains([]Kind{KeyUnknown, Away, Unsigned, Nothing}, p.Kind)
}

// Changed returns the problems that say that a log was changed, and Unjudged
// those that say that it cannot be judged.
func (r *Report) Changed() []Problem { return r.problems(true) }

// Unjudged returns what Changed does not.
func (r *Report) Unjudged() []Problem { return r.problems(false) }

// changed reports whether there is a problem that says that the log of that name
// was changed.
func (r *Report) changed(name string) bool {
	return slices.ContainsFunc(r.Problems, func(p Problem) bool { return p.Log == name && p.Judged() })
}

func (r *Report) problems(judged bool) (some []Problem) {
	for _, p := range r.Problems {
		if p.Judged() == judged {
			some = append(some, p)
		}
	}
	return some
}

// String returns the problem as one line.
func (p Problem) String() string {
	if p.Index < 0 {
		return p.Log + ": " + p.What
	}
	return fmt.Sprintf("%s: entry %d: %s", p.Log, p.Index, p.What)
}

// Entries returns how many entries all logs have.
func (r *Report) Entries() (n int64) {
	for _, l := range r.Logs {
		n += l.Entries
	}
	return n
}

// Proven returns how many entries of all logs are proven.
func (r *Report) Proven() (n int64) {
	for _, l := range r.Logs {
		n += l.Proven
	}
	return n
}

// OK reports whether everything is as it was signed by one of the keys.
func (r *Report) OK() bool { return r.KeyVerified && len(r.Problems) == 0 }
