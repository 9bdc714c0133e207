package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Witnessed says how far a log is known to a quorum of witnesses: whoever shows
// another log of these entries shows one that they have not seen.
type Witnessed struct {
	Size int64         `json:"size"` // entries under the cosigned checkpoint
	Time time.Time     `json:"time"` // by when enough had cosigned, as they say
	By   []Cosignature `json:"by"`   // all of that checkpoint, by time
}

// Unwitnessed returns how many of the log's entries came after those that a quorum of
// witnesses knows; all of them if it is unwitnessed.
func (l *LogReport) Unwitnessed() int64 {
	if l.Witnessed == nil {
		return l.Entries
	}
	return max(l.Entries-l.Witnessed.Size, 0)
}

// witnesses follows the checkpoints that witnesses have cosigned: each has to
// fit its log, and the newest by a quorum says how far it is witnessed.
type witnesses struct {
	quorum Quorum
	notes  map[string][]cosignedNote // by the log's name, by size
	wrong  map[string][]string       // by the log's name: what is to be told of it
}

// A cosignedNote is a checkpoint that at least one of the witnesses cosigned.
type cosignedNote struct {
	Checkpoint
	by       []Cosignature
	compared bool
	fits     bool
}

// newWitnesses reads what is to be compared before any log is read, so that a
// running daemon cannot have more cosigned than is read after it.
func newWitnesses(dir string, opt Options) *witnesses {
	w := &witnesses{opt.Witnesses, map[string][]cosignedNote{}, map[string][]string{}}
	if w.quorum == nil {
		return w
	}
	names, _ := LogNames(dir) // Verify tells
	for _, name := range names {
		for _, file := range []string{"checkpoint", witnessedName} {
			b, err := readPlain(filepath.Join(dir, filepath.FromSlash(name), file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				w.wrong[name] = append(w.wrong[name], fmt.Sprintf("%s: %v", file, err))
				continue
			}
			w.add(name, file, b)
		}
	}
	for _, b := range opt.Cosigned {
		c, _, err := OpenCosigned(b, nil)
		if err != nil {
			continue // whoever gave it had it open
		}
		w.add(NameOf(c.Origin), "a cosigned checkpoint that was given", b)
	}
	return w
}

// add keeps what one of the witnesses has cosigned.
func (w *witnesses) add(name, what string, signed []byte) {
	c, by, err := OpenCosigned(signed, w.quorum.Witnesses())
	_, invalid := errors.AsType[*note.InvalidSignatureError](err)
	switch {
	case err != nil && what == "checkpoint" && !invalid: // told where checkpoints are
		return
	case err != nil:
		w.wrong[name] = append(w.wrong[name], fmt.Sprintf("%s: %v", what, err))
		return
	case len(by) == 0:
		return
	}
	slices.SortFunc(by, func(a, b Cosignature) int { return a.Time.Compare(b.Time) })
	w.notes[name] = append(w.notes[name], cosignedNote{Checkpoint: c, by: by})
	slices.SortStableFunc(w.notes[name], func(a, b cosignedNote) int { return cmp.Compare(a.Size, b.Size) })
}

func (w *witnesses) entry(c *check, _ *Entry) { w.compare(c) }

// compare compares what is cosigned of the log as far as it has been read.
func (w *witnesses) compare(c *check) {
	notes := w.notes[c.name]
	for i := range notes {
		n := &notes[i]
		if n.compared || n.Size > c.tree.size || n.Origin != c.rep.Origin {
			continue
		}
		n.fits, n.compared = c.had(n.Size, n.Root)
		if n.compared && !n.fits {
			c.problem(-1, "its first %d entries are not the ones that %s cosigned at %s",
				n.Size, n.by[0].Key, n.by[0].Time.Format(time.RFC3339))
		}
	}
}

func (w *witnesses) log(c *check) {
	w.compare(c)
	for _, what := range w.wrong[c.name] {
		c.problem(-1, "%s", what)
	}
	for i := range w.notes[c.name] {
		n := &w.notes[c.name][i]
		switch {
		case n.Origin != c.rep.Origin:
			c.problem(-1, "%s cosigned a checkpoint of %s", n.by[0].Key, n.Origin)
		case n.Size > c.next:
			c.problem(-1, "it has %d entries, and %s cosigned %d at %s", c.next, n.by[0].Key, n.Size, n.by[0].Time.Format(time.RFC3339))
		case !n.compared:
			c.problem(-1, "it cannot be compared with the %d entries that %s cosigned", n.Size, n.by[0].Key)
		case n.fits:
			if c.fits {
				c.older(n.Size, "the one that "+n.by[0].Key+" cosigned is")
			}
			if at, enough := w.met(n.by); enough {
				c.rep.Witnessed = &Witnessed{n.Size, at, n.by}
			}
		}
	}
	delete(w.notes, c.name)
	delete(w.wrong, c.name)
}

// met returns when enough had cosigned, if they have. by ascends in time.
func (w *witnesses) met(by []Cosignature) (time.Time, bool) {
	for i := range by {
		enough := w.quorum.Met(func(k WitnessKey) bool {
			return slices.ContainsFunc(by[:i+1], func(c Cosignature) bool { return c.Key == k.String() })
		})
		if enough {
			return by[i].Time, true
		}
	}
	return time.Time{}, false
}

// conclude gives a month that a witnessed lifecycle closed what lifecycle has:
// its last checkpoint is a leaf there.
func (w *witnesses) conclude(v *verification) {
	for name, notes := range w.notes {
		n := notes[len(notes)-1]
		if v.prunedAs(n.Checkpoint) {
			continue
		}
		v.problem(name, -1, fmt.Sprintf("it is not there, and %s cosigned %d entries of it at %s",
			n.by[0].Key, n.Size, n.by[0].Time.Format(time.RFC3339)))
	}
	v.report.Unwitnessed = []string{}
	for i := range v.report.Logs {
		l := &v.report.Logs[i]
		if l.Closed != "" {
			l.Witnessed = throughSeal(l, v.report.Logs[0].Witnessed)
		}
		if l.Witnessed == nil && l.Entries > 0 {
			v.report.Unwitnessed = append(v.report.Unwitnessed, l.Name)
		}
	}
}

// throughSeal returns what witnesses know of the closed month l: its own
// cosignatures if they reach its end, otherwise those of the lifecycle that
// closed it.
func throughSeal(l *LogReport, lifecycle *Witnessed) *Witnessed {
	if l.Witnessed != nil && l.Witnessed.Size == l.Entries || lifecycle == nil {
		return l.Witnessed
	}
	_, text, _ := strings.Cut(l.Closed, "#")
	index, err := strconv.ParseInt(text, 10, 64)
	if err != nil || index >= lifecycle.Size {
		return l.Witnessed
	}
	return &Witnessed{l.Entries, lifecycle.Time, lifecycle.By}
}
