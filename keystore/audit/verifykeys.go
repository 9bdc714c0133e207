package audit

import (
	"cmp"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery/keystore"
)

// A LogKey is a key that Verify trusted.
type LogKey struct {
	Key  string       `json:"key"` // NAME+ID
	VKey string       `json:"vkey"`
	KID  keystore.KID `json:"kid"`
	// Announced is the entry that made the key known and By what a trusted key
	// signed over it: "checkpoint" or "handover-SIZE". Both are empty for a key
	// that was given.
	Announced   string `json:"announced,omitempty"`
	By          string `json:"by,omitempty"`
	Compromised string `json:"compromised,omitempty"` // the entry that says so
}

// logKeys follows the log's own keys. Trust begins with the keys given. A
// checkpoint of lifecycle, or a handover, that a trusted key signed and that has
// the root of the entries makes the keys trusted that entries under it announce:
// of a compromised key those before the entry that says so.
type logKeys struct {
	keyNotes
	Points []point
	Met    int    // points whose size lifecycle has passed
	Origin string // of lifecycle
}

// keyNotes are what the entries of lifecycle say of log keys.
type keyNotes struct {
	Announced   []announcement              `json:"announced"`
	Compromised map[keystore.KID]compromise `json:"compromised"`
}

// A point is a size at which lifecycle was signed.
type point struct {
	File   string
	Signed []byte
	Size   int64
	Root   tlog.Hash
	Fits   bool // lifecycle had this root
}

// An announcement is an entry that makes a log key known.
type announcement struct {
	Index int64  `json:"index"`
	VKey  string `json:"vkey"`
	Key   string `json:"key"` // NAME+ID
}

// A compromise is an entry that says that a key was compromised.
type compromise struct {
	Index int64     `json:"index"`
	Time  time.Time `json:"time"`
}

func newLogKeys() *logKeys {
	return &logKeys{keyNotes: keyNotes{Announced: []announcement{}, Compromised: map[keystore.KID]compromise{}}}
}

// trust has vkey verify signatures from now on, once.
func (v *verification) trust(vkey string) error {
	key, err := ParseVKey(vkey)
	if err != nil {
		return err
	}
	if _, ok := v.trusted(keyID(key)); ok {
		return nil
	}
	v.keys = append(v.keys, key)
	v.report.LogKeys = append(v.report.LogKeys, LogKey{Key: keyID(key), VKey: vkey, KID: kidOf(key)})
	return nil
}

// trusted returns the trusted key with the given NAME+ID.
func (v *verification) trusted(key string) (*LogKey, bool) {
	i := slices.IndexFunc(v.report.LogKeys, func(k LogKey) bool { return k.Key == key })
	if i < 0 {
		return nil, false
	}
	return &v.report.LogKeys[i], true
}

// keyID returns the NAME+ID of a key.
func keyID(v note.Verifier) string {
	return signatureKey(note.Signature{Name: v.Name(), Hash: v.KeyHash()})
}

// kidOf returns the KID of a log key, or nothing for a key of another kind.
func kidOf(key note.Verifier) keystore.KID {
	v, ok := key.(interface{ public() crypto.PublicKey })
	if !ok {
		return ""
	}
	kid, err := keystore.Thumbprint(v.public())
	if err != nil {
		return ""
	}
	return kid
}

func (v verifier) public() crypto.PublicKey { return v.pub }

// readAhead reads the checkpoints of the months that are there: before that of
// lifecycle, so that the key of each is announced there, however many keys a
// running daemon goes through until the month is read.
func (v *verification) readAhead() error {
	months, err := listMonths(v.dir)
	if err != nil {
		return err
	}
	v.ahead = make(map[string][]byte)
	for _, m := range months {
		name := actsName + "/" + m
		b, err := readPlain(filepath.Join(v.dir, filepath.FromSlash(name), checkpointFile))
		switch {
		case err == nil:
			v.ahead[name] = b
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errForeign): // which is told in its turn
			return fmt.Errorf("reading the checkpoint: %w", err)
		}
	}
	return nil
}

// begin notes the points that lifecycle has to pass. Its checkpoint has been read:
// a running daemon keeps a handover before it publishes a checkpoint without the
// key that hands over, and no entry below either is written after this.
func (k *logKeys) begin(c *check) error {
	if c.name != lifecycleName {
		return nil
	}
	if c.signed.Size > 0 {
		k.Points = append(k.Points, point{File: checkpointFile, Signed: c.note, Size: c.signed.Size, Root: c.signed.Root})
	}
	sizes, err := listHandovers(c.dir)
	if err != nil {
		return err
	}
	for _, size := range sizes {
		if err := k.handover(c, size); err != nil {
			return err
		}
	}
	slices.SortStableFunc(k.Points, func(a, b point) int { return cmp.Compare(a.Size, b.Size) })
	return nil
}

