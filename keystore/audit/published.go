package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// A Published is a signed checkpoint as it stands beside its log.
type Published struct {
	Name string // of the log: "lifecycle" or "acts/YYYY-MM"
	Note []byte // the signed note
	Checkpoint
}

// Newest returns the checkpoints of the logs under dir, an audit directory, that go
// on: lifecycle and the last month of acts. A log without one is left out. It takes
// no lock and checks no signature.
func Newest(dir string) ([]Published, error) {
	months, err := listMonths(dir)
	if err != nil {
		return nil, err
	}
	names := []string{lifecycleName}
	if n := len(months); n > 0 {
		names = append(names, actsName+"/"+months[n-1])
	}
	var all []Published
	for _, name := range names {
		note, err := readPlain(filepath.Join(dir, filepath.FromSlash(name), "checkpoint"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading a checkpoint: %w", err)
		}
		c, _, err := OpenCheckpoint(note, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, Published{name, note, c})
	}
	return all, nil
}
