package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/cmd/internal/telemetry"
	"chancery/keystore"
	"chancery/keystore/audit"
)

// tokenHeads has the tokens remember how far the lifecycle log has come, and
// compares the log with what they remember before any of their keys signs. A log
// and a catalog that are rolled back together fit each other; the token tells.
//
// What a token remembers is written after each step of the lifecycle, a moment
// later and not in the step's way: a step that was taken in that moment is not
// missed by it.
type tokenHeads struct {
	log     *audit.Log
	slog    *slog.Logger
	known   func(ctx context.Context) (map[string]audit.Head, error) // to the catalog, by origin
	changed func()                                                   // what a keystore remembers has been compared

	memories map[string]*tokenMemory // by keystore, those that keep notes; not changed after new
}

// A tokenMemory is one keystore's.
type tokenMemory struct {
	name     string
	noter    keystore.Noter
	ready    func() bool   // the token can be asked
	compared chan struct{} // closed when its keys may sign
	news     chan struct{} // holds one: the log has gone on

	mu      sync.Mutex
	trouble error // why it does not remember
	size    int64 // it remembers so many entries
}

// How often a token is asked again that did not answer, at first and at last.
const (
	firstNotePause = 250 * time.Millisecond
	lastNotePause  = 30 * time.Second
	noteDeadline   = 10 * time.Second
	lookForToken   = 50 * time.Millisecond // how often it is looked whether a token is there again
)

// notePause is how long after a step the token is told, and at least between two.
const notePause = 500 * time.Millisecond

// headPrefix begins the name of a note that holds a head. A hash of the origin
// follows, which itself may be longer than a name.
const headPrefix = "audit-head "

// A tokenHead is what a note says.
type tokenHead struct {
	Origin string `json:"origin"`
	Size   int64  `json:"size"`
	Root   string `json:"root"` // base64
}

func (h tokenHead) name() string {
	sum := sha256.Sum256([]byte(h.Origin))
	return headPrefix + hex.EncodeToString(sum[:16])
}

func newTokenHeads(providers map[string]keystore.Provider, log *slog.Logger, changed func()) *tokenHeads {
	t := &tokenHeads{slog: log, changed: changed, memories: make(map[string]*tokenMemory)}
	for name, p := range providers {
		if noter, ok := notesOf(p); ok {
			t.memories[name] = &tokenMemory{
				name: name, noter: noter, trouble: errNotCompared, ready: func() bool { return tokenTrouble(p.Status()) == nil },
				compared: make(chan struct{}), news: make(chan struct{}, 1),
			}
		}
	}
	return t
}

// notesOf returns what keeps the notes of a keystore, if it can.
func notesOf(p keystore.Provider) (keystore.Noter, bool) {
	if s, ok := p.(*stoppable); ok {
		p = s.Provider
	}
	noter, ok := p.(keystore.Noter)
	return noter, ok
}

var errNotCompared = errors.New("what the token remembers of the log has not been compared yet")

// Await returns when the keys of a keystore may sign, or an error wrapping
// keystore.ErrUnavailable when ctx ends before.
func (t *tokenHeads) Await(ctx context.Context, name string) error {
	m, ok := t.memories[name]
	if !ok {
		return nil
	}
	select {
	case <-m.compared:
		return nil
	default:
	}
	select {
	case <-m.compared:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: keystore %s: %w", keystore.ErrUnavailable, name, m.wrong())
	}
}

// Trouble returns why the keys of a keystore may not sign yet.
func (t *tokenHeads) Trouble(name string) error {
	m, ok := t.memories[name]
	if !ok {
		return nil
	}
	select {
	case <-m.compared:
		return nil
	default:
		return m.wrong()
	}
}

// Note returns what is to be known of a keystore's memory though its keys sign.
func (t *tokenHeads) Note(name string) string {
	m, ok := t.memories[name]
	if !ok {
		return ""
	}
	if err := m.wrong(); err != nil {
		return "the log is not remembered: " + err.Error()
	}
	return ""
}

func (m *tokenMemory) wrong() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.trouble
}

// Size returns how many entries of the lifecycle log the token remembers.
func (m *tokenMemory) Size() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size
}

func (m *tokenMemory) remembers(size int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.size = size
}

func (m *tokenMemory) say(err error) (news bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	news = (err == nil) != (m.trouble == nil)
	m.trouble = err
	return news
}

// News says that the lifecycle log has gone on. It does not wait.
func (t *tokenHeads) News() {
	for _, m := range t.memories {
		select {
		case m.news <- struct{}{}:
		default:
		}
	}
}

func (t *tokenHeads) metrics(m *telemetry.Metrics) {
	for name, memory := range t.memories {
		m.Gauge("chancery_log_remembered_entries", "Entries of the lifecycle log that the keystore's token remembers.",
			map[string]string{"keystore": name}, func() float64 { return float64(memory.Size()) })
	}
}

