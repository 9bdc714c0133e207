package review

import (
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// A Report is what the entries of a period tell.
type Report struct {
	MadeAt     time.Time   `json:"made_at"`
	Period     Period      `json:"period"`
	KeySet     string      `json:"keyset,omitempty"` // the only one that is told of; empty: all
	Verdict    Verdict     `json:"verdict"`
	Logs       []Checked   `json:"logs"`       // what verification said of each
	Witnessed  string      `json:"witnessed"`  // begins with Unwitnessed, unless witnesses know every log
	Deviations []Deviation `json:"deviations"` // breaches first, then by time
	KeySets    []KeySet    `json:"keysets"`
	Principals []Principal `json:"principals"`
	Refusals   []Refusal   `json:"refusals"`
	Policies   []Policy    `json:"policies"`   // in force for what was asked
	Operations []Event     `json:"operations"` // what operators did
	Nodes      []Event     `json:"nodes"`      // starts, stops, configurations, leases
	Clocks     []Event     `json:"clocks"`
	Tokens     []Event     `json:"tokens"`
	LogEvents  []Event     `json:"log_events"` // months, repairs, prunes, peers, witnesses
	Acts       Tally       `json:"acts"`       // all of them
	Absent     []string    `json:"absent"`     // nodes that the entries name and whose logs were not given
	Lone       bool        `json:"lone"`       // the logs of one node of several: what is missing may stand in the others'
	Left       []Left      `json:"left_out"`   // what was too much to be listed
	Limits     []string    `json:"limits"`     // what no log proves
}

// A Period is what a report is about: from Since on, before Until. A zero time is
// the log's own first or last.
type Period struct {
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	First time.Time `json:"first,omitzero"` // entry in it
	Last  time.Time `json:"last,omitzero"`
}

// A Verdict is what a report comes to.
type Verdict string

// The verdicts, the worst first.
const (
	Broken     Verdict = "log_broken"   // what verification says of a log is that it was changed
	Deviating  Verdict = "deviations"   // a rule was broken
	Unjudged   Verdict = "not_judged"   // nobody can tell whether a log was changed: its key was not given, or it is elsewhere
	Unverified Verdict = "not_verified" // the logs were not verified, or not under a log key
	Unclear    Verdict = "attention"    // nothing was broken, and something is left open
	Sound      Verdict = "sound"
)

// Unwitnessed is what Report.Witnessed says, or begins with, where there is a log
// that no quorum of witnesses knows.
const Unwitnessed = "unwitnessed"

// Weighs reports whether somebody has to act on the verdict.
func (v Verdict) Weighs() bool { return v != Sound && v != Unclear }

// A Checked is a directory of logs and what verifying it said; nil: it was not.
type Checked struct {
	Node   string        `json:"node"` // HOST/audit/NODE
	Report *audit.Report `json:"report"`
}

// A Severity is how much a deviation weighs.
type Severity string

// The severities.
const (
	Breach    Severity = "breach"    // a rule does not allow it, or it contradicts itself
	Attention Severity = "attention" // the log leaves it open
)

// A Deviation is something that is not as the rules have it.
type Deviation struct {
	Severity Severity     `json:"severity"`
	Rule     string       `json:"rule,omitempty"` // "rotation/1"; empty: the log's own
	At       time.Time    `json:"at"`
	KeySet   string       `json:"keyset,omitempty"`
	Version  int          `json:"version,omitempty"`
	KID      keystore.KID `json:"kid,omitempty"`
	Text     string       `json:"text"`
	Entries  []string     `json:"entries"` // that prove it
}

// A KeySet is what became of one in the period.
type KeySet struct {
	Name           string    `json:"name"`
	Purpose        string    `json:"purpose"`
	Algorithm      string    `json:"algorithm"`      // of the next version
	Configurations []Event   `json:"configurations"` // all up to the end of the period
	Versions       []Version `json:"versions"`       // those that lived in the period
	Signatures     int64     `json:"signatures"`
}

// A Version is the life of one. Times that are zero have not come.
type Version struct {
	Number    int          `json:"version"`
	KID       keystore.KID `json:"kid"`
	Algorithm string       `json:"algorithm"`
	Keystore  string       `json:"keystore"`
	State     string       `json:"state"` // at the end of the period
	NIST      string       `json:"nist"`  // its name in SP 800-57 Part 1
	Published time.Time    `json:"published_at,omitzero"`
	Active    time.Time    `json:"activated_at,omitzero"`
	Stopped   time.Time    `json:"retired_at,omitzero"`
	Removed   time.Time    `json:"removed_at,omitzero"`
	Destroyed time.Time    `json:"destroyed_at,omitzero"`
	Abandoned time.Time    `json:"abandoned_at,omitzero"`
	Leaked    time.Time    `json:"compromised_at,omitzero"`
	Suspended []Suspension `json:"suspensions"`
	Steps     []Event      `json:"steps"`  // all of its life up to the end of the period
	Checks    []Check      `json:"checks"` // of its timing rules
	Acts      Tally        `json:"acts"`   // in the period
}

// A Check is a rule held against the entries of one version. What was not held is
// a Deviation as well.
type Check struct {
	Rule    string    `json:"rule"`
	Held    bool      `json:"held"`
	At      time.Time `json:"at"`
	Text    string    `json:"text"`
	Entries []string  `json:"entries"`
}

// A Suspension is from when until when a version was suspended; a zero Until: it
// still is.
type Suspension struct {
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
}

// A Tally counts acts by how they went. An entry that stands for several counts
// as that many.
type Tally struct {
	Done     int64     `json:"done"`
	Refused  int64     `json:"refused"`
	Failed   int64     `json:"failed"`
	Unknown  int64     `json:"unknown"` // nobody knows; an intent without outcome among them
	First    time.Time `json:"first,omitzero"`
	Last     time.Time `json:"last,omitzero"`
	Exp      time.Time `json:"latest_exp,omitzero"`       // of a token
	NotAfter time.Time `json:"latest_not_after,omitzero"` // of a certificate
}

// A Principal is what one did, by action.
type Principal struct {
	Name   string          `json:"principal"` // empty: nobody who could be told
	Action keystore.Action `json:"action"`
	Acts   Tally           `json:"acts"`
}

// A Refusal counts what was refused or failed for one reason.
type Refusal struct {
	Code      string          `json:"code"`
	Principal string          `json:"principal"`
	Action    keystore.Action `json:"action"`
	Acts      Tally           `json:"acts"`
}

// A Policy is one by which acts were decided.
type Policy struct {
	Hash string `json:"policy"`
	Acts Tally  `json:"acts"`
}

// An Event is an entry of the lifecycle as a report lists it.
type Event struct {
	At      time.Time         `json:"at"` // since when it was so
	Action  keystore.Action   `json:"action"`
	Outcome keystore.Outcome  `json:"outcome"`
	KeySet  string            `json:"keyset,omitempty"`
	Version int               `json:"version,omitempty"`
	State   string            `json:"state,omitempty"`
	By      string            `json:"by"`
	Rule    string            `json:"rule,omitempty"`
	Reason  string            `json:"reason,omitempty"`
	Detail  map[string]string `json:"detail,omitempty"`
	Changed []string          `json:"changed,omitempty"` // members of Detail that differ from the one before
	Entry   string            `json:"entry"`
}

// A Left is how many rows of a list were too many.
type Left struct {
	List string `json:"list"`
	Rows int64  `json:"rows"`
}

// limits says what a report cannot know, in words for people.
func limits() []string {
	return []string{
		"What somebody with the token's PIN does beside Chancery only the device knows: its own log tells, this report does not.",
		"The log proves that what Chancery released is recorded, and that nothing behind a verified checkpoint was changed since. " +
			"Whoever holds the log key could write another history, which shows only against a checkpoint or witness kept elsewhere.",
		"Times are those of the nodes' clocks. That a step was right by the clock does not prove that the clock was.",
		"Entries hold no claims and no private data: what a token said is known only by its salted digest.",
	}
}
