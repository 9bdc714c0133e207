package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"chancery/keystore"
)

const (
	maxQueued = 8 << 20               // bytes waiting to be written to a worker
	patrol    = 25 * time.Millisecond // how often deadlines are looked at while something is asked
)

// A generation is the daemon's side of one worker process. It ends once, for
// one reason, which every outstanding request then fails with.
type generation struct {
	number uint32
	view   uint32 // of the token: those begun later have a higher one; 0: it has seen none
	slot   int    // which of the provider's workers it is
	cmd    *exec.Cmd
	conn   *os.File
	stderr tail
	onEnd  func(*generation) // called as it ends, before it refuses anything; more than once; may be nil
	ended  chan struct{}     // closed by end
	reaped chan struct{}     // closed when its process is gone
	loops  sync.WaitGroup    // read, write, watch

	lives   bool          // it was asked when it was taken from the reserve; its starter's
	offered bool          // it was given a PIN; its starter's
	tried   chan struct{} // closed when it has come to serve, or has failed to
	seats   seats         // the hall's
	desk    room          // for what its one desk does, one thing after the other
	signed  atomic.Int64  // verified signatures for callers
	began   time.Time     // when it came to serve

	expected atomic.Bool // it ended for a key in quarantine that was tried

	wake chan struct{} // there is something to write
	busy chan struct{} // there is something to watch
	pool sync.Pool     // of *call

	mu    sync.Mutex
	held  map[keystore.KeyID]bool // keys it has found and may hold handles of
	calls map[uint32]*call        // asked, not answered
	next  uint32
	used  time.Time // when it was last asked
	asked bool      // it ended over something it was asked
	out   []byte    // frames not written yet
	shut  bool      // stop has begun: nothing more is asked
	cause error     // why it ended
}

// A blame is told what a generation ended for, and returns whether that was to be
// expected: then it says nothing of the token.
type blame func(cause error) (expected bool)

// A call is one request, asked.
type call struct {
	deadline time.Time
	at       *place        // left when there is an answer, or never will be
	blamed   blame         // told if the generation ends for it, though its caller has gone; may be nil
	done     chan struct{} // one element when the rest is set
	status   status
	body     []byte
	err      error // why there is no answer
}

var (
	// errEnded is wrapped by the error of a request that was outstanding when its
	// generation ended: it may have been carried out or not.
	errEnded = fmt.Errorf("%w: worker ended", keystore.ErrUnavailable)
	// errNotAsked is wrapped as well if the worker was never asked.
	errNotAsked = errors.New("nothing was asked of it")
)

// startGeneration executes a worker. The calling goroutine must be locked to its
// thread, and not end before the worker is reaped: the kernel kills the worker
// when that thread ends.
func startGeneration(number uint32, cfg Config, onEnd func(*generation)) (*generation, error) {
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	defer theirs.Close()
	g := newGeneration(number, ours)
	g.onEnd = onEnd
	g.cmd = &exec.Cmd{
		Path:       "/proc/self/exe", // this binary, even if its file has been replaced
		Args:       []string{workerName},
		Env:        []string{workerEnv + "=" + strconv.Itoa(cfg.Signers), "GOTRACEBACK=none"},
		Dir:        "/",
		Stderr:     &g.stderr,
		ExtraFiles: []*os.File{theirs},
		WaitDelay:  time.Second, // for what the module may have left holding stderr
		SysProcAttr: &syscall.SysProcAttr{
			Pdeathsig: syscall.SIGKILL,
			Setpgid:   true, // the terminal's ^C is for the daemon
		},
	}
	rules, err := cfg.confinementEnv()
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("confining a worker: %w", err)
	}
	if rules != "" {
		g.cmd.Env = append(g.cmd.Env, rules)
	}
	for name, value := range cfg.Env {
		if RefusedVariable(name) { // of two the last counts
			ours.Close()
			return nil, fmt.Errorf("environment variable %q is refused", name)
		}
		g.cmd.Env = append(g.cmd.Env, name+"="+value)
	}
	if err := g.cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("starting a worker: %w", err)
	}
	g.run()
	return g, nil
}

func newGeneration(number uint32, conn *os.File) *generation {
	return &generation{
		number: number, conn: conn, ended: make(chan struct{}), reaped: make(chan struct{}), tried: make(chan struct{}),
		wake: make(chan struct{}, 1), busy: make(chan struct{}, 1),
		desk: room{free: 1, limit: DefaultWaiting},
		held: make(map[keystore.KeyID]bool), calls: make(map[uint32]*call), used: time.Now(),
		pool: sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }},
	}
}

