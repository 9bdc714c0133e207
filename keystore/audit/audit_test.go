package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/keystore"
)

func TestEveryReceiptIsAnEntry(t *testing.T) {
	r := newRig(t)
	started := r.lifecycle(keystore.Record{Principal: self, Action: keystore.ActStart, Outcome: keystore.OutcomeDone})
	if want := host + "/audit/" + node + "/lifecycle#0"; started.Entry != want {
		t.Errorf("entry %q, want %q", started.Entry, want)
	}
	receipts := map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			for i := range 100 {
				n := worker*100 + i
				rec, err := r.log.Act(t.Context(), signed(n))
				if err != nil {
					t.Errorf("act: %v", err)
					return
				}
				mu.Lock()
				receipts[rec.Entry] = n
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(receipts) != 1600 {
		t.Fatalf("%d different receipts, want 1600", len(receipts))
	}
	for _, e := range r.all(Filter{Log: "acts"}) {
		if n, ok := receipts[e.Name()]; !ok || e.Entry.JTI != signed(n).JTI {
			t.Errorf("%s holds %q, and not what its receipt was for", e.Name(), e.Entry.JTI)
		}
		delete(receipts, e.Name())
	}
	if len(receipts) != 0 {
		t.Errorf("%d receipts without an entry", len(receipts))
	}
	// 1600 entries of some 500 bytes do not fit into one journal of 64 KiB.
	if numbers, err := listJournals(r.log.acts.current().dir); err != nil || len(numbers) < 10 {
		t.Errorf("%d journals (%v), want at least 10", len(numbers), err)
	}
	if err := r.log.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	rep := r.sound()
	// 1600 acts, one entry of lifecycle, and that the month began.
	if rep.Entries() != 1602 || rep.Proven() != 1602 {
		t.Errorf("%d entries, %d proven; want all of 1602", rep.Entries(), rep.Proven())
	}
	r.close()
	r.open() // the short way, by tiles
	if entries, signed := r.log.acts.current().length(), r.signed(); entries != 1600 || signed != 1600 {
		t.Errorf("after a restart: %d entries, %d signed", entries, signed)
	}
	if rec := r.act(1); rec.Index != 1600 {
		t.Errorf("after a restart the next act is %d", rec.Index)
	}
	r.close()
	r.sound()
}

func TestUnsignedTailIsToldApart(t *testing.T) {
	r := newRig(t)
	r.act(0)
	waitFor(t, "the first checkpoint, made at once", func() bool { return r.signed() == 1 })
	for i := range 9 {
		r.act(i)
	}
	if err := r.log.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		r.act(i)
	}
	acts := r.sound().Logs[1]
	if acts.Entries != 15 || acts.Proven != 10 || acts.Unsigned != 5 {
		t.Errorf("%d entries, %d proven, %d unsigned; want 15, 10, 5", acts.Entries, acts.Proven, acts.Unsigned)
	}
	rep, err := Verify(t.Context(), r.cfg.Dir, Options{})
	if err != nil || rep.KeyVerified || rep.OK() || len(rep.Problems) != 0 || rep.Logs[1].Proven != 10 {
		t.Errorf("without a key: %+v, %v", rep, err)
	}
	other := newSoftKey(t, keystore.EdDSA)
	rep, err = Verify(t.Context(), r.cfg.Dir, Options{Keys: []string{other.vkey(t)}})
	if err != nil || rep.OK() {
		t.Errorf("with another key: %+v, %v", rep, err)
	}
}

func TestNoKeyStopsNoEntry(t *testing.T) {
	var key keystore.Key
	var mu sync.Mutex
	r := newRig(t, func(c *Config) {
		c.Interval = 10 * time.Millisecond
		c.Keys = func(context.Context) (Keys, error) {
			mu.Lock()
			defer mu.Unlock()
			if key == nil {
				return Keys{}, fmt.Errorf("%w: the token is away", keystore.ErrUnavailable)
			}
			return Keys{Active: key}, nil
		}
	})
	r.act(1)
	waitFor(t, "the missing key is told", func() bool { return r.log.Unsigned() != nil })
	if err := r.log.Health(); err != nil {
		t.Errorf("health: %v", err)
	}
	origin := r.log.acts.current().origin
	waitFor(t, "the memory knows the log all the same", func() bool {
		heads, err := r.mem.Recall(t.Context())
		return err == nil && heads[origin].Size == 1
	})
	mu.Lock()
	key = r.key
	mu.Unlock()
	waitFor(t, "the checkpoint is signed", func() bool { return r.log.Unsigned() == nil && r.signed() == 1 })
	r.sound()
}

func TestLogKeyOnP256(t *testing.T) {
	r := newRig(t)
	r.key = newSoftKey(t, keystore.ES256)
	r.act(1)
	if err := r.log.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if key := r.sound().Logs[1].Key; !strings.HasPrefix(key, host+"/audit/"+node+"+") {
		t.Errorf("signed by %q", key)
	}
}

