package catalog

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"chancery/keystore"
)

// An Enrolment is how a node begins an epoch.
type Enrolment struct {
	Node     string
	Identity [16]byte // of the node's data directory: another one is another node

	// How long the leases last from when they are renewed. On SQLite they last
	// until the node stops.
	Signing, Publishing time.Duration

	// Holds reports whether every set the node serves from now on has a version
	// that is known. What it had said of the others is withdrawn. Nil: it holds
	// none.
	Holds func(keyset string, v *keystore.Version) bool
}

// enrolled is what a Catalog writes as.
type enrolled struct {
	name                string
	epoch               int64
	signing, publishing time.Duration
}

// Enrol begins the node's next epoch: its leases start, what an earlier epoch of
// its left open is ended (certificates become "unknown", requests in progress are
// forgotten), and recs go into the outbox. From then on this Catalog's writes are
// the node's, and are refused when its epoch is over.
//
// The error wraps keystore.ErrExists if the name is another node's that may
// still sign or serve, or was forgotten. In a file no other node can be: there
// every other name is stopped, and identities are not compared.
func (c *Catalog) Enrol(ctx context.Context, e Enrolment, recs ...keystore.Record) (keystore.Node, error) {
	if !nameForm().MatchString(e.Node) {
		return keystore.Node{}, illegal("%q is no name for a node: 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit", e.Node)
	}
	if c.db.shared() && (e.Signing <= 0 || e.Publishing < e.Signing) {
		return keystore.Node{}, illegal("a node needs a lease to sign, and one to publish that is no shorter")
	}
	var n keystore.Node
	_, err := c.change(ctx, enrolling, fmt.Sprintf("enrolling node %q", e.Node), func(tx *transaction, id string) (Change, error) {
		var err error
		if n, err = begun(tx, e); err != nil {
			return Change{}, err
		}
		tx.node, tx.epoch = n.Name, n.Epoch
		revision, err := nextRevision(tx, id, "")
		if err != nil {
			return Change{}, err
		}
		if err := withdraw(tx, e); err != nil {
			return Change{}, err
		}
		rows, err := putOutbox(tx, id, recs)
		return Change{revision, rows}, err
	})
	if err != nil {
		return keystore.Node{}, err
	}
	c.enrolled.Store(&enrolled{n.Name, n.Epoch, e.Signing, e.Publishing})
	return n, nil
}

// begun writes the row of a node's next epoch, and ends what the last one left
// open.
func begun(tx *transaction, e Enrolment) (keystore.Node, error) {
	was, found, err := findNode(tx, e.Node, forUpdate)
	if err != nil {
		return was.Node, err
	}
	if found && tx.db.shared() {
		if err := mayTake(was, e, tx.now); err != nil {
			return was.Node, err
		}
	}
	if !tx.db.shared() {
		if err := stopOthers(tx, e.Node); err != nil {
			return was.Node, err
		}
	}
	n := nodeRow{Identity: e.Identity, Node: keystore.Node{Name: e.Node, EnrolledAt: tx.now, SeenAt: tx.now, Revision: tx.newest.revision}}
	if tx.db.shared() {
		n.SignsUntil, n.PublishesUntil = tx.now.Add(cutLease(e.Signing)), tx.now.Add(cutLease(e.Publishing))
	}
	if err := tx.row(sqlNextEpoch).Scan(&n.Epoch); err != nil {
		return n.Node, err
	}
	statement := sqlInsertNode
	if found {
		statement = sqlUpdateNode
	}
	if _, err := tx.exec(statement, sealed(n.columns())...); err != nil {
		return n.Node, err
	}
	return n.Node, endOpenOf(tx, e.Node)
}

// mayTake returns nil if the node of an enrolment may take the row of its name.
func mayTake(was nodeRow, e Enrolment, now time.Time) error {
	same := was.Identity == e.Identity
	switch {
	case same && was.Forgotten != nil:
		return fmt.Errorf("node %q was forgotten by %s: %w (hint: give it another name and a new data directory)",
			e.Node, was.Forgotten.By, keystore.ErrExists)
	case !same && was.MayServe(now): // also one that was forgotten: only its row says so
		return fmt.Errorf("node %q is enrolled from another data directory, and may serve until %s: %w (hint: choose another name)",
			e.Node, was.PublishesUntil.Format(time.RFC3339), keystore.ErrExists)
	}
	return nil
}

// stopOthers marks every other node of a file as stopped: one process has it.
func stopOthers(tx *transaction, name string) error {
	all, err := allNodes(tx)
	if err != nil {
		return err
	}
	for _, n := range all {
		if n.Name == name || !n.StoppedAt.IsZero() {
			continue
		}
		n.StoppedAt = tx.now
		if _, err := tx.exec(sqlUpdateNode, sealed(n.columns())...); err != nil {
			return err
		}
	}
	return nil
}

