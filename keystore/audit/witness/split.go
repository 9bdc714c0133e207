package witness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// splitSuffix ends the name of a file with a checkpoint that contradicts the one of
// the same size that was cosigned, and cosignedSuffix that of the one that was
// cosigned, which the memory itself goes on from: both together prove that the log
// split.
const (
	splitSuffix    = ".split"
	cosignedSuffix = ".cosigned"
)

// accuse keeps the first checkpoint that contradicts what was cosigned, and that. The
// caller has mu, and r was recalled.
func (r *remembered) accuse(signed []byte) error {
	_, err := os.Stat(r.path + splitSuffix)
	if err == nil {
		return nil
	}
	var cosigned []byte
	if errors.Is(err, fs.ErrNotExist) {
		cosigned, err = os.ReadFile(r.path)
	}
	if err == nil {
		err = writeDurably(r.path+cosignedSuffix, cosigned, 0o600)
	}
	if err == nil { // last: with it the split is told of
		err = writeDurably(r.path+splitSuffix, signed, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keeping a checkpoint that contradicts: %w", err)
	}
	return nil
}

// A Split tells of two checkpoints of a log, of one size and of different trees, each
// signed by a key that was known as the log's: it showed one tree to some and another
// to others. The first of each log is kept.
type Split struct {
	Origin   string `json:"origin"`
	Size     int64  `json:"size"`     // entries
	Cosigned string `json:"cosigned"` // file with the checkpoint that this witness cosigned
	Other    string `json:"other"`    // file with the one that contradicts it: while it is there, the split stands
}

// Splits returns the splits that this witness has seen, and that stand until somebody
// takes the file of the other checkpoint away, whatever the log has shown since. An
// error is of reading them; those that could be read are returned with it.
func (s *Server) Splits() (all []Split, err error) {
	files, err := os.ReadDir(s.memory.dir)
	if err != nil {
		return nil, fmt.Errorf("looking for splits: %w", err)
	}
	for _, f := range files {
		base, ok := strings.CutSuffix(f.Name(), splitSuffix)
		if !ok {
			continue
		}
		split, errOf := readSplit(filepath.Join(s.memory.dir, base))
		if errOf != nil {
			err = errors.Join(err, errOf)
			continue
		}
		all = append(all, split)
	}
	return all, err
}

// readSplit reads the split of the log that is remembered in path.
func readSplit(path string) (Split, error) {
	other := path + splitSuffix
	signed, err := os.ReadFile(other)
	if err != nil {
		return Split{}, fmt.Errorf("reading a split: %w", err)
	}
	text, _, err := splitNote(signed)
	if err != nil {
		return Split{}, fmt.Errorf("reading a split: %s: %w", other, err)
	}
	b, err := parseBody(text)
	if err != nil {
		return Split{}, fmt.Errorf("reading a split: %s: %w", other, err)
	}
	cosigned := path + cosignedSuffix
	if _, err := os.Stat(cosigned); errors.Is(err, fs.ErrNotExist) {
		cosigned = path // what was seen once kept no copy; this may have grown since
	}
	return Split{b.origin, b.size, cosigned, other}, nil
}
