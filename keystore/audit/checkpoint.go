package audit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery/keystore"
)

// A Checkpoint says that a log has Size entries and the tree over them Root
// (C2SP tlog-checkpoint). Its text is the origin, the size and the root in
// base64, a line each, and no other lines.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
}

// checkpointFile is where a log's last checkpoint stands, as a signed note.
const checkpointFile = "checkpoint"

// String returns the text that is signed.
func (c Checkpoint) String() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root)
}

// ParseCheckpoint reads what String returns, in that spelling only.
func ParseCheckpoint(text string) (Checkpoint, error) {
	f := strings.Split(text, "\n")
	if len(f) != 4 || f[3] != "" || f[0] == "" {
		return Checkpoint{}, errors.New("a checkpoint has three lines")
	}
	size, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil || size < 0 {
		return Checkpoint{}, errors.New("checkpoint without a size")
	}
	root, err := tlog.ParseHash(f[2])
	if err != nil {
		return Checkpoint{}, errors.New("checkpoint without a root")
	}
	c := Checkpoint{f[0], size, root}
	if c.String() != text {
		return Checkpoint{}, errors.New("checkpoint in another spelling")
	}
	return c, nil
}

// The types of signatures in a signed note (C2SP signed-note).
const (
	noteEd25519 = 0x01
	noteECDSA   = 0x02 // over SHA-256, in ASN.1 form
)

// VKeyFor returns the C2SP signed-note verifier key of a log key: its name, id
// and public key. alg is EdDSA, or ES256, which not every tool knows.
func VKeyFor(name string, alg keystore.Algorithm, pub crypto.PublicKey) (string, error) {
	id, material, err := noteKey(name, alg, pub)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s+%08x+%s", name, id, base64.StdEncoding.EncodeToString(material)), nil
}

// noteKey returns a log key's id and what stands for it in a verifier key. The
// id of an Ed25519 key covers the name; that of an ECDSA key is the hash of its
// SubjectPublicKeyInfo (C2SP signed-note).
func noteKey(name string, alg keystore.Algorithm, pub crypto.PublicKey) (id uint32, material []byte, err error) {
	if !isKeyName(name) {
		return 0, nil, fmt.Errorf("%q cannot name a log key", name)
	}
	if err := alg.Fits(pub); err != nil {
		return 0, nil, fmt.Errorf("log key: %w", err)
	}
	var sum [sha256.Size]byte
	switch alg {
	case keystore.EdDSA:
		material = append([]byte{noteEd25519}, pub.(ed25519.PublicKey)...)
		sum = sha256.Sum256(append([]byte(name+"\n"), material...))
	case keystore.ES256:
		spki, err := keystore.MarshalPublic(pub)
		if err != nil {
			return 0, nil, fmt.Errorf("log key: %w", err)
		}
		material = append([]byte{noteECDSA}, spki...)
		sum = sha256.Sum256(spki)
	default:
		return 0, nil, fmt.Errorf("a log key is EdDSA or ES256, not %s", alg)
	}
	return binary.BigEndian.Uint32(sum[:]), material, nil
}

func isKeyName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '+' || r > '~' })
}

// ParseVKey reads a verifier key of type Ed25519 or ECDSA on P-256.
func ParseVKey(vkey string) (note.Verifier, error) {
	name, rest, _ := strings.Cut(vkey, "+")
	hexID, b64, _ := strings.Cut(rest, "+")
	material, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(material) < 2 {
		return nil, errors.New("not a verifier key: want NAME+ID+KEY")
	}
	v := verifier{name: name}
	switch material[0] {
	case noteEd25519:
		if len(material) != 1+ed25519.PublicKeySize {
			return nil, errors.New("verifier key of the wrong length")
		}
		v.alg, v.pub = keystore.EdDSA, ed25519.PublicKey(material[1:])
	case noteECDSA:
		if v.pub, err = keystore.ParsePublic(material[1:]); err != nil {
			return nil, fmt.Errorf("verifier key: %w", err)
		}
		v.alg = keystore.ES256
	default:
		return nil, fmt.Errorf("verifier key of unknown type %#02x", material[0])
	}
	if v.id, _, err = noteKey(name, v.alg, v.pub); err != nil {
		return nil, err
	}
	if fmt.Sprintf("%08x", v.id) != hexID {
		return nil, errors.New("verifier key does not fit its id")
	}
	return v, nil
}

type verifier struct {
	name string
	id   uint32
	alg  keystore.Algorithm
	pub  crypto.PublicKey
}

func (v verifier) Name() string    { return v.name }
func (v verifier) KeyHash() uint32 { return v.id }

func (v verifier) Verify(text, sig []byte) bool {
	if key, ok := v.pub.(*ecdsa.PublicKey); ok {
		digest := sha256.Sum256(text)
		return ecdsa.VerifyASN1(key, digest[:], sig)
	}
	return keystore.Verify(v.alg, v.pub, text, sig) == nil
}

// A Signature tells how a checkpoint's signature stands.
type Signature struct {
	Key      string `json:"key"` // "NAME+ID" of the key that signed, as in its verifier key
	Verified bool   `json:"verified"`
}

// OpenCheckpoint reads a signed checkpoint. It tells the first of its signatures
// by one of keys, or the first of all if there is none, which is no error. It
// returns an error if a signature by one of keys is wrong.
func OpenCheckpoint(signed []byte, keys []note.Verifier) (Checkpoint, Signature, error) {
	c, sigs, err := OpenSignatures(signed, keys)
	return c, first(sigs), err
}

// first returns the first signature that is verified, or else the first.
func first(sigs []Signature) Signature {
	for _, sig := range sigs {
		if sig.Verified {
			return sig
		}
	}
	if len(sigs) == 0 {
		return Signature{}
	}
	return sigs[0]
}

// OpenSignatures is OpenCheckpoint that tells every signature: those by keys,
// which are verified, and then those by others, such as witnesses.
func OpenSignatures(signed []byte, keys []note.Verifier) (Checkpoint, []Signature, error) {
	n, err := note.Open(signed, note.VerifierList(keys...))
	if unverified, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		n, err = unverified.Note, nil
	}
	if err != nil {
		return Checkpoint{}, nil, fmt.Errorf("signed checkpoint: %w", err)
	}
	var sigs []Signature
	for _, s := range n.Sigs {
		sigs = append(sigs, Signature{Key: signatureKey(s), Verified: true})
	}
	for _, s := range n.UnverifiedSigs {
		sigs = append(sigs, Signature{Key: signatureKey(s)})
	}
	c, err := ParseCheckpoint(n.Text)
	return c, sigs, err
}

func signatureKey(s note.Signature) string { return fmt.Sprintf("%s+%08x", s.Name, s.Hash) }
