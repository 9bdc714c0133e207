package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"chancery/cmd/internal/config"
	"chancery/cmd/internal/telemetry"
	"chancery/keystore"
	"chancery/signer/crl"
)

// clientLists are the revocation lists of one client anchor.
type clientLists struct {
	name    string
	anchors []*x509.Certificate
	maxAge  time.Duration
	source  *crl.Source // what is in force; the gates look here

	mu    sync.Mutex // guards what follows
	files []listFile
}

// A listFile is a file of revocation lists. What was read of it last stays in
// force while it is missing or broken, for as long as it counts.
type listFile struct {
	path  string
	seen  bool
	stamp fileStamp // of what was tried last
	lists []*crl.List
	err   error // why that was not taken
}

// A fileStamp differs whenever a file has been written or replaced. The zero
// stamp is of none.
type fileStamp struct {
	device, inode, size int64
	modified, changed   time.Duration // since 1970
}

func stampOf(path string) fileStamp {
	info, err := os.Stat(path)
	if err != nil {
		return fileStamp{}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileStamp{}
	}
	return fileStamp{int64(st.Dev), int64(st.Ino), st.Size, time.Duration(st.Mtim.Nano()), time.Duration(st.Ctim.Nano())}
}

// newClientLists returns the lists that c asks for, read, or nil where it asks for
// none. before, which may be nil, is what was in force of the same name.
func newClientLists(c config.Client, before *clientLists, notTaken func(client string, err error)) *clientLists {
	if len(c.CRL) == 0 {
		return nil
	}
	l := &clientLists{name: c.Name, anchors: c.Certificates(), maxAge: c.CRLMaxAge, source: crl.NewSource(crl.NewSet(nil, 0))}
	kept := before.keptBy(l.anchors)
	for _, path := range c.CRL {
		f := listFile{path: path}
		if i := slices.IndexFunc(kept, func(k listFile) bool { return k.path == path }); i >= 0 {
			f = kept[i]
		}
		l.files = append(l.files, f)
	}
	l.put()
	l.look(notTaken)
	return l
}

// keptBy returns the files as they are known, if that was found by the same anchors.
func (l *clientLists) keptBy(anchors []*x509.Certificate) []listFile {
	if l == nil || !slices.EqualFunc(l.anchors, anchors, (*x509.Certificate).Equal) {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.files)
}

// look reads the files that have changed, and puts in force what can be.
func (l *clientLists) look(notTaken func(client string, err error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := false
	for i := range l.files {
		f := &l.files[i]
		stamp := stampOf(f.path) // before it is read: what changes meanwhile is read again
		if f.seen && stamp == f.stamp {
			continue
		}
		f.seen, f.stamp = true, stamp
		lists, err := config.ReadLists(f.path, f.lists, l.anchors)
		if f.err = err; err != nil {
			notTaken(l.name, err)
			continue
		}
		f.lists, taken = lists, true
	}
	if taken {
		l.put()
	}
}

func (l *clientLists) put() {
	var all []*crl.List
	for _, f := range l.files {
		all = append(all, f.lists...)
	}
	l.source.Put(crl.NewSet(all, l.maxAge))
}

// trouble returns why clients of the anchor are refused, or nil.
func (l *clientLists) trouble(now time.Time) error { return l.source.Current().Trouble(l.anchors, now) }

// notTaken returns which files are missing or broken, or nil.
func (l *clientLists) notTaken() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []error
	for _, f := range l.files {
		if f.err != nil {
			all = append(all, fmt.Errorf("%w: what was read of it before stays", f.err))
		}
	}
	return errors.Join(all...)
}

// revocations keeps the revocation lists of all client anchors up to date, and
// tells of those that count no more.
type revocations struct {
	inForce func() map[string]*clientLists
	owed    *debts
	log     *slog.Logger
	now     func() time.Time
	m       *telemetry.Metrics

	failures atomic.Int64
	troubled map[string]bool // as last told; owned by Run, like measured
	measured map[string]bool // has a gauge
}

func newRevocations(inForce func() map[string]*clientLists, owed *debts, log *slog.Logger, now func() time.Time, m *telemetry.Metrics) *revocations {
	r := &revocations{inForce: inForce, owed: owed, log: log, now: now, m: m, troubled: make(map[string]bool), measured: make(map[string]bool)}
	m.Counter("chancery_client_crl_failures_total", "Files of revocation lists that were missing or broken when they were read.", nil,
		func() float64 { return float64(r.failures.Load()) })
	return r
}

// refused tells of a file that was not taken.
func (r *revocations) refused(client string, err error) {
	r.failures.Add(1)
	r.log.Error("a file of revocation lists is not taken; what was read of it before stays", "client", client, "err", err)
}

// readEvery is how often the files are looked at. With the reading of a list of a
// million, a sweep of the connections, and the time in which a client can be told,
// that is less than the five seconds that are promised.
const readEvery = time.Second / 2

// Run looks at the files until ctx ends.
func (r *revocations) Run(ctx context.Context) {
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	for {
		lists := r.inForce()
		maps.DeleteFunc(r.troubled, func(name string, _ bool) bool { return lists[name] == nil })
		for _, name := range sortedKeys(lists) {
			lists[name].look(r.refused)
			r.tell(name, lists[name].trouble(r.now()))
			r.measure(name)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// tell enters that clients of an anchor are refused, or no longer.
func (r *revocations) tell(name string, trouble error) {
	if (trouble != nil) == r.troubled[name] {
		return
	}
	r.troubled[name] = trouble != nil
	rec := keystore.Record{
		Principal: "chancery", Action: keystore.ActRevocation, Outcome: keystore.OutcomeDone, Detail: map[string]string{"anchor": name},
		Reason: "the revocation lists count again",
	}
	if trouble != nil {
		rec.Outcome, rec.Reason = keystore.OutcomeFailed, inShort(trouble)
		r.log.Error("clients are refused: it cannot be told whether they are revoked", "client", name, "err", rec.Reason)
	} else {
		r.log.Info("revocation lists count again", "client", name)
	}
	r.owed.owe("revocation lists of "+name, rec)
}

// measure shows until when the lists of an anchor count; a gauge stays when its
// anchor has gone.
func (r *revocations) measure(name string) {
	if r.measured[name] {
		return
	}
	r.measured[name] = true
	r.m.Gauge("chancery_client_crl_seconds", "Seconds until clients of the anchor are refused because a revocation list counts no more; 0: there is none.",
		map[string]string{"anchor": name}, func() float64 {
			l := r.inForce()[name]
			if l == nil {
				return 0
			}
			until := l.source.Current().Until(l.anchors)
			if until.IsZero() {
				return 0
			}
			return until.Sub(r.now()).Seconds()
		})
}

// warning says what is wrong with the lists, for readiness.
func (r *revocations) warning() string {
	var all []string
	lists := r.inForce()
	for _, name := range sortedKeys(lists) {
		if err := cmp.Or(lists[name].trouble(r.now()), lists[name].notTaken()); err != nil {
			all = append(all, name+": "+inShort(err))
		}
	}
	return strings.Join(all, "; ")
}

// inShort returns the text of joined errors, on one line and not long.
func inShort(err error) string {
	const most = 1000
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
