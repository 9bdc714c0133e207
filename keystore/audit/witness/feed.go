package witness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"chancery/keystore/audit"
)

// longestHold is the most that a witness which fails is left alone.
const longestHold = 5 * time.Minute

// mostTries is how often a witness is asked about one checkpoint in a row: it
// may say twice that it has cosigned another size meanwhile.
const mostTries = 3

// A feed asks one witness.
type feed struct {
	cfg     *Config
	rounds  *rounds
	witness Witness
	ask     asker
	state   *feedState

	// The rest belongs to the goroutine that runs it.
	down hold             // it does not answer at all
	held map[string]*hold // by the log's name
}

// A hold says how long not to try again.
type hold struct {
	until time.Time
	delay time.Duration
}

func (h *hold) longer(first time.Duration) {
	h.delay = min(max(2*h.delay, first), longestHold)
	h.until = time.Now().Add(h.delay)
}

func newFeed(cfg *Config, rounds *rounds, w Witness, ask asker) *feed {
	path := filepath.Join(cfg.State, fmt.Sprintf("%08x.json", w.Key.KeyHash()))
	return &feed{
		cfg: cfg, rounds: rounds, witness: w, ask: ask,
		state: loadState(path, w.Key.VKey()), held: map[string]*hold{},
	}
}

func (f *feed) run(ctx context.Context) {
	for {
		begun := f.rounds.begun() // before looking, so that none is missed
		f.pass(ctx)
		look := time.NewTimer(f.cfg.Every)
		select {
		case <-ctx.Done():
			look.Stop()
			return
		case <-begun:
			look.Stop()
		case <-look.C:
		}
	}
}

// pass shows the witness what it has not cosigned yet of every log.
func (f *feed) pass(ctx context.Context) {
	names, err := audit.LogNames(f.cfg.Dir)
	if err != nil {
		return // there is no log yet
	}
	for _, name := range names {
		h := f.held[name]
		if h == nil {
			h = &hold{}
			f.held[name] = h
		}
		if now := time.Now(); ctx.Err() != nil || now.Before(f.down.until) {
			break
		} else if now.Before(h.until) {
			continue
		}
		r, err := f.rounds.current(name)
		if err != nil {
			f.cfg.Log.Warn("a checkpoint cannot be shown to witnesses", "log", name, "err", err)
			h.longer(f.cfg.Every)
			continue
		}
		if r == nil || f.rounds.has(r, f.witness.Key) {
			continue
		}
		if err := f.offer(ctx, r); ctx.Err() == nil {
			f.settle(r, h, err)
		}
	}
	if err := f.state.save(); err != nil {
		f.cfg.Log.Warn("the state of a witness cannot be written; it will be asked for it", "witness", f.witness.Name, "err", err)
	}
}

// A contradicted error says what a witness knows that the log denies.
type contradicted struct{ what string }

func (c *contradicted) Error() string { return c.what }

// offer shows the witness the checkpoint of r and collects its cosignature.
func (f *feed) offer(ctx context.Context, r *round) error {
	old := min(f.state.size(r.origin), r.size)
	for range mostTries {
		line, err := f.add(ctx, r, old)
		conflict, isConflict := errors.AsType[*Conflict](err)
		switch {
		case err == nil:
			f.state.cosigned(r.origin, r.size)
			return f.rounds.collect(r, f.witness.Key, line)
		case errors.Is(err, ErrInconsistent) && old > 0: // our tree has the proof, so it has another tree
			return &contradicted{fmt.Sprintf("it finds that the %d entries of this log are not what the %d it cosigned became", r.size, old)}
		case !isConflict:
			return err
		case old == r.size && (conflict.Size == old || conflict.Size < 0):
			return &contradicted{fmt.Sprintf("it has cosigned another tree of %d entries", old)}
		case conflict.Size > r.size:
			return f.beyond(r, conflict.Size)
		case conflict.Size < 0 || conflict.Size == old:
			return err
		}
		old = conflict.Size
	}
	return errors.New("the witness says another size each time")
}

