package audit

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore"
)

func TestS10FsyncFailsOnce(t *testing.T) {
	r, d := newFaultyRig(t)
	r.act(1)
	opened := d.count("open")
	recovery := d.hold("open") // it cannot recover before it has been looked at
	defer recovery()
	d.order("sync", syscall.EIO, false)
	if err := r.refused(2); !strings.Contains(err.Error(), "syncing") {
		t.Errorf("it says %v", err)
	}
	if err := r.log.Health(); !errors.Is(err, syscall.EIO) {
		t.Errorf("health: %v", err)
	}
	r.refused(3) // at once, while it has not recovered
	recovery()
	r.healthy()
	if d.count("open") == opened {
		t.Error("the file was not opened again")
	}
	if rec := r.act(4); rec.Index != 1 {
		t.Errorf("the next act is %d: what was not acknowledged was kept", rec.Index)
	}
	waitFor(t, "the repair is entered", func() bool { return len(r.all(Filter{Action: keystore.ActAuditResume})) == 1 })
	if n := len(r.all(Filter{Action: keystore.ActAuditRepair})); n != 1 {
		t.Errorf("%d repairs entered, want 1", n)
	}
	r.close()
	rep := r.sound()
	if rep.Logs[1].Entries != 2 {
		t.Errorf("%d acts, want the 2 acknowledged", rep.Logs[1].Entries)
	}
}

func TestS10LifecycleFailsAndRecovers(t *testing.T) {
	r, d := newFaultyRig(t)
	d.order("write", syscall.EIO, true)
	if _, err := r.log.Lifecycle(t.Context(), keystore.Record{Action: keystore.ActStart}); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("lifecycle: %v", err)
	}
	time.Sleep(250 * time.Millisecond) // tries to recover that may not succeed: nothing to cut, nothing to write
	d.order("write", nil, false)
	r.healthy()
	r.lifecycle(keystore.Record{Action: keystore.ActStart, Outcome: keystore.OutcomeDone})
	waitFor(t, "the resumption is entered", func() bool { return len(r.all(Filter{Action: keystore.ActAuditResume})) > 0 })
	r.close()
	r.sound()
}

func TestS09WriteIsTorn(t *testing.T) {
	for _, torn := range []int{0, 1, recordHead - 1, recordHead, 100, 1 << 20} {
		r, d := newFaultyRig(t)
		r.act(1)
		d.torn = torn
		d.order("write", syscall.ENOSPC, false)
		r.refused(2)
		r.healthy()
		r.act(3)
		r.close()
		if n := r.sound().Logs[1].Entries; n != 2 {
			t.Errorf("torn after %d bytes: %d acts, want 2", torn, n)
		}
	}
}

// Its time is the bubble's, which stands still while the disk works.
func TestS09NoSpaceForTheNextJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := newFaultyRig(t)
		r.act(0)
		d.order("create", syscall.ENOSPC, true)
		n := 1
		for ; ; n++ {
			if _, err := r.log.Act(t.Context(), signed(n)); err != nil {
				break
			}
		}
		if n < 100 {
			t.Fatalf("the first journal took only %d acts", n)
		}
		r.refused(n)
		time.Sleep(10 * time.Second) // it tries as seldom as it ever does now
		r.refused(n)
		d.order("create", nil, false)
		freed := time.Now()
		r.healthy()
		if took := time.Since(freed); took > longestWait+10*time.Millisecond { // healthy polls
			t.Errorf("it took %v to recover", took)
		}
		if rec := r.act(n); rec.Index != int64(n) {
			t.Errorf("the next act is %d, want %d", rec.Index, n)
		}
		r.close()
		r.sound()
	})
}

func TestS09NoSpaceForTheFirstActOfAMonth(t *testing.T) {
	c := newClock(time.Date(2026, 10, 31, 12, 0, 0, 0, time.UTC))
	r, d := newFaultyRig(t, func(cfg *Config) { cfg.Now = c.Now })
	d.order("create", syscall.ENOSPC, true)
	r.refused(0) // there is no month at all
	d.order("create", nil, false)
	r.healthy()
	r.act(1)
	c.set(c.Now().AddDate(0, 0, 1))
	d.order("create", syscall.ENOSPC, true)
	r.refused(2)
	d.order("create", nil, false)
	r.healthy()
	if rec := r.act(3); !strings.HasSuffix(rec.Entry, "acts/2026-11#0") {
		t.Errorf("entered as %s", rec.Entry)
	}
	r.close()
	r.sound()
}

