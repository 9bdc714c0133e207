package keystoretest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"chancery/keystore"
)

// notes tests a provider that keeps notes.
func notes(t *testing.T, p keystore.Provider) {
	n, ok := p.(keystore.Noter)
	if !ok {
		t.Skip("it keeps no notes")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	name := "contract " + keystore.NewKeyID().String()
	others := len(notesOf(t, ctx, n, name))
	if err := n.WriteNote(ctx, name, []byte("first")); errors.Is(err, keystore.ErrUnsupported) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	if got := notesOf(t, ctx, n, name); others != 0 || len(got) != 1 || string(got[0]) != "first" {
		t.Errorf("it keeps %q", got)
	}
	long := bytes.Repeat([]byte{0, 1, 255, '"'}, keystore.MaxNote/4)
	if err := n.WriteNote(ctx, name, long); err != nil {
		t.Fatal(err)
	}
	if got := notesOf(t, ctx, n, name); len(got) != 1 || !bytes.Equal(got[0], long) {
		t.Errorf("after another one it keeps %d notes", len(got))
	}
	for _, bad := range []struct {
		name string
		text []byte
	}{
		{"", nil}, {"a\nb", nil}, {"é", nil}, {strings.Repeat("n", keystore.MaxNoteName+1), nil}, {"long", append(long, 0)},
	} {
		if err := n.WriteNote(ctx, bad.name, bad.text); err == nil {
			t.Errorf("it took a note of %d bytes named %.20q", len(bad.text), bad.name)
		}
	}
	list, err := p.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(list, func(o keystore.Object) bool { return o.Label == name }) {
		t.Error("a note is listed among the keys")
	}
}

// notesOf returns the texts of the notes of a name.
func notesOf(t *testing.T, ctx context.Context, n keystore.Noter, name string) (texts [][]byte) {
	t.Helper()
	all, err := n.ReadNotes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, note := range all {
		if note.Name == name {
			texts = append(texts, note.Text)
		}
	}
	return texts
}
