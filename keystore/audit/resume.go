package audit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/keystore"
)

// A recollection is what a log that was opened reads in its own entries, to go
// on from there.
type recollection struct {
	first   time.Time // of the first entry of lifecycle
	headAt  time.Time // of the last entry of audit.head
	head    Checkpoint
	peers   map[string]peerNote
	pruned  bool // months of acts are not there any more
	settled map[keystore.KID]int64
	entered map[keystore.KID]*spans // numbers that have an entry, of those beyond settled
	lowest  map[keystore.KID]int64  // of those in acts
	intents map[string]intent       // acts without an outcome, by ID
}

// resume reads what the log has to know of itself, and closes the numbers that
// a former process took and left open. The streams run already.
func (l *Log) resume(ctx context.Context) error {
	head, slots, damage := readUses(l.uses.path)
	if s := l.acts.current(); damage == nil && s != nil && actsName+"/"+head.month == s.name && head.index > s.length() {
		damage = errors.New("the file of numbers is ahead of the log")
	}
	rec := recollection{
		peers: map[string]peerNote{}, settled: map[keystore.KID]int64{}, entered: map[keystore.KID]*spans{}, lowest: map[keystore.KID]int64{},
		intents: map[string]intent{},
	}
	if damage != nil {
		head = useHead{}
	}
	for i := range slots {
		if damage != nil {
			slots[i].settled = 0
		}
		rec.settled[slots[i].kid] = slots[i].settled
	}
	if err := rec.lifecycle(ctx, l.cfg.Dir); err != nil {
		return fmt.Errorf("reading lifecycle: %w", err)
	}
	l.headAt, l.head, l.peers = later(rec.first, rec.headAt), rec.head, rec.peers
	if l.headAt.IsZero() {
		l.headAt = l.cfg.Now()
	}
	unreadable, err := rec.acts(ctx, l.cfg.Dir, head)
	if err != nil {
		return fmt.Errorf("reading acts: %w", err)
	}
	if unreadable != nil {
		l.cfg.Log.Warn("not all acts can be read: which numbers of uses are open is not known", "err", unreadable)
	}
	if err := l.goOnCounting(head, slots, &rec, damage, unreadable != nil); err != nil {
		return fmt.Errorf("writing the numbers of uses: %w", err)
	}
	l.flushNotes(ctx)
	left := recordsOf(slices.Collect(maps.Values(rec.intents)))
	if err := l.closeIntents(ctx, left, "the process ended before its outcome was entered"); err != nil {
		return fmt.Errorf("closing intents: %w", err)
	}
	return nil
}

// goOnCounting makes a counter for each key that slots or rec know of. Of the
// numbers that have no entry nobody knows what became.
func (l *Log) goOnCounting(head useHead, slots []useSlot, rec *recollection, damage error, unsure bool) error {
	for _, kid := range slices.Sorted(maps.Keys(rec.entered)) {
		if _, ok := rec.settled[kid]; !ok {
			slots = append(slots, useSlot{kid: kid})
		}
	}
	var strange error
	u := l.uses
	u.mu.Lock()
	defer u.mu.Unlock()
	u.head = head
	for _, s := range slots {
		s, left, sane := rec.goOn(s, damage != nil, unsure)
		u.add(s).leave(left)
		if !sane {
			strange = errors.New("the file of numbers is of another log")
		}
	}
	damage = cmp.Or(damage, strange)
	if len(u.order) > 0 && damage != nil {
		l.lostUses(damage)
	}
	if len(u.order) == 0 && l.acts.current() == nil {
		return nil
	}
	return u.remake()
}

// mostLeft is more numbers than any process leaves open.
const mostLeft = 1 << 20

// goOn returns from where the numbers of a key go on, and those that were taken
// and have no entry. It is not sane that there are as many as no process leaves:
// then the highest entered counts.
func (r *recollection) goOn(s useSlot, damaged, unsure bool) (_ useSlot, left spans, sane bool) {
	var entered spans
	if e := r.entered[s.kid]; e != nil {
		entered = *e
	}
	if damaged { // what is not there any more is not looked for again
		s.settled = r.begins(s.kid) - 1
	}
	s.last = max(s.last, entered.last())
	s.settled = min(s.settled, s.last)
	left = entered.missing(s.settled+1, s.last)
	if sane = left.count() <= mostLeft; !sane {
		s.last = max(s.settled, entered.last())
		left = entered.missing(s.settled+1, s.last)
	}
	if unsure || left.count() > mostLeft {
		s.settled, left = s.last, nil
	}
	return s, left, sane
}

// begins returns the number from which on the entries of kid are there.
func (r *recollection) begins(kid keystore.KID) int64 {
	if !r.pruned {
		return 1
	}
	if n, ok := r.lowest[kid]; ok {
		return n
	}
	return maxUse // all its acts are gone
}