// run starts what reap waits for.
func (g *generation) run() {
	g.loops.Go(g.read)
	g.loops.Go(g.write)
	g.loops.Go(g.watch)
}

// socketpair returns two ends: ours in the runtime's poller, theirs blocking.
func socketpair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "daemon"), nil
}

// end ends the generation for a reason, once, and kills its process. A module
// that hangs does not hear SIGTERM.
func (g *generation) end(cause error) { g.endFor(cause, nil) }

// endFor is end when one request is to blame.
func (g *generation) endFor(cause error, culprit *call) {
	if g.onEnd != nil {
		g.onEnd(g)
	}
	g.mu.Lock()
	if g.cause != nil {
		g.mu.Unlock()
		return
	}
	g.cause = cause
	calls := g.calls
	g.asked = len(calls) > 0 || !errors.Is(cause, io.EOF)
	if errors.Is(cause, io.EOF) && len(calls) == 1 { // it died over this one
		for _, c := range calls {
			culprit = c
		}
	}
	clear(g.out) // one of the frames may have held a PIN
	g.calls, g.out = nil, nil
	g.mu.Unlock()
	syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL) // what it may have started
	g.cmd.Process.Kill()                              // fails only if it has ended already
	g.conn.Close()
	close(g.ended)
	for _, c := range calls {
		c.err = fmt.Errorf("%w: %w", errEnded, cause)
		if c == culprit && c.blamed != nil && c.blamed(c.err) {
			g.expected.Store(true)
		}
		c.at.leave()
		c.done <- struct{}{}
	}
}

// stop lets the worker finalise its module for a while, then kills it. cause is
// why it has to go.
func (g *generation) stop(grace time.Duration, cause error) {
	g.mu.Lock()
	g.shut = true
	g.mu.Unlock()
	if raw, err := g.conn.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
	select {
	case <-g.ended:
	case <-time.After(grace):
	}
	g.end(cause)
}

// reap waits until the process and all goroutines of an ended generation are
// gone, and returns why it ended.
func (g *generation) reap() error {
	<-g.ended
	werr := g.cmd.Wait()
	g.loops.Wait()
	close(g.reaped)
	if exit := new(exec.ExitError); errors.As(werr, &exit) && errors.Is(g.cause, io.EOF) {
		return fmt.Errorf("worker ended: %s%s", exit, g.stderr.String())
	}
	return g.cause
}

func (g *generation) isEnded() bool {
	select {
	case <-g.ended:
		return true
	default:
		return false
	}
}

// ask sends a request, from the place that its caller has, and waits for its
// answer. The body is the parts, one after the other. From now on the worker
// has until limit; passing it ends the generation. The caller's own ctx ends
// only the wait; if it has ended already, nothing is sent.
func (g *generation) ask(ctx context.Context, at *place, v verb, limit time.Duration, parts ...[]byte) ([]byte, error) {
	return g.askFor(ctx, at, nil, v, limit, parts...)
}

// askFor is ask for something that is to blame if the generation ends for it:
// blamed is told, even when the caller has not waited for that.
func (g *generation) askFor(ctx context.Context, at *place, blamed blame, v verb, limit time.Duration, parts ...[]byte) ([]byte, error) {
	c, err := g.begin(ctx, at, blamed, v, limit, parts...)
	if err != nil {
		return nil, err
	}
	return g.await(ctx, c)
}

// begin is the first half of askFor: the request is with the worker, and await is
// to be called.
func (g *generation) begin(ctx context.Context, at *place, blamed blame, v verb, limit time.Duration, parts ...[]byte) (*call, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", gaveUp(ctx), errNotAsked)
	}
	return g.send(at, blamed, v, limit, parts)
}

// await is the second half of askFor. c is not to be used afterwards.
func (g *generation) await(ctx context.Context, c *call) ([]byte, error) {
	select {
	case <-c.done:
	case <-ctx.Done():
		return nil, gaveUp(ctx)
	}
	body, s, err := c.body, c.status, c.err
	c.body, c.err, c.at, c.blamed = nil, nil, nil, nil
	g.pool.Put(c)
	if err != nil {
		return nil, err
	}
	if s == statusFault {
		return nil, fmt.Errorf("%w: %w", errEnded, errorOf(s, body)) // deliver has ended it
	}
	return body, errorOf(s, body)
}