// handover notes the handover of a size.
func (k *logKeys) handover(c *check, size int64) error {
	name := handoverName(size)
	b, err := readPlain(filepath.Join(c.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if errors.Is(err, errForeign) {
		c.problem(-1, "reading a handover: %v", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading a handover: %w", err)
	}
	h, _, err := OpenSignatures(b, nil)
	switch {
	case err != nil:
		c.problem(-1, "%s: %v", name, err)
	case h.Size != size:
		c.problem(-1, "%s is of %d entries", name, h.Size)
	case !strings.HasSuffix(h.Origin, "/"+c.name) || c.rep.Origin != "" && h.Origin != c.rep.Origin:
		c.problem(-1, "%s is of %s", name, h.Origin)
	default:
		k.Points = append(k.Points, point{File: name, Signed: b, Size: size, Root: h.Root})
	}
	return nil
}

func (k *logKeys) entry(c *check, e *Entry) {
	if c.name != lifecycleName {
		return
	}
	k.pass(c)
	switch {
	case announces(e):
		v, err := announced(e, keyNameOf(c.rep.Origin))
		if err != nil {
			c.problem(e.Sequence, "it announces a log key, and %v", err)
			return
		}
		if vkey, err := VKeyFor(v.name, v.alg, v.pub); err == nil {
			k.Announced = append(k.Announced, announcement{e.Sequence, vkey, keyID(v)})
		}
	case e.Action == keystore.ActCompromise && e.Outcome == keystore.OutcomeDone && e.KID != "":
		if _, told := k.Compromised[e.KID]; !told {
			k.Compromised[e.KID] = compromise{e.Sequence, e.Time}
		}
	}
}

// pass compares lifecycle with the points up to its present size.
func (k *logKeys) pass(c *check) {
	for ; k.Met < len(k.Points) && k.Points[k.Met].Size <= c.tree.size; k.Met++ {
		p := &k.Points[k.Met]
		var known bool
		p.Fits, known = c.had(p.Size, p.Root)
		switch {
		case p.Fits || c.broken || p.File == checkpointFile: // what is wrong is told already
		case !known:
			c.problem(-1, "it cannot be compared with %s", p.File)
		default:
			c.problem(-1, "%s: its first %d entries are not the ones that were signed", p.File, p.Size)
		}
	}
}

// log has trust grow when lifecycle has been read, and tells of every log which
// key it rests on.
func (k *logKeys) log(c *check) {
	if c.name == lifecycleName {
		k.Origin = c.rep.Origin
		k.pass(c)
		for _, p := range k.Points[k.Met:] {
			if p.File != checkpointFile {
				c.problem(-1, "it has %d entries, and %s has %d", c.next, p.File, p.Size)
			}
		}
		k.grow(c)
	}
	k.rest(c)
}

// grow trusts what trusted keys vouch for, until there is no more.
func (k *logKeys) grow(c *check) {
	for i := range c.v.report.LogKeys {
		k.mark(&c.v.report.LogKeys[i])
	}
	for more := true; more; {
		more = false
		for _, p := range k.Points {
			vouched := k.vouched(c.v, p)
			for _, a := range k.Announced {
				more = a.Index < vouched && k.trust(c, a, p) || more
			}
		}
	}
	for _, p := range k.Points {
		if _, _, err := OpenSignatures(p.Signed, c.v.keys); err != nil && p.Fits {
			c.problem(-1, "%s: %v", p.File, err)
		}
	}
}

// vouched returns below which index a trusted key answers, by its signature of p,
// for what the entries announce.
func (k *logKeys) vouched(v *verification, p point) (below int64) {
	_, sigs, err := OpenSignatures(p.Signed, v.keys)
	if err != nil || !p.Fits {
		return 0
	}
	for _, s := range sigs {
		by, ok := v.trusted(s.Key)
		if !ok || !s.Verified || keyOf(s.Key) != keyNameOf(k.Origin) {
			continue
		}
		until := int64(math.MaxInt64)
		if at, ok := k.Compromised[by.KID]; ok {
			until = at.Index
		}
		below = max(below, min(p.Size, until))
	}
	return below
}

// trust trusts the key of a, announced under p, and reports whether that is new.
func (k *logKeys) trust(c *check, a announcement, p point) bool {
	if _, ok := c.v.trusted(a.Key); ok || c.v.trust(a.VKey) != nil {
		return false
	}
	key, _ := c.v.trusted(a.Key)
	key.Announced, key.By = entryName(k.Origin, a.Index), p.File
	k.mark(key)
	return true
}

// mark tells of a key that it is compromised.
func (k *logKeys) mark(key *LogKey) {
	if at, ok := k.Compromised[key.KID]; ok {
		key.Compromised = entryName(k.Origin, at.Index)
	}
}

// rest finds the key that c rests on, now that all are known: one that was not
// compromised when it signed, if there is one, and then one that was given.
func (k *logKeys) rest(c *check) {
	if c.note == nil || c.rep.Proven == 0 {
		return
	}
	_, sigs, err := OpenSignatures(c.note, c.v.keys)
	if err != nil { // which was told
		c.rep.Proven, c.rep.Verified = 0, false
		return
	}
	var best *LogKey
	why := ""
	for _, s := range sigs {
		key, ok := c.v.trusted(s.Key)
		if !ok || !s.Verified || keyOf(s.Key) != keyNameOf(c.rep.Origin) {
			continue
		}
		when := k.compromised(c, key)
		if best == nil || why != "" && when == "" || why == when && best.Announced != "" && key.Announced == "" {
			best, why = key, when
		}
	}
	if best != nil {
		c.rep.Key, c.rep.Verified, c.rep.Announced, c.rep.Compromised = best.Key, true, best.Announced, why
	}
}

// compromised returns the entry that says that key was compromised when it signed
// the checkpoint of c, if one does.
func (k *logKeys) compromised(c *check, key *LogKey) string {
	at, ok := k.Compromised[key.KID]
	if !ok || c.rep.ProvenUntil.Before(at.Time) {
		return ""
	}
	return entryName(k.Origin, at.Index)
}

func (k *logKeys) conclude(*verification) {}

// unknown tells of a log that a key signed that is not trusted.
func (k *logKeys) unknown(v *verification, l *LogReport) (string, Kind) {
	if !givenOf(v.keys, keyOf(l.Key)) {
		return unknownKey(v.keys, l.Key), KeyUnknown
	}
	signed := "its checkpoint is signed by " + l.Key
	if v.report.changed(lifecycleName) && !v.report.Logs[0].Verified {
		return signed + ", which is none of the keys given, and lifecycle, which announces keys, is not what it was", KeyUnknown
	}
	for _, a := range k.Announced {
		if a.Key == l.Key {
			return fmt.Sprintf("%s, which entry %d of lifecycle announces, and no key that is trusted signed that entry "+
				"(hint: restore lifecycle/handover-… from a backup, or give a later log key; if there is neither, this is another log)", signed, a.Index), KeyUnknown
		}
	}
	if l.Name != lifecycleName && len(k.Announced) > 0 && v.report.Logs[0].Verified {
		return signed + ", which is none of the keys given, and not one that lifecycle announces", Changed
	}
	return unknownKey(v.keys, l.Key), KeyUnknown
}

// givenOf reports whether one of the keys has that name.
func givenOf(keys []note.Verifier, name string) bool {
	return slices.ContainsFunc(keys, func(v note.Verifier) bool { return v.Name() == name })
}

const keyHint = "audit.vkey in the node's data directory has its log keys: have them from whom you trust, not from beside the log"

// unknownHere is unknownKey for what is published, which has no announcements.
func unknownHere(given []note.Verifier, key string) string {
	if !givenOf(given, keyOf(key)) {
		return unknownKey(given, key)
	}
	return fmt.Sprintf("its checkpoint is signed by %s, which is none of the keys given (hint: a newer key is announced in entries, "+
		"and those are not published: give the key in force, or verify the log's directory)", key)
}

// unknownKey tells of a checkpoint by a key, NAME+ID, that is none of those given.
// Of the same name it may be that of another log in the place of the one they signed.
func unknownKey(given []note.Verifier, key string) string {
	name := keyOf(key)
	if !givenOf(given, name) {
		return fmt.Sprintf("no key of %s was given, and its checkpoint is signed by %s (hint: %s)", name, key, keyHint)
	}
	return fmt.Sprintf("its checkpoint is signed by %s, which is none of the keys given, and was announced under none of them "+
		"(hint: if it is a key of this node give it, otherwise this is another log; %s)", key, keyHint)
}
