package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

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
		all = append(all, cfg.KeySets[name].Spec())
	}
	return all
}

// memory is the catalog as the log's outside memory.
type memory struct{ catalog *catalog.Catalog }

func (m memory) Remember(ctx context.Context, origin string, size int64, root [32]byte) error {
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

// tokens is the keystores as signer sees them.
type tokens struct{ providers map[string]keystore.Provider }

func (t *tokens) Status() []keystore.TokenStatus {
	var all []keystore.TokenStatus
	for _, name := range sortedKeys(t.providers) {
		all = append(all, t.providers[name].Status()...)
	}
	return all
}

func (t *tokens) Retry(ctx context.Context, token string) error {
	for name, p := range t.providers {
		retrier, ok := p.(keystore.Retrier)
		if !ok {
			continue
		}
		for _, s := range p.Status() {
			if token == name || token == s.Serial || token == s.Label {
				return retrier.Retry(ctx, cmp.Or(s.Serial, s.Label))
			}
		}
	}
	return fmt.Errorf("token %q: %w", token, keystore.ErrNotFound)
}

// logKeys returns the vkeys of every version of an audit key set that was ever
// known, by number.
func (n *node) logKeys(set *keystore.KeySet) ([]string, error) {
	var keys []string
	for i := range set.Versions {
		v := &set.Versions[i]
		if v.SPKI == nil || v.State == keystore.Pending || v.State == keystore.Abandoned || !n.keys.Proven(v.KID) {
			continue
		}
		pub, err := v.Public()
		if err != nil {
			return nil, err
		}
		key, err := n.audit.VKey(v.Algorithm, pub)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
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

// signed reports whether cert is, or was issued by, an authority of ours.
func (a *authorities) signed(cert *x509.Certificate) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ours := range a.certs {
		if ours.Equal(cert) || cert.CheckSignatureFrom(ours) == nil {
			return true
		}
	}
	return false
}

// startRecord says what starts: hashes of binary, modules and configuration.
func (n *node) startRecord(cfg *config.Config) keystore.Record {
	rec := keystore.Record{
		Principal: "chancery", Action: keystore.ActStart, Outcome: keystore.OutcomeDone,
		Detail: map[string]string{
			"version": version(), "go": runtime.Version(), "config": cfg.Hash(), "binary": <-n.binary,
		},
	}
	for name, ks := range cfg.Keystores {
		rec.Detail["module "+name] = fileHash(ks.PKCS11.Module)
	}
	return rec
}

// fileHash returns the SHA-256 of a file in hexadecimal, or why there is none.
func fileHash(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "unreadable"
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "unreadable"
	}
	return hex.EncodeToString(h.Sum(nil))
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}

// foreign reports whether an object that is no version's key belongs on a token
// all the same: its probe key.
func foreign(_ string, o keystore.Object) bool {
	return strings.HasPrefix(o.Label, "chancery/"+string(keystore.PurposeProbe)+"/")
}
