package audit

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"chancery/keystore"
)

// A Memory keeps each log's size and root outside the log, so that a log that
// was cut or replaced by an older one is noticed. It may be called concurrently.
type Memory interface {
	// Remember notes that the log with this origin had this size and root. A
	// smaller size than the one it has changes nothing.
	Remember(ctx context.Context, origin string, size int64, root [32]byte) error
	// Recall returns what was last remembered, by origin.
	Recall(ctx context.Context) (map[string]Head, error)
}

// ErrNoKey is what Config.Keys wraps while there is no log key yet, as in the
// first moments of a new node. Checkpoints wait for it without a warning.
var ErrNoKey = errors.New("no log key yet")

// Config says where the logs are and who they belong to. It is not changed
// after Open.
type Config struct {
	Dir      string                                  // the audit directory, made if missing
	Host     string                                  // in origins, such as "localhost:8443"
	Node     string                                  // in origins
	Now      func() time.Time                        // nil: time.Now
	Memory   Memory                                  // nil: none; only for tests
	Keys     func(ctx context.Context) (Keys, error) // sign the checkpoints; nil or an error: checkpoints wait
	Log      *slog.Logger                            // nil: nowhere
	Interval time.Duration                           // between checkpoints when there is something new; 0: 1 s
	Refusals Budget
	// Peers returns the heads of the other nodes' lifecycle logs, by origin; what
	// is of no other lifecycle is passed over. nil: there are no other nodes.
	Peers      func(ctx context.Context) (map[string]Head, error)
	PeersEvery time.Duration // the shortest time between two looks; 0: 10 min
	// JournalSize is the size of a journal, all of it reserved when it is made;
	// 0: 8 MiB. At least 64 KiB, at most 1 GiB.
	JournalSize int64
	// KeepActs is how long acts are kept: a closed month whose last moment is
	// longer ago is removed, never one of the newest two. 0: for ever.
	KeepActs time.Duration

	disk  disk                    // nil: the real one
	pause time.Duration           // see crowd; 0: crowdPause
	idle  bool                    // closed months wait for tendOnce, which tests call
	step  func(name string) error // between the steps of tendOnce; nil: nothing
}

const (
	lifecycleName = "lifecycle"
	actsName      = "acts"
	monthLayout   = "2006-01"
	finalName     = "final"
	self          = "chancery" // the principal of what the log does by itself
)

