package audit

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

// noteCosignature is the signature type of a witness: Ed25519 over the note's
// text and a time (C2SP tlog-cosignature). Type 0x06, ML-DSA-44, is not known.
const noteCosignature = 0x04

// A WitnessKey verifies the cosignatures of one witness. It is a note.Verifier.
type WitnessKey struct {
	name string
	id   uint32
	pub  ed25519.PublicKey
}

var _ note.Verifier = WitnessKey{}

// NewWitnessKey returns the key of the witness with that name and Ed25519 public
// key. The name is not empty and holds no space, plus or control character (C2SP
// signed-note).
func NewWitnessKey(name string, pub ed25519.PublicKey) (WitnessKey, error) {
	if !isWitnessName(name) {
		return WitnessKey{}, fmt.Errorf("%q cannot name a witness", name)
	}
	if len(pub) != ed25519.PublicKeySize {
		return WitnessKey{}, fmt.Errorf("witness key of %d bytes, want %d", len(pub), ed25519.PublicKeySize)
	}
	k := WitnessKey{name: name, pub: pub}
	sum := sha256.Sum256(append([]byte(name+"\n"), k.material()...))
	k.id = binary.BigEndian.Uint32(sum[:])
	return k, nil
}

func isWitnessName(name string) bool {
	return name != "" && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return r < ' ' || r == '+' || unicode.IsSpace(r)
	})
}

// ParseWitnessKey reads a verifier key of type 0x04: NAME+ID+KEY, in the
// spelling that VKey returns only.
func ParseWitnessKey(vkey string) (WitnessKey, error) {
	name, rest, _ := strings.Cut(vkey, "+")
	_, b64, _ := strings.Cut(rest, "+")
	material, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(material) < 2 {
		return WitnessKey{}, errors.New("not a verifier key: want NAME+ID+KEY")
	}
	if material[0] != noteCosignature {
		return WitnessKey{}, fmt.Errorf("verifier key of type %#02x, and a witness has %#02x", material[0], noteCosignature)
	}
	k, err := NewWitnessKey(name, material[1:])
	if err != nil {
		return WitnessKey{}, err
	}
	if k.VKey() != vkey {
		return WitnessKey{}, errors.New("verifier key does not fit its id")
	}
	return k, nil
}

func (k WitnessKey) material() []byte { return append([]byte{noteCosignature}, k.pub...) }

// VKey returns the verifier key: NAME+ID+KEY, the id in hexadecimal, the key in
// base64 after its type.
func (k WitnessKey) VKey() string {
	return k.String() + "+" + base64.StdEncoding.EncodeToString(k.material())
}

// String returns NAME+ID, as in Cosignature.Key.
func (k WitnessKey) String() string {
	return signatureKey(note.Signature{Name: k.name, Hash: k.id})
}

// Name returns the witness's name.
func (k WitnessKey) Name() string { return k.name }

// KeyHash returns the key's id.
func (k WitnessKey) KeyHash() uint32 { return k.id }

// Public returns the public key.
func (k WitnessKey) Public() ed25519.PublicKey { return k.pub }

// Verify reports whether sig, a time and a signature, is by this witness over
// text, the text of a checkpoint.
func (k WitnessKey) Verify(text, sig []byte) bool {
	at, sig, err := splitCosignature(sig)
	return err == nil && ed25519.Verify(k.pub, cosigned(text, at), sig)
}

// splitCosignature splits a timestamped_signature (C2SP tlog-cosignature) into
// its time, in seconds since 1970, and the signature.
func splitCosignature(b []byte) (at int64, sig []byte, err error) {
	if len(b) != 8+ed25519.SignatureSize {
		return 0, nil, fmt.Errorf("cosignature of %d bytes", len(b))
	}
	seconds := binary.BigEndian.Uint64(b)
	if seconds > math.MaxInt64 {
		return 0, nil, errors.New("cosignature with an impossible time")
	}
	return int64(seconds), b[8:], nil
}

// cosigned is the message under a cosignature.
func cosigned(text []byte, at int64) []byte {
	return fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, text)
}

// A Cosigner makes a witness's cosignatures.
type Cosigner struct {
	Key     WitnessKey
	private crypto.Signer
}

// NewCosigner returns the Cosigner with that name and Ed25519 key.
func NewCosigner(name string, private crypto.Signer) (*Cosigner, error) {
	pub, ok := private.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a witness key is Ed25519, not %T", private.Public())
	}
	key, err := NewWitnessKey(name, pub)
	if err != nil {
		return nil, err
	}
	return &Cosigner{key, private}, nil
}

// Cosign returns the signature line, with its newline, that says: at that time
// text was the largest checkpoint of its log that this witness had seen, and
// consistent with every one before. The caller has made sure of it.
func (c *Cosigner) Cosign(text string, at time.Time) (string, error) {
	seconds := at.Unix()
	if seconds < 0 {
		return "", errors.New("cosigning at a time before 1970")
	}
	sig, err := c.private.Sign(nil, cosigned([]byte(text), seconds), crypto.Hash(0))
	if err != nil {
		return "", fmt.Errorf("cosigning: %w", err)
	}
	b := binary.BigEndian.AppendUint32(nil, c.Key.id)
	b = binary.BigEndian.AppendUint64(b, uint64(seconds))
	return "— " + c.Key.name + " " + base64.StdEncoding.EncodeToString(append(b, sig...)) + "\n", nil
}

// A Cosignature tells of one on a checkpoint.
type Cosignature struct {
	Key  string    `json:"key"`  // NAME+ID of the witness, as in its verifier key
	Time time.Time `json:"time"` // when it was made, as the witness says
}

// OpenCosigned reads a signed checkpoint and returns the cosignatures on it by
// witnesses, all verified. Signatures by others, its log's among them, are
// ignored; a wrong one by a witness is an error.
func OpenCosigned(signed []byte, witnesses []WitnessKey) (Checkpoint, []Cosignature, error) {
	n, err := openNote(signed, witnesses)
	if err != nil {
		return Checkpoint{}, nil, fmt.Errorf("cosigned checkpoint: %w", err)
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	by, err := cosignatures(n)
	return c, by, err
}

func openNote(signed []byte, witnesses []WitnessKey) (*note.Note, error) {
	known := make([]note.Verifier, len(witnesses))
	for i, k := range witnesses {
		known[i] = k
	}
	n, err := note.Open(signed, note.VerifierList(known...))
	if unverified, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		return unverified.Note, nil
	}
	return n, err
}

// cosignatures tells of n's verified signatures, which are all by witnesses.
func cosignatures(n *note.Note) ([]Cosignature, error) {
	var by []Cosignature
	for _, s := range n.Sigs {
		b, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil || len(b) < 4 {
			return nil, errors.New("cosignature that is no base64")
		}
		at, _, err := splitCosignature(b[4:])
		if err != nil {
			return nil, err
		}
		by = append(by, Cosignature{signatureKey(s), time.Unix(at, 0).UTC()})
	}
	return by, nil
}
