package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/renameio/v2"

	"chancery/cmd/internal/config"
	"chancery/keystore"
	"chancery/signer/jwks"
	"chancery/signer/server"
)

// publisher makes what the snapshot says visible: it has the keys proven, the
// CA certificates made, the publication built and swapped, and then
// acknowledges each version that this node now serves.
type publisher struct {
	node   string
	config func() *config.Config
	views  *views
	steps  *steps
	keys   *keyring
	cas    *authorities
	public *server.Public
	vkeys  func(set *keystore.KeySet) ([]string, error)
	vkey   string // path of audit.vkey
	log    *slog.Logger
	now    func() time.Time
	hold   func() error // nil, or why nothing may be signed
	// rotate wakes the rotator: a version was acknowledged.
	rotate func()
	// histories are what was signed of keys that have left; nil: nothing is.
	histories *histories

	kick    chan struct{}
	reached atomic.Int64 // the revision of what was published last
	// What follows is owned by the one who publishes: the start, then Run.
	served  map[string]map[int]bool // acknowledged
	first   map[string]bool         // to be served for the first time, and recorded
	last    map[string]documents    // by key set: what was published of it
	revoked int                     // how many were compromised here when it was last published for that
	written string                  // what audit.vkey holds
	failed  string                  // what last went wrong, so that it is logged once
}

// documents are what is published of one key set, by path.
type documents map[string]server.Document

// Kick has the publisher look again.
func (p *publisher) Kick() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Run publishes until ctx ends: at each kick, and each second while something
// is not as it should be.
func (p *publisher) Run(ctx context.Context) {
	for {
		err := p.pass(ctx)
		if ctx.Err() != nil {
			return
		}
		if text := fmt.Sprint(err); err != nil && text != p.failed && !errors.Is(err, keystore.ErrOvertaken) {
			p.log.Warn("publishing is held up", "err", err)
			p.failed = text
		}
		wait := time.Minute
		if err == nil {
			p.failed = ""
		}
		if view, _ := p.views.Published(); err != nil || view != nil && p.keys.Unproven(view) {
			wait = time.Second
		}
		select {
		case <-ctx.Done():
			return
		case <-p.kick:
		case <-time.After(wait):
		}
	}
}

func (p *publisher) pass(ctx context.Context) error {
	// What is compromised leaves before anything is asked of catalog or log.
	if view, _ := p.views.Published(); view != nil && p.views.Revoked() > p.revoked {
		p.revoked = p.views.Revoked()
		p.publishKnown(ctx, view)
	}
	viewErr := p.refresh(ctx)
	view, read := p.views.Published()
	if view == nil {
		return viewErr
	}
	if p.histories != nil {
		defer p.histories.Kick() // when it is served by what key a history can be checked
	}
	p.keys.Prove(ctx, view)
	if p.hold() == nil {
		p.cas.Make(ctx, view)
	}
	serves, buildErr := p.publish(ctx, view)
	if buildErr == nil { // otherwise something is served that is from before
		p.views.leases.published(read)
	}
	at := p.now()
	errs := []error{viewErr, buildErr, p.writeVKeys(view)}
	for name, versions := range serves {
		errs = append(errs, p.acknowledge(ctx, view, name, versions, at))
	}
	return errors.Join(errs...)
}

// publishKnown swaps in what view says ahead of a pass, which says what failed. A set
// that has never been served is recorded first, and not waited for.
func (p *publisher) publishKnown(ctx context.Context, view *keystore.View) {
	ctx, cancel := context.WithTimeout(ctx, elsewhere)
	defer cancel()
	_, _ = p.publish(ctx, view)
}

// refresh enters what waits, and heals a stale snapshot. A catalog or log that does
// not answer does not keep longer than a lease what is known already from leaving.
func (p *publisher) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, config.Lease/2)
	defer cancel()
	_, err := p.steps.View(ctx)
	return err
}

