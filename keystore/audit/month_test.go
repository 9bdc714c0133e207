package audit

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
)

var (
	october  = time.Date(2026, 10, 31, 23, 59, 59, 0, time.UTC)
	november = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
)

// It was: November's journal stood, its first entry did not, and the clock read
// October again: a fresh journal was put over October's, and 5 entries that had
// been acknowledged were gone.
func TestAMonthNeverTurnsBack(t *testing.T) {
	tests := map[string]func(r *rig){
		"the log went on": func(r *rig) {},
		"the process died": func(r *rig) {
			r.crash()
			r.open()
		},
	}
	for name, between := range tests {
		t.Run(name, func(t *testing.T) {
			c := newClock(october)
			r, d := newFaultyRig(t, func(cfg *Config) { cfg.Now = c.Now })
			for i := range 5 {
				r.act(i)
			}
			c.set(november)
			d.orderIn("acts", "write", syscall.EIO, false)
			r.refused(5)
			c.set(october)
			r.healthy()
			between(r)
			if rec := r.act(6); !strings.HasSuffix(rec.Entry, "acts/2026-11#0") || rec.Time.Before(november) {
				t.Errorf("entered as %s at %v", rec.Entry, rec.Time)
			}
			r.close()
			if rep := r.sound(); len(rep.Logs) != 3 || rep.Logs[1].Entries != 5 {
				t.Errorf("October is not as it was: %+v", rep.Logs)
			}
		})
	}
}

// It was: a journal could be made over one that was there.
func TestAJournalIsNeverMadeOverAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal-1")
	f, err := osDisk{}.Create(path, 4096, []byte("acknowledged"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	// As a crash between the two names leaves it.
	if err := os.Link(path, path+newSuffix); err != nil {
		t.Fatal(err)
	}
	if _, err := (osDisk{}).Create(path, 8192, []byte("another")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made over another: %v", err)
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) != 4096 || !bytes.HasPrefix(b, []byte("acknowledged")) {
		t.Errorf("it was changed: %d bytes, %v", len(b), err)
	}
	if exists(path + newSuffix) {
		t.Error("what was unfinished was left")
	}
}

// What an attempt left that failed behind its back is no obstacle, unless it
// holds something.
func TestAnEmptyJournalThatIsThereIsTaken(t *testing.T) {
	c := newClock(october)
	r, d := newFaultyRig(t, func(cfg *Config) { cfg.Now = c.Now })
	r.act(1)
	c.set(november)
	d.order("stat", syscall.EIO, false)
	r.refused(2)
	path := filepath.Join(r.cfg.Dir, "acts", "2026-11", "journal-1")
	if !exists(path) {
		t.Fatal("nothing was left")
	}
	r.healthy()
	if rec := r.act(3); !strings.HasSuffix(rec.Entry, "acts/2026-11#0") {
		t.Errorf("entered as %s", rec.Entry)
	}
	r.close()
	r.sound()
}

func TestAForeignJournalThatIsThereStays(t *testing.T) {
	c := newClock(october)
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	r.act(1)
	theirs, err := os.ReadFile(r.log.acts.current().journals[0].path)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(r.cfg.Dir, "acts", "2026-11")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	mine := header{size: r.cfg.JournalSize, origin: originator(keyName(host, node)).of("acts/2026-11")}.encode()
	for name, content := range map[string][]byte{
		"of another month": theirs,
		"with an entry":    append(mine, theirs[headerSize:]...),
		"longer":           append(mine, make([]byte, r.cfg.JournalSize)...),
		"shorter":          mine,
		"something else":   []byte("something else"),
	} {
		if err := os.WriteFile(filepath.Join(dir, "journal-1"), content, 0o640); err != nil {
			t.Fatal(err)
		}
		c.set(november)
		if err := r.refused(2); !errors.Is(err, ErrInconsistent) {
			t.Errorf("%s: it says %v", name, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "journal-1")); err != nil || !bytes.Equal(b, content) {
			t.Errorf("%s: it was changed (%v)", name, err)
		}
		c.set(october)
		r.healthy()
	}
}

// A process that ended after the first act of a month and before lifecycle had
// heard of it never told: a month whose files are all gone later was not missed.
func TestAnUntoldMonthIsToldAtTheNextStart(t *testing.T) {
	r := newRig(t)
	r.act(1)
	r.monthBegan()
	r.close()
	untold := newRig(t)
	untold.lifecycle(keystore.Record{Principal: self, Action: keystore.ActStart, Outcome: keystore.OutcomeDone})
	untold.close()
	if err := os.CopyFS(filepath.Join(untold.cfg.Dir, actsName), os.DirFS(filepath.Join(r.cfg.Dir, actsName))); err != nil {
		t.Fatal(err)
	}
	untold.key = r.key // which signed the month's checkpoint
	for range 2 {
		untold.open()
		untold.close()
	}
	told := untold.all(Filter{Action: keystore.ActAuditShard, Outcome: keystore.OutcomeIntent})
	if len(told) != 1 || !strings.Contains(told[0].Entry.Detail["origin"], "/acts/") {
		t.Errorf("told: %+v", told)
	}
}
