package crl

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrRevoked: the certificate, or one above it, is on a list.
	ErrRevoked = errors.New("revoked")
	// ErrUnknown: no list that counts now tells whether it is.
	ErrUnknown = errors.New("whether it is revoked is not known")
)

// ahead is how far the clock of a list's issuer may be ahead of ours.
const ahead = 5 * time.Minute

// A Set is the lists of a trust anchor and of the intermediates below it, as they
// were read at one moment. It may be used concurrently.
type Set struct {
	lists  map[string][]*List // by the DER of their issuer's name
	maxAge time.Duration

	found sync.Map // sha256 of an issuer's certificate → finding
}

type finding struct {
	list *List
	err  error
}

// NewSet returns the Set of lists. A list counts until its NextUpdate and, if
// maxAge is not zero, for no longer than that after its ThisUpdate.
func NewSet(lists []*List, maxAge time.Duration) *Set {
	s := &Set{lists: make(map[string][]*List), maxAge: maxAge}
	for _, l := range lists {
		s.lists[string(l.Issuer)] = append(s.lists[string(l.Issuer)], l)
	}
	return s
}

// newest returns the list made last.
func newest(lists []*List) *List {
	var last *List
	for _, l := range lists {
		if last == nil || last.before(l) {
			last = l
		}
	}
	return last
}

// before reports whether l was made before other: by its time, and of two of one time
// by the number (RFC 5280 Section 5.2.3), if both have one.
func (l *List) before(other *List) bool {
	if !l.ThisUpdate.Equal(other.ThisUpdate) {
		return l.ThisUpdate.Before(other.ThisUpdate)
	}
	a, b := l.header.Number, other.header.Number
	return a != nil && b != nil && a.Cmp(b) < 0
}

// of returns the newest list that issuer made. Signatures are verified once for
// each issuer.
func (s *Set) of(issuer *x509.Certificate) (*List, error) {
	id := sha256.Sum256(issuer.Raw)
	if f, ok := s.found.Load(id); ok {
		return f.(finding).list, f.(finding).err
	}
	var good []*List
	err := fmt.Errorf("there is no revocation list of %s", issuer.Subject)
	for _, l := range s.lists[string(issuer.RawSubject)] {
		if e := l.CheckFrom(issuer); e != nil {
			err = e
			continue
		}
		good = append(good, l)
	}
	f := finding{list: newest(good)}
	if f.list == nil {
		f.err = err
	}
	s.found.Store(id, f)
	return f.list, f.err
}

// end returns the last moment at which l counts.
func (s *Set) end(l *List) time.Time {
	if limit := l.ThisUpdate.Add(s.maxAge); s.maxAge > 0 && limit.Before(l.NextUpdate) {
		return limit
	}
	return l.NextUpdate
}

// A Verdict is what a Set says of one chain. The Set does not change, so only
// time can change the answer.
type Verdict struct {
	from, until time.Time // when the lists count
	revoked     error
	unknown     error
}

// Judge returns what the set says of a chain that was verified: an end entity's
// certificate first, the anchor last. Each certificate but the anchor is looked
// up in the list of its issuer, which must be in the set.
func (s *Set) Judge(chain []*x509.Certificate) Verdict {
	var v Verdict
	for i, cert := range chain[:len(chain)-1] {
		l, err := s.of(chain[i+1])
		if err != nil {
			v.unknown = err
			continue
		}
		if l.Has(cert.SerialNumber) {
			v.revoked = fmt.Errorf("%w by %s: serial number %x of %s", ErrRevoked, chain[i+1].Subject, cert.SerialNumber, cert.Subject)
		}
		if from := l.ThisUpdate.Add(-ahead); from.After(v.from) {
			v.from = from
		}
		if until := s.end(l); v.until.IsZero() || until.Before(v.until) {
			v.until = until
		}
	}
	return v
}

