package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"chancery/cmd/internal/config"
	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/catalog"
	"chancery/rotation"
	"chancery/signer"
)

// settings is what the configuration says of a key set that signs JWTs.
func (n *node) settings(name string) (signer.Settings, bool) {
	cfg := n.config.Load()
	ks, ok := cfg.KeySets[name]
	if !ok || ks.Purpose != keystore.PurposeJWT {
		return signer.Settings{}, false
	}
	return signer.Settings{
		Issuer: ks.IssuerURL(cfg.PublicURL), DefaultTTL: ks.DefaultTTL, MaxTTL: ks.MaxTTL, Skew: ks.Skew,
	}, true
}

// digests reports whether the configuration has a key set sign digests.
func (n *node) digests(name string) bool {
	return n.config.Load().KeySets[name].Purpose == keystore.PurposeDigest
}

// authority is what the configuration says of an authority.
func (n *node) authority(name string) (signer.Authority, bool) {
	a, ok := n.config.Load().Authorities[name]
	if !ok {
		return signer.Authority{}, false
	}
	var anchors []*x509.Certificate
	for _, anchor := range n.config.Load().Anchors() {
		anchors = append(anchors, anchor.CA)
	}
	return signer.Authority{KeySet: a.KeySet, Profiles: a.Profiles, Skew: a.Skew, ClientAnchors: anchors}, true
}

// specs are the key sets of cfg as rotation knows them.
func specs(cfg *config.Config) []rotation.Spec {
	var all []rotation.Spec
	for _, name := range sortedKeys(cfg.KeySets) {
		spec := cfg.KeySets[name].Spec()
		// A horizon is no change of the catalog: whether a database that took over has
		// the last one nobody notices.
		spec.Schedule.NoHorizon = cfg.Catalog.Shared()
		all = append(all, spec)
	}
	return all
}

// memory is the catalog as the log's outside memory. The tokens are told that
// there is something to remember.
type memory struct {
	catalog *catalog.Catalog
	heads   *tokenHeads
}

func (m memory) Remember(ctx context.Context, origin string, size int64, root [32]byte) error {
	m.heads.News()
	return m.catalog.Remember(ctx, origin, size, root)
}

func (m memory) Recall(ctx context.Context) (map[string]audit.Head, error) {
	heads, err := m.catalog.Recall(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]audit.Head, len(heads))
	for origin, h := range heads {
		out[origin] = audit.Head{Size: h.Size, Root: h.Root}
	}
	return out, nil
}

// peers returns what the shared catalog remembers of the other nodes' lifecycle
// logs; nil where there are no other nodes.
func (n *node) peers() func(context.Context) (map[string]audit.Head, error) {
	if !n.leases.shared {
		return nil
	}
	return memory{n.catalog, n.heads}.Recall // the log passes over its own, and over acts
}

// entries reads this node's logs for auditors.
type entries struct{ node, dir string }

var logName = regexp.MustCompile(`^(lifecycle|acts/\d{4}-\d{2})$`)

// WriteEntries writes up to limit entries of a log as JSON lines.
func (e entries) WriteEntries(ctx context.Context, w io.Writer, node, log string, from, limit int64) error {
	if node != e.node || !logName.MatchString(log) {
		return keystore.ErrNotFound
	}
	if _, err := os.Stat(filepath.Join(e.dir, filepath.FromSlash(log))); errors.Is(err, os.ErrNotExist) {
		return keystore.ErrNotFound
	}
	for at, err := range audit.EntriesContext(ctx, e.dir, audit.Filter{Log: log, From: from}) {
		if err != nil {
			return fmt.Errorf("reading %s: %w", log, err)
		}
		if limit--; limit < 0 {
			return nil
		}
		if _, err := w.Write(append(at.Entry.Append(nil), '\n')); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
