package rotation

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"chancery/keystore"
)

// A MismatchKind is in which way a keystore and the catalog do not agree.
type MismatchKind string

// The kinds of mismatch.
const (
	KeyAdopted     MismatchKind = "adopted"     // a pending version's key was found and taken
	KeyFinished    MismatchKind = "finished"    // a pending version's key never came to be
	KeyOrphan      MismatchKind = "orphan"      // a key of Chancery's that no version names
	KeyUnknown     MismatchKind = "unknown"     // a key of someone else's
	KeyHalfPair    MismatchKind = "half_pair"   // one half of a pair
	KeyMissing     MismatchKind = "missing"     // a version's private key is not there
	KeyResurrected MismatchKind = "resurrected" // a destroyed key is there again
	KeyAttributes  MismatchKind = "attributes"  // a key that can do what it must not
)

// A Mismatch is one thing in which a keystore and the catalog do not agree.
type Mismatch struct {
	Kind     MismatchKind
	Keystore string
	KeySet   string // of the version it is about; empty: none
	Version  int    // 0: none
	KID      keystore.KID
	State    keystore.State  // of that version
	Object   keystore.Object // what is in the keystore; zero: nothing
	What     string          // is wrong, in words
	Todo     string          // what an operator does about it
	Entry    string          // where it stands in the log; empty: it could not be entered
}

// Stray reports whether the mismatch is a key that belongs to no version.
func (m *Mismatch) Stray() bool {
	return m.Version == 0 && m.Kind != KeyAttributes && !m.Kind.Disagrees()
}

// privateHalf is what Object.Missing says of a public key that is there alone.
const privateHalf = "private half"

// ourLabels begin the label of every key that a Provider of Chancery's makes: on a
// token, and in Transit, whose names have no slash.
var ourLabels = [...]string{"chancery/", "chancery-"}

// isOurs reports whether an object was made by a Provider of Chancery's.
func isOurs(o keystore.Object) bool {
	return slices.ContainsFunc(ourLabels[:], func(l string) bool { return strings.HasPrefix(o.Label, l) })
}

// usable are the required attributes whose lack lets whoever has the PIN use a
// key for more than to sign, as an attack on the others (A32).
var usable = []string{"CKA_WRAP", "CKA_DECRYPT", "CKA_UNWRAP", "CKA_DERIVE", "CKA_SIGN_RECOVER"}

// A row is a version that may have a private key.
type row struct {
	keyset  string
	version *keystore.Version
}

// rowsByKeystore returns what each keystore may hold, by key id.
func rowsByKeystore(view *keystore.View) map[string]map[string]row {
	rows := map[string]map[string]row{}
	for _, ks := range view.KeySets() {
		for i := range ks.Versions {
			v := &ks.Versions[i]
			if rows[v.Keystore] == nil {
				rows[v.Keystore] = map[string]row{}
			}
			rows[v.Keystore][v.KeyID.String()] = row{ks.Name, v}
		}
	}
	return rows
}

// held reports whether a version in state s has a private key.
func held(s keystore.State) bool { return s.Known() || s == keystore.Retired }

// mismatches compares what one keystore holds with the rows of the catalog: as
// they were before the keystore was asked, and as they were after, for a key
// that was made meanwhile has a row by then. foreign names what is no version's
// and is to be there. It is pure.
func mismatches(name string, before, after map[string]row, objects []keystore.Object, foreign func(keystore.Object) bool) []Mismatch {
	c := comparison{keystore: name, before: before, after: after, found: map[string]bool{}, gone: map[string]row{}}
	for _, r := range before {
		if r.version.State == keystore.Destroyed {
			c.gone[string(r.version.SPKI)] = r
		}
	}
	for _, o := range objects {
		c.object(o, foreign)
	}
	c.absent()
	return c.all
}

// A comparison is of one keystore.
type comparison struct {
	keystore      string
	before, after map[string]row
	found         map[string]bool // private keys of versions, by id
	gone          map[string]row  // versions that had been destroyed, by public key
	all           []Mismatch
}

