package audit

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"chancery/keystore"
)

// KeyLives is what lifecycle entries tell of keys: the life of each version, from
// the row that was there before its key to the proof that the key is gone. It is
// made by adding entries in the order of their times; entries that say the same
// twice, as nodes that enter steps for each other may, make no difference. It is
// plain data, and not safe for concurrent use.
type KeyLives struct {
	versions map[keyVersion]*KeyLife
	kids     map[keystore.KID]*KeyLife
	next     int64 // of lifecycle: the index Read goes on at
}

type keyVersion struct {
	keyset string
	number int
}

// A KeyLife is the life of one version, as the log has it. A time is that of the
// entry, but for what an operator said: that counts from when it was said, since
// it is in force before it is entered.
type KeyLife struct {
	KeySet    string             `json:"keyset"`
	Version   int                `json:"version"`
	KID       keystore.KID       `json:"kid,omitempty"` // empty: its key never was known
	Purpose   keystore.Purpose   `json:"purpose,omitempty"`
	Algorithm keystore.Algorithm `json:"algorithm,omitempty"`
	Keystore  string             `json:"keystore,omitempty"`
	// Public is the DER SubjectPublicKeyInfo whose thumbprint is KID; nil: the log
	// does not have it. Entries of before it was entered do not.
	Public      []byte          `json:"public,omitempty"`
	Steps       []KeyStep       `json:"steps"` // one for each state it came to, in the order of states
	Suspensions []KeySuspension `json:"suspensions,omitempty"`
	Compromised *KeyFact        `json:"compromised,omitempty"`
	Problems    []string        `json:"problems,omitempty"` // in which its entries contradict each other
}

// A KeyStep is when a version came to a state.
type KeyStep struct {
	State keystore.State `json:"state"`
	At    time.Time      `json:"at"`
	Entry string         `json:"entry"`
}

// A KeyFact is what an operator said of a version, and where that was entered.
type KeyFact struct {
	At      time.Time `json:"at"` // when it was said
	By      string    `json:"by"`
	Reason  string    `json:"reason"`
	Entered time.Time `json:"entered"`
	Entry   string    `json:"entry"`
}

// A KeySuspension is one, and its end; nil: it has none yet.
type KeySuspension struct {
	Begin KeyFact  `json:"begin"`
	End   *KeyFact `json:"end,omitempty"`
}

// A Standing is what there was to know of a version at a time.
type Standing struct {
	At          time.Time      `json:"at"`
	State       keystore.State `json:"state,omitempty"` // 0: it was not there yet
	Since       time.Time      `json:"since"`           // of State
	Entry       string         `json:"entry,omitempty"` // of State
	Suspended   *KeyFact       `json:"suspended,omitempty"`
	Compromised *KeyFact       `json:"compromised,omitempty"`
}

// NewKeyLives returns one that nothing was added to.
func NewKeyLives() *KeyLives {
	return &KeyLives{versions: make(map[keyVersion]*KeyLife), kids: make(map[keystore.KID]*KeyLife)}
}

// Read adds what lifecycle under dir, an audit directory, has by now and had not
// when it was last read. Like Entries it verifies no signature. After an error
// what was read stays added.
func (k *KeyLives) Read(ctx context.Context, dir string) error {
	for at, err := range EntriesContext(ctx, dir, Filter{Log: lifecycleName, From: k.next}) {
		if err != nil {
			return fmt.Errorf("reading the lives of keys: %w", err)
		}
		k.Add(&at.Entry.Record, at.Entry.Time, at.Name())
		k.next = at.Entry.Sequence + 1
	}
	return nil
}

// All returns every life by key set and version. They must not be changed.
func (k *KeyLives) All() []*KeyLife {
	all := slices.Collect(maps.Values(k.versions))
	slices.SortFunc(all, func(a, b *KeyLife) int {
		return cmp.Or(strings.Compare(a.KeySet, b.KeySet), a.Version-b.Version)
	})
	return all
}

// ByKID returns the life of the version whose key has that thumbprint.
func (k *KeyLives) ByKID(kid keystore.KID) (*KeyLife, bool) {
	l, ok := k.kids[kid]
	return l, ok
}

// Version returns the life of a version.
func (k *KeyLives) Version(keyset string, number int) (*KeyLife, bool) {
	l, ok := k.versions[keyVersion{keyset, number}]
	return l, ok
}

// Add adds an entry: its record, its time and its name. One that does not tell of
// a version's life changes nothing.
func (k *KeyLives) Add(r *keystore.Record, at time.Time, entry string) {
	state, step := stepOf(r)
	fact := r.Action == keystore.ActSuspend || r.Action == keystore.ActResume || r.Action == keystore.ActCompromise
	begun := r.Action == keystore.ActKeyGenerate && r.Outcome == keystore.OutcomeIntent
	if r.KeySet == "" || r.Version <= 0 || !begun && r.Outcome != keystore.OutcomeDone || !step && !fact {
		return
	}
	name := keyVersion{r.KeySet, r.Version}
	l, ok := k.versions[name]
	if !ok {
		l = &KeyLife{KeySet: r.KeySet, Version: r.Version}
		k.versions[name] = l
	}
	k.identify(l, r, entry)
	l.describe(r, entry)
	said := KeyFact{At: saidAt(r, at), By: r.Principal, Reason: r.Reason, Entered: at, Entry: entry}
	switch r.Action {
	case keystore.ActSuspend:
		l.suspend(said)
	case keystore.ActResume:
		l.resume(said)
	case keystore.ActCompromise:
		if l.Compromised == nil {
			l.Compromised = &said
		}
		at = said.At
	}
	if step {
		l.reach(KeyStep{state, at, entry})
	}
}