func TestS12JournalRemovedRenamedReplacedOrCut(t *testing.T) {
	read := func(t *testing.T, path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	must := func(t *testing.T, err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name     string
		journal  int
		do, undo func(t *testing.T, path string, content []byte)
	}{
		{"removed", 2, func(t *testing.T, path string, _ []byte) { must(t, os.Remove(path)) }, nil},
		{"renamed", 2,
			func(t *testing.T, path string, _ []byte) { must(t, os.Rename(path, path+".1")) },
			func(t *testing.T, path string, _ []byte) { must(t, os.Rename(path+".1", path)) }},
		{"replaced by a copy", 2, func(t *testing.T, path string, b []byte) {
			must(t, os.WriteFile(path+".1", b, 0o640))
			must(t, os.Rename(path+".1", path))
		}, nil},
		{"emptied", 2, func(t *testing.T, path string, _ []byte) { must(t, os.Truncate(path, 0)) },
			func(t *testing.T, path string, b []byte) { must(t, os.WriteFile(path, b, 0o640)) }},
		{"zeroed", 2, func(t *testing.T, path string, b []byte) { must(t, os.WriteFile(path, make([]byte, len(b)), 0o640)) },
			func(t *testing.T, path string, b []byte) { must(t, os.WriteFile(path, b, 0o640)) }},
		{"an earlier one removed", 1, func(t *testing.T, path string, _ []byte) { must(t, os.Remove(path)) }, nil},
		{"an earlier one renamed", 1,
			func(t *testing.T, path string, _ []byte) { must(t, os.Rename(path, path+".1")) },
			func(t *testing.T, path string, _ []byte) { must(t, os.Rename(path+".1", path)) }},
		{"the directory renamed", 0,
			func(t *testing.T, path string, _ []byte) {
				must(t, os.Rename(filepath.Dir(path), filepath.Dir(path)+".1"))
			},
			func(t *testing.T, path string, _ []byte) {
				must(t, os.Rename(filepath.Dir(path)+".1", filepath.Dir(path)))
			}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			n := 0
			for ; r.log.acts.current() == nil || !exists(journalPath(r.log.acts.current().dir, 2)); n++ {
				r.act(n)
			}
			r.act(n)
			time.Sleep(10 * time.Millisecond) // beyond the granularity of a directory's time
			path := journalPath(r.log.acts.current().dir, test.journal)
			var content []byte
			if test.journal > 0 {
				content = read(t, path)
			}
			test.do(t, path, content)
			if err := r.refused(n + 1); !errors.Is(err, ErrInconsistent) {
				t.Errorf("it says %v", err)
			}
			time.Sleep(150 * time.Millisecond) // it tries, and may not go on
			r.refused(n + 2)
			if test.undo == nil {
				return
			}
			test.undo(t, path, content)
			r.healthy()
			if rec := r.act(n + 3); rec.Index != int64(n+1) {
				t.Errorf("put back, it goes on with %d, want %d", rec.Index, n+1)
			}
			r.close()
			r.sound()
		})
	}
}

// crash lets go of everything without the last checkpoint, as a dead process does.
func (r *rig) crash() {
	r.log.stop()
	<-r.log.stopped
	r.log.acts.close()
	r.log.lifecycle.close()
	r.log.uses.close()
	r.log = nil
}

// TestS13 ends between the entry and the reply: the entry is there, whole or not at all.
func TestS13TornTailAfterACrash(t *testing.T) {
	r := newRig(t)
	r.act(0)
	r.act(1)
	s := r.log.acts.current()
	path, end, later := s.journals[0].path, s.off, time.Now().UTC().Add(time.Second)
	r.crash()
	remembered := maps.Clone(r.mem.heads)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// A group of two that was being written when the power went.
	group := startRecord(nil, 2, 2)
	group = Entry{1, 2, later, signed(2)}.Append(group)
	sealRecord(group)
	second := startRecord(nil, 3, 2)
	second = Entry{1, 3, later, signed(3)}.Append(second)
	sealRecord(second)
	group = append(group, second...)
	firstLen := len(group) - len(second)
	tests := []struct {
		name    string
		damage  func(group []byte)
		entries int64
		repair  bool
	}{
		{"all of it", func([]byte) {}, 4, false},
		{"nothing", func(g []byte) { clear(g) }, 2, false},
		{"the first only", func(g []byte) { clear(g[firstLen:]) }, 3, false},
		{"the second only", func(g []byte) { clear(g[:firstLen]) }, 2, true},
		{"half of the first", func(g []byte) { clear(g[firstLen/2:]) }, 2, true},
		{"half of the second", func(g []byte) { clear(g[firstLen+50:]) }, 3, true},
		{"one byte", func(g []byte) { clear(g[1:]) }, 2, true},
		{"a hole", func(g []byte) { clear(g[20:60]) }, 2, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g := append([]byte(nil), group...)
			test.damage(g)
			b := append([]byte(nil), whole...)
			copy(b[end:], g)
			if err := os.WriteFile(path, b, 0o640); err != nil {
				t.Fatal(err)
			}
			before := len(r.all(Filter{Action: keystore.ActAuditRepair}))
			// Each case is a crash of its own. What it was: the keeper had sometimes
			// remembered the entries of the case before, which are not there now.
			r.mem.heads = maps.Clone(remembered)
			r.open()
			if n := r.log.acts.current().length(); n != test.entries {
				t.Errorf("%d entries, want %d", n, test.entries)
			}
			if n := len(r.all(Filter{Action: keystore.ActAuditRepair})) - before; (n == 1) != test.repair {
				t.Errorf("%d repairs entered", n)
			}
			r.crash()
			rep := r.verify()
			for _, p := range rep.Problems {
				if p.Index >= 0 {
					t.Error(p)
				}
			}
		})
	}
}

