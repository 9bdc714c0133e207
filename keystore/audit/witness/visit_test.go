package witness

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestOnlyTheLogsKeyCanContradict: a checkpoint below the one cosigned last was
// told as a contradiction before anyone had looked at who signed it.
func TestOnlyTheLogsKeyCanContradict(t *testing.T) {
	log := newTestLog(t).add(5, "entry")
	s := newServer(t, log)
	shown := func(signed []byte) error {
		_, err := s.Visit(t.Context(), func(_ context.Context, name string) ([]byte, error) {
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

// TestVisitEndsWithItsContext: a server that takes the connection and never answers
// held a witness that was told to end for as long as three requests may take.
func TestVisitEndsWithItsContext(t *testing.T) {
	log := newTestLog(t).add(300, "entry")
	for _, mute := range []string{"checkpoint", "tile/"} { // the first of what is read, and what the proof is made of
		s := newServer(t, log)
		if _, err := s.Cosign(Request{Note: log.checkpoint(5)}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if name := strings.TrimPrefix(r.URL.Path, "/"); !strings.HasPrefix(name, mute) {
				w.Write(log.checkpoint(300))
				return
			}
			cancel()
			<-r.Context().Done()
		}))
		read, err := Pages(server.URL, http.DefaultTransport)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Visit(ctx, read); !errors.Is(err, context.Canceled) {
			t.Errorf("%s does not come and the context ends: %v", mute, err)
		}
		if size, err := s.Size(log.origin()); size != 5 || err != nil {
			t.Errorf("after %s did not come %d are cosigned, %v", mute, size, err)
		}
		server.Close()
	}
}
