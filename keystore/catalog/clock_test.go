package catalog

import (
	"errors"
	"testing"
	"time"
)

// What was dated by a database's clock that was ahead stayed: an acknowledgement, a
// lease, and the clock itself, which never goes back.
func TestNothingIsWrittenByAClockThatIsNotAgreed(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		apart := errors.New("an hour ahead")
		c := at.activated(t)
		c.agree = func(now time.Time) error {
			if now.Sub(epoch) >= time.Hour {
				return apart
			}
			return nil
		}
		enrol(t, c, enrolment("a"))
		enrol(t, at.open(t), enrolment("b"))
		do, before := writes(t, c), mustView(t, c).Revision()
		do["enrolment"] = func() error { _, err := c.Enrol(t.Context(), enrolment("a")); return err }
		if c.db.shared() {
			do["lease"] = func() error { _, err := c.Renew(t.Context(), before); return err }
		}
		at.setClock(epoch.Add(time.Hour))
		for what, write := range do {
			if err := write(); !errors.Is(err, apart) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := c.Leave(t.Context()); !errors.Is(err, apart) {
			t.Errorf("leave: %v", err)
		}
		at.setClock(epoch)
		if view := mustView(t, c); view.Revision() != before || view.Clock().Sub(epoch) > time.Minute {
			t.Errorf("revision %d at %v, was %d", view.Revision(), view.Clock(), before)
		}
	})
}
