package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// debts are lifecycle records that are owed to the log: changes that happened
// whether or not they could be entered. They are entered in the order they were
// owed, and tried again each second while the log cannot be written. A newer
// record of the same name replaces one that was not entered yet, so they do not
// pile up.
type debts struct {
	slog *slog.Logger
	wake chan struct{} // capacity 1

	mu    sync.Mutex // guards what follows
	names []string
	owed  map[string]keystore.Record
}

func newDebts(log *slog.Logger) *debts {
	return &debts{slog: log, wake: make(chan struct{}, 1), owed: make(map[string]keystore.Record)}
}

// owe adds a record. It does not wait.
func (d *debts) owe(name string, rec keystore.Record) {
	d.mu.Lock()
	if _, ok := d.owed[name]; !ok {
		d.names = append(d.names, name)
	}
	d.owed[name] = rec
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// next takes the oldest record.
func (d *debts) next() (name string, rec keystore.Record, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.names) == 0 {
		return "", rec, false
	}
	name = d.names[0]
	rec = d.owed[name]
	d.names = d.names[1:]
	delete(d.owed, name)
	return name, rec, true
}

// Run enters what is owed until ctx ends.
func (d *debts) Run(ctx context.Context, log *audit.Log) {
	for {
		name, rec, ok := d.next()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-d.wake:
			}
			continue
		}
		if _, err := log.Lifecycle(ctx, rec); err != nil {
			if ctx.Err() != nil {
				return
			}
			d.slog.Warn("an entry has to wait for the log", "action", rec.Action, "err", err)
			d.giveBack(name, rec)
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
		}
	}
}

// pay enters all that is owed now.
func (d *debts) pay(ctx context.Context, log *audit.Log) error {
	for {
		name, rec, ok := d.next()
		if !ok {
			return nil
		}
		if _, err := log.Lifecycle(ctx, rec); err != nil {
			d.giveBack(name, rec)
			return err
		}
	}
}

// giveBack puts a record back at the front, unless a newer one is owed.
func (d *debts) giveBack(name string, rec keystore.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.owed[name]; ok {
		return
	}
	d.names = append([]string{name}, d.names...)
	d.owed[name] = rec
}
