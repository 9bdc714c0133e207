package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"chancery/cmd/internal/config"
	"chancery/cmd/internal/devpki"
	"chancery/keystore"
	"chancery/signer/policy"
	"chancery/signer/server"
)

// gates are what is in force of who may come in, at each guarded door. A
// reload replaces them together or not at all.
type gates struct {
	current atomic.Pointer[inForce]
}

type inForce struct {
	policy       *policy.Policy
	signing, ops *server.Gate
	public       *tls.Certificate        // nil: plain
	lists        map[string]*clientLists // by the client's name, of those of whom there are some
	keys         []keystore.SPKIHash
}

func (g *gates) policy() *policy.Policy { return g.current.Load().policy }
func (g *gates) signing() *server.Gate  { return g.current.Load().signing }
func (g *gates) ops() *server.Gate      { return g.current.Load().ops }

// ours reports whether a public key is of a certificate that a door shows.
func (g *gates) ours(h keystore.SPKIHash) bool { return slices.Contains(g.current.Load().keys, h) }

// lists returns the revocation lists in force, by the name of their client.
func (g *gates) lists() map[string]*clientLists {
	if f := g.current.Load(); f != nil {
		return f.lists
	}
	return nil // nothing is in force yet
}

// load checks policy, anchors and certificates of cfg and puts them in force.
func (g *gates) load(cfg *config.Config, now func() time.Time, notTaken func(string, error)) error {
	f, err := g.next(cfg, now, notTaken)
	if err != nil {
		return err
	}
	g.current.Store(f)
	return nil
}

// next returns what cfg says, to be put in force. notTaken is told of files of
// revocation lists that cannot be used.
func (g *gates) next(cfg *config.Config, now func() time.Time, notTaken func(client string, err error)) (*inForce, error) {
	f := inForce{lists: make(map[string]*clientLists)}
	var err error
	if f.policy, err = policy.New(cfg.PolicyConfig()); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	anchors := cfg.Anchors()
	before := g.lists()
	for _, c := range cfg.Clients {
		if l := newClientLists(c, before[c.Name], notTaken); l != nil {
			f.lists[c.Name] = l
		}
	}
	doors := make([]server.Anchor, 0, len(anchors))
	for _, a := range anchors {
		door := server.Anchor{Name: a.Name, CA: a.CA}
		if l := f.lists[a.Name]; l != nil {
			door.Lists = l.source
		}
		doors = append(doors, door)
	}
	gate := func(l config.Guarded, protocols ...string) (*server.Gate, error) {
		cert, err := loadCertificate(l.Certificate, l.Key)
		if err != nil {
			return nil, err
		}
		f.keys = append(f.keys, keystore.HashSPKI(cert.Leaf.RawSubjectPublicKeyInfo))
		g, err := server.NewGate(cert, doors, f.policy, protocols, now)
		if err != nil {
			return nil, err
		}
		return g.Only(l.AllowUIDs, l.AllowGIDs), nil
	}
	if f.signing, err = gate(cfg.Listeners.Signing, "http/1.1", "h2"); err != nil {
		return nil, fmt.Errorf("signing listener: %w", err)
	}
	if f.ops, err = gate(cfg.Listeners.Ops, "http/1.1"); err != nil {
		return nil, fmt.Errorf("ops listener: %w", err)
	}
	if p := cfg.Listeners.Public; p.Certificate != "" {
		cert, err := loadCertificate(p.Certificate, p.Key)
		if err != nil {
			return nil, fmt.Errorf("public listener: %w", err)
		}
		f.public = &cert
		f.keys = append(f.keys, keystore.HashSPKI(cert.Leaf.RawSubjectPublicKeyInfo))
	}
	return &f, nil
}

func loadCertificate(cert, key string) (tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return pair, fmt.Errorf("certificate %s: %w", cert, err)
	}
	return pair, nil
}

// refuseDev returns an error if cfg stands on the root that chanceryd dev
// made, whose key is a file.
func refuseDev(cfg *config.Config) error {
	for _, a := range cfg.Anchors() {
		if devpki.IsDev(a.CA) {
			return fmt.Errorf("client anchor %q is a development root, whose key is a file (hint: `chanceryd dev` serves it; give serve a root of your own)", a.Name)
		}
	}
	for _, path := range cfg.Certificates() {
		pair, err := tls.LoadX509KeyPair(path.Certificate, path.Key)
		if err != nil {
			return fmt.Errorf("certificate %s: %w", path.Certificate, err)
		}
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			return fmt.Errorf("certificate %s: %w", path.Certificate, err)
		}
		if devpki.IsDev(leaf) {
			return fmt.Errorf("certificate %s is a development certificate (hint: `chanceryd dev` serves it; give serve one of your own)", path.Certificate)
		}
	}
	return nil
}

// refuseOurOwn returns an error if anything Chancery signs could open one of
// its own doors: a client anchor that is, or that chains to, a key of ours.
func (n *node) refuseOurOwn(ctx context.Context, cfg *config.Config) error {
	for _, a := range cfg.Anchors() {
		ours, err := n.catalog.IsOurKey(ctx, keystore.HashSPKI(a.CA.RawSubjectPublicKeyInfo))
		if err != nil {
			return fmt.Errorf("looking up client anchor %q: %w", a.Name, err)
		}
		if ours || n.cas.signed(a.CA) {
			return fmt.Errorf("client anchor %q is an authority of this chancery: nothing it signs may open its own doors (hint: use another root for client certificates)", a.Name)
		}
	}
	return nil
}
