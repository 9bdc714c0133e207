package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"chancery/cmd/internal/config"
	"chancery/keystore"
	"chancery/keystore/catalog"
	"chancery/rotation"
)

// openCatalog opens the catalog: a file in the data directory, or a database that
// this node shares with others. One that cannot be reached is waited for: a node
// that starts before its database is no failure.
func (n *node) openCatalog(ctx context.Context, cfg *config.Config) (*catalog.Catalog, error) {
	if !cfg.Catalog.Shared() {
		return catalog.Open(ctx, catalog.Config{Path: filepath.Join(cfg.Data, "catalog.db"), Now: n.now})
	}
	p := cfg.Catalog.Postgres
	settings := catalog.Config{
		Postgres: &catalog.Postgres{URL: p.URL, PasswordFile: p.PasswordFile},
		Mark:     filepath.Join(cfg.Data, "catalog.mark"), Now: n.now, Agree: n.leases.agree,
	}
	for told := false; ; told = true {
		c, err := catalog.Open(ctx, settings)
		if err == nil {
			for _, warning := range c.Warnings() {
				n.log.Warn("the catalog's database", "warning", warning)
			}
			return c, nil
		}
		if !errors.Is(err, keystore.ErrUnavailable) || errors.Is(err, catalog.ErrDamaged) || errors.Is(err, catalog.ErrBehind) {
			return nil, err
		}
		if !told {
			n.log.Error("the catalog cannot be opened; it is tried again each second", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(time.Second):
		}
	}
}

// rotationClock is what rotation may know of the clock that it goes by: this
// node's, and on a shared catalog the database's, which this node has held against
// its own since it started.
func (n *node) rotationClock() rotation.Clock {
	c := rotation.Clock{Steady: n.clock.Steady(), Synchronised: n.clock.Unsynchronised() == nil}
	if c.Steady.IsZero() { // it is in trouble
		c.Steady = n.steps.Now()
	}
	if n.leases.shared {
		since, always := n.steps.Steady()
		c.Synchronised = c.Synchronised && always
		if since.After(c.Steady) {
			c.Steady = since
		}
	}
	return c
}

// enrol makes this node known to the catalog, before it serves or signs. What it
// said before of versions that it cannot serve now is withdrawn.
func (n *node) enrol(ctx context.Context, cfg *config.Config) error {
	identity, err := nodeIdentity(filepath.Join(cfg.Data, "node.id"))
	if err != nil {
		return fmt.Errorf("reading the identity of this node: %w", err)
	}
	var began instant
	var self keystore.Node
	err = n.whileApart(ctx, func() error {
		began = n.leases.instant()
		self, err = n.catalog.Enrol(ctx, catalog.Enrolment{
			Node: cfg.Node, Identity: identity, Signing: config.Lease, Publishing: cfg.Catalog.PublishingLease,
			Holds: func(_ string, v *keystore.Version) bool { return n.keys.Proven(v.KID) },
		}, n.enrolRecord(cfg.Node, identity))
		return err
	})
	if err != nil {
		return fmt.Errorf("enrolling node %s: %w", cfg.Node, err)
	}
	n.leases.note(began, nil)
	n.enrolled = true
	n.log.Info("enrolled", "node", self.Name, "epoch", self.Epoch)
	n.renewWhileStarting(ctx)
	return nil
}

// nodeIdentity returns the 16 random bytes that tell this data directory from
// another one under the same node's name, made at the first start.
func nodeIdentity(path string) (id [16]byte, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		rand.Read(id[:]) // never fails, by its contract
		return id, renameio.WriteFile(path, []byte(hex.EncodeToString(id[:])+"\n"), 0o600)
	}
	if err != nil {
		return id, err
	}
	b, err := hex.DecodeString(strings.TrimSuffix(string(text), "\n"))
	if err != nil || len(b) != len(id) {
		return id, hinted{fmt.Errorf("%s does not hold 32 hexadecimal digits", path), "put it back from a backup of the data directory"}
	}
	copy(id[:], b)
	return id, nil
}

// How often leases are renewed and the catalog is read, where others write it
// too. Several tries fit into a signing lease.
const renewEvery = time.Second

// renewWhileStarting renews the leases, and does no more, until n.started is called:
// a start may take longer than they last.
func (n *node) renewWhileStarting(ctx context.Context) {
	if !n.leases.shared {
		return
	}
	ctx, n.started = context.WithCancel(ctx)
	n.wg.Go(func() {
		for ctx.Err() == nil {
			within, cancel := context.WithTimeout(ctx, config.Lease/2)
			_ = n.leases.renew(within, n.catalog, n.views.Revision()) // what is refused without them says why
			cancel()
			select {
			case <-ctx.Done():
			case <-time.After(renewEvery):
			}
		}
	})
}

