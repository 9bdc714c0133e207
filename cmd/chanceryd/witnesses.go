package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"chancery/cmd/internal/config"
	"chancery/cmd/internal/telemetry"
	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/audit/witness"
)

// openOutside makes what tells of the logs outside this node: witnesses that
// cosign, and anchors that are sent to. Neither holds up the log.
func (n *node) openOutside(context.Context) (err error) {
	cfg := n.config.Load()
	dir := filepath.Join(cfg.Data, "audit")
	if n.anchors, err = newAnchors(dir, cfg.Audit.Anchors, n.log, n.now); err != nil {
		return fmt.Errorf("anchors of the log: %w", err)
	}
	n.anchors.metrics(n.metrics, n.now)
	f, err := n.newFeeder(cfg, dir)
	if err != nil {
		return fmt.Errorf("witnesses of the log: %w", err)
	}
	n.feeder.Store(f)
	witnessMetrics(n.metrics, f, n.now)
	return nil
}

// witnessesKnow reports whether every witness has cosigned a checkpoint by that log
// key alone, so that those before it need not sign beside it any more.
func (n *node) witnessesKnow(set *keystore.KeySet, kid keystore.KID) bool {
	f, name := n.feeder.Load(), n.logKeyName(set, kid)
	return f != nil && name != "" && f.Answered(name)
}

// unknowing returns the witnesses that have not cosigned a checkpoint by that log
// key alone.
func (n *node) unknowing(set *keystore.KeySet, kid keystore.KID) []string {
	f, name := n.feeder.Load(), n.logKeyName(set, kid)
	if f == nil || name == "" {
		return nil
	}
	return f.Unanswered(name)
}

// logKeyName returns the NAME+ID of a log key, or "" if that cannot be told.
func (n *node) logKeyName(set *keystore.KeySet, kid keystore.KID) string {
	v, ok := set.ByKID(kid)
	if !ok {
		return ""
	}
	pub, err := v.Public()
	if err != nil {
		return ""
	}
	vkey, err := n.audit.VKey(v.Algorithm, pub)
	if err != nil {
		return ""
	}
	key, err := audit.ParseVKey(vkey)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s+%08x", key.Name(), key.KeyHash())
}

// newFeeder returns nil where no witness is configured.
func (n *node) newFeeder(cfg *config.Config, dir string) (*witness.Feeder, error) {
	w := cfg.Audit.Witnesses
	if w == nil {
		return nil, nil
	}
	return witness.NewFeeder(witness.Config{
		Dir: dir, Policy: w.Policy, State: filepath.Join(cfg.Data, "witnesses"), Every: w.Every,
		Keep: n.audit.KeepWitnessed, Told: n.enterContradiction, Log: n.log,
	})
}

// contradictionDeadline bounds the entry of what a witness says.
const contradictionDeadline = 10 * time.Second

// enterContradiction enters that a witness contradicts a log, or no longer does.
func (n *node) enterContradiction(c witness.Contradiction) error {
	ctx, cancel := context.WithTimeout(context.Background(), contradictionDeadline)
	defer cancel()
	rec := keystore.Record{
		Principal: "chancery", Action: keystore.ActAuditWitness, Outcome: keystore.OutcomeFailed, Reason: c.What,
		Detail: map[string]string{"witness": c.Witness, "name": c.Name, "origin": c.Origin},
	}
	if c.What == "" {
		rec.Outcome, rec.Reason = keystore.OutcomeDone, "the witness no longer contradicts the log"
		n.log.Info("a witness no longer contradicts the log", "witness", c.Name, "origin", c.Origin)
	} else {
		n.log.Error("a witness contradicts the log: it was put back or changed, or the witness errs", "witness", c.Name, "origin", c.Origin, "what", c.What)
	}
	_, err := n.audit.Lifecycle(ctx, rec)
	return err
}

// witnessMetrics tell how each witness stands to the logs. Since a witness is
// somebody else, what it says is told and stops nothing.
func witnessMetrics(m *telemetry.Metrics, f *witness.Feeder, now func() time.Time) {
	if f == nil {
		return
	}
	m.Gauge("chancery_log_witness_contradictions", "Logs that a witness contradicts.", nil,
		func() float64 { return float64(len(f.Contradictions())) })
	m.Gauge("chancery_log_witnessed_age_seconds", "Seconds since the witness that is furthest behind cosigned one of the logs that go on; -1: never.", nil,
		func() float64 {
			oldest := newestCosigned(f)
			if oldest.IsZero() {
				return -1
			}
			return now().Sub(oldest).Seconds()
		})
}

// newestCosigned returns when the witness that is furthest behind last cosigned
// anything; zero: one never has.
func newestCosigned(f *witness.Feeder) (oldest time.Time) {
	last := make(map[string]time.Time)
	for _, s := range f.Standings() {
		if at, ok := last[s.Witness]; !ok || s.At.After(at) {
			last[s.Witness] = s.At
		}
	}
	for _, at := range last {
		if at.IsZero() {
			return time.Time{}
		}
		if oldest.IsZero() || at.Before(oldest) {
			oldest = at
		}
	}
	return oldest
}

// witnessNote tells where nobody cosigns.
func (n *node) witnessNote() string {
	if n.feeder.Load() == nil {
		return "unwitnessed: none is configured"
	}
	return ""
}

// witnessWarning tells what witnesses say, or do not do, that somebody has to look
// into. Nothing waits for that: an answer that no one signed must not stop a node.
func (n *node) witnessWarning() string {
	f := n.feeder.Load()
	if f == nil {
		return ""
	}
	return warningOf(f.Contradictions(), f.Standings())
}

// warningOf puts what contradicts before what merely does not come.
func warningOf(contradictions []witness.Contradiction, standings []witness.Standing) string {
	if n := len(contradictions); n > 0 {
		c, more := contradictions[0], ""
		if n > 1 {
			more = fmt.Sprintf(", and %d more such", n-1)
		}
		return fmt.Sprintf("witness %s contradicts %s since %s: %s%s (hint: the log was put back or changed, or the witness errs; "+
			"compare with a checkpoint kept elsewhere: `chancery audit verify --checkpoint FILE`; signing goes on)",
			c.Name, c.Origin, c.Since.Format(time.RFC3339), c.What, more)
	}
	for _, s := range standings {
		if s.Failed != "" {
			return fmt.Sprintf("witness %s does not cosign %s: %s", s.Name, s.Origin, s.Failed)
		}
	}
	return ""
}
