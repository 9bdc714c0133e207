package witness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"
)

// A Config says what is fed to whom. It is not changed after NewFeeder.
type Config struct {
	Dir    string  // the audit directory
	Policy *Policy // each of its witnesses has a URL
	State  string  // a directory of its own, made if missing: how far each witness is

	// Keep keeps a checkpoint of the log of that name that enough witnesses have
	// cosigned: audit.Log.KeepWitnessed. It is not called concurrently.
	Keep func(name string, signed []byte) error

	// Told is called when a witness begins to contradict a log and when it no
	// longer does; after an error it is called again at the next look, and after
	// a crash perhaps too. It is not called concurrently. nil: nobody is told.
	Told func(Contradiction) error

	Every     time.Duration     // how often at most one log is shown to the witnesses; 0: 10 s
	Transport http.RoundTripper // as NewClient takes it
	Log       *slog.Logger      // nil: nowhere

	ask func(Witness) (asker, error) // nil: over HTTP
}

// An asker asks one witness, as Client.Add does.
type asker interface {
	Add(ctx context.Context, req Request) (lines []byte, err error)
}

// A Contradiction is what a witness knows of a log that the log denies. It means
// that the log was rolled back, changed or split, or that the witness errs.
type Contradiction struct {
	Witness string    // NAME+ID of its key
	Name    string    // in the policy
	Origin  string    // of the log
	What    string    // empty: it contradicts no longer
	Since   time.Time // when it was first seen
}

// A Feeder shows the newest checkpoints of a node's logs to every witness of a
// policy and keeps those that enough have cosigned. Each witness is asked by a
// goroutine of its own: one that hangs holds up nobody else.
type Feeder struct {
	cfg    Config
	rounds *rounds
	feeds  []*feed
}

// NewFeeder checks cfg and reads how far each witness was.
func NewFeeder(cfg Config) (*Feeder, error) {
	if cfg.Dir == "" || cfg.Policy == nil || cfg.State == "" || cfg.Keep == nil {
		return nil, errors.New("feeding witnesses without a log, a policy, a place for their state or for what they cosign")
	}
	if cfg.Every == 0 {
		cfg.Every = 10 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Told == nil {
		cfg.Told = func(Contradiction) error { return nil }
	}
	if cfg.ask == nil {
		cfg.ask = func(w Witness) (asker, error) { return NewClient(w.URL, cfg.Transport) }
	}
	if err := os.MkdirAll(cfg.State, 0o750); err != nil {
		return nil, fmt.Errorf("making the place for the witnesses' state: %w", err)
	}
	f := &Feeder{cfg: cfg}
	f.rounds = newRounds(&f.cfg)
	var told sync.Mutex
	f.cfg.Told = func(c Contradiction) error {
		told.Lock()
		defer told.Unlock()
		return cfg.Told(c)
	}
	for _, w := range cfg.Policy.Known {
		ask, err := cfg.ask(w)
		if err != nil {
			return nil, fmt.Errorf("witness %s: %w", w.Name, err)
		}
		f.feeds = append(f.feeds, newFeed(&f.cfg, f.rounds, w, ask))
	}
	return f, nil
}

// Run feeds until ctx ends.
func (f *Feeder) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, w := range f.feeds {
		all.Go(func() { w.run(ctx) })
	}
	all.Wait()
	for _, w := range f.feeds {
		if c, ok := w.ask.(*Client); ok {
			c.Close()
		}
	}
}

// A Standing tells how one witness stands to one log.
type Standing struct {
	Witness     string // NAME+ID of its key
	Name        string // in the policy
	Origin      string
	Size        int64     // of the checkpoint it cosigned last
	At          time.Time // when it did
	Failed      string    // why it does not at present; empty: it does
	Contradicts string    // what it says against the log; empty: nothing
	Since       time.Time // when it began to
}

// Standings tells how each witness stands to each log that it was asked about,
// in the policy's order and then by origin.
func (f *Feeder) Standings() []Standing {
	var all []Standing
	for _, w := range f.feeds {
		all = append(all, w.standings()...)
	}
	return all
}

// Contradictions returns those that stand.
func (f *Feeder) Contradictions() []Contradiction {
	var all []Contradiction
	for _, s := range f.Standings() {
		if s.Contradicts != "" {
			all = append(all, Contradiction{s.Witness, s.Name, s.Origin, s.Contradicts, s.Since})
		}
	}
	return all
}

// Answered reports whether every witness has cosigned a checkpoint that carried
// no signature but the one by the log key with that NAME+ID: it knows the key,
// so that the one before is no longer needed. A checkpoint's first signature is
// shown alone until then, and all of them when that is not enough.
func (f *Feeder) Answered(key string) bool {
	return len(f.feeds) > 0 && len(f.Unanswered(key)) == 0
}

// Unanswered returns the names in the policy of the witnesses that Answered waits
// for.
func (f *Feeder) Unanswered(key string) (names []string) {
	for _, w := range f.feeds {
		if !w.knows(key) {
			names = append(names, w.witness.Name)
		}
	}
	return names
}
