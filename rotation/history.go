package rotation

import (
	"strings"
	"time"

	"chancery/keystore"
)

// Entered is a record as it stands in the log.
type Entered struct {
	Record keystore.Record
	Time   time.Time
	Entry  string
}

// An Event is something that was done to a key set.
type Event struct {
	At      time.Time
	Version int    // 0: the key set as a whole
	Event   string // "generate", "publish", "served", "activate", …
	By      string
	Reason  string
	Entry   string
}

// History returns what was done to a key set, in the order of the log. The
// intent of a generation is left out when the log has its outcome; without one
// the event is "generate (outcome unknown)", and when it failed "generate
// (failed)". It is pure.
func History(entries []Entered, keyset string) []Event {
	concluded := map[string]bool{}
	for _, e := range entries {
		if e.Record.Outcome != keystore.OutcomeIntent && e.Record.ID != "" {
			concluded[e.Record.ID] = true
		}
	}
	events := []Event{}
	for _, e := range entries {
		name, ok := eventName(e.Record)
		if !ok || e.Record.KeySet != keyset || e.Record.Outcome == keystore.OutcomeIntent && concluded[e.Record.ID] {
			continue
		}
		events = append(events, Event{
			At: e.Time, Version: e.Record.Version, Event: name,
			By: e.Record.Principal, Reason: e.Record.Reason, Entry: e.Entry,
		})
	}
	return events
}

// eventName returns what a record's act is called in a history; false if it
// does not belong there.
func eventName(r keystore.Record) (string, bool) {
	noun, verb, _ := strings.Cut(string(r.Action), ".")
	if noun != "key" && noun != "keyset" && r.Action != keystore.ActIssueAuthority {
		return "", false
	}
	switch r.Outcome {
	case keystore.OutcomeDone:
		return verb, true
	case keystore.OutcomeIntent, keystore.OutcomeUnknown:
		return verb + " (outcome unknown)", true
	}
	return verb + " (" + string(r.Outcome) + ")", true
}
