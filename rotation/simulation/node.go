package simulation

import (
	"time"

	"chancery/keystore"
	"chancery/rotation"
)

// A node signs and serves by what it has last read of the catalog.
type node struct {
	up, paused, cut bool
	enrolled        bool
	doubt           bool // a commit's answer was lost: its snapshot is not in force
	behind          bool // it has seen what the catalog has not
	epoch           int64
	spec            rotation.Spec // the configuration it goes by
	added           bool          // which has the key set

	set    *keystore.KeySet // its snapshot; nil: it has none
	seen   int64            // the newest commit it has seen: its high-water mark
	readAt time.Duration    // when the snapshot was taken, by its boot time

	proven, gone bits // keys that it has seen sign, and not to be there
	braked       bits // suspended by its brake file

	slip, trust time.Duration // how far its wall clock is off, and was when it was last right
	storeTrust  time.Duration // how far the catalog's was
	steady      time.Time     // since when that has gone with its boot time
	rebooted    bool          // and nobody has held its wall clock against another since

	serving bool
	served  snapshot // what it serves, while serving

	making struct {
		key   int // 0: none
		stage int // 1: its row is recorded; 2: the token has made it
	}
	horizon struct { // the last one it has raised
		key   int
		until time.Time
	}
	flight flight
}

// A flight is a token that has been signed and not been let go.
type flight struct {
	key     int // 0: none
	slip    time.Duration
	iat     time.Duration // by the node's clock, like what follows
	nbf     time.Duration
	exp     time.Duration
	version int
}

// works reports whether a node can do anything with the catalog.
func (w *World) works(n int) bool {
	nd := &w.nodes[n]
	return nd.up && !nd.paused && !nd.cut && !w.store.down && !nd.behind && nd.enrolled
}

// writes reports whether the catalog takes a change from a node: one of its last
// enrolment, not forgotten, and within its signing lease.
func (w *World) writes(n int) bool {
	if !w.works(n) {
		return false
	}
	nd := &w.nodes[n]
	if w.store.behind(nd.seen) {
		w.fence(n)
		return false
	}
	row := w.store.row(nodeNames[n])
	return row != nil && row.Epoch == nd.epoch && row.Forgotten == nil && (!w.leased() || row.MaySign(w.store.clock(w)))
}

// fence ends what a node does: it may not go on.
func (w *World) fence(n int) {
	nd := &w.nodes[n]
	nd.behind = true
	nd.set = nil
	w.close(n)
	w.say("node %s stops: it is fenced", nodeNames[n])
}

// refresh has a node enrol or renew, read the catalog, and serve what it read.
func (w *World) refresh(n int) {
	nd := &w.nodes[n]
	if !nd.up || nd.paused || nd.cut || w.store.down || nd.behind {
		return
	}
	if w.store.behind(nd.seen) {
		w.fence(n)
		return
	}
	if !nd.enrolled && !w.enrol(n) {
		return
	}
	row := w.store.row(nodeNames[n])
	if row == nil || row.Epoch != nd.epoch || row.Forgotten != nil {
		w.fence(n)
		return
	}
	nd.set, nd.seen, nd.readAt, nd.doubt = w.store.set, w.store.set.Revision, w.now, false
	w.renew(n)
	w.watch(n)
	w.settle(n)
	w.serve(n)
}

// enrol begins a node's epoch. What it said of versions whose keys it has not
// seen sign since it started counts no more.
func (w *World) enrol(n int) bool {
	s, nd := &w.store, &w.nodes[n]
	now := s.clock(w)
	row := s.row(nodeNames[n])
	if row == nil {
		s.nodes = append(s.nodes, keystore.Node{Name: nodeNames[n]})
		row = &s.nodes[len(s.nodes)-1]
	}
	if row.Forgotten != nil && row.MayServe(now) && w.leased() {
		return false
	}
	s.epoch++
	*row = keystore.Node{Name: nodeNames[n], Epoch: s.epoch, EnrolledAt: now}
	nd.epoch, nd.enrolled = s.epoch, true
	withdrawn := func(a keystore.Ack) bool {
		v, ok := s.set.Version(a.Version)
		return a.Node == nodeNames[n] && ok && !nd.proven.has(keyOf(v))
	}
	for _, a := range s.set.Acks {
		if !withdrawn(a) {
			continue
		}
		w.commit(n, true, func(ks *keystore.KeySet, _ time.Time) bool {
			kept := ks.Acks[:0]
			for _, a := range ks.Acks {
				if !withdrawn(a) {
					kept = append(kept, a)
				}
			}
			ks.Acks = kept
			return true
		})
		break
	}
	s.synced()
	return true
}

// renew moves the ends of a node's leases, which count from when it last read.
func (w *World) renew(n int) {
	row := w.store.row(nodeNames[n])
	if row == nil {
		return
	}
	now := w.store.clock(w)
	row.SeenAt = now
	if w.leased() {
		row.SignsUntil, row.PublishesUntil = now.Add(w.cfg.Schedule.Lease), now.Add(w.cfg.Publishing)
	}
}

