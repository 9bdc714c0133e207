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
	// rotate wakes the rotator: a version was acknowledged.
	rotate func()

	kick   chan struct{}
	served map[string]map[int]bool // acknowledged; owned by Run
	failed string                  // what last went wrong, so that it is logged once
}

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
		if text := fmt.Sprint(err); err != nil && text != p.failed {
			p.log.Warn("publishing is held up", "err", err)
			p.failed = text
		}
		wait := time.Minute
		if err != nil {
			wait = time.Second
		} else {
			p.failed = ""
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
	_, viewErr := p.steps.View(ctx) // enters what waits, and heals a stale snapshot
	view := p.views.Published()
	if view == nil {
		return viewErr
	}
	p.keys.Prove(ctx, view)
	caErr := p.cas.Make(ctx, view)
	pub, serves, err := p.build(view)
	if err != nil {
		return errors.Join(viewErr, caErr, err)
	}
	p.public.Publish(pub)
	at := p.now()
	errs := []error{viewErr, caErr}
	for name, versions := range serves {
		errs = append(errs, p.acknowledge(ctx, view, name, versions, at))
	}
	return errors.Join(errs...)
}

// acknowledge records, once each, that this node serves versions of a set.
func (p *publisher) acknowledge(ctx context.Context, view *keystore.View, name string, versions []int, at time.Time) error {
	set, _ := view.KeySet(name)
	var fresh []int
	var recs []keystore.Record
	for _, n := range versions {
		v, _ := set.Version(n)
		if p.served[name][n] || !v.ServedAt.IsZero() {
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

// build returns what is published of view, and which versions it holds.
func (p *publisher) build(view *keystore.View) (*server.Publication, map[string][]int, error) {
	pub, serves := server.NewPublication(), make(map[string][]int)
	cfg := p.config()
	for _, set := range view.KeySets() {
		var err error
		switch set.Purpose {
		case keystore.PurposeJWT:
			err = p.addJWKS(pub, cfg, set)
		case keystore.PurposeCA:
			err = p.addCA(pub, cfg, set)
		case keystore.PurposeAudit:
			err = p.writeVKeys(set)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("key set %q: %w", set.Name, err)
		}
		if held := p.held(set); len(held) > 0 {
			serves[set.Name] = held
		}
	}
	return pub, serves, nil
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

func (p *publisher) addJWKS(pub *server.Publication, cfg *config.Config, set *keystore.KeySet) error {
	if len(p.held(set)) == 0 {
		return nil // 404, no-store: that is not serving
	}
	body, etag, err := jwks.Set(set, p.keys.Proven)
	if err != nil {
		return err
	}
	settings, ok := cfg.KeySets[set.Name]
	if !ok {
		return nil // no longer configured: no longer served
	}
	promises := slices.Clone(set.Promises)
	maxAge := func(now time.Time) time.Duration { return jwks.MaxAge(promises, now) }
	base := cfg.PublicURL + "/issuers/" + set.Name
	pub.Add("/issuers/"+set.Name+"/jwks.json", server.Document{
		Body: body, ETag: etag, ContentType: "application/jwk-set+json", MaxAge: maxAge,
	})
	metadata, tag, err := jwks.Discovery(settings.IssuerURL(cfg.PublicURL), base+"/jwks.json", jwks.Algorithms(set, settings.Algorithms))
	if err != nil {
		return err
	}
	doc := server.Document{Body: metadata, ETag: tag, ContentType: "application/json", MaxAge: maxAge}
	pub.Add("/issuers/"+set.Name+"/.well-known/openid-configuration", doc)
	pub.Add("/.well-known/oauth-authorization-server/issuers/"+set.Name, doc)
	return nil
}

func (p *publisher) addCA(pub *server.Publication, cfg *config.Config, set *keystore.KeySet) error {
	var pems []byte
	for _, number := range p.held(set) {
		der, ok := p.cas.certificate(set.Name, number)
		if ok {
			pems = append(pems, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der.Raw})...)
		}
	}
	if len(pems) == 0 {
		return nil
	}
	promises := slices.Clone(set.Promises)
	for name, a := range cfg.Authorities {
		if a.KeySet != set.Name {
			continue
		}
		pub.Add("/authorities/"+name+"/ca.pem", server.Document{
			Body: pems, ETag: jwks.ETag(pems), ContentType: "application/pem-certificate-chain",
			MaxAge: func(now time.Time) time.Duration { return jwks.MaxAge(promises, now) },
		})
	}
	return nil
}

// writeVKeys keeps the list of log keys beside the data: every key of the audit
// set that was ever known, so that old checkpoints stay verifiable.
func (p *publisher) writeVKeys(set *keystore.KeySet) error {
	keys, err := p.vkeys(set)
	if err != nil || len(keys) == 0 {
		return err
	}
	text := strings.Join(keys, "\n") + "\n"
	if err := renameio.WriteFile(p.vkey, []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(p.vkey), err)
	}
	return nil
}

// hasKey reports whether cert has the public key of v.
func hasKey(cert *x509.Certificate, v *keystore.Version) bool {
	return slices.Equal(cert.RawSubjectPublicKeyInfo, v.SPKI)
}
