package review

import "time"

// retained returns until when a digest that was signed at t is to be verifiable: for
// L, since its signature has no expiry (rotation rule 2). Zero: for ever, or it is not
// known how long.
func (s *setLife) retained(t time.Time) time.Time {
	l := s.inForce(t).MaxLifetime
	if l <= 0 {
		return time.Time{}
	}
	return t.Add(l)
}