// acknowledge records, once each, that this node serves versions of a set.
func (p *publisher) acknowledge(ctx context.Context, view *keystore.View, name string, versions []int, at time.Time) error {
	set, _ := view.KeySet(name)
	var fresh []int
	var recs []keystore.Record
	for _, n := range versions {
		v, _ := set.Version(n)
		if _, said := set.AckOf(p.node, n); said || p.served[name][n] {
			continue
		}
		fresh = append(fresh, n)
		recs = append(recs, keystore.Record{
			Principal: "chancery", Action: keystore.ActKeyServed, Outcome: keystore.OutcomeDone,
			KeySet: name, KID: v.KID, Version: n, State: v.State.String(),
			Rule: "rotation/1", Detail: map[string]string{"node": p.node},
		})
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := p.steps.Acknowledge(ctx, p.node, name, fresh, at, recs...); err != nil {
		return fmt.Errorf("acknowledging key set %q: %w", name, err)
	}
	if p.served[name] == nil {
		p.served[name] = make(map[int]bool)
	}
	for _, n := range fresh {
		p.served[name][n] = true
	}
	p.rotate()
	return nil
}

// publish swaps in what view says and returns, by key set, which versions are
// served by it from now on. A key set whose documents cannot be made keeps the
// last ones, and holds up no other.
func (p *publisher) publish(ctx context.Context, view *keystore.View) (serves map[string][]int, err error) {
	pub, cfg := server.NewPublication(), p.config()
	serves = make(map[string][]int)
	var errs []error
	for _, set := range view.KeySets() {
		held := p.held(set) // once: what is proven meanwhile is for the next pass
		docs, err := p.documents(cfg, set, held)
		if withheld(set, held) != "" {
			held = nil
		}
		if err == nil && len(held) > 0 {
			var served bool
			if served, err = p.opened(ctx, set, held); !served {
				docs, held = nil, nil // 404, no-store: that is not serving
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("key set %q: %w", set.Name, err))
			docs, held = p.last[set.Name], nil
		}
		p.last[set.Name] = docs
		for path, doc := range docs {
			pub.Add(path, doc)
		}
		if len(held) > 0 {
			serves[set.Name] = held
		}
	}
	p.public.Publish(pub)
	p.reached.Store(view.Revision())
	return serves, errors.Join(errs...)
}

// withheld returns why a set that holds these versions is not served by this node
// though others may serve it, or "": a version is not among them that has signed,
// or may without another wait. Such a set is no set with fewer keys.
func withheld(set *keystore.KeySet, held []int) string {
	for _, v := range set.Known() {
		if set.Needs(v) && !slices.Contains(held, v.Number) && !set.ServedAt.IsZero() {
			return fmt.Sprintf("version %d of the key set has not been seen signing by this node", v.Number)
		}
	}
	return ""
}

// opened reports whether a set may be served with these versions. That a node
// serves it for the first time is recorded before it does: it is then with every
// version that is known, so that no cache ever holds less.
func (p *publisher) opened(ctx context.Context, set *keystore.KeySet, held []int) (bool, error) {
	switch {
	case !set.ServedAt.IsZero(), p.first[set.Name]:
		return true, nil
	case len(held) < len(set.Known()):
		return false, nil
	}
	if err := p.steps.Opened(ctx, set.Name, held); err != nil {
		return false, fmt.Errorf("it is to be served for the first time: %w", err)
	}
	p.first[set.Name] = true
	return true, nil
}

// documents makes what is published of a set that holds these versions.
func (p *publisher) documents(cfg *config.Config, set *keystore.KeySet, held []int) (documents, error) {
	if why := withheld(set, held); why != "" {
		docs := make(documents)
		for _, path := range paths(cfg, set) {
			docs[path] = server.Document{Withheld: why}
		}
		if _, ok := p.histories.Document(set); ok {
			docs[historyPath(set)] = server.Document{Withheld: why}
		}
		return docs, nil
	}
	switch {
	case len(held) == 0 && !jwks.Emptied(set):
		return nil, nil // 404, no-store: that is not serving
	case set.Purpose == keystore.PurposeJWT:
		return p.jwks(cfg, set, held)
	case set.Purpose == keystore.PurposeCA:
		return p.caCertificates(cfg, set, held), nil
	}
	return nil, nil
}

// paths returns where a set is published.
func paths(cfg *config.Config, set *keystore.KeySet) []string {
	switch set.Purpose {
	case keystore.PurposeJWT:
		return []string{jwksPath(set), discoveryPath(set), "/.well-known/oauth-authorization-server/issuers/" + set.Name}
	case keystore.PurposeCA:
		var all []string
		for name, a := range cfg.Authorities {
			if a.KeySet == set.Name {
				all = append(all, "/authorities/"+name+"/ca.pem")
			}
		}
		return all
	}
	return nil
}

func jwksPath(set *keystore.KeySet) string { return "/issuers/" + set.Name + "/jwks.json" }

func historyPath(set *keystore.KeySet) string { return "/issuers/" + set.Name + "/historical-keys.jwt" }

func discoveryPath(set *keystore.KeySet) string {
	return "/issuers/" + set.Name + "/.well-known/openid-configuration"
}

// held returns the numbers of the versions this node makes known.
func (p *publisher) held(set *keystore.KeySet) []int {
	var held []int
	for _, v := range set.Known() {
		if p.keys.Proven(v.KID) && (set.Purpose != keystore.PurposeCA || p.cas.has(set.Name, v.Number)) {
			held = append(held, v.Number)
		}
	}
	return held
}

func (p *publisher) jwks(cfg *config.Config, set *keystore.KeySet, held []int) (documents, error) {
	// A set that is configured no more stays published: what it signed may be valid.
	settings, ok := cfg.KeySets[set.Name]
	if !ok {
		settings = config.KeySet{Name: set.Name}
	}
	body, etag, err := jwks.Set(set, func(kid keystore.KID) bool {
		v, ok := set.ByKID(kid)
		return ok && slices.Contains(held, v.Number)
	})
	if err != nil {
		return nil, err
	}
	base := cfg.PublicURL + "/issuers/" + set.Name
	metadata, tag, err := jwks.Discovery(settings.IssuerURL(cfg.PublicURL), base+"/jwks.json", cfg.PublicURL+historyPath(set), jwks.Algorithms(set))
	if err != nil {
		return nil, err
	}
	docs := make(documents)
	for _, path := range paths(cfg, set) {
		docs[path] = server.Document{Body: metadata, ETag: tag, ContentType: "application/json", MaxAge: maxAge(set)}
	}
	docs[jwksPath(set)] = server.Document{Body: body, ETag: etag, ContentType: "application/jwk-set+json", MaxAge: maxAge(set)}
	if doc, ok := p.histories.Document(set); ok {
		docs[historyPath(set)] = doc
	}
	return docs, nil
}

// maxAge returns what the set's promises let caches be told at a time.
func maxAge(set *keystore.KeySet) func(time.Time) time.Duration {
	promises := slices.Clone(set.Promises)
	return func(now time.Time) time.Duration { return jwks.MaxAge(promises, now) }
}

func (p *publisher) caCertificates(cfg *config.Config, set *keystore.KeySet, held []int) documents {
	var pems []byte
	for _, number := range held {
		if cert, ok := p.cas.certificate(set.Name, number); ok {
			pems = append(pems, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
		}
	}
	docs := make(documents)
	for _, path := range paths(cfg, set) {
		docs[path] = server.Document{Body: pems, ETag: jwks.ETag(pems), ContentType: "application/pem-certificate-chain", MaxAge: maxAge(set)}
	}
	return docs
}

// writeVKeys keeps the list of log keys beside the data: every key of an audit
// set that was ever known, so that old checkpoints stay verifiable.
func (p *publisher) writeVKeys(view *keystore.View) error {
	var lines []string
	for _, set := range view.KeySets() {
		if set.Purpose != keystore.PurposeAudit {
			continue
		}
		keys, err := p.vkeys(set)
		if err != nil {
			return fmt.Errorf("log keys of %q: %w", set.Name, err)
		}
		lines = append(lines, keys...)
	}
	text := strings.Join(lines, "\n") + "\n"
	if len(lines) == 0 || text == p.written {
		return nil
	}
	if err := renameio.WriteFile(p.vkey, []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(p.vkey), err)
	}
	p.written = text
	return nil
}

// hasKey reports whether cert has the public key of v.
func hasKey(cert *x509.Certificate, v *keystore.Version) bool {
	return slices.Equal(cert.RawSubjectPublicKeyInfo, v.SPKI)
}