// lostUses notes that the numbers go on from what is entered, because the file
// cannot be read.
func (l *Log) lostUses(why error) {
	l.cfg.Log.Warn("the file of numbers of uses is made anew from the entries", "err", why)
	l.note(keystore.Record{
		Principal: self, Action: keystore.ActAuditRepair, Outcome: keystore.OutcomeDone,
		Reason: "numbers of uses go on from the highest entered: their file was missing or damaged",
		Detail: map[string]string{"file": actsName + "/" + usesName},
	})
}

// lifecycle reads all of lifecycle.
func (r *recollection) lifecycle(ctx context.Context, dir string) error {
	for at, err := range entries(filepath.Join(dir, lifecycleName), 0) {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		if at.index > 0 && !bytes.Contains(at.entry, []byte(`"use":`)) && !bytes.Contains(at.entry, []byte(`"action":"audit.`)) {
			continue
		}
		e, err := ParseEntry(at.entry)
		if err != nil {
			return err
		}
		if at.index == 0 {
			r.first = e.Time
		}
		r.note(&e)
	}
	return nil
}

// note takes from an entry of lifecycle what it tells.
func (r *recollection) note(e *Entry) {
	r.number(e.KID, e.Use, e.Use)
	c, ok := headIn(e)
	switch {
	case e.Action == keystore.ActAuditPrune:
		r.pruned = true
	case !ok:
	case e.Action == keystore.ActAuditHead:
		r.head, r.headAt = c, e.Time
	case e.Action == keystore.ActAuditPeer:
		r.peers[c.Origin] = peerNote{Head{c.Size, c.Root}, e.Time}
	}
}

// acts reads the acts from head on. A month that was closed and cannot be read
// is no reason not to go on, and is returned.
func (r *recollection) acts(ctx context.Context, dir string, head useHead) (unreadable, err error) {
	months, err := listMonths(dir)
	if err != nil {
		return nil, err
	}
	for i, m := range months {
		if m < head.month {
			continue
		}
		from := int64(0)
		if m == head.month {
			from = head.index
		}
		err := r.month(ctx, filepath.Join(dir, actsName, m), from)
		if ctx.Err() != nil || err != nil && i == len(months)-1 {
			return nil, err
		}
		unreadable = errors.Join(unreadable, err)
	}
	return unreadable, nil
}

func (r *recollection) month(ctx context.Context, dir string, from int64) error {
	for at, err := range entries(dir, from) {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		if at.index < from || !slices.ContainsFunc(actsNeedles, func(n string) bool { return bytes.Contains(at.entry, []byte(n)) }) {
			continue
		}
		e, err := ParseEntry(at.entry)
		if err != nil {
			return err
		}
		r.follow(&e)
		for _, x := range numbersOf(&e) {
			r.number(e.KID, x.From, x.To)
			if n, ok := r.lowest[e.KID]; !ok || x.From < n {
				r.lowest[e.KID] = x.From
			}
		}
	}
	return nil
}

// actsNeedles are what an act holds that is looked at.
var actsNeedles = []string{`"use":`, `"uses":"`, `,"id":"`}

// follow notes an intent, and that its outcome is entered.
func (r *recollection) follow(e *Entry) {
	switch {
	case isIntent(&e.Record):
		r.intents[e.ID] = intent{rec: e.Record, time: e.Time}
	case e.ID != "":
		delete(r.intents, e.ID)
	}
}

// number notes that the numbers from to to of kid have an entry.
func (r *recollection) number(kid keystore.KID, from, to int64) {
	from = max(from, r.settled[kid]+1)
	if kid == "" || from > to || to >= maxUse {
		return
	}
	s := r.entered[kid]
	if s == nil {
		s = new(spans)
		r.entered[kid] = s
	}
	s.add(from, to, place{}) // twice is for Verify to tell
}

// numbersOf returns the numbers that e has an entry for.
func numbersOf(e *Entry) spans {
	if e.Action == keystore.ActKeyUse {
		s, _ := parseSpans(e.Detail["uses"]) // what it does not tell Verify does
		return s
	}
	if e.Use <= 0 || e.Use >= maxUse {
		return nil
	}
	return spans{{From: e.Use, To: e.Use}}
}

// headIn returns the head that e tells of, and whether it is one.
func headIn(e *Entry) (Checkpoint, bool) {
	size, err := strconv.ParseInt(e.Detail["size"], 10, 64)
	root, errRoot := tlog.ParseHash(e.Detail["root"])
	c := Checkpoint{e.Detail["origin"], size, root}
	return c, err == nil && errRoot == nil && size >= 0 && c.Origin != ""
}