func (c *Config) check() error {
	if c.Dir == "" || c.Host == "" || c.Node == "" {
		return errors.New("audit log without directory, host or node")
	}
	if strings.Contains(c.Node, "/") || !isKeyName(keyName(c.Host, c.Node)) {
		return fmt.Errorf("host %q and node %q cannot name a log", c.Host, c.Node)
	}
	if n := len(keyName(c.Host, c.Node) + "/acts/2006-01"); n > maxOrigin {
		return fmt.Errorf("origin of %d bytes is over %d", n, maxOrigin)
	}
	if c.JournalSize == 0 {
		c.JournalSize = 8 << 20
	}
	if c.JournalSize < 64<<10 || c.JournalSize > 1<<30 {
		return fmt.Errorf("journal size %d is not between 64 KiB and 1 GiB", c.JournalSize)
	}
	if c.KeepActs < 0 {
		return fmt.Errorf("acts cannot be kept for %v", c.KeepActs)
	}
	if c.Interval == 0 {
		c.Interval = time.Second
	}
	if c.PeersEvery == 0 {
		c.PeersEvery = peersEvery
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.disk == nil {
		c.disk = osDisk{}
	}
	if c.pause == 0 {
		c.pause = crowdPause
	}
	c.Refusals = c.Refusals.orDefault()
	return nil
}

// keyName is the name of a node's log keys, and the beginning of its origins.
func keyName(host, node string) string { return host + "/audit/" + node }

// originator makes origins of names.
type originator string

func (o originator) of(name string) string { return string(o) + "/" + name }

func entryName(origin string, index int64) string {
	return origin + "#" + strconv.FormatInt(index, 10)
}

// A Receipt proves that an entry is on stable storage.
type Receipt struct {
	Entry string // origin#index
	Index int64
	Time  time.Time
}

// A Log is a node's two logs. Its methods may be called concurrently.
type Log struct {
	cfg       Config
	lifecycle *stream
	acts      *stream
	refusals  *refusals
	uses      *uses
	intents   *intents
	requests  sync.Pool // of *request: what they need between uses

	distrusted atomic.Pointer[error] // by Distrust

	stop    context.CancelFunc // of the keeper, by Close
	stopped chan struct{}      // closed by the keeper
	once    sync.Once

	mu        sync.Mutex
	finished  []*shard          // months that wait for their entry in lifecycle
	notes     []keystore.Record // what the log has to tell of itself
	unsigned  error             // why the last checkpoint could not be signed
	memory    error             // why the memory could not be written last
	former    error             // why a former log key did not sign last
	untended  error             // why closed months are not packed or pruned
	numbering error             // why the numbers of uses could not be written
	unseen    error             // why the other nodes' logs are not seen

	keeping sync.Mutex // guards what follows: one does the chores
	tended  time.Time  // when the numbers of uses were settled last
	head    Checkpoint // of acts, as lifecycle has it
	headAt  time.Time
	peers   map[string]peerNote
	peersAt time.Time

	publishing chan struct{} // holds one while checkpoints are made
	kick       chan struct{} // holds one: there is a reason not to wait for the next tick
	closed     chan struct{} // holds one: a month was closed
}

// Open opens or makes the logs under cfg.Dir. It reads what is there, compares
// with the memory, cuts a torn tail that was never acknowledged and enters that.
// It returns an error wrapping ErrInconsistent, which says what is wrong, if the
// logs are not what they were; nothing that was there has been changed then.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, stopped: make(chan struct{}), publishing: make(chan struct{}, 1), kick: make(chan struct{}, 1), closed: make(chan struct{}, 1)}
	l.requests.New = emptyRequest
	l.lifecycle, l.acts = newStream(l, false), newStream(l, true)
	l.refusals = newRefusals(cfg.Refusals, cfg.Now)
	l.uses, l.intents = newUses(cfg.Dir), newIntents()
	known := map[string]Head{}
	if cfg.Memory != nil {
		var err error
		if known, err = cfg.Memory.Recall(ctx); err != nil {
			return nil, fmt.Errorf("recalling the logs' sizes: %w", err)
		}
	}
	if err := makeDir(filepath.Dir(cfg.Dir), cfg.Dir); err != nil {
		return nil, fmt.Errorf("making the audit directory: %w", err)
	}
	if err := l.load(ctx, known); err != nil {
		return nil, err
	}
	if err := l.resume(ctx); err != nil {
		l.acts.close()
		l.lifecycle.close()
		return nil, err
	}
	l.flushUses()
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	go l.keep(keeping)
	return l, nil
}

func (l *Log) newShard(name string) *shard {
	return newShard(l.cfg.Dir, originator(keyName(l.cfg.Host, l.cfg.Node)), name, l.cfg.disk, l.cfg.JournalSize)
}

// load looks at all that is there before it changes any of it.
func (l *Log) load(ctx context.Context, known map[string]Head) error {
	shards, err := l.look(ctx, known)
	if err == nil {
		err = l.settle(ctx, shards)
	}
	if err != nil {
		for _, s := range shards {
			s.close()
		}
	}
	return err
}

