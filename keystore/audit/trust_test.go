package audit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chancery/keystore"
)

func TestALogFitsWhatItWas(t *testing.T) {
	r := newRig(t)
	_, empty := r.log.Head()
	var heads []Head
	for i := range 300 {
		r.lifecycle(keystore.Record{Action: keystore.ActStart, Outcome: keystore.OutcomeDone, Version: i + 1})
		origin, head := r.log.Head()
		if origin != LifecycleOrigin(host, node) {
			t.Fatal(origin)
		}
		heads = append(heads, head)
	}
	for _, h := range append(heads, empty) {
		if err := r.log.Fits(t.Context(), h); err != nil {
			t.Fatalf("at %d: %v", h.Size, err)
		}
	}
	last := heads[len(heads)-1]
	for name, h := range map[string]Head{
		"longer":       {last.Size + 1, last.Root},
		"another root": {last.Size, heads[0].Root},
		"another size": {last.Size - 1, last.Root},
	} {
		if err := r.log.Fits(t.Context(), h); !errors.Is(err, ErrInconsistent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := r.log.Fits(ended, last); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of its context: %v", err)
	}
	r.close()
	r.sound()
}

// A26, A25: log and memory rolled back together fit each other; what remembers the
// later head tells, and from then on nothing is entered or signed.
func TestA26ALogRolledBackWithItsMemory(t *testing.T) {
	r := newRig(t)
	r.lifecycle(keystore.Record{Action: keystore.ActStart, Outcome: keystore.OutcomeDone})
	r.close()
	yesterday := t.TempDir()
	if err := os.CopyFS(yesterday, os.DirFS(r.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	remembered, _ := r.mem.Recall(t.Context())
	r.open()
	r.lifecycle(keystore.Record{Action: keystore.ActRotate, Outcome: keystore.OutcomeDone})
	_, token := r.log.Head()
	r.close()

	if err := os.RemoveAll(r.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(r.cfg.Dir, os.DirFS(yesterday)); err != nil {
		t.Fatal(err)
	}
	r.mem.heads = remembered
	r.open() // nothing that was rolled back tells
	err := r.log.Fits(t.Context(), token)
	if !errors.Is(err, ErrInconsistent) || !strings.Contains(err.Error(), "had "+"2") {
		t.Fatalf("the token's memory: %v", err)
	}
	checkpoint := filepath.Join(r.cfg.Dir, "lifecycle", "checkpoint")
	before, _ := os.ReadFile(checkpoint)
	r.log.Distrust(err)
	if _, err := r.log.Act(t.Context(), signed(1)); !errors.Is(err, keystore.ErrUnavailable) || !errors.Is(err, ErrInconsistent) {
		t.Errorf("an act: %v", err)
	}
	if _, err := r.log.Lifecycle(t.Context(), signed(1)); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("a step: %v", err)
	}
	r.log.Refuse(signed(1)) // is counted, and waits for nobody
	if err := r.log.Checkpoint(t.Context()); !errors.Is(err, ErrInconsistent) {
		t.Errorf("a checkpoint: %v", err)
	}
	if !errors.Is(r.log.Health(), ErrInconsistent) {
		t.Errorf("health: %v", r.log.Health())
	}
	if err := r.log.Close(t.Context()); err == nil {
		t.Error("it closes as if nothing were wrong")
	}
	r.log = nil
	if after, _ := os.ReadFile(checkpoint); string(after) != string(before) {
		t.Error("a log that is not trusted was signed")
	}
	r.sound() // as it was yesterday: what is missing only the token knows
}
