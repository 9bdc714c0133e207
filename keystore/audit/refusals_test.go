package audit

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
)

func refusedBy(principal, code string) keystore.Record {
	return keystore.Record{Principal: principal, Action: keystore.ActSignJWT, Outcome: keystore.OutcomeRefused, Code: code}
}

// counts returns what the refusals of r's log stand for, by principal.
func (r *rig) counts() (entries, refusals map[string]int) {
	entries, refusals = map[string]int{}, map[string]int{}
	for _, e := range r.all(Filter{Outcome: keystore.OutcomeRefused}) {
		entries[e.Entry.Principal]++
		refusals[e.Entry.Principal] += max(e.Entry.Count, 1)
	}
	return entries, refusals
}

func TestRefusalsHaveABudget(t *testing.T) {
	c := newClock(noon)
	r := newRig(t, func(cfg *Config) { cfg.Now, cfg.Interval = c.Now, 5*time.Millisecond })
	for range 1000 {
		r.log.Refuse(refusedBy("loud", "forbidden"))
		r.log.Refuse(refusedBy("", "handshake"))
	}
	r.log.Refuse(refusedBy("quiet", "forbidden"))
	waitFor(t, "the first ones are entered", func() bool {
		entries, _ := r.counts()
		return entries["loud"] == 100 && entries[""] == 20 && entries["quiet"] == 1
	})
	c.set(noon.Add(61 * time.Second))
	waitFor(t, "the others are counted", func() bool {
		entries, refusals := r.counts()
		return entries["loud"] == 101 && refusals["loud"] == 1000 && refusals[""] == 1000 && refusals["quiet"] == 1
	})
	r.log.Refuse(refusedBy("loud", "forbidden")) // the budget has come back
	for range 200 {
		r.log.Refuse(refusedBy("loud", "malformed"))
	}
	r.close() // enters what is counted
	if _, refusals := r.counts(); refusals["loud"] != 1201 {
		t.Errorf("%d refusals of 1201", refusals["loud"])
	}
	r.sound()
}

func TestRefusalsOfManyPrincipalsTakeLittleMemory(t *testing.T) {
	budget := newRefusals(Budget{PerSecond: 1e-9, Burst: 1}.orDefault(), func() time.Time { return noon })
	total := 0
	for i := range 3 * maxLimiters {
		for range 2 {
			rec := refusedBy(fmt.Sprint("principal ", i), "forbidden")
			if !budget.admit(&rec) {
				total++
			} else {
				budget.written(&rec, nil)
			}
		}
	}
	if len(budget.limiters) > maxLimiters || len(budget.counts) > maxCounts+1 {
		t.Errorf("%d limiters, %d counts", len(budget.limiters), len(budget.counts))
	}
	sum := 0
	for _, rec := range budget.counted() {
		sum += rec.Count
	}
	if sum != total || total != 3*maxLimiters {
		t.Errorf("%d counted, %d over the budget", sum, total)
	}
}

// It was: what was over the budget was entered as refused, though it had failed
// or, as a worker's death leaves it (P13), may have signed.
func TestP13WhatIsCountedKeepsItsOutcome(t *testing.T) {
	r := newRig(t, func(cfg *Config) { cfg.Refusals = Budget{PerSecond: 1e-9, Burst: 1} })
	for i, outcome := range []keystore.Outcome{
		keystore.OutcomeRefused, keystore.OutcomeFailed, keystore.OutcomeUnknown, keystore.OutcomeUnknown, keystore.OutcomeRefused,
	} {
		rec := signed(i)
		rec.Outcome, rec.Code = outcome, "unavailable"
		r.log.Refuse(rec)
	}
	r.close()
	got := map[keystore.Outcome]int{}
	for _, e := range r.all(Filter{Action: keystore.ActSignJWT}) {
		got[e.Entry.Outcome] += max(e.Entry.Count, 1)
	}
	if got[keystore.OutcomeRefused] != 2 || got[keystore.OutcomeFailed] != 1 || got[keystore.OutcomeUnknown] != 2 {
		t.Errorf("the log says %v", got)
	}
	r.sound()
}

func TestP13TooManyKindsKeepTheirOutcome(t *testing.T) {
	budget := newRefusals(Budget{PerSecond: 1e-9, Burst: 1}.orDefault(), func() time.Time { return noon })
	for i := range maxCounts + 10 {
		rec := refusedBy("someone", fmt.Sprint("code ", i))
		budget.add(&rec)
		rec.Outcome = keystore.OutcomeUnknown
		budget.add(&rec)
	}
	got := map[keystore.Outcome]int{}
	for _, rec := range budget.counted() {
		got[rec.Outcome] += rec.Count
	}
	if n := maxCounts + 10; got[keystore.OutcomeRefused] != n || got[keystore.OutcomeUnknown] != n {
		t.Errorf("counted %v, of %d each", got, n)
	}
}

func TestRefuseAnswersWhileTheLogIsDown(t *testing.T) {
	r, d := newFaultyRig(t)
	r.act(1)
	recovery := d.hold("open")
	defer recovery()
	d.order("sync", syscall.EIO, true)
	if err := r.refused(2); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	// The log does not recover before they are answered: one that waited for it
	// would never be.
	for range 50 {
		r.log.Refuse(refusedBy("someone", "forbidden"))
	}
	recovery()
	d.order("sync", nil, false)
	r.healthy()
	r.close()
	if _, refusals := r.counts(); refusals["someone"] != 50 {
		t.Errorf("%d refusals of 50 are in the log", refusals["someone"])
	}
}

func TestRefusalWithAMegabyteName(t *testing.T) {
	r := newRig(t)
	r.log.Refuse(refusedBy(strings.Repeat("\u202e", 1<<20), "forbidden"))
	r.close()
	if all := r.all(Filter{Log: actsName}); len(all) != 1 || len(all[0].Entry.Principal) > limitPrincipal {
		t.Errorf("%d entries", len(all))
	}
}