// look reads lifecycle and every month that is not closed, the newest last, and
// looks at the closed ones.
func (l *Log) look(ctx context.Context, known map[string]Head) (shards []*shard, err error) {
	months, err := listMonths(l.cfg.Dir)
	if err != nil {
		return nil, err
	}
	names := []string{lifecycleName}
	for _, m := range months {
		names = append(names, actsName+"/"+m)
	}
	closed := sync.OnceValues(func() (map[string]closedMonth, error) { return closedMonths(ctx, shards[0]) })
	for i, name := range names {
		s := l.newShard(name)
		if i > 0 && i < len(names)-1 && (s.isFinal() || away(s.dir) != nil) {
			err = l.lookClosed(s, known[s.origin], closed)
		} else {
			shards = append(shards, s)
			err = s.look(known[s.origin])
		}
		if err == nil && i == 0 {
			err = l.none(names, known, closed)
		}
		if err == nil && i == len(names)-1 && s.packed {
			err = inconsistent(s.origin, "it was closed, and no later month is there %s", restoreHint)
		}
		if err != nil {
			return shards, err
		}
	}
	return shards, nil
}

// settle makes the shards ready to write and starts both streams. Lifecycle is
// the first and takes the entry of each cut before there is another, so that
// none goes untold when a later shard cannot be made ready.
func (l *Log) settle(ctx context.Context, shards []*shard) error {
	for i, s := range shards {
		cut, err := s.settle(l.cfg.Dir)
		if err != nil {
			if i > 0 {
				l.lifecycle.close()
			}
			return err
		}
		switch i {
		case 0:
			l.lifecycle.goOn(s)
			go l.lifecycle.run()
		case len(shards) - 1:
			l.acts.goOn(s)
		default:
			s.close()
			l.finished = append(l.finished, s)
		}
		l.warnUnfit(s)
		l.repaired(s, cut)
		if i > 0 {
			if err := l.tellOf(ctx, s); err != nil {
				l.lifecycle.close()
				return err
			}
		}
		l.flushNotes(ctx)
	}
	go l.acts.run()
	return nil
}

// warnUnfit tells of tiles that a signed checkpoint says were there and that are made
// again from the journals. A log that has signed nothing yet has none to miss.
func (l *Log) warnUnfit(s *shard) {
	switch {
	case errors.Is(s.unfit, fs.ErrNotExist):
		l.cfg.Log.Warn("tiles of an audit log are gone and are made again from its journals", "origin", s.origin, "err", s.unfit)
	case s.unfit != nil:
		l.cfg.Log.Warn("the tiles of an audit log do not fit and are made again", "origin", s.origin, "err", s.unfit)
	}
}

// none returns an error if the memory knows of a log that is not there, unless
// lifecycle says that it was pruned.
func (l *Log) none(names []string, known map[string]Head, closed func() (map[string]closedMonth, error)) error {
	prefix := keyName(l.cfg.Host, l.cfg.Node) + "/"
	for origin, head := range known {
		name, ours := strings.CutPrefix(origin, prefix)
		if !ours || head.Size == 0 || slices.Contains(names, name) {
			continue
		}
		months, err := closed()
		if err != nil {
			return err
		}
		if !months[origin].pruned() {
			return inconsistent(origin, "it is gone; it had %d entries %s", head.Size, restoreHint)
		}
	}
	return nil
}

// listMonths returns the months that have a log of acts, ascending.
func listMonths(dir string) ([]string, error) {
	found, err := os.ReadDir(filepath.Join(dir, actsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the months: %w", err)
	}
	var months []string
	for _, f := range found {
		if monthDir(f) {
			months = append(months, f.Name())
		}
	}
	return months, nil // ReadDir sorts
}

func isMonth(s string) bool {
	t, err := time.Parse(monthLayout, s)
	return err == nil && t.Format(monthLayout) == s
}

// Act enters rec into acts and returns when it is on stable storage. It returns
// an error wrapping keystore.ErrUnavailable if it was not entered, and one
// wrapping keystore.ErrUncertain if ctx ended while it was being written.
func (l *Log) Act(ctx context.Context, rec keystore.Record) (Receipt, error) {
	return l.acts.enter(ctx, l.newRequest(&rec))
}

// Lifecycle is Act for the lifecycle log. The memory has the new head before it
// returns, unless the memory cannot be written.
func (l *Log) Lifecycle(ctx context.Context, rec keystore.Record) (Receipt, error) {
	return l.lifecycle.enter(ctx, l.newRequest(&rec))
}

// Health returns nil, or why nothing can be released now.
func (l *Log) Health() error {
	if err := l.distrusted.Load(); err != nil {
		return *err
	}
	return errors.Join(l.lifecycle.health(), l.acts.health())
}

// Unsigned returns nil, or why the last checkpoint could not be signed. Entries
// are taken all the same.
func (l *Log) Unsigned() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unsigned
}

