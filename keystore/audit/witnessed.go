package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// witnessedName is the file beside a log's checkpoint with the newest one that a
// quorum of witnesses has cosigned. The checkpoint itself may change each second
// while witnesses take longer to answer.
const witnessedName = "witnessed"

// A Quorum says which witnesses count, and which of them together are enough. It
// is not changed, and may be used concurrently.
type Quorum interface {
	// Witnesses returns the keys of those that count.
	Witnesses() []WitnessKey
	// Met reports whether those for which cosigned is true are enough. When more
	// have cosigned it stays so.
	Met(cosigned func(WitnessKey) bool) bool
}

// LogNames returns the names of the logs under dir, an audit directory:
// "lifecycle", then "acts/YYYY-MM" ascending. A log may have no checkpoint yet.
func LogNames(dir string) ([]string, error) {
	if _, err := os.Stat(filepath.Join(dir, lifecycleName)); err != nil {
		return nil, fmt.Errorf("no audit log in %s: %w", dir, err)
	}
	months, err := listMonths(dir)
	if err != nil {
		return nil, err
	}
	names := []string{lifecycleName}
	for _, m := range months {
		names = append(names, actsName+"/"+m)
	}
	return names, nil
}

// LogOf splits an origin into the name of the node's log keys, HOST/audit/NODE,
// and the log's name, and reports whether it is such an origin.
func LogOf(origin string) (node, name string, ok bool) {
	name = NameOf(origin)
	_, file, isLog := splitLog(name)
	node, ok = strings.CutSuffix(origin, "/"+name)
	if !ok || !isLog || file != "" || node == "" {
		return "", "", false
	}
	return node, name, true
}

// KeepWitnessed keeps signed, a checkpoint of the log of that name with the
// cosignatures of a quorum of witnesses, as the file `witnessed` beside it. It
// keeps no older one than is there. The caller has verified the signatures; what
// it says is verified again by Verify.
func (l *Log) KeepWitnessed(name string, signed []byte) error {
	c, _, err := OpenCosigned(signed, nil)
	if err != nil {
		return err
	}
	if want := originator(l.KeyName()).of(name); c.Origin != want {
		return fmt.Errorf("cosigned checkpoint of %s, want %s", c.Origin, want)
	}
	path := filepath.Join(l.cfg.Dir, filepath.FromSlash(name), witnessedName)
	b, err := readPlain(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the cosigned checkpoint: %w", err)
	}
	if have, _, err := OpenCosigned(b, nil); err == nil && have.Origin == c.Origin && have.Size > c.Size {
		return nil
	}
	if err := replace(path, signed); err != nil {
		return fmt.Errorf("writing the cosigned checkpoint: %w", err)
	}
	return nil
}