// start compares and remembers until stop is called, which is when the log is
// closed: its last checkpoint is signed by a key that may wait for a comparison.
func (t *tokenHeads) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { t.run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

func (t *tokenHeads) run(ctx context.Context) {
	var all sync.WaitGroup
	for _, m := range t.memories {
		all.Go(func() {
			if t.compareWith(ctx, m) {
				t.rememberIn(ctx, m)
			}
		})
	}
	all.Wait()
}

// compareWith asks a token what it remembers until it has answered, and lets its
// keys sign then. It returns false if the token keeps nothing, or if the log does not
// fit, for which nothing signs any more.
func (t *tokenHeads) compareWith(ctx context.Context, m *tokenMemory) bool {
	for pause := firstNotePause; ; pause = min(2*pause, lastNotePause) {
		size, err := t.compare(ctx, m)
		switch {
		case errors.Is(err, keystore.ErrUnsupported):
			t.slog.Warn("a token keeps no notes, and so does not remember how far the log has come", "keystore", m.name, "err", err)
			m.say(err)
			t.release(m)
			return false
		case errors.Is(err, audit.ErrInconsistent):
			m.say(err)
			t.log.Distrust(err)
			t.changed()
			return false
		case err == nil:
			m.remembers(size)
			m.say(nil)
			t.release(m)
			return true
		}
		m.say(fmt.Errorf("%w: %w", errNotCompared, err))
		if !m.ready() {
			pause = firstNotePause // it did not come so far
		} else if !sleep(ctx, pause) {
			return false
		}
		if !m.awaitToken(ctx) {
			return false
		}
	}
}

// awaitToken waits until the token can be asked; false: ctx has ended.
func (m *tokenMemory) awaitToken(ctx context.Context) bool {
	for !m.ready() {
		if !sleep(ctx, lookForToken) {
			return false
		}
	}
	return ctx.Err() == nil
}

func (t *tokenHeads) release(m *tokenMemory) {
	close(m.compared)
	t.changed()
}

// compare compares the log with what a token remembers of it, and enters what it
// remembers of logs that nobody else knows of.
func (t *tokenHeads) compare(ctx context.Context, m *tokenMemory) (size int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, noteDeadline)
	defer cancel()
	notes, err := m.noter.ReadNotes(ctx)
	if err != nil {
		return 0, err
	}
	origin, _ := t.log.Head()
	others := make(map[string]audit.Head)
	for _, n := range notes {
		of, head, ok := parseTokenHead(n)
		if !ok {
			continue
		}
		if of != origin {
			if head.Size > others[of].Size {
				others[of] = head
			}
			continue
		}
		if err := t.log.Fits(ctx, head); errors.Is(err, audit.ErrInconsistent) {
			return 0, fmt.Errorf("%w; the token of keystore %s remembers %d entries "+
				"(hint: log and catalog were put back to an older state: restore the newest of both; if they are lost, README says how a node goes on under another name)",
				err, m.name, head.Size)
		} else if err != nil {
			return 0, err
		}
		size = max(size, head.Size)
	}
	return size, t.enterStrangers(ctx, m.name, others)
}

// enterStrangers enters the heads of logs that the catalog does not know: of a node
// that was given another name, or of another catalog on the same token.
func (t *tokenHeads) enterStrangers(ctx context.Context, name string, heads map[string]audit.Head) error {
	known, err := t.known(ctx)
	if err != nil {
		return err
	}
	for _, origin := range sortedKeys(heads) {
		head := heads[origin]
		if known[origin].Size >= head.Size {
			continue
		}
		_, err := t.log.Lifecycle(ctx, keystore.Record{
			Principal: "chancery", Action: keystore.ActAuditPeer, Outcome: keystore.OutcomeDone,
			Reason: "a token remembers a log that the catalog does not know, or not so long",
			Detail: map[string]string{
				"origin": origin, "size": strconv.FormatInt(head.Size, 10), "root": head.Root.String(), "keystore": name,
			},
		})
		if err != nil {
			return fmt.Errorf("entering what the token remembers: %w", err)
		}
	}
	return nil
}

// rememberIn has a token remember each head, from the one it has on.
func (t *tokenHeads) rememberIn(ctx context.Context, m *tokenMemory) {
	pause := notePause
	for {
		if origin, head := t.log.Head(); head.Size > m.Size() {
			err := m.remember(ctx, origin, head)
			if ctx.Err() != nil {
				return
			}
			pause = notePause
			if err == nil {
				m.remembers(head.Size)
			} else {
				pause = min(max(2*pause, time.Second), lastNotePause)
			}
			switch news := m.say(err); {
			case news && err != nil:
				t.slog.Warn("a token does not remember how far the log has come; it is tried again", "keystore", m.name, "err", err)
			case news:
				t.slog.Info("a token remembers how far the log has come again", "keystore", m.name)
			}
			if err != nil {
				m.retry()
			}
		}
		if !awaitNews(ctx, m.news) || !sleep(ctx, pause) {
			return
		}
	}
}

// retry has the next round begin by itself.
func (m *tokenMemory) retry() {
	select {
	case m.news <- struct{}{}:
	default:
	}
}

func awaitNews(ctx context.Context, news <-chan struct{}) bool {
	select {
	case <-news:
		return true
	case <-ctx.Done():
		return false
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func (m *tokenMemory) remember(ctx context.Context, origin string, head audit.Head) error {
	ctx, cancel := context.WithTimeout(ctx, noteDeadline)
	defer cancel()
	h := tokenHead{origin, head.Size, head.Root.String()}
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return m.noter.WriteNote(ctx, h.name(), text)
}

// parseTokenHead reads a note, and reports whether it holds a head.
func parseTokenHead(n keystore.Note) (origin string, head audit.Head, ok bool) {
	var h tokenHead
	if json.Unmarshal(n.Text, &h) != nil || h.Size < 0 || h.name() != n.Name {
		return "", audit.Head{}, false
	}
	root, err := tlog.ParseHash(h.Root)
	return h.Origin, audit.Head{Size: h.Size, Root: root}, err == nil
}