func (g *generation) send(at *place, blamed blame, v verb, limit time.Duration, parts [][]byte) (*call, error) {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	c := g.pool.Get().(*call)
	now := time.Now()
	c.deadline, c.at, c.blamed = now.Add(limit), at, blamed
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cause != nil {
		return nil, fmt.Errorf("%w: %w: %w", errEnded, g.cause, errNotAsked)
	}
	if g.shut {
		return nil, fmt.Errorf("%w: %w: %w", errEnded, errClosed, errNotAsked)
	}
	if len(g.out)+n > maxQueued {
		return nil, fmt.Errorf("%w: too much is waiting for the token: %w", keystore.ErrUnavailable, errNotAsked)
	}
	g.next++
	g.used = now
	if len(g.calls) == 0 {
		poke(g.busy)
	}
	at.hold()
	g.calls[g.next] = c
	if len(g.out) == 0 {
		poke(g.wake)
	}
	g.out = appendHeader(g.out, g.number, g.next, byte(v), n)
	for _, p := range parts {
		g.out = append(g.out, p...)
	}
	return c, nil
}

// poke wakes the one who waits on ch, or the next who will.
func poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// write sends what has been asked, everything that waits in one write.
func (g *generation) write() {
	var spare []byte
	for {
		select {
		case <-g.wake:
		case <-g.ended:
			return
		}
		g.mu.Lock()
		frames := g.out
		g.out = spare[:0]
		g.mu.Unlock()
		_, err := g.conn.Write(frames)
		clear(frames) // one of them may have held a PIN
		if err != nil {
			g.end(gone(err))
			return
		}
		spare = frames
	}
}

// read hands out answers until the worker's end of the socket is gone.
func (g *generation) read() {
	var in inbox
	for {
		f, err := in.next()
		if errors.Is(err, errPartial) {
			err = in.fill(g.conn.Read)
		} else if err == nil {
			err = g.deliver(f)
		}
		if err != nil {
			g.end(gone(err))
			return
		}
	}
}

// gone makes io.EOF of every way a socket has to say that its other end's
// process is no more.
func gone(err error) error {
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return io.EOF
	}
	return err
}

func (g *generation) deliver(f frame) error {
	if f.generation != g.number {
		return fmt.Errorf("an answer of generation %d to generation %d", f.generation, g.number)
	}
	g.mu.Lock()
	c := g.calls[f.id]
	delete(g.calls, f.id)
	g.mu.Unlock()
	if c == nil {
		if g.isEnded() {
			return errClosed
		}
		return errors.New("an answer to nothing that was asked")
	}
	c.status, c.body = status(f.code), append([]byte(nil), f.body...)
	if c.status == statusFault { // whatever state the module is in now, nobody knows it
		fault := errorOf(c.status, c.body)
		if c.blamed != nil && c.blamed(fault) {
			g.expected.Store(true)
		}
		g.end(fault) // before its caller hears of it, who may ask again
	}
	c.at.leave()
	c.done <- struct{}{}
	return nil
}

// watch ends the generation when an answer is overdue.
func (g *generation) watch() {
	for {
		select {
		case <-g.busy:
		case <-g.ended:
			return
		}
		for g.outstanding() {
			select {
			case <-time.After(patrol):
			case <-g.ended:
				return
			}
		}
	}
}

// outstanding reports whether anything is asked and not answered.
func (g *generation) outstanding() bool {
	now := time.Now()
	g.mu.Lock()
	var overdue *call // the first of those that are: the one it does not get past
	for _, c := range g.calls {
		if now.After(c.deadline) && (overdue == nil || c.deadline.Before(overdue.deadline)) {
			overdue = c
		}
	}
	n := len(g.calls)
	g.mu.Unlock()
	if overdue != nil {
		g.endFor(errLate, overdue)
	}
	return n > 0
}

var errLate = errors.New("the worker did not answer in time")

// retire has nothing more asked of a worker of which nothing has been asked for
// that long, and reports whether it is one.
func (g *generation) retire(after time.Duration) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.calls) > 0 || time.Since(g.used) < after {
		return false
	}
	g.shut = true
	return true
}

// died reports, once it has ended, whether its process ended of itself.
func (g *generation) died() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return errors.Is(g.cause, io.EOF)
}

// isTold reports whether it was told to go.
func (g *generation) isTold() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut
}

// holds reports whether the worker may hold a handle of that key.
func (g *generation) holds(id keystore.KeyID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held[id]
}

// finds says that the worker is about to look for that key.
func (g *generation) finds(id keystore.KeyID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[id] = true
}
