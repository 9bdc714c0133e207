package audit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// MaxState is the largest state that is read, in bytes.
const MaxState = 256 << 20

const stateVersion = 2

// A State is how far Verify came, for a later run to go on from there: of each
// log its first entries, which are under a checkpoint, with the right edge of
// their tree, and what Verify drew from them all. It has no entry in it, but
// names keys, nodes and months.
//
// It is the auditor's own note, and is believed: who can write it can have a
// change go unseen. It has to be kept where the operator of the log cannot write.
// What it says of the trees is bound to what is signed now: of a log that is no
// continuation of these the signed root differs. A key, a witness or a checkpoint
// that is given to the later run only counts for everything all the same.
type State struct {
	Version  int           `json:"v"`
	Time     time.Time     `json:"time"`     // when it was kept, UTC, whole seconds
	Compared []string      `json:"compared"` // origins of Options.Peers, ascending
	Logs     []LogState    `json:"logs"`     // lifecycle, then the months, ascending
	Keys     keyNotes      `json:"keys"`
	Months   *months       `json:"months"`
	Uses     *useFollower  `json:"uses"`
	Heads    *headFollower `json:"heads"`
	Peers    peerHeads     `json:"peers"`
}

// A LogState is how far one log was verified.
type LogState struct {
	Name    string        `json:"name"` // "lifecycle" or "acts/YYYY-MM"
	Origin  string        `json:"origin"`
	Size    int64         `json:"size"`    // entries that were verified, at least 1
	Edge    [][]tlog.Hash `json:"edge"`    // of their tree: what the tiles that are not full hold, from level 0
	First   time.Time     `json:"first"`   // time of the first entry
	Last    time.Time     `json:"last"`    // of the last of them
	Durable int64         `json:"durable"` // of the last record (see the package comment)
}

func newState() *State {
	return &State{
		Version: stateVersion, Compared: []string{}, Logs: []LogState{}, Keys: newLogKeys().keyNotes,
		Months: newMonths(), Uses: newUseFollower(), Heads: newHeadFollower(),
		Peers: peerHeads{Notes: map[string][]seenHead{}, Last: map[string]PeerReport{}},
	}
}

// tree returns the tree of the entries that were verified.
func (s *LogState) tree() tree { return (&tree{s.Size, s.Edge}).clone() }

// Entries returns how many entries of all logs were verified.
func (s *State) Entries() (n int64) {
	for _, l := range s.Logs {
		n += l.Size
	}
	return n
}

// Encode returns s as a JSON object and a line end, which ParseState reads.
func (s *State) Encode() ([]byte, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("writing how far the log was verified: %w", err)
	}
	return append(b, '\n'), nil
}

// ParseState reads what Encode wrote, in that spelling only. It returns an error
// for everything else, and for a state of another version.
func ParseState(b []byte) (*State, error) {
	if len(b) > MaxState {
		return nil, fmt.Errorf("a state of %d bytes is over %d", len(b), MaxState)
	}
	var version struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return nil, fmt.Errorf("not a state: %w", err)
	}
	if version.V != stateVersion {
		return nil, fmt.Errorf("a state of version %d, and this reads %d: begin anew", version.V, stateVersion)
	}
	s := new(State)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("not a state: %w", err)
	}
	again, err := s.Encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, errors.New("a state in another spelling")
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("a state that does not fit itself: %w", err)
	}
	return s, nil
}

// check returns an error for what no run of Verify gathers.
func (s *State) check() error {
	err := cmp.Or(s.checkLogs(), s.Keys.check())
	switch {
	case err != nil:
		return err
	case s.Compared == nil || !slices.IsSorted(s.Compared):
		return errors.New("the logs compared with are not in order")
	case s.Months == nil || s.Months.Seals == nil || s.Months.Opened == nil || s.Months.Prunes == nil:
		return errors.New("no months")
	case s.Uses == nil || s.Uses.Kids == nil || s.Uses.Intents == nil:
		return errors.New("no uses of keys")
	case s.Heads == nil || s.Heads.Heads == nil || s.Heads.Last == nil:
		return errors.New("no heads")
	case s.Peers.Notes == nil || s.Peers.Last == nil:
		return errors.New("no logs of other nodes")
	}
	for origin, heads := range s.Heads.Heads {
		if !slices.IsSortedFunc(heads, func(a, b seenHead) int { return cmp.Compare(a.Size, b.Size) }) {
			return fmt.Errorf("the heads of %s are not in order", origin)
		}
	}
	return s.Uses.check()
}

func (s *State) checkLogs() error {
	if len(s.Logs) == 0 || s.Logs[0].Name != lifecycleName {
		return errors.New("no lifecycle log")
	}
	node := strings.TrimSuffix(s.Logs[0].Origin, lifecycleName)
	for i, l := range s.Logs {
		switch {
		case i > 0 && (!isLogName(l.Name) || l.Name == lifecycleName || i > 1 && l.Name <= s.Logs[i-1].Name):
			return fmt.Errorf("log %q is no month, or out of order", l.Name)
		case node == "" || l.Origin != node+l.Name:
			return fmt.Errorf("the origin of %s is %q", l.Name, l.Origin)
		case l.Size < 1 || l.Size >= maxUse || l.Durable < 0 || l.Durable > l.Size:
			return fmt.Errorf("%d entries of %s", l.Size, l.Name)
		case !isEdge(l.Edge, l.Size):
			return fmt.Errorf("the tree of %s is none of %d entries", l.Name, l.Size)
		}
	}
	return nil
}

// isEdge reports whether the edge of a tree of that size has as many hashes.
func isEdge(edge [][]tlog.Hash, size int64) bool {
	for level := 0; size > 0; level, size = level+1, size>>tileHeight {
		if level >= len(edge) || edge[level] == nil || int64(len(edge[level])) != size%tileWidth {
			return false
		}
		if size < tileWidth {
			return level == len(edge)-1
		}
	}
	return false
}

func (k *keyNotes) check() error {
	if k.Announced == nil || k.Compromised == nil {
		return errors.New("no log keys")
	}
	for _, a := range k.Announced {
		if key, err := ParseVKey(a.VKey); err != nil || keyID(key) != a.Key {
			return fmt.Errorf("entry %d announces no log key", a.Index)
		}
	}
	return nil
}

func (f *useFollower) check() error {
	for kid, k := range f.Kids {
		if k == nil || k.Lifecycle.isEmpty() && k.Acts.isEmpty() {
			return fmt.Errorf("key %s without a use", kid)
		}
		if !k.Lifecycle.Closed.ascend() || !k.Acts.Closed.ascend() {
			return fmt.Errorf("the uses of key %s are not in order", kid)
		}
	}
	for id, in := range f.Intents {
		if f.Kids[in.KID] == nil {
			return fmt.Errorf("intent %s is of no key", id)
		}
	}
	return nil
}

func (u *logUses) isEmpty() bool { return len(u.Closed) == 0 && u.Bare == nil }

// ascend reports whether s is what add makes.
func (s spans) ascend() bool {
	last := int64(-1)
	for _, x := range s {
		if x.From <= last+1 && last >= 0 || x.To < x.From || x.From < 0 || x.To >= maxUse {
			return false
		}
		last = x.To
	}
	return true
}