// endOpenOf ends what a node's earlier epochs left open.
func endOpenOf(tx *transaction, node string) error {
	if _, err := tx.exec(sqlIntentsOfUnknown, node); err != nil {
		return err
	}
	_, err := tx.exec(sqlForgetBegunBy, node)
	return err
}

// withdraw takes back what the node has said of versions that it does not hold
// any more: it would serve sets without them.
func withdraw(tx *transaction, e Enrolment) error {
	sets, err := loadSets(tx, allSets)
	if err != nil {
		return err
	}
	for _, ks := range sets {
		lost := 0
		for _, v := range ks.Known() {
			_, said := ks.AckOf(e.Node, v.Number)
			if !said || e.Holds != nil && e.Holds(ks.Name, v) {
				continue
			}
			lost++
			if _, err := tx.exec(sqlWithdraw, e.Node, ks.Name, v.Number); err != nil {
				return err
			}
		}
		if lost == 0 {
			continue
		}
		ks.Revision = tx.newest.revision
		if _, err := tx.exec(sqlUpdateKeySet, sealedSet(ks)...); err != nil {
			return err
		}
	}
	return nil
}

// Renew starts the node's leases again, which are never shortened, and notes the
// revision of the snapshot it goes by. It waits for no change. On SQLite nothing
// is written. The error wraps ErrFenced if the node's epoch is over.
func (c *Catalog) Renew(ctx context.Context, revision int64) (keystore.Node, error) {
	e := c.enrolled.Load()
	if e == nil {
		return keystore.Node{}, illegal("only a node that has enrolled renews its leases")
	}
	var n nodeRow
	renew := func(tx *transaction) (err error) {
		if n, err = own(tx, e, forNoKeyUpdate); err != nil || !tx.db.shared() {
			return err
		}
		n.SeenAt = later(n.SeenAt, tx.now)
		n.Revision = max(n.Revision, revision)
		n.SignsUntil = later(n.SignsUntil, tx.now.Add(cutLease(e.signing)))
		n.PublishesUntil = later(n.PublishesUntil, tx.now.Add(cutLease(e.publishing)))
		_, err = tx.exec(sqlUpdateNode, sealed(n.columns())...)
		return err
	}
	doing := fmt.Sprintf("renewing the leases of node %q", e.name)
	err := error(nil)
	if c.db.shared() {
		err = c.write(ctx, leasing, doing, nil, renew)
	} else {
		err = c.read(ctx, doing, renew)
	}
	if err != nil {
		return keystore.Node{}, err
	}
	return n.Node, nil
}

// Leave says that the node neither signs nor serves from now on. It is the last
// write of this Catalog.
func (c *Catalog) Leave(ctx context.Context) error {
	e := c.enrolled.Load()
	if e == nil {
		return illegal("only a node that has enrolled leaves")
	}
	_, err := c.change(ctx, enrolling, fmt.Sprintf("stopping node %q", e.name), func(tx *transaction, id string) (Change, error) {
		n, err := own(tx, e, forUpdate)
		if err != nil {
			return Change{}, err
		}
		n.StoppedAt = tx.now
		if tx.db.shared() {
			n.SignsUntil, n.PublishesUntil = earlier(n.SignsUntil, tx.now), earlier(n.PublishesUntil, tx.now)
		}
		if _, err := tx.exec(sqlUpdateNode, sealed(n.columns())...); err != nil {
			return Change{}, err
		}
		revision, err := nextRevision(tx, id, "")
		return Change{Revision: revision}, err
	})
	return err
}

// Forget says that a node does not come back: it writes nothing from now on, and
// is counted with until its lease to publish has run out by itself, because it may
// serve what it has until then. by.At does not count: it is the catalog's clock
// that says when. Certificates whose outcome it did not record become "unknown".
// Its records in the outbox stay. Forgetting it again is no error.
//
// The error wraps keystore.ErrNotFound if there is no such node, ErrIllegal if it
// is the one that asks.
func (c *Catalog) Forget(ctx context.Context, name string, by keystore.Fact, recs ...keystore.Record) (Change, error) {
	return c.change(ctx, changing, fmt.Sprintf("forgetting node %q", name), func(tx *transaction, id string) (Change, error) {
		if name == tx.node {
			return Change{}, illegal("a node does not forget itself")
		}
		n, found, err := findNode(tx, name, forUpdate)
		switch {
		case err != nil:
			return Change{}, err
		case !found:
			return Change{}, fmt.Errorf("node %q: %w", name, keystore.ErrNotFound)
		case n.Forgotten != nil:
			return Change{Revision: tx.newest.revision}, errNothing
		}
		by.At = tx.now
		cutFact(&by)
		n.Forgotten = &by
		if _, err := tx.exec(sqlUpdateNode, sealed(n.columns())...); err != nil {
			return Change{}, err
		}
		if err := endOpenOf(tx, name); err != nil {
			return Change{}, err
		}
		revision, err := nextRevision(tx, id, "")
		if err != nil {
			return Change{}, err
		}
		rows, err := putOutbox(tx, id, recs)
		return Change{revision, rows}, err
	})
}

