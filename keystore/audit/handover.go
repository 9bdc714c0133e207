package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"chancery/keystore"
)

// A handover is the last checkpoint of lifecycle that a log key signed, kept for
// ever when its successor goes on without it. Whoever knows only the older key
// finds in it that the entries, and so the announcement of the successor among
// them, are what the older key signed. Unlike a checkpoint it cannot be made
// again when that key is gone, so it is on stable storage before there is a
// checkpoint without it.
const handoverPrefix = "handover-"

func handoverName(size int64) string { return handoverPrefix + strconv.FormatInt(size, 10) }

// handoverSize returns the size that the name of a handover tells.
func handoverSize(name string) (int64, bool) {
	text, ok := strings.CutPrefix(name, handoverPrefix)
	size, err := strconv.ParseInt(text, 10, 64)
	return size, ok && err == nil && size > 0 && handoverName(size) == name
}

// listHandovers returns the sizes of the handovers in dir, ascending.
func listHandovers(dir string) ([]int64, error) {
	found, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the handovers: %w", err)
	}
	var sizes []int64
	for _, f := range found {
		if size, ok := handoverSize(f.Name()); ok {
			sizes = append(sizes, size)
		}
	}
	slices.Sort(sizes)
	return sizes, nil
}

// handOver keeps the published checkpoint of lifecycle as a handover if a key
// that signed it is not among next, those that sign the one to come.
func (l *Log) handOver(ctx context.Context, s *shard, keys Keys, next []string) error {
	if s.name != lifecycleName {
		return nil
	}
	published, err := readPlain(filepath.Join(s.dir, checkpointFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c, by, err := signers(published)
	if err != nil {
		return nil // it is derived, and no key can be told from it
	}
	leaving := without(by, next)
	if len(leaving) == 0 {
		return nil
	}
	if kept, err := handedOver(s.dir, leaving, next); kept || err != nil {
		return err
	}
	if err := keepHandover(s.dir, c, published); err != nil {
		return err
	}
	l.cfg.Log.Info("a log key hands over", "entries", c.Size, "from", leaving, "to", next)
	return l.missAnnouncement(ctx, keys, by, c.Size)
}

// without returns those of names that are not in others.
func without(names, others []string) (left []string) {
	for _, n := range names {
		if !slices.Contains(others, n) {
			left = append(left, n)
		}
	}
	return left
}

// handedOver reports whether each key of leaving has signed a handover together
// with all of next, so that a key that fails now and then makes no heap of them.
func handedOver(dir string, leaving, next []string) (bool, error) {
	sizes, err := listHandovers(dir)
	if err != nil {
		return false, err
	}
	for _, size := range sizes {
		b, err := readPlain(filepath.Join(dir, handoverName(size)))
		if err != nil {
			return false, err
		}
		_, by, err := signers(b)
		if err == nil && len(without(next, by)) == 0 {
			leaving = without(leaving, by)
		}
	}
	return len(leaving) == 0, nil
}

// keepHandover writes the handover that published, which is c, makes. If there is
// one of that size it keeps the signatures of both.
func keepHandover(dir string, c Checkpoint, published []byte) error {
	path := filepath.Join(dir, handoverName(c.Size))
	old, err := readPlain(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return keepFile(path, published)
	case err != nil:
		return err
	}
	both, err := joinNotes(old, published)
	if err != nil {
		return fmt.Errorf("%s, which is there: %w (hint: find out what wrote it, and move it away)", filepath.Base(path), err)
	}
	if bytes.Equal(both, old) {
		return nil
	}
	return keepFile(path, both)
}

// joinNotes returns a note with the signatures of two that have the same text.
func joinNotes(a, b []byte) ([]byte, error) {
	x, err := openUnverified(a)
	if err != nil {
		return nil, err
	}
	y, err := openUnverified(b)
	if err != nil {
		return nil, err
	}
	if x.Text != y.Text {
		return nil, errors.New("it is of another tree")
	}
	for _, s := range y.UnverifiedSigs {
		if !slices.ContainsFunc(x.UnverifiedSigs, func(have note.Signature) bool { return have.Name == s.Name && have.Hash == s.Hash }) {
			x.UnverifiedSigs = append(x.UnverifiedSigs, s)
		}
	}
	return note.Sign(x)
}

func openUnverified(signed []byte) (*note.Note, error) {
	_, err := note.Open(signed, note.VerifierList())
	if unverified, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		return unverified.Note, nil
	}
	return nil, fmt.Errorf("signed checkpoint: %w", err)
}

// keepFile is replace for what cannot be made again: it returns when the content
// is on stable storage under that name.
func keepFile(path string, content []byte) (err error) {
	unfinished := path + newSuffix
	f, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(unfinished, path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(unfinished))
	}
	return syncDir(filepath.Dir(path))
}

// missAnnouncement warns of keys that sign from now on, did not sign with the
// former ones, and are announced by no entry below size, the last that those
// signed. Keeping back the checkpoint would prove even less.
func (l *Log) missAnnouncement(ctx context.Context, keys Keys, before []string, size int64) error {
	all, names, err := keys.all(l.KeyName())
	if err != nil {
		return err
	}
	for i, key := range all {
		if slices.Contains(before, names[i]) {
			continue
		}
		kid, err := keystore.Thumbprint(key.Public())
		if err != nil {
			return err
		}
		told, err := l.tells(ctx, kid, size)
		if err != nil {
			return err
		}
		if !told {
			l.cfg.Log.Warn("a log key signs that no former one announced: who knows only those cannot verify what follows", "key", names[i])
		}
	}
	return nil
}

// tells reports whether an entry of lifecycle below size announces the log key kid.
func (l *Log) tells(ctx context.Context, kid keystore.KID, size int64) (bool, error) {
	for at, err := range EntriesContext(ctx, l.cfg.Dir, Filter{Log: lifecycleName, KID: kid}) {
		if err != nil {
			return false, fmt.Errorf("looking for an announcement: %w", err)
		}
		if at.Entry.Sequence < size && announces(&at.Entry) {
			return true, nil
		}
	}
	return false, nil
}