// At returns nil if no certificate of the chain is revoked at now, or an error
// wrapping ErrRevoked or ErrUnknown. What an old list revoked stays revoked.
func (v *Verdict) At(now time.Time) error {
	switch {
	case v.revoked != nil:
		return v.revoked
	case v.unknown != nil:
		return fmt.Errorf("%w: %w", ErrUnknown, v.unknown)
	case !v.until.IsZero() && now.After(v.until):
		return fmt.Errorf("%w: the revocation list was good until %s", ErrUnknown, v.until.UTC().Format(time.RFC3339))
	case now.Before(v.from):
		return fmt.Errorf("%w: the revocation list is from the future", ErrUnknown)
	}
	return nil
}

// Trouble returns why certificates under the anchors, which are all of one name,
// are refused at now, or may be: an anchor has no list that counts, or a list of
// an intermediate counts no more.
func (s *Set) Trouble(anchors []*x509.Certificate, now time.Time) error {
	var troubles []error
	for _, a := range anchors {
		if _, err := s.of(a); err != nil {
			troubles = append(troubles, err)
		}
	}
	for _, l := range s.inUse() {
		switch end := s.end(l); {
		case now.After(end):
			troubles = append(troubles, fmt.Errorf("the revocation list of %s was good until %s", l.header.Issuer, end.UTC().Format(time.RFC3339)))
		case l.ThisUpdate.After(now.Add(ahead)):
			troubles = append(troubles, fmt.Errorf("the revocation list of %s is from the future", l.header.Issuer))
		}
	}
	return errors.Join(troubles...)
}

// Until returns when the first of the lists counts no more; the zero time if an
// anchor has none.
func (s *Set) Until(anchors []*x509.Certificate) time.Time {
	var first time.Time
	for _, a := range anchors {
		if _, err := s.of(a); err != nil {
			return time.Time{}
		}
	}
	for _, l := range s.inUse() {
		if end := s.end(l); first.IsZero() || end.Before(first) {
			first = end
		}
	}
	return first
}

// inUse returns the newest list of each issuer's name and key.
func (s *Set) inUse() []*List {
	var all []*List
	for _, lists := range s.lists {
		byKey := make(map[string][]*List)
		for _, l := range lists {
			byKey[string(l.header.AuthorityKeyId)] = append(byKey[string(l.header.AuthorityKeyId)], l)
		}
		for _, same := range byKey {
			all = append(all, newest(same))
		}
	}
	return all
}

// Check returns an error if a list bears an anchor's name and no anchor made it,
// or if a list of before, which stands in its place, is younger: what was
// revoked would not be any more. Lists of other names are of intermediates, which
// are known when a client shows them.
func Check(lists, before []*List, anchors []*x509.Certificate) error {
	for i, l := range lists {
		if err := l.checkFromAny(anchors); err != nil {
			return fmt.Errorf("list %d: %w", i+1, err)
		}
		for _, old := range before {
			if bytes.Equal(l.Issuer, old.Issuer) && bytes.Equal(l.header.AuthorityKeyId, old.header.AuthorityKeyId) && l.before(old) {
				return fmt.Errorf("list %d, of %s, is older than the one in force, of %s", i+1,
					l.ThisUpdate.UTC().Format(time.RFC3339), old.ThisUpdate.UTC().Format(time.RFC3339))
			}
		}
	}
	return nil
}

func (l *List) checkFromAny(anchors []*x509.Certificate) error {
	var err error
	for _, a := range anchors {
		if !bytes.Equal(l.Issuer, a.RawSubject) {
			continue
		}
		if err = l.CheckFrom(a); err == nil {
			return nil
		}
	}
	return err
}

// A Source holds the Set in force. It may be used concurrently.
type Source struct{ current atomic.Pointer[Set] }

// NewSource returns a Source with set in force.
func NewSource(set *Set) *Source {
	s := new(Source)
	s.Put(set)
	return s
}

// Current returns the set in force.
func (s *Source) Current() *Set { return s.current.Load() }

// Put replaces the set as a whole.
func (s *Source) Put(set *Set) { s.current.Store(set) }
