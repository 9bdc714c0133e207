package audit

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chancery/keystore"
)

// Keys sign the checkpoints of a node's logs.
type Keys struct {
	Active keystore.Key
	// Former are the keys of an overlap: they sign beside Active for as long as
	// they can and are given, so that whoever knows only one of them can verify.
	Former []keystore.Key
}

// all returns the keys, the active one first, each once.
func (k Keys) all(name string) (keys []keystore.Key, names []string, err error) {
	for _, key := range append([]keystore.Key{k.Active}, k.Former...) {
		id, _, err := noteKey(name, key.Algorithm(), key.Public())
		if err != nil {
			return nil, nil, err
		}
		if n := signatureKey(note.Signature{Name: name, Hash: id}); !slices.Contains(names, n) {
			keys, names = append(keys, key), append(names, n)
		}
	}
	return keys, names, nil
}

// keys returns the keys that are to sign now, and their NAME+ID.
func (l *Log) keys(ctx context.Context) (Keys, []string, error) {
	if l.cfg.Keys == nil {
		return Keys{}, nil, ErrNoKey
	}
	k, err := l.cfg.Keys(ctx)
	if err != nil {
		return Keys{}, nil, err
	}
	_, names, err := k.all(l.KeyName())
	return k, names, err
}

// formerPatience is how long a former key may take: the checkpoint waits for it.
const formerPatience = 2 * time.Second

// A signing is a checkpoint as it was signed.
type signing struct {
	note   []byte
	by     []string // NAME+ID of the keys that signed
	failed error    // why a former key did not
}

// sign signs c. A former key that cannot sign is left out, which is logged when it
// begins and ends.
func (l *Log) sign(ctx context.Context, keys Keys, c Checkpoint) (signing, error) {
	s, err := keys.sign(ctx, c, l.KeyName())
	if err == nil {
		l.say(&l.former, s.failed, "a former log key signs checkpoints no more")
	}
	return s, err
}

// sign signs c under the given key name.
func (k Keys) sign(ctx context.Context, c Checkpoint, name string) (signing, error) {
	keys, names, err := k.all(name)
	if err != nil {
		return signing{}, err
	}
	var s signing
	n := &note.Note{Text: c.String()}
	for i, key := range keys {
		sig, err := signNote(ctx, key, name, n.Text, i > 0)
		if err != nil && i == 0 {
			return signing{}, err
		}
		if err != nil {
			s.failed = err
			continue
		}
		n.Sigs, s.by = append(n.Sigs, sig), append(s.by, names[i])
	}
	s.note, err = note.Sign(n)
	return s, err
}

// signNote returns key's signature of a note's text.
func signNote(ctx context.Context, key keystore.Key, name, text string, former bool) (note.Signature, error) {
	if former {
		within, cancel := context.WithTimeout(ctx, formerPatience)
		defer cancel()
		ctx = within
	}
	id, _, err := noteKey(name, key.Algorithm(), key.Public())
	if err != nil {
		return note.Signature{}, err
	}
	sig, err := key.Sign(ctx, []byte(text))
	if err != nil {
		return note.Signature{}, fmt.Errorf("log key %s: %w", signatureKey(note.Signature{Name: name, Hash: id}), err)
	}
	if sig, err = keystore.SignatureASN1(key.Algorithm(), sig); err != nil {
		return note.Signature{}, err
	}
	line := append(binary.BigEndian.AppendUint32(nil, id), sig...)
	return note.Signature{Name: name, Hash: id, Base64: base64.StdEncoding.EncodeToString(line)}, nil
}

// signers reads a signed checkpoint and returns the NAME+ID of the log's own keys
// that it says it is signed by, in its order. Nothing is verified.
func signers(signed []byte) (Checkpoint, []string, error) {
	c, sigs, err := OpenSignatures(signed, nil)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	var by []string
	for _, s := range sigs {
		if keyOf(s.Key) == keyNameOf(c.Origin) {
			by = append(by, s.Key)
		}
	}
	return c, by, nil
}

// keyNameOf returns the name of the keys that sign the log with the given origin.
func keyNameOf(origin string) string {
	return strings.TrimSuffix(origin, "/"+NameOf(origin))
}

// Announcement returns the detail of the entry that makes a version of a key set
// of purpose p known: purpose, algorithm, and public, its SubjectPublicKeyInfo in
// base64 (RFC 4648 Section 4). For a log key such an entry, under a checkpoint of
// a key that is trusted, is why it is trusted (see Verify).
func Announcement(p keystore.Purpose, v *keystore.Version) map[string]string {
	return map[string]string{
		"purpose": string(p), "algorithm": string(v.Algorithm), "public": base64.StdEncoding.EncodeToString(v.SPKI),
	}
}

// announces reports whether e makes a log key known.
func announces(e *Entry) bool {
	made := e.Action == keystore.ActKeyPublish || e.Action == keystore.ActKeyProven
	return made && e.Outcome == keystore.OutcomeDone && e.Detail["purpose"] == string(keystore.PurposeAudit)
}

// announced returns the verifier of the key that e makes known, under a name.
func announced(e *Entry, name string) (verifier, error) {
	spki, err := base64.StdEncoding.Strict().DecodeString(e.Detail["public"])
	if err != nil || base64.StdEncoding.EncodeToString(spki) != e.Detail["public"] {
		return verifier{}, errors.New("its public key is not in base64")
	}
	v := verifier{name: name, alg: keystore.Algorithm(e.Detail["algorithm"])}
	if v.pub, err = keystore.ParsePublic(spki); err != nil {
		return verifier{}, fmt.Errorf("its public key: %w", err)
	}
	if v.id, _, err = noteKey(name, v.alg, v.pub); err != nil {
		return verifier{}, err
	}
	if kid, err := keystore.Thumbprint(v.pub); err != nil || kid != e.KID {
		return verifier{}, errors.New("its kid is not that of its public key")
	}
	return v, nil
}
