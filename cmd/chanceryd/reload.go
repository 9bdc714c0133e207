package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"time"

	"chancery/cmd/internal/config"
	"chancery/keystore"
	"chancery/rotation"
	"chancery/signer/policy"
)

// reloadWithin bounds a reload.
const reloadWithin = 5 * time.Second

// reload puts policy, revocations, anchors, certificates, limits of principals and the
// keystores of key sets' next versions of the file in force, all or nothing. What else is said
// of key sets, keystores and listeners needs a restart.
func (n *node) reload(ctx context.Context, path string) {
	ctx, cancel := context.WithTimeout(ctx, reloadWithin)
	defer cancel()
	err := n.tryReload(ctx, path)
	n.metrics.Reloaded(err == nil)
	if err == nil {
		n.refused.Store(nil)
		n.log.Info("reloaded", "policy", n.gates.policy().Hash())
		return
	}
	now := n.now()
	n.refused.Store(&now)
	n.log.Error("reload refused; what was in force stays", "err", err)
	rec := reloadRecord(n.config.Load(), n.gates.policy().Hash())
	rec.Outcome, rec.Reason = keystore.OutcomeFailed, err.Error()
	n.owed.owe("reload refused", rec)
}

// reloadWarning tells that the configuration in force is not the one that was to be.
func (n *node) reloadWarning() string {
	at := n.refused.Load()
	if at == nil {
		return ""
	}
	return fmt.Sprintf("the reload at %s was refused, and what was in force before still is (hint: the log says why, and so does `chanceryd check`)",
		at.UTC().Format(time.RFC3339))
}

// reloadRecord names what is in force after a reload: policy, configuration and
// the anchors whose clients may come in, which stand in files of their own.
func reloadRecord(cfg *config.Config, policyHash string) keystore.Record {
	anchors := sha256.New()
	for _, a := range cfg.Anchors() {
		fmt.Fprintf(anchors, "%q %x ", a.Name, a.CA.Raw)
	}
	return keystore.Record{
		Principal: "chancery", Action: keystore.ActReload, Outcome: keystore.OutcomeDone, Policy: policyHash,
		Detail: map[string]string{"config": cfg.Hash(), "anchors": hex.EncodeToString(anchors.Sum(nil))},
	}
}

// tryReload enters the new policy before it puts it in force, and key sets move
// in between: the log is known to work by then. If they cannot, the entry of the
// refusal says that what was in force before still is. A reload that only takes
// power away, by revoking certificates, waits for nothing: neither for the log nor
// for the catalog.
func (n *node) tryReload(ctx context.Context, path string) error {
	cfg, err := loadConfig(path)
	if err != nil {
		return err
	}
	if !n.ownTokens {
		if err := refuseDev(cfg); err != nil {
			return err
		}
	}
	before := n.config.Load()
	if what := before.NeedsRestart(cfg); what != "" {
		return fmt.Errorf("%s changed, which needs a restart", what)
	}
	next, err := n.gates.next(cfg, n.now, n.revocations.refused)
	if err != nil {
		return err
	}
	rec := reloadRecord(cfg, next.policy.Hash())
	if onlyRevokes(before, cfg) && slices.Equal(n.gates.current.Load().keys, next.keys) {
		n.putInForce(cfg, next)
		n.owed.owe("reload "+rec.Policy, rec)
		if err := keepPolicy(cfg, next.policy); err != nil {
			n.log.Error("the text of the policy is not kept; the next start tries again", "policy", rec.Policy, "err", err)
		}
		return nil
	}
	if err := keepPolicy(cfg, next.policy); err != nil {
		return err
	}
	if err := n.refuseOurOwn(ctx, cfg); err != nil {
		return err
	}
	err = n.owed.pay(ctx, n.audit) // so that the entries are in the order of what they tell
	if err == nil {
		_, err = n.audit.Lifecycle(ctx, rec)
	}
	if err != nil {
		return fmt.Errorf("entering the new policy: %w", err)
	}
	if err := n.moveKeySets(ctx, before, cfg); err != nil {
		return err
	}
	n.putInForce(cfg, next)
	return nil
}

// moveKeySets has the next versions of key sets made in the keystores that next
// names: all of them, or none as far as it can be taken back.
func (n *node) moveKeySets(ctx context.Context, before, next *config.Config) error {
	if view, err := n.views.Current(); err == nil && !slices.ContainsFunc(specs(next), func(s rotation.Spec) bool {
		set, ok := view.KeySet(s.Name)
		return !ok || set.Keystore != s.Keystore
	}) {
		return nil // also after a move that could not be taken back
	}
	err := n.ensure(ctx, next)
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reloadWithin)
	defer cancel()
	if undone := n.ensure(ctx, before); undone != nil {
		return fmt.Errorf("moving key sets to other keystores: %w; taking it back: %w", err, undone)
	}
	return fmt.Errorf("moving key sets to other keystores: %w", err)
}

func (n *node) putInForce(cfg *config.Config, next *inForce) {
	n.gates.current.Store(next)
	n.config.Store(cfg)
	n.clock.Set(cfg.SmallestSkew())
	n.shares.set(cfg)
}

// onlyRevokes reports whether next differs from before in more revocations
// alone: nobody has more power by it, and somebody less, and no key set moves.
func onlyRevokes(before, next *config.Config) bool {
	was, is := before.PolicyConfig(), next.PolicyConfig()
	for _, spki := range was.Revoked.SPKI {
		if !slices.Contains(is.Revoked.SPKI, spki) {
			return false
		}
	}
	for _, serial := range was.Revoked.Serials {
		if !slices.Contains(is.Revoked.Serials, serial) {
			return false
		}
	}
	more := len(is.Revoked.SPKI)+len(is.Revoked.Serials) > len(was.Revoked.SPKI)+len(was.Revoked.Serials)
	was.Revoked, is.Revoked = policy.Revoked{}, policy.Revoked{}
	sameAnchors := slices.EqualFunc(before.Anchors(), next.Anchors(), func(a, b config.Anchor) bool {
		return a.Name == b.Name && bytes.Equal(a.CA.Raw, b.CA.Raw)
	})
	sameDoors := slices.EqualFunc(before.Clients, next.Clients, func(a, b config.Client) bool {
		return slices.Equal(a.CRL, b.CRL) && a.CRLMaxAge == b.CRLMaxAge
	}) && reflect.DeepEqual(before.Listeners, next.Listeners)
	return more && sameAnchors && sameDoors && reflect.DeepEqual(was, is) && reflect.DeepEqual(before.Limits, next.Limits) && reflect.DeepEqual(before.KeySets, next.KeySets)
}