// Untended returns nil, or why a closed month could not be packed or removed.
func (l *Log) Untended() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.untended
}

// Find returns the receipt of the last lifecycle entry whose Record.ID is id.
func (l *Log) Find(ctx context.Context, id string) (Receipt, bool, error) {
	return l.find(ctx, withID(id), func(r *keystore.Record) bool { return r.ID == id })
}

// Entered returns the receipt of the last lifecycle entry that has rec's ID,
// action, outcome, key set and version: it tells an outcome from the intent
// that shares its ID.
func (l *Log) Entered(ctx context.Context, rec keystore.Record) (Receipt, bool, error) {
	return l.find(ctx, withID(rec.ID), func(r *keystore.Record) bool {
		return r.ID == rec.ID && r.Action == rec.Action && r.Outcome == rec.Outcome &&
			r.KeySet == rec.KeySet && r.Version == rec.Version
	})
}

// withID returns what an entry with that ID holds; nil for none.
func withID(id string) []byte {
	if id == "" {
		return nil
	}
	return appendText(nil, `,"id":"`, id, limitName)
}

// find returns the last lifecycle entry that holds needle and is the one meant.
func (l *Log) find(ctx context.Context, needle []byte, is func(*keystore.Record) bool) (Receipt, bool, error) {
	s := l.lifecycle.current()
	limit := s.length()
	var found Receipt
	ok := false
	if needle == nil {
		return found, false, nil
	}
	for at, err := range entries(s.dir, 0) {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return Receipt{}, false, fmt.Errorf("looking for an entry: %w", err)
		}
		if at.index >= limit {
			break
		}
		if !bytes.Contains(at.entry, needle) {
			continue
		}
		e, err := ParseEntry(at.entry)
		if err != nil {
			return Receipt{}, false, fmt.Errorf("looking for an entry: %w", err)
		}
		if is(&e.Record) {
			found, ok = Receipt{entryName(s.origin, e.Sequence), e.Sequence, e.Time}, true
		}
	}
	return found, ok, nil
}

// VKey returns the verifier key of one of this node's log keys.
func (l *Log) VKey(alg keystore.Algorithm, pub crypto.PublicKey) (string, error) {
	return VKeyFor(l.KeyName(), alg, pub)
}

// KeyName returns the name of this node's log keys: HOST/audit/NODE.
func (l *Log) KeyName() string { return keyName(l.cfg.Host, l.cfg.Node) }

// Close enters what is counted and how far the acts have come, waits for everything entered, makes a last
// checkpoint within ctx, and lets go of the files. It returns an error if the
// logs could not be written or the checkpoint not be made; nothing acknowledged
// is lost by that.
func (l *Log) Close(ctx context.Context) error {
	err := fmt.Errorf("%w: the audit log is closed", keystore.ErrUnavailable)
	l.once.Do(func() {
		l.flushRefusals()
		l.flushUses()
		l.flushNotes(ctx)
		l.stop()
		<-l.stopped
		health := l.Health()
		l.acts.close()
		l.flushNotes(ctx) // the last acts may have begun a month
		headed := l.lastChores(ctx)
		err = l.Checkpoint(ctx) // may enter the end of a month into lifecycle
		l.lifecycle.close()
		if err == nil {
			err = l.Checkpoint(ctx)
		}
		err = errors.Join(health, headed, err)
	})
	return err
}
