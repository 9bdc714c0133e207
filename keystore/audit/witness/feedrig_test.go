package witness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chancery/keystore/audit"
)

// A neighbour is a witness in this process, and how it behaves.
type neighbour struct {
	*Server
	mu    sync.Mutex
	does  string // "", "hang", "down", or a status
	asked []asked
}

type asked struct {
	at  time.Time
	old int64
}

func (n *neighbour) now(does string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.does = does
}

func (n *neighbour) times() []asked {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.asked)
}

func (n *neighbour) Add(ctx context.Context, req Request) ([]byte, error) {
	n.mu.Lock()
	n.asked = append(n.asked, asked{time.Now(), req.Old})
	does := n.does
	n.mu.Unlock()
	switch does {
	case "hang":
		select {
		case <-time.After(clientPatience):
		case <-ctx.Done():
		}
		return nil, ErrUnreachable
	case "down":
		return nil, ErrUnreachable
	case "sick":
		return nil, errors.New("the witness answers 500")
	}
	line, err := n.Cosign(req)
	r, refused := errors.AsType[*refusal](err)
	if !refused {
		return []byte(line), err
	}
	switch r.status {
	case http.StatusConflict:
		return nil, &Conflict{r.size}
	case http.StatusForbidden:
		return nil, ErrUnknownKey
	case http.StatusNotFound:
		return nil, ErrUnknownLog
	case http.StatusUnprocessableEntity:
		return nil, ErrInconsistent
	}
	return nil, err
}

// A feedRig is a log, three witnesses of which two are enough, and a Feeder.
type feedRig struct {
	*testLog
	cfg        Config
	neighbours []*neighbour
	f          *Feeder

	mu   sync.Mutex
	kept map[string][]byte
	told []Contradiction
	stop func()
}

func newFeedRig(t testing.TB, l *testLog) *feedRig {
	r := &feedRig{testLog: l, kept: map[string][]byte{}}
	text := ""
	for i := range 3 {
		name := fmt.Sprintf("w%d", i+1)
		n := &neighbour{Server: newServer(t, l, func(cfg *ServerConfig) { cfg.Name = name })}
		r.neighbours = append(r.neighbours, n)
		text += fmt.Sprintf("witness %s %s https://%s.example\n", name, n.Key().VKey(), name)
	}
	p, err := ParsePolicy([]byte(text + "group two 2 w1 w2 w3\nquorum two\n"))
	if err != nil {
		t.Fatal(err)
	}
	r.cfg = Config{
		Dir: l.dir, Policy: p, State: filepath.Join(t.TempDir(), "witnesses"),
		Keep: r.keep, Told: func(c Contradiction) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.told = append(r.told, c)
			return nil
		},
		ask: func(w Witness) (asker, error) { return r.neighbours[w.Name[1]-'1'], nil },
	}
	return r
}

// keep keeps like audit.Log.KeepWitnessed, and checks what it is given.
func (r *feedRig) keep(name string, signed []byte) error {
	c, by, err := audit.OpenCosigned(signed, r.cfg.Policy.Witnesses())
	if err != nil || len(by) < 2 {
		r.Errorf("kept with %v, %v", by, err)
	}
	if c.Root != r.root(c.Size) {
		r.Errorf("kept a checkpoint of another log")
	}
	r.mu.Lock()
	r.kept[name] = signed
	r.mu.Unlock()
	r.write("witnessed", signed)
	return nil
}

func (r *feedRig) start() {
	r.Helper()
	f, err := NewFeeder(r.cfg)
	if err != nil {
		r.Fatal(err)
	}
	r.f = f
	ctx, cancel := context.WithCancel(r.Context())
	done := make(chan struct{})
	go func() { f.Run(ctx); close(done) }()
	r.stop = func() { cancel(); <-done }
}

// witnessed returns the size that is kept and who cosigned it, in order of names.
func (r *feedRig) witnessed() (int64, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, by, err := audit.OpenCosigned(r.kept["lifecycle"], r.cfg.Policy.Witnesses())
	if err != nil {
		return 0, ""
	}
	var names []string
	for _, s := range by {
		names = append(names, s.Key[:2])
	}
	slices.Sort(names)
	return c.Size, strings.Join(names, " ")
}

func (r *feedRig) tales() []Contradiction {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.told)
}

func (r *feedRig) want(size int64, by string) {
	r.Helper()
	if gotSize, gotBy := r.witnessed(); gotSize != size || gotBy != by {
		r.Errorf("%d entries witnessed by %q, want %d by %q", gotSize, gotBy, size, by)
	}
}

// wait lets d pass and everything that is due happen.
func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *feedRig) wantTold(n int, last string) {
	r.Helper()
	told := r.tales()
	if len(told) != n || told[n-1].What != last {
		r.Fatalf("told %+v, want %d, the last %q", told, n, last)
	}
	if c := told[n-1]; c.Origin != r.origin() || c.Since.IsZero() || !strings.HasPrefix(c.Witness, c.Name+"+") {
		r.Errorf("told %+v", c)
	}
}