// fence holds a write against the row of the node that makes it, in the same
// transaction (S02, S03, S18), and its clock against that node's. A Catalog that has
// not enrolled has none.
func (c *Catalog) fence(tx *transaction, m mode) error {
	e := c.enrolled.Load()
	if c.agree != nil && (e != nil || m == enrolling) {
		if err := c.agree(tx.now); err != nil {
			return err
		}
	}
	if e == nil || m == enrolling || m == leasing {
		return nil
	}
	n, err := own(tx, e, forKeyShare)
	if err != nil {
		return err
	}
	if !n.MaySign(tx.now) {
		return fmt.Errorf("the lease of node %q to sign ended at %s: %w (hint: it reads the catalog and renews the lease before it writes)",
			n.Name, n.SignsUntil.Format(time.RFC3339), keystore.ErrOvertaken)
	}
	return nil
}

// own returns the row of a node that has enrolled, unless its epoch is over.
func own(tx *transaction, e *enrolled, strength string) (nodeRow, error) {
	n, found, err := findNode(tx, e.name, strength)
	switch {
	case err != nil:
		return n, err
	case !found, n.Epoch != e.epoch:
		return n, fmt.Errorf("node %q: %w: another has enrolled with its name (hint: it reads the catalog anew when it starts)", e.name, ErrFenced)
	case n.Forgotten != nil:
		return n, fmt.Errorf("node %q: %w: %s said that it does not come back (hint: give it another name and a new data directory)",
			e.name, ErrFenced, n.Forgotten.By)
	case !n.StoppedAt.IsZero():
		return n, fmt.Errorf("node %q: %w: it has stopped", e.name, ErrFenced)
	}
	return n, nil
}

// A nodeRow is a node and who it is.
type nodeRow struct {
	keystore.Node
	Identity [16]byte
}

func (n *nodeRow) columns() []any {
	row := []any{n.Name, n.Identity[:], n.Epoch, micros(n.EnrolledAt), micros(n.SeenAt), n.Revision,
		micros(n.SignsUntil), micros(n.PublishesUntil), micros(n.StoppedAt)}
	return append(row, factColumns(n.Forgotten)...)
}

func scanNode(s scanner) (n nodeRow, err error) {
	var identity []byte
	var enrolled, seen, signs, publishes, stopped sql.NullInt64
	var forgotten nullFact
	var want int64
	targets := append([]any{&n.Name, &identity, &n.Epoch, &enrolled, &seen, &n.Revision, &signs, &publishes, &stopped}, forgotten.targets()...)
	if err := s.Scan(append(targets, &want)...); err != nil {
		return n, err
	}
	copy(n.Identity[:], identity)
	n.EnrolledAt, n.SeenAt, n.SignsUntil, n.PublishesUntil = timeOf(enrolled), timeOf(seen), timeOf(signs), timeOf(publishes)
	n.StoppedAt, n.Forgotten = timeOf(stopped), forgotten.fact()
	if !bytes.Equal(identity, n.Identity[:]) || sum(n.columns()) != want {
		return n, damaged("the row of node %q does not fit its checksum", n.Name)
	}
	return n, nil
}

func findNode(tx *transaction, name, strength string) (n nodeRow, found bool, err error) {
	n, err = scanNode(tx.row(tx.locked(sqlNode, strength), name))
	if errors.Is(err, sql.ErrNoRows) {
		return nodeRow{}, false, nil
	}
	return n, err == nil, err
}

func allNodes(tx *transaction) ([]nodeRow, error) {
	rows, err := tx.query(sqlNodes)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanNode)
}

// loadNodes returns the nodes by name. Those that were forgotten are among them
// for ever: what caches hold counts from when they last may have served.
func loadNodes(tx *transaction) ([]keystore.Node, error) {
	all, err := allNodes(tx)
	if err != nil {
		return nil, err
	}
	var nodes []keystore.Node
	for _, n := range all {
		nodes = append(nodes, n.Node)
	}
	return nodes, nil
}

// cutLease cuts a lease to the microseconds a row keeps.
func cutLease(d time.Duration) time.Duration { return d.Truncate(time.Microsecond) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