// stepOf returns the state that a record says a version has come to. A record has
// a version's state whatever it is about, so it is the act that makes it a step.
func stepOf(r *keystore.Record) (keystore.State, bool) {
	switch r.Action {
	case keystore.ActKeyGenerate:
		return keystore.Pending, r.Outcome == keystore.OutcomeIntent
	case keystore.ActKeyPublish:
		return keystore.Published, true
	case keystore.ActKeyActivate:
		return keystore.Active, true
	case keystore.ActKeyRetire:
		return keystore.Retiring, true
	case keystore.ActKeyRemove:
		return keystore.Retired, true
	case keystore.ActKeyDestroy:
		return keystore.Destroyed, true
	case keystore.ActKeyAbandon:
		return keystore.Abandoned, true
	case keystore.ActCompromise: // which ends it, wherever it stood
		state, err := keystore.ParseState(r.State)
		return state, err == nil
	}
	return 0, false
}

// saidAt returns when an operator said what r tells.
func saidAt(r *keystore.Record, entered time.Time) time.Time {
	at, err := time.Parse(time.RFC3339Nano, r.Detail["at"])
	if err != nil {
		return entered
	}
	return at.UTC()
}

// identify notes the kid of a life. A kid is one version's for ever.
func (k *KeyLives) identify(l *KeyLife, r *keystore.Record, entry string) {
	other, taken := k.kids[r.KID]
	switch {
	case r.KID == "" || r.KID == l.KID:
	case l.KID != "":
		l.contradict("%s gives version %d the kid %s, which was %s", entry, l.Version, r.KID, l.KID)
	case taken:
		l.contradict("%s gives version %d the kid of %s version %d", entry, l.Version, other.KeySet, other.Version)
	default:
		l.KID, k.kids[r.KID] = r.KID, l
	}
}

// describe notes what is particular to a key. What another purpose or algorithm is
// said of it later is a contradiction: they are one version's for ever.
func (l *KeyLife) describe(r *keystore.Record, entry string) {
	for _, m := range []struct {
		name string
		have *string
	}{
		{"purpose", (*string)(&l.Purpose)}, {"algorithm", (*string)(&l.Algorithm)},
	} {
		said := r.Detail[m.name]
		if *m.have != "" && said != "" && said != *m.have {
			l.contradict("%s says that its %s is %s, which was %s", entry, m.name, said, *m.have)
			continue
		}
		*m.have = cmp.Or(*m.have, said)
	}
	if r.Action == keystore.ActKeyGenerate {
		l.Keystore = cmp.Or(l.Keystore, r.Detail["keystore"])
	}
	if text := r.Detail["public"]; text != "" && r.Action == keystore.ActKeyPublish {
		l.publish(text, entry)
	}
}

// publish notes the public key, which the kid is the thumbprint of.
func (l *KeyLife) publish(text, entry string) {
	spki, err := base64.StdEncoding.Strict().DecodeString(text)
	if err == nil {
		err = fits(spki, l.KID)
	}
	if err != nil {
		l.contradict("%s: its public key: %v", entry, err)
		return
	}
	l.Public = spki
}

// fits returns nil if kid is the thumbprint of the public key spki.
func fits(spki []byte, kid keystore.KID) error {
	pub, err := keystore.ParsePublic(spki)
	if err != nil {
		return err
	}
	is, err := keystore.Thumbprint(pub)
	if err != nil {
		return err
	}
	if is != kid {
		return fmt.Errorf("its thumbprint is %s, and the kid %s", is, kid)
	}
	return nil
}

func (l *KeyLife) contradict(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(l.Problems, text) {
		l.Problems = append(l.Problems, text)
	}
}

// reach notes a step, the first of its state.
func (l *KeyLife) reach(s KeyStep) {
	i, found := slices.BinarySearchFunc(l.Steps, s.State, func(have KeyStep, state keystore.State) int { return int(have.State) - int(state) })
	if !found {
		l.Steps = slices.Insert(l.Steps, i, s)
	}
}

func (l *KeyLife) suspend(said KeyFact) {
	if n := len(l.Suspensions); n > 0 && l.Suspensions[n-1].End == nil {
		return // it is suspended already
	}
	for _, s := range l.Suspensions { // entered again, though it has ended: by another node, for this one
		if s.Begin.Entry == said.Entry {
			return
		}
	}
	l.Suspensions = append(l.Suspensions, KeySuspension{Begin: said})
}

func (l *KeyLife) resume(said KeyFact) {
	if n := len(l.Suspensions); n > 0 && l.Suspensions[n-1].End == nil {
		l.Suspensions[n-1].End = &said
	}
}

// Reached returns when the version came to a state.
func (l *KeyLife) Reached(state keystore.State) (KeyStep, bool) {
	for _, s := range l.Steps {
		if s.State == state {
			return s, true
		}
	}
	return KeyStep{}, false
}

// At returns what there was to know of the version at t. A compromise that was
// said later is not in it: see Compromised.
func (l *KeyLife) At(t time.Time) Standing {
	now := Standing{At: t}
	for _, s := range l.Steps {
		if !s.At.After(t) {
			now.State, now.Since, now.Entry = s.State, s.At, s.Entry
		}
	}
	for i := range l.Suspensions {
		s := &l.Suspensions[i]
		if !s.Begin.At.After(t) && (s.End == nil || s.End.At.After(t)) {
			now.Suspended = &s.Begin
		}
	}
	if l.Compromised != nil && !l.Compromised.At.After(t) {
		now.Compromised = l.Compromised
	}
	return now
}