func (c *comparison) add(kind MismatchKind, r row, o keystore.Object, format string, args ...any) {
	m := Mismatch{Kind: kind, Keystore: c.keystore, Object: o, What: fmt.Sprintf(format, args...)}
	if r.version != nil {
		m.KeySet, m.Version, m.KID, m.State = r.keyset, r.version.Number, r.version.KID, r.version.State
	}
	m.Todo = todo(&m)
	c.all = append(c.all, m)
}

// object looks at one object of the keystore.
func (c *comparison) object(o keystore.Object, foreign func(keystore.Object) bool) {
	if o.Type == "secret" { // whatever it is called, it is no version's
		c.add(KeyUnknown, row{}, o, "it is not Chancery's")
		c.able(o)
		return
	}
	half := slices.Contains(o.Missing, privateHalf)
	if r, ok := c.destroyed(o); ok && !half {
		c.add(KeyResurrected, r, o, "the private key was destroyed and is there again")
		return
	}
	// A key that is there though its row was abandoned is no version's.
	r, ok := c.after[o.ID]
	switch {
	case !ok || r.version.State == keystore.Abandoned:
		c.stray(o, half, foreign)
	case r.version.State == keystore.Destroyed && half:
		c.add(KeyHalfPair, r, o, "the public half of a destroyed key is left")
	case !held(r.version.State) || half: // absent tells
	default:
		c.owned(r, o)
	}
}

// destroyed returns the version that o is the key of, if that was destroyed
// before the keystore was asked, by whatever id o goes now.
func (c *comparison) destroyed(o keystore.Object) (row, bool) {
	if r, ok := c.before[o.ID]; ok && r.version.State == keystore.Destroyed {
		return r, true
	}
	r, ok := c.gone[string(o.SPKI)]
	return r, ok
}

// owned looks at the private key of a version.
func (c *comparison) owned(r row, o keystore.Object) {
	switch {
	case c.found[o.ID]:
		c.add(KeyOrphan, row{}, o, "it goes by the id of %s version %d, beside that version's key", r.keyset, r.version.Number)
		return
	case o.SPKI != nil && !bytes.Equal(o.SPKI, r.version.SPKI):
		return // absent tells
	case o.SPKI == nil:
		c.add(KeyHalfPair, r, o, "its public half is not there, or there are several")
	}
	c.found[o.ID] = true
	if len(o.Missing) > 0 {
		c.add(KeyAttributes, r, o, "it lacks what is required: %s", strings.Join(o.Missing, ", "))
	}
}

// stray looks at a key that no version names.
func (c *comparison) stray(o keystore.Object, half bool, foreign func(keystore.Object) bool) {
	lacks := slices.DeleteFunc(slices.Clone(o.Missing), func(name string) bool { return name == privateHalf })
	expected := foreign != nil && foreign(o) && !half
	switch {
	case expected:
	case !isOurs(o):
		c.add(KeyUnknown, row{}, o, "it is not Chancery's")
	case half:
		c.add(KeyHalfPair, row{}, o, "a public key without its private half, which no version names")
	case o.SPKI == nil:
		c.add(KeyHalfPair, row{}, o, "a private key without its public half, which no version names")
	default:
		c.add(KeyOrphan, row{}, o, "no version names it")
	}
	switch {
	case expected && len(lacks) > 0:
		c.add(KeyAttributes, row{}, o, "it lacks what is required: %s", strings.Join(lacks, ", "))
	case !expected:
		c.able(o)
	}
}

// able tells of a key that could harm others.
func (c *comparison) able(o keystore.Object) {
	able := slices.DeleteFunc(slices.Clone(o.Missing), func(name string) bool { return !slices.Contains(usable, name) })
	if len(able) > 0 {
		c.add(KeyAttributes, row{}, o, "it does more than sign: %s", strings.Join(able, ", "))
	}
}

// absent tells of versions whose private keys were not found.
func (c *comparison) absent() {
	for _, id := range slices.Sorted(maps.Keys(c.before)) {
		r, ok := c.after[id]
		if ok && held(c.before[id].version.State) && held(r.version.State) && !c.found[id] {
			c.add(KeyMissing, r, keystore.Object{ID: id}, "its private key is not there")
		}
	}
}

