package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// MaxProof is the largest proof that is read, in bytes.
const MaxProof = 256 << 10

// proofMagic is the first line of a proof.
const proofMagic = "c2sp.org/tlog-proof@v1"

// mostProofHashes is the depth of the deepest tree there can be.
const mostProofHashes = 63

// A Proof shows offline that an entry stands in a log, under a checkpoint that
// the log signed (C2SP tlog-proof):
//
//	c2sp.org/tlog-proof@v1
//	extra BASE64                       the entry, as it is hashed
//	index DECIMAL
//	BASE64                             hashes from the leaf's sibling up, a line each
//
//	CHECKPOINT                         a signed note, cosignatures included
//
// The extra line is absent when the entry travels by other ways. Nothing in it
// is to be believed before Check.
type Proof struct {
	Entry      []byte // canonical; nil: not in the proof
	Index      int64
	Hashes     tlog.RecordProof
	Checkpoint []byte // the signed note, verbatim
}

// Append appends p in the form that ParseProof reads to b.
func (p *Proof) Append(b []byte) []byte {
	b = append(b, proofMagic+"\n"...)
	if len(p.Entry) > 0 {
		b = base64.StdEncoding.AppendEncode(append(b, "extra "...), p.Entry)
		b = append(b, '\n')
	}
	b = strconv.AppendInt(append(b, "index "...), p.Index, 10)
	b = append(b, '\n')
	for _, h := range p.Hashes {
		b = base64.StdEncoding.AppendEncode(b, h[:])
		b = append(b, '\n')
	}
	b = append(b, '\n')
	return append(b, p.Checkpoint...)
}