// watch compares the catalog's clock with the node's boot time.
func (w *World) watch(n int) {
	nd := &w.nodes[n]
	off := w.store.clock(w).Sub(w.at(0))
	if d := off - nd.storeTrust; d > w.cfg.Schedule.Skew/2 || -d > w.cfg.Schedule.Skew/2 {
		nd.storeTrust, nd.steady = off, w.store.clock(w)
	}
}

// rightClock reports whether a node's wall clock has gone with its boot time,
// and with the catalog's clock.
func (w *World) rightClock(n int) bool {
	if w.cfg.without&offClockGuard != 0 {
		return true
	}
	nd, most := &w.nodes[n], w.cfg.Schedule.Skew/2
	step, apart := nd.slip-nd.trust, nd.slip-nd.storeTrust
	return step <= most && -step <= most && (!w.leased() || apart <= most && -apart <= most)
}

// prove has the token sign a challenge for every version that a node knows of.
func (w *World) prove(n int) {
	nd := &w.nodes[n]
	if !nd.up || nd.paused || nd.set == nil || w.tokenDown {
		return
	}
	for i := range nd.set.Versions {
		v := &nd.set.Versions[i]
		if !v.State.Known() {
			continue
		}
		k := keyOf(v)
		if w.token.has(k) {
			nd.proven |= 1 << k
			nd.gone &^= 1 << k
		} else {
			nd.gone |= 1 << k
		}
	}
	w.serve(n)
}

// acknowledge has a node say which versions are in every set it serves.
func (w *World) acknowledge(n int) {
	nd := &w.nodes[n]
	if !nd.serving || !w.writes(n) {
		return
	}
	name := nodeNames[n]
	fresh := func(ks *keystore.KeySet, v *keystore.Version) bool {
		_, said := ks.AckOf(name, v.Number)
		return !said && v.State.Known() && nd.served.keys.has(keyOf(v))
	}
	news := false
	for i := range w.store.set.Versions {
		news = news || fresh(w.store.set, &w.store.set.Versions[i])
	}
	if !news {
		return
	}
	w.commit(n, true, func(ks *keystore.KeySet, now time.Time) bool {
		for i := range ks.Versions {
			v := &ks.Versions[i]
			if !fresh(ks, v) {
				continue
			}
			ks.Acks = append(ks.Acks, keystore.Ack{Node: name, Version: v.Number, At: now})
			if v.ServedAt.Before(now) {
				v.ServedAt = now
			}
			w.say("version %d is acknowledged", v.Number)
		}
		return true
	})
}

// crash ends a node's process, and with the machine what it knew of its clock.
func (w *World) crash(n int, machine bool) {
	nd := &w.nodes[n]
	if !nd.up {
		return
	}
	w.close(n)
	w.counts.Crashes++
	*nd = node{
		spec: nd.spec, added: nd.added, cut: nd.cut, seen: nd.seen, behind: nd.behind, braked: nd.braked,
		slip: nd.slip, trust: nd.trust, storeTrust: nd.storeTrust, steady: nd.steady, rebooted: nd.rebooted,
	}
	if machine {
		nd.steady = time.Time{}
		nd.storeTrust = farOff // at its first look the clock becomes steady
		nd.rebooted = true
	}
}

// farOff is an offset that no clock has.
const farOff = -1 << 62

// start starts a node's process, by the configuration as it is then. An operator
// who starts one that was fenced has seen to it.
func (w *World) start(n int) {
	nd := &w.nodes[n]
	if nd.up {
		return
	}
	nd.up = true
	if nd.behind {
		nd.behind, nd.seen = false, 0
	}
	nd.spec, nd.added = w.spec, w.added
	// Of a clock after a reboot it is known only whether it has gone back.
	if nd.rebooted && nd.slip >= nd.trust-w.cfg.Schedule.Skew/2 {
		nd.trust = nd.slip
	}
}

func (w *World) pause(n int) {
	if nd := &w.nodes[n]; nd.up && !nd.paused {
		nd.paused = true
		w.close(n)
	}
}

func (w *World) goOn(n int) {
	if nd := &w.nodes[n]; nd.paused {
		nd.paused = false
		w.serve(n)
	}
}

// leave ends a node in order: it says that it neither signs nor serves.
func (w *World) leave(n int) {
	if !w.works(n) {
		return
	}
	row := w.store.row(nodeNames[n])
	if row == nil || row.Epoch != w.nodes[n].epoch {
		return
	}
	w.close(n)
	w.crash(n, false)
	row.StoppedAt = w.store.clock(w)
	w.store.last = row.StoppedAt
	w.store.synced()
}

// ready reports whether callers are sent to a node: not to one whose clock is
// wrong since its machine started, for that is not held against a reference.
func (w *World) ready(n int) bool {
	nd := &w.nodes[n]
	return !nd.rebooted || nd.slip <= w.cfg.Schedule.Skew/2 && -nd.slip <= w.cfg.Schedule.Skew/2
}

// stepNode sets a node's wall clock off by so much. Who sets it right confirms
// that it is.
func (w *World) stepNode(n int, off time.Duration) {
	if !w.env.unsteady {
		return
	}
	nd := &w.nodes[n]
	nd.slip = off
	if nd.rebooted && off == 0 {
		nd.trust, nd.rebooted = 0, false
	}
}