func TestFind(t *testing.T) {
	r := newRig(t)
	intent := keystore.Record{ID: strings.Repeat("ab", 16), Action: keystore.ActKeyGenerate, Outcome: keystore.OutcomeIntent, KeySet: "web", Version: 2}
	done := intent
	done.Outcome = keystore.OutcomeDone
	for i := range 300 {
		r.lifecycle(keystore.Record{ID: fmt.Sprintf("%032x", i), Action: keystore.ActRead, Outcome: keystore.OutcomeDone})
	}
	if _, ok, err := r.log.Find(t.Context(), intent.ID); ok || err != nil {
		t.Errorf("found before it was there (%v)", err)
	}
	first := r.lifecycle(intent)
	if got, ok, err := r.log.Find(t.Context(), intent.ID); !ok || err != nil || got != first {
		t.Errorf("found %+v, %v, %v; want %+v", got, ok, err, first)
	}
	if _, ok, err := r.log.Entered(t.Context(), done); ok || err != nil {
		t.Errorf("the intent was taken for the outcome (%v)", err)
	}
	second := r.lifecycle(done)
	if got, ok, err := r.log.Entered(t.Context(), done); !ok || err != nil || got != second {
		t.Errorf("entered %+v, %v, %v; want %+v", got, ok, err, second)
	}
}

func TestContextEnds(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.log.Act(ctx, signed(1)); !errors.Is(err, context.Canceled) || errors.Is(err, keystore.ErrUncertain) {
		t.Errorf("an ended context: %v", err)
	}
	r.close()
	if len(r.all(Filter{Log: "acts"})) != 0 {
		t.Error("it was entered")
	}
}

func TestClosed(t *testing.T) {
	r := newRig(t)
	log := r.log
	r.close()
	if _, err := log.Act(t.Context(), signed(1)); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	if err := log.Close(t.Context()); err == nil {
		t.Error("closed twice")
	}
	log.Refuse(signed(1))
}

func TestTimeNeverGoesBack(t *testing.T) {
	c := newClock(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	first := r.act(1)
	c.set(first.Time.Add(-time.Hour))
	if second := r.act(2); second.Time.Before(first.Time) {
		t.Errorf("%v after %v", second.Time, first.Time)
	}
	r.close()
	r.open()
	if third := r.act(3); third.Time.Before(first.Time) {
		t.Errorf("after a restart %v after %v", third.Time, first.Time)
	}
	r.close()
	r.sound()
}

func TestMonthEnds(t *testing.T) {
	c := newClock(time.Date(2026, 10, 31, 23, 59, 59, 0, time.UTC))
	r := newRig(t, func(cfg *Config) { cfg.Now = c.Now })
	for i := range 300 {
		r.act(i)
	}
	c.set(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))
	if rec := r.act(300); rec.Entry != host+"/audit/"+node+"/acts/2026-11#0" {
		t.Errorf("the first act of November is %s", rec.Entry)
	}
	c.set(time.Date(2026, 10, 31, 23, 59, 59, 0, time.UTC)) // a step back goes on in November
	if rec := r.act(301); rec.Entry != host+"/audit/"+node+"/acts/2026-11#1" {
		t.Errorf("after a step back: %s", rec.Entry)
	}
	if err := r.log.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	rep := r.sound()
	if len(rep.Logs) != 3 || rep.Logs[1].Closed == "" || rep.Logs[1].Proven != 300 || rep.Logs[2].Closed != "" {
		t.Errorf("%+v", rep.Logs)
	}
	seals := r.all(Filter{Action: keystore.ActAuditShard, Outcome: keystore.OutcomeDone})
	if len(seals) != 1 || seals[0].Entry.Detail["size"] != "300" || seals[0].Entry.Detail["origin"] != rep.Logs[1].Origin {
		t.Errorf("seals: %+v", seals)
	}
	// A restart, even one that lost the note of it, does not close it twice.
	r.close()
	if err := os.Remove(filepath.Join(r.cfg.Dir, "acts", "2026-10", finalName)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r.open()
		r.close()
	}
	if n := len(r.all(Filter{Action: keystore.ActAuditShard, Outcome: keystore.OutcomeDone})); n != 1 {
		t.Errorf("closed %d times", n)
	}
	// The closed month stands by lifecycle, even without a checkpoint of its own.
	if err := os.Remove(filepath.Join(r.cfg.Dir, "acts", "2026-10", "checkpoint")); err != nil {
		t.Fatal(err)
	}
	if rep := r.verify(); !rep.OK() || rep.Logs[1].Proven != 300 {
		t.Errorf("without its checkpoint: %+v", rep)
	}
	if err := os.RemoveAll(filepath.Join(r.cfg.Dir, "acts", "2026-10")); err != nil {
		t.Fatal(err)
	}
	if rep := r.verify(); rep.OK() {
		t.Error("a lost month was not found")
	}
	if _, err := Open(t.Context(), r.cfg); !errors.Is(err, ErrInconsistent) {
		t.Errorf("opened without a month: %v", err)
	}
}

// An act that is only started is entered all the same, and told of as any other;
// if the log takes nothing, the one who waits hears of it.
func TestStartedActs(t *testing.T) {
	r := newRig(t)
	r.act(1)
	pending := make([]Pending, 50)
	for i := range pending {
		pending[i] = r.log.Start(signed(2 + i))
	}
	late, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i, p := range pending {
		ctx := t.Context()
		if i == len(pending)-1 { // what has become of it is known, so that nobody has to wait
			waitFor(r, "it is entered", func() bool { return len(p.(*request).done) == 1 })
			cancel()
			ctx = late
		}
		receipt, err := p.Wait(ctx)
		if err != nil || receipt.Index != int64(1+i) || receipt.Entry == "" || receipt.Time.IsZero() {
			t.Fatalf("act %d: %+v, %v", 2+i, receipt, err)
		}
	}
	log := r.log
	r.close()
	r.sound()
	if _, err := log.Start(signed(99)).Wait(t.Context()); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
}