// ParseProof reads a proof in its one spelling: what it accepts, Append writes
// back to the same bytes. The checkpoint in it is well formed, and so is the
// note around it; whether anybody signed it is for Check to say.
func ParseProof(b []byte) (*Proof, error) {
	if len(b) > MaxProof {
		return nil, fmt.Errorf("proof of %d bytes is over %d", len(b), MaxProof)
	}
	head, checkpoint, ok := bytes.Cut(b, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !ok || lines[0] != proofMagic {
		return nil, errors.New("not a proof: it does not begin with " + proofMagic)
	}
	p, lines := &Proof{Checkpoint: checkpoint}, lines[1:]
	var err error
	if p.Entry, lines, err = proofEntry(lines); err != nil {
		return nil, err
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		return nil, errors.New("proof without an index")
	}
	if p.Index, err = strconv.ParseInt(lines[0][len("index "):], 10, 64); err != nil || p.Index < 0 {
		return nil, errors.New("proof without an index")
	}
	if p.Hashes, err = proofHashes(lines[1:]); err != nil {
		return nil, err
	}
	if _, _, err := OpenCheckpoint(checkpoint, nil); err != nil {
		return nil, fmt.Errorf("proof: %w", err)
	}
	if !bytes.Equal(p.Append(nil), b) {
		return nil, errors.New("proof in another spelling")
	}
	return p, nil
}

// proofEntry reads the entry, if the first line has it, and returns the others.
func proofEntry(lines []string) (entry []byte, rest []string, err error) {
	if len(lines) == 0 {
		return nil, nil, nil
	}
	text, ok := strings.CutPrefix(lines[0], "extra ")
	if !ok {
		return nil, lines, nil
	}
	entry, err = base64.StdEncoding.DecodeString(text)
	switch {
	case err != nil || len(entry) == 0:
		return nil, nil, errors.New("proof whose entry is not in base64")
	case len(entry) > MaxEntry:
		return nil, nil, fmt.Errorf("proof of an entry of %d bytes, over %d", len(entry), MaxEntry)
	}
	return entry, lines[1:], nil
}

func proofHashes(lines []string) (hashes tlog.RecordProof, err error) {
	if len(lines) > mostProofHashes {
		return nil, fmt.Errorf("proof of %d hashes, over %d", len(lines), mostProofHashes)
	}
	for i, line := range lines {
		h, err := tlog.ParseHash(line)
		if err != nil {
			return nil, fmt.Errorf("hash %d of the proof is none", i+1)
		}
		hashes = append(hashes, h)
	}
	return hashes, nil
}

// Proven is what a proof shows.
type Proven struct {
	Located               // the entry, and where it stands
	Checkpoint Checkpoint // what it stands under
	Signed     []string   // NAME+ID of the log's keys that signed it, of those given
	Cosigned   []string   // NAME+ID of the witnesses that did, of those given
	Others     []string   // NAME+ID of who else did, unverified
}

// Check checks that p shows that entry stands where p says, under p's
// checkpoint; nil stands for the entry in p. keys are the log's, witnesses those
// whose cosignatures count; a key under a name that the log's keys do not have
// counts for nothing.
//
// It returns an error for what does not fit: hashes, an entry that says another
// index than its own, a wrong signature by one of keys or witnesses. That none
// of keys signed is no error: then Signed is empty, and nothing is proven but
// that the proof fits itself.
func Check(p *Proof, entry []byte, keys, witnesses []note.Verifier) (Proven, error) {
	if entry == nil {
		entry = p.Entry
	}
	if entry == nil {
		return Proven{}, errors.New("the proof has no entry in it: give the entry")
	}
	if p.Entry != nil && !bytes.Equal(entry, p.Entry) {
		return Proven{}, errors.New("the proof is of another entry")
	}
	e, err := ParseEntry(entry)
	if err != nil {
		return Proven{}, err
	}
	if e.Sequence != p.Index {
		return Proven{}, fmt.Errorf("the entry says that it is %d, and the proof %d", e.Sequence, p.Index)
	}
	proven, err := openProof(p.Checkpoint, keys, witnesses)
	if err != nil {
		return Proven{}, err
	}
	c := proven.Checkpoint
	if p.Index >= c.Size {
		return Proven{}, fmt.Errorf("the checkpoint has %d entries, and the proof is of %d", c.Size, p.Index)
	}
	if err := tlog.CheckRecord(p.Hashes, c.Size, c.Root, p.Index, tlog.RecordHash(entry)); err != nil {
		return Proven{}, fmt.Errorf("entry %d is not in the tree of the checkpoint: its hashes do not lead to the root", p.Index)
	}
	proven.Located = Located{c.Origin, e}
	return proven, nil
}

// openProof reads a checkpoint and sorts its signatures.
func openProof(signed []byte, keys, witnesses []note.Verifier) (Proven, error) {
	n, err := note.Open(signed, note.VerifierList(onceEach(slices.Concat(keys, witnesses))...))
	if unverified, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		n, err = unverified.Note, nil
	}
	if err != nil {
		return Proven{}, fmt.Errorf("signed checkpoint: %w", err)
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		return Proven{}, err
	}
	keyName, _, ok := LogOf(c.Origin)
	if !ok {
		return Proven{}, fmt.Errorf("the checkpoint is of %q, which is no log of Chancery", c.Origin)
	}
	proven := Proven{Checkpoint: c}
	for _, s := range n.Sigs {
		switch {
		case s.Name == keyName && isAmong(s, keys):
			proven.Signed = append(proven.Signed, signatureKey(s))
		case isAmong(s, witnesses):
			proven.Cosigned = append(proven.Cosigned, signatureKey(s))
		default:
			proven.Others = append(proven.Others, signatureKey(s))
		}
	}
	for _, s := range n.UnverifiedSigs {
		proven.Others = append(proven.Others, signatureKey(s))
	}
	return proven, nil
}

// onceEach drops the second of two verifiers that a signature could be by:
// note.Open takes no choice.
func onceEach(vs []note.Verifier) []note.Verifier {
	var once []note.Verifier
	for _, v := range vs {
		if !isAmong(note.Signature{Name: v.Name(), Hash: v.KeyHash()}, once) {
			once = append(once, v)
		}
	}
	return once
}

func isAmong(s note.Signature, vs []note.Verifier) bool {
	return slices.ContainsFunc(vs, func(v note.Verifier) bool { return v.Name() == s.Name && v.KeyHash() == s.Hash })
}