// todo says what an operator does about a mismatch.
func todo(m *Mismatch) string {
	switch m.Kind {
	case KeyAdopted:
		return "nothing: rotation goes on with it"
	case KeyFinished:
		return "nothing: rotation makes another one if one is needed"
	case KeyOrphan:
		return "nothing uses it here; if no backup of the catalog has it and no other Chancery uses the keystore, delete it with the keystore's own tool"
	case KeyUnknown:
		return "nothing uses it; find out whose it is: a token of its own is best for Chancery"
	case KeyHalfPair:
		return halfTodo(m)
	case KeyMissing:
		return missingTodo(m)
	case KeyResurrected:
		return fmt.Sprintf("its token is stopped: find out who put it back, then run `chancery keys destroy %s %d --reason WHY`", m.KeySet, m.Version)
	case KeyAttributes:
		if m.Version != 0 && m.State == keystore.Retired {
			return "nothing: it does not sign any more; find out who made it so"
		}
		if m.Version != 0 {
			return fmt.Sprintf("find out who made it so, and run `chancery rotation now %s`", m.KeySet)
		}
		return "nothing uses it, but whoever can use the keystore can: find out whose it is, and delete it with the keystore's own tool"
	}
	return ""
}

func halfTodo(m *Mismatch) string {
	switch {
	case m.Version == 0:
		return "nothing uses it; delete it with the keystore's own tool"
	case m.State == keystore.Destroyed:
		return fmt.Sprintf("run `chancery keys destroy %s %d --reason WHY` again", m.KeySet, m.Version)
	}
	return fmt.Sprintf("put the public half back from a backup of the token, or run `chancery rotation now %s`", m.KeySet)
}

func missingTodo(m *Mismatch) string {
	switch m.State {
	case keystore.Published:
		return "nothing: another one is made in its place; find out who deleted it"
	case keystore.Active:
		return fmt.Sprintf("run `chancery rotation now %s`, and find out who deleted it", m.KeySet)
	case keystore.Retired:
		return fmt.Sprintf("if a destruction was cut short, run `chancery keys destroy %s %d --reason WHY` again; if not, find out who deleted it", m.KeySet, m.Version)
	}
	return "nothing: it does not sign any more; find out who deleted it"
}

// mismatchAction returns what the log calls a mismatch; "" for what it has
// under another name.
func mismatchAction(m *Mismatch) keystore.Action {
	switch {
	case m.Kind.Disagrees():
		return keystore.ActKeyDisputed
	case m.Kind == KeyMissing:
		return keystore.ActKeyMissing
	case m.Kind == KeyResurrected:
		return keystore.ActKeyResurrected
	case m.Kind == KeyAttributes:
		return keystore.ActKeyAttributes
	case m.Kind == KeyAdopted, m.Kind == KeyFinished:
		return ""
	case m.Version != 0:
		return keystore.ActKeyHalfPair
	}
	return keystore.ActKeyOrphan
}

// mismatchRecord is what the log is told of a mismatch. Its ID is the same each
// time the same thing is found.
func mismatchRecord(m *Mismatch) keystore.Record {
	o := m.Object
	name := fmt.Appendf(nil, "orphan %q %q %q %q %x", m.Keystore, o.Token, o.ID, o.Label, o.SPKI)
	action := mismatchAction(m)
	if action != keystore.ActKeyOrphan {
		name = fmt.Appendf(nil, "%s %q %q %q %q %x %q %d", action, m.Keystore, o.Token, o.ID, o.Label, o.SPKI, m.KeySet, m.Version)
	}
	if m.Kind.Disagrees() { // what it is changes with the versions' states, which makes it another
		name = fmt.Appendf(nil, "%s %q %q %d %q %q", action, m.Kind, m.KeySet, m.Version, m.KID, m.What)
	}
	hash := keystore.HashSPKI(name)
	rec := keystore.Record{
		ID: hex.EncodeToString(hash[:16]), Principal: System, Action: action, Outcome: keystore.OutcomeDone,
		KeySet: m.KeySet, Version: m.Version, KID: m.KID, Reason: m.What,
		Detail: map[string]string{
			"kind": string(m.Kind), "keystore": m.Keystore, "token": o.Token, "key_id": o.ID, "label": o.Label, "type": o.Type,
		},
	}
	if m.Version != 0 {
		rec.State = m.State.String()
	}
	return rec
}
