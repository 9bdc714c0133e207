package policy

import (
	"crypto/x509"
	"fmt"
	"slices"
)

// Require is what a rule asks of the caller beside the name. Each list that is
// given must hold the caller's fact, all of them together; without the fact the
// rule does not fit.
type Require struct {
	UIDs []int64  `json:"uids,omitempty"` // users at the other end of a Unix socket
	GIDs []int64  `json:"gids,omitempty"` // their groups: the process's own, not its supplementary ones
	PINs []string `json:"pins,omitempty"` // SHA-256 of the certificate's public key (SPKI), in hexadecimal
}

// facts is what is known of who asks, beside the name.
type facts struct {
	unix *Unix
	cert *x509.Certificate
	pin  string // where there is no certificate to take it from
}

// factsOf returns what a rule may ask of who. A Unix user counts only together
// with a certificate.
func factsOf(who Caller) facts {
	if who.Certificate == nil {
		return facts{}
	}
	return facts{unix: who.Unix, cert: who.Certificate}
}

func (f facts) holds(pins []string) bool {
	if f.cert != nil {
		return slices.Contains(pins, PinOf(f.cert))
	}
	return f.pin != "" && slices.Contains(pins, f.pin)
}

// misses returns the list of the rule that does not hold the caller's fact, by
// its name in the configuration, or nothing.
func (q *Require) misses(f facts) string {
	switch {
	case q.UIDs != nil && (f.unix == nil || !slices.Contains(q.UIDs, int64(f.unix.UID))):
		return "uids"
	case q.GIDs != nil && (f.unix == nil || !slices.Contains(q.GIDs, int64(f.unix.GID))):
		return "gids"
	case q.PINs != nil && !f.holds(q.PINs):
		return "pins"
	}
	return ""
}

// lacks says in words why a list of a rule does not hold the caller's fact.
func (f facts) lacks(list string) string {
	switch {
	case list == "pins":
		return "the caller's key is not among them"
	case f.unix == nil:
		return "the connection is not by a Unix socket"
	case list == "uids":
		return fmt.Sprintf("user %d is not among them", f.unix.UID)
	}
	return fmt.Sprintf("group %d is not among them", f.unix.GID)
}

func (b *builder) require(path string, q *Require) {
	b.given(path+".uids", q.UIDs == nil, len(q.UIDs))
	b.given(path+".gids", q.GIDs == nil, len(q.GIDs))
	b.given(path+".pins", q.PINs == nil, len(q.PINs))
	b.ids(path+".uids", q.UIDs)
	b.ids(path+".gids", q.GIDs)
	b.each(path+".pins", q.PINs, CheckPIN)
}

// given checks that a list that is there is not empty: it would be fulfilled by
// nobody, and whoever reads it may take it for no limit at all.
func (b *builder) given(path string, absent bool, n int) {
	b.check(absent || n > 0, path, "the list is empty (hint: remove it)")
}

// ids checks numbers of users or groups. The last one stands for none (chown(2)).
func (b *builder) ids(path string, list []int64) {
	for i, id := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		b.check(id >= 0 && id < 1<<32-1, at, "%d is no number of a user or group", id)
		b.check(!slices.Contains(list[:i], id), at, "%d is there twice", id)
	}
}

// sameKey returns, by public key, the rules that a key can come by: as a principal
// that is a pin, whatever the anchor, and as a pin that a rule requires. Whoever
// holds one key is one person by whatever name.
func sameKey(rules []*rule) map[string][]*rule {
	keys := map[string][]*rule{}
	for _, r := range rules {
		pins := slices.Clone(r.Require.PINs)
		for _, s := range r.Principals {
			if who, err := ParsePrincipal(s); err == nil && who.Kind == KindPIN {
				pins = append(pins, who.Value)
			}
		}
		for _, pin := range pins {
			keys[pin] = append(keys[pin], r)
		}
	}
	return keys
}