// whileApart does f again each second for as long as the catalog's clock and this
// node's do not agree: a node whose clock is not right yet neither serves nor holds
// up the others.
func (n *node) whileApart(ctx context.Context, f func() error) error {
	for told := false; ; {
		err := f()
		if !errors.Is(err, errClocks) {
			return err
		}
		if !told {
			n.log.Error("nothing is served or signed until the clock is right; it is looked at each second", "err", err)
			told = true
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

// firstView reads the catalog for the first time. A step that another node is
// about to enter in its log is waited for, and so are clocks that agree.
func (n *node) firstView(ctx context.Context) error {
	for {
		err := n.whileApart(ctx, func() error {
			_, err := n.steps.View(ctx)
			if errors.Is(err, errLeaseOver) && !errors.Is(err, errClocks) { // this took long
				err = cmp.Or(n.leases.renew(ctx, n.catalog, n.views.Revision()), err)
			}
			return err
		})
		if !errors.Is(err, errElsewhere) && !errors.Is(err, errLeaseOver) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(lookAgain):
		}
	}
}

// ensure has the key sets be as configured. As at every start, a step that another
// node is about to enter in its log is waited for.
func (n *node) ensure(ctx context.Context, cfg *config.Config) error {
	for {
		err := n.rotator.Ensure(ctx, specs(cfg))
		if !errors.Is(err, errElsewhere) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(lookAgain):
		}
	}
}

// keepLeases renews the leases and reads the catalog until ctx ends. Each may
// take no longer than a signing lease, so that one that hangs is given up.
func (n *node) keepLeases(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n.tellLease(ctx, n.keepLease(ctx))
	}
}

// keepLease is one round of keepLeases.
func (n *node) keepLease(ctx context.Context) error {
	if err := n.leases.Fenced(); err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, config.Lease/2)
	defer cancel()
	err := n.leases.renew(within, n.catalog, n.views.Revision())
	if err != nil && !errors.Is(err, errClocks) { // those are compared at each reading
		return err
	}
	if _, viewErr := n.steps.View(within); err == nil {
		err = viewErr
	}
	if n.leases.outdated() {
		n.kick()
	}
	return err
}

// tellLease enters it when this node may sign no more for want of the catalog,
// and when it may again: once for each change.
func (n *node) tellLease(ctx context.Context, cause error) {
	if ctx.Err() != nil {
		return
	}
	_, err := n.views.Current()
	apart := errors.Is(err, errClocks)
	over := apart || errors.Is(err, errLeaseOver) || errors.Is(err, catalog.ErrFenced)
	if over == n.lostLease {
		return
	}
	n.lostLease = over
	rec := keystore.Record{Principal: "chancery", Action: keystore.ActLease, Outcome: keystore.OutcomeDone, Reason: "the catalog is there again, and this node signs"}
	switch {
	case over && n.leases.Fenced() != nil:
		rec.Action, rec.Outcome, rec.Reason = keystore.ActNodeFenced, keystore.OutcomeFailed, n.leases.Fenced().Error()
		n.log.Error("this node was fenced: it neither signs nor serves until it is started again", "err", n.leases.Fenced())
	case apart:
		rec.Outcome, rec.Reason = keystore.OutcomeFailed, err.Error()
		n.log.Error("nothing is signed by a clock that may be wrong", "err", err)
	case over:
		rec.Outcome, rec.Reason = keystore.OutcomeFailed, "the signing lease is over"
		if cause != nil {
			rec.Reason += ": " + cause.Error()
		}
		n.log.Error("this node has lost the catalog, and signs nothing", "err", cause)
	default:
		n.log.Info("the catalog is there again, and this node signs")
	}
	rec.Reason = strings.ToValidUTF8(rec.Reason[:min(len(rec.Reason), 512)], "")
	n.owed.owe("lease", rec)
	n.changed()
}

// leave tells the catalog that this node neither signs nor serves any more, with
// time of its own like closeLog. One that cannot say so is waited for until its
// leases are over.
func (n *node) leave() {
	if n.catalog == nil || !n.enrolled {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := n.catalog.Leave(ctx); err != nil {
		n.log.Warn("telling the catalog that this node stops failed", "err", err)
	}
}