// errBeyond: the witness has cosigned more than the checkpoint it was shown.
var errBeyond = errors.New("the witness has cosigned a larger checkpoint")

// beyond judges that the witness has cosigned size entries of a log that has
// fewer. Someone else may have shown it a newer checkpoint than that of the
// round; and after a power cut the file may be an older one for moments. So it
// contradicts when the newest checkpoint is smaller still at the second look.
func (f *feed) beyond(r *round, size int64) error {
	b, err := os.ReadFile(filepath.Join(f.cfg.Dir, filepath.FromSlash(r.name), "checkpoint"))
	if err != nil {
		return fmt.Errorf("reading a checkpoint: %w", err)
	}
	newest, err := newRound(r.name, b)
	if err != nil {
		return err
	}
	if f.held[r.name].delay > 0 && newest.size < size {
		return &contradicted{fmt.Sprintf("it has cosigned %d entries, and this log has %d", size, newest.size)}
	}
	return errBeyond
}

// add asks once. While it is not known that the witness knows the key of the
// checkpoint's first signature, that one is shown alone.
func (f *feed) add(ctx context.Context, r *round, old int64) (string, error) {
	first, key, signatures, err := alone(r.signed)
	if err != nil {
		return "", err
	}
	req := Request{Old: old, Note: r.signed}
	if old > 0 && old < r.size {
		read := logFiles(filepath.Join(f.cfg.Dir, filepath.FromSlash(r.name)))
		if req.Proof, _, err = prove(ctx, read, r.body, old); err != nil {
			return "", err
		}
	}
	if !f.knows(key) {
		req.Note = first
	}
	lines, err := f.ask.Add(ctx, req)
	if errors.Is(err, ErrUnknownKey) && !f.knows(key) && signatures > 1 {
		req.Note = r.signed
		lines, err = f.ask.Add(ctx, req)
		key = ""
	}
	if err != nil {
		return "", err
	}
	line, err := cosignatureBy(f.witness.Key, r.signed, lines)
	if err == nil && key != "" {
		f.state.learn(key)
	}
	return line, err
}

func (f *feed) knows(key string) bool { return f.state.knows(key) }

// settle keeps what came of showing r.
func (f *feed) settle(r *round, h *hold, err error) {
	contradiction, contradicts := errors.AsType[*contradicted](err)
	before := f.state.failed(r.origin, err)
	switch {
	case err == nil:
		f.down, *h = hold{}, hold{}
		if before != "" {
			f.cfg.Log.Info("a witness cosigns again", "witness", f.witness.Name, "origin", r.origin)
		}
		f.tell(r.origin, "")
		return
	case errors.Is(err, ErrUnreachable):
		f.down.longer(f.cfg.Every)
	default:
		f.down = hold{}
		h.longer(f.cfg.Every)
	}
	if before == "" {
		f.cfg.Log.Warn("a witness does not cosign", "witness", f.witness.Name, "origin", r.origin, "err", err)
	}
	if contradicts {
		f.tell(r.origin, contradiction.what)
	}
}

// tell has a contradiction told when it begins and when it ends.
func (f *feed) tell(origin, what string) {
	since, before := f.state.contradiction(origin)
	if (before == "") == (what == "") {
		return
	}
	if what != "" {
		since = time.Now().UTC()
	}
	err := f.cfg.Told(Contradiction{f.witness.Key.String(), f.witness.Name, origin, what, since})
	if err != nil {
		f.cfg.Log.Error("that a witness contradicts could not be told", "witness", f.witness.Name, "origin", origin, "err", err)
		return
	}
	f.state.contradict(origin, what, since)
}

func (f *feed) standings() []Standing {
	all := f.state.standings()
	for i := range all {
		all[i].Witness, all[i].Name = f.witness.Key.String(), f.witness.Name
	}
	return all
}