// TestS13AcknowledgedEntriesAreNeverCut damages an entry that a later one calls durable.
func TestS13AcknowledgedEntriesAreNeverCut(t *testing.T) {
	r := newRig(t)
	for i := range 3 {
		r.act(i)
	}
	s := r.log.acts.current()
	path := s.journals[0].path
	r.crash()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[headerSize+recordHead+100] ^= 1
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), r.cfg); !errors.Is(err, ErrInconsistent) || !strings.Contains(err.Error(), "entry 0") {
		t.Errorf("opened: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(b) {
		t.Errorf("the journal was changed (%v)", err)
	}
}

func TestS08OlderThanTheMemory(t *testing.T) {
	r := newRig(t)
	for i := range 3 {
		r.lifecycle(keystore.Record{Action: keystore.ActRead, Reason: string(rune('a' + i))})
	}
	origin := r.log.lifecycle.current().origin
	if heads, err := r.mem.Recall(t.Context()); err != nil || heads[origin].Size != 3 {
		t.Errorf("the memory has %+v, %v: each lifecycle entry has to be remembered", heads, err)
	}
	r.crash()
	good, err := r.mem.Recall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	head := good[origin]
	for name, change := range map[string]Head{
		"the log was longer":  {head.Size + 1, head.Root},
		"the log was another": {head.Size, Head{}.Root},
		"its first entry was": {1, head.Root},
	} {
		r.mem.heads[origin] = change
		if _, err := Open(t.Context(), r.cfg); !errors.Is(err, ErrInconsistent) || !strings.Contains(err.Error(), "hint") {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.mem.heads[origin] = head
	if err := os.Rename(r.cfg.Dir, r.cfg.Dir+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), r.cfg); !errors.Is(err, ErrInconsistent) {
		t.Errorf("the log is gone: %v", err)
	}
	if err := os.RemoveAll(r.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(r.cfg.Dir+".away", r.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	r.open()
}

func TestMemoryFailsAndEntriesGoOn(t *testing.T) {
	r := newRig(t)
	r.mem.mu.Lock()
	r.mem.err = errors.New("database is locked")
	r.mem.mu.Unlock()
	r.lifecycle(keystore.Record{Action: keystore.ActSuspend, Outcome: keystore.OutcomeDone})
	r.mem.mu.Lock()
	r.mem.err = nil
	r.mem.mu.Unlock()
	if err := r.log.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if heads, err := r.mem.Recall(t.Context()); err != nil || len(heads) != 1 {
		t.Errorf("the memory was not told later: %v, %v", heads, err)
	}
}

func TestDerivedFilesAreMadeAgain(t *testing.T) {
	r := newRig(t)
	for i := range 600 {
		r.act(i)
	}
	dir := r.log.acts.current().dir
	r.close()
	for _, lost := range []string{"checkpoint", "tile", "tile/0/000", "tile/0/002.p", "tile/1"} {
		if err := os.RemoveAll(filepath.Join(dir, lost)); err != nil {
			t.Fatal(err)
		}
		r.open()
		r.act(1)
		r.close()
		r.sound()
	}
	// A full tile may have replaced the narrow one of the checkpoint.
	if err := os.WriteFile(filepath.Join(dir, "checkpoint"), nil, 0o640); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.close()
	r.sound()
}
