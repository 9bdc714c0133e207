package keystore

import "context"

// The longest a note and its name may be, in bytes.
const (
	MaxNote     = 1 << 10
	MaxNoteName = 255
)

// A Noter is a Provider whose backend also keeps small notes: a memory that is
// neither the catalog's nor the log's. Notes are no secrets; whoever can log in to
// the backend can change them, and one who cannot is told from them.
//
// Its methods may be called concurrently. Their errors wrap ErrUnsupported if the
// backend keeps no notes, and else the sentinels that those of a Provider wrap.
type Noter interface {
	// WriteNote keeps text, at most MaxNote bytes, under name, which has 1 to
	// MaxNoteName printable ASCII characters, in place of what was there. Where it
	// is interrupted the old note, the new one or both are there.
	WriteNote(ctx context.Context, name string, text []byte) error
	// ReadNotes returns all notes in no particular order; several may have one name.
	ReadNotes(ctx context.Context) ([]Note, error)
}

// A Note is a small text that a backend keeps.
type Note struct {
	Name string `json:"name"`
	Text []byte `json:"text"`
}
