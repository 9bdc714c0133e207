package server

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"
	"time"

	"chancery/signer/api"
	"chancery/signer/crl"
	"chancery/signer/policy"
)

// list returns a's revocation list of noon, good for a day.
func (a *authority) list(t testing.TB, revoked ...*x509.Certificate) *crl.List {
	t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: noon, NextUpdate: noon.Add(24 * time.Hour)}
	for _, c := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: noon})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	lists, err := crl.Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	return lists[0]
}

// longLived is how long the certificates of these tests are good for: longer
// than their lists.
func longLived(c *x509.Certificate) { c.NotAfter = noon.Add(40 * time.Hour) }

// A17: an anchor whose lists are asked for is refused hard without them; another
// anchor goes on. Each set of lists counts from the next request of each
// connection on.
func TestA17RevocationListsAtTheDoor(t *testing.T) {
	root, lab := newAuthority(t, "root", nil, noon.Add(48*time.Hour)), newAuthority(t, "lab", nil, noon.Add(48*time.Hour))
	mid := newAuthority(t, "mid", root, noon.Add(48*time.Hour))
	p, err := policy.New(policy.Config{Anchors: []policy.Anchor{{Name: "dev", SPIFFE: []string{"chancery.dev"}}, {Name: "lab", SPIFFE: []string{"chancery.dev"}}}})
	if err != nil {
		t.Fatal(err)
	}
	source := crl.NewSource(crl.NewSet(nil, 0))
	g, err := NewGate(root.localhost(t), []Anchor{{Name: "dev", CA: root.cert, Lists: source}, {Name: "lab", CA: lab.cert}}, p, []string{"http/1.1"}, at(noon))
	if err != nil {
		t.Fatal(err)
	}
	comes := func(a *authority) (v visit) {
		v.cert = a.issue(t, func(c *x509.Certificate) { c.URIs = append(c.URIs, spiffe("issuer")); longLived(c) })
		if v.cs, err, _ = shakeHands(t, g.TLS(), clientConfig(root, v.cert)); err != nil {
			t.Fatal(err)
		}
		v.visitor = new(Visitor)
		return v
	}
	direct, below, other := comes(root), comes(mid), comes(lab)
	const ok, revoked, unknown = "", api.CodeCertificateRevoked, api.CodeRevocationUnknown
	for _, c := range []struct {
		what          string
		lists         []*crl.List
		now           time.Time
		direct, below api.Code
	}{
		{"no list yet", nil, noon, unknown, unknown},
		{"the root's", []*crl.List{root.list(t)}, noon, ok, unknown},
		{"both", []*crl.List{root.list(t), mid.list(t)}, noon, ok, ok},
		{"the first is revoked", []*crl.List{root.list(t, direct.cert.Leaf), mid.list(t)}, noon, revoked, ok},
		{"not any more", []*crl.List{root.list(t), mid.list(t)}, noon, ok, ok},
		{"the other's serial number on the root's", []*crl.List{root.list(t, below.cert.Leaf), mid.list(t)}, noon, ok, ok},
		{"the intermediate is revoked", []*crl.List{root.list(t, mid.cert), mid.list(t)}, noon, ok, revoked},
		{"a day has passed", []*crl.List{root.list(t), mid.list(t)}, noon.Add(24*time.Hour + 1), unknown, unknown},
		{"a day has passed since the first was revoked", []*crl.List{root.list(t, direct.cert.Leaf), mid.list(t)}, noon.Add(24*time.Hour + 1), revoked, unknown},
		{"the first has expired", []*crl.List{root.list(t, direct.cert.Leaf)}, noon.Add(40*time.Hour + 1), api.CodeCertificateExpired, api.CodeCertificateExpired},
	} {
		source.Put(crl.NewSet(c.lists, 0))
		for what, v := range map[string]struct {
			visit
			want api.Code
		}{"direct": {direct, c.direct}, "below": {below, c.below}} {
			who, err := v.visitor.Identify(g, &v.cs, c.now)
			e, _ := errors.AsType[*api.Error](err)
			switch {
			case v.want == ok && (err != nil || who.Anchor != "dev"):
				t.Errorf("%s, %s: %v", c.what, what, err)
			case v.want != ok && (e == nil || e.Code != v.want || who != (policy.Caller{})):
				t.Errorf("%s, %s: %v, want %s", c.what, what, err, v.want)
			case v.want == unknown && (e.RetryAfter < 1 || e.Unwrap() == nil):
				t.Errorf("%s, %s: when to come back, and why, is not said: %+v", c.what, what, e)
			}
			// What may pass is not a reason to cut a connection.
			if got := g.Condemned(v.visitor, &v.cs, c.now); got != (v.want != ok && v.want != unknown) {
				t.Errorf("%s, %s: condemned is %v", c.what, what, got)
			}
		}
		if who, err := other.visitor.Identify(g, &other.cs, noon); err != nil || who.Anchor != "lab" {
			t.Errorf("%s: another anchor's: %v", c.what, err)
		}
	}
}

// A visit is a connection of a client's.
type visit struct {
	cert    tls.Certificate
	cs      tls.ConnectionState
	visitor *Visitor
}

// What a connection is remembered to be does not outlive a gate, a moment or a
// list, and costs nothing.
func TestKnowingAVisitorAllocatesNothing(t *testing.T) {
	root := newAuthority(t, "root", nil, noon.Add(48*time.Hour))
	g, err := NewGate(root.localhost(t), []Anchor{{Name: "dev", CA: root.cert, Lists: crl.NewSource(crl.NewSet([]*crl.List{root.list(t)}, time.Hour))}},
		testPolicy(t, policy.Revoked{}), nil, at(noon))
	if err != nil {
		t.Fatal(err)
	}
	client := clientConfig(root, root.named(t, "issuer"))
	client.NextProtos = nil
	cs, err, _ := shakeHands(t, g.TLS(), client)
	if err != nil {
		t.Fatal(err)
	}
	v := &Visitor{unix: &policy.Unix{UID: 7, GID: 8}}
	if n := testing.AllocsPerRun(100, func() {
		if who, err := v.Identify(g, &cs, noon); err != nil || who.Unix.UID != 7 {
			t.Error(who, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
