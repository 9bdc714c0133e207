package witness

import (
	"errors"
	"strings"
	"testing"
)

// TestOnlyTheLogsKeyCanContradict: a checkpoint below the one cosigned last was
// told as a contradiction before anyone had looked at who signed it.
func TestOnlyTheLogsKeyCanContradict(t *testing.T) {
	log := newTestLog(t).add(5, "entry")
	s := newServer(t, log)
	shown := func(signed []byte) error {
		_, err := s.Visit(func(name string) ([]byte, error) {
			if name != "checkpoint" {
				t.Errorf("Visit read %s", name)
			}
			return signed, nil
		})
		return err
	}
	if err := shown(log.checkpoint(5)); err != nil {
		t.Fatal(err)
	}
	if err := shown(log.checkpoint(3)); !errors.Is(err, ErrContradicts) || !strings.Contains(err.Error(), "has 3 entries, and had 5") {
		t.Errorf("a log that lost entries: %v", err)
	}
	other := newTestLog(t).add(3, "entry")
	if err := shown(other.checkpoint(3)); errors.Is(err, ErrContradicts) || err == nil || !strings.Contains(err.Error(), "no signature by a known log key") {
		t.Errorf("another's log of the same name: %v", err)
	}
}
