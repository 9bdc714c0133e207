package catalog

import (
	"errors"
	"testing"
	"time"

	"chancery/keystore"
)

// Whose request is in progress is free for others when it cannot end it.
func TestS13ARequestOfANodeThatIsGoneIsFree(t *testing.T) {
	onPostgres(t, func(t *testing.T, at *place) {
		a, b := at.open(t), at.open(t)
		enrol(t, a, enrolment("a"))
		enrol(t, b, enrolment("b"))
		key := IdempotencyKey{"p", "devices", "tls", "k"}
		begin := func(c *Catalog) error {
			_, err := c.BeginIdempotent(t.Context(), key, [32]byte{1}, epoch)
			return err
		}
		if err := begin(a); err != nil {
			t.Fatal(err)
		}
		if err := begin(b); !errors.Is(err, ErrIdempotencyInProgress) {
			t.Errorf("while the other answers: %v", err)
		}
		if _, err := b.BeginIdempotent(t.Context(), key, [32]byte{2}, epoch); !errors.Is(err, ErrIdempotencyMismatch) {
			t.Errorf("another body: %v", err)
		}
		at.setClock(epoch.Add(30 * time.Second))
		if _, err := b.Renew(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if err := begin(b); err != nil {
			t.Errorf("after its lease: %v", err)
		}
		if _, err := a.Renew(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if err := a.FinishIdempotent(t.Context(), key, []byte("late")); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("the first one finishes late: %v", err)
		}
		if err := b.FinishIdempotent(t.Context(), key, []byte("reply")); err != nil {
			t.Error(err)
		}
		if reply, err := a.BeginIdempotent(t.Context(), key, [32]byte{1}, epoch); err != nil || string(reply) != "reply" {
			t.Errorf("%q, %v", reply, err)
		}
	})
}

// A node ends what its own earlier epochs left open, and nothing of another's.
func TestS13ANodeEndsOnlyItsOwn(t *testing.T) {
	onPostgres(t, func(t *testing.T, at *place) {
		a, b := at.open(t), at.open(t)
		enrol(t, a, enrolment("a"))
		enrol(t, b, enrolment("b"))
		if err := errors.Join(a.AddCertificate(t.Context(), certificate("0a")), b.AddCertificate(t.Context(), certificate("0b"))); err != nil {
			t.Fatal(err)
		}
		enrol(t, at.open(t), enrolment("a"))
		for serial, want := range map[string]string{"0a": StatusUnknown, "0b": StatusIntent} {
			if got, err := b.Certificate(t.Context(), serial); err != nil || got.Status != want {
				t.Errorf("%s: %q, %v", serial, got.Status, err)
			}
		}
	})
}
