package pkcs11

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"chancery/keystore"
)

const (
	maxBatch = 8 // signatures one thread takes at a time and answers in one write
	maxDesk  = 4 // slow requests waiting; the daemon asks them one by one
)

// A worker serves one socket. Its lanes, the signing threads, take turns at
// reading: the one that reads takes what it will sign and lets the next one
// read, so that no signature is handed over between threads. Everything slow
// goes to the desk, one more thread, which owns the module.
type worker struct {
	fd     int
	report []byte // of what confines it, JSON
	desk   chan job
	module atomic.Pointer[module] // nil until login

	in         sync.Mutex // whose turn it is to read; guards the next four
	inbox      inbox
	generation uint32 // said by the first frame
	ended      error  // why there is nothing more to read

	out sync.Mutex // one write at a time
}

// A job is a request with a body of its own.
type job struct {
	id   uint32
	verb verb
	body []byte
}

func newWorker(fd int) *worker { return &worker{fd: fd, desk: make(chan job, maxDesk)} }

// run serves until the socket ends, which is how a worker is told to go.
func (w *worker) run(lanes int) error {
	var reading sync.WaitGroup
	for range lanes {
		reading.Go(w.serveLane)
	}
	go func() { // waits for the lanes, and is waited for by the range below
		reading.Wait()
		close(w.desk)
	}()
	if m := w.serveDesk(); m != nil {
		// The daemon's patience ends what hangs here.
		if err := m.close(); err != nil {
			return fmt.Errorf("closing the module: %w", err)
		}
	}
	if errors.Is(w.ended, io.EOF) {
		return nil
	}
	return w.ended
}

// A lane is one signing thread's own memory.
type lane struct {
	signer *signer // opened at its first signature
	jobs   []job
	arena  []byte // the jobs' bodies
	out    []byte // answers not written yet
}

func (w *worker) serveLane() {
	runtime.LockOSThread() // its session belongs to this thread
	l := &lane{}
	for w.take(l) == nil {
		w.signAll(l)
		if err := w.write(l.out); err != nil {
			return // the daemon is gone; the next read says so to the others
		}
		l.out = l.out[:0]
	}
}

// take waits for its turn and fills l.jobs with signatures to make: several if
// they are quick, one if it is RSA, so that the other lanes have theirs.
// Requests of other kinds go to the desk.
func (w *worker) take(l *lane) error {
	w.in.Lock()
	defer w.in.Unlock()
	l.jobs, l.arena = l.jobs[:0], l.arena[:0]
	taken := 0 // signatures
	for w.ended == nil {
		f, err := w.inbox.next()
		switch {
		case errors.Is(err, errPartial) && len(l.jobs) > 0:
			return nil
		case errors.Is(err, errPartial):
			w.ended = w.inbox.fill(w.read)
			continue
		case err != nil:
			w.ended = err
			continue
		}
		if w.generation == 0 {
			w.generation = f.generation
		}
		if f.generation != w.generation {
			w.ended = fmt.Errorf("a frame of generation %d in generation %d", f.generation, w.generation)
			continue
		}
		n := 1
		switch verb(f.code) {
		case verbSign:
		case verbSignSheaf:
			n = maxSheaf
		default:
			w.desk <- job{f.id, verb(f.code), bytes.Clone(f.body)}
			continue
		}
		at := len(l.arena)
		l.arena = append(l.arena, f.body...)
		l.jobs = append(l.jobs, job{f.id, verb(f.code), l.arena[at:len(l.arena):len(l.arena)]})
		if taken += n; taken >= maxBatch || w.isSlow(f.body) {
			return nil
		}
	}
	return w.ended
}

func (w *worker) isSlow(body []byte) bool {
	k, _ := w.find(body)
	return k == nil || k.alg.IsRSA()
}

// find returns the key that the body of a sign request names, if it is held.
func (w *worker) find(body []byte) (*heldKey, *module) {
	m := w.module.Load()
	if m == nil || len(body) < nameSize {
		return nil, nil
	}
	return m.key(keyName(body)), m
}

// signAll answers l.jobs into l.out.
func (w *worker) signAll(l *lane) {
	for _, j := range l.jobs {
		k, m := w.find(j.body)
		if k == nil {
			l.answer(w.generation, j.id, nil, errNotHeld)
			continue
		}
		do := l.sign
		if j.verb == verbSignSheaf {
			do = l.signSheaf
		}
		body, err := do(m, k, j.body[nameSize:])
		l.answer(w.generation, j.id, body, err)
	}
}

func (l *lane) sign(m *module, k *heldKey, message []byte) (sig []byte, err error) {
	if l.signer == nil {
		if l.signer, err = m.signer(); err != nil {
			return nil, err
		}
	}
	return l.signer.sign(k, message)
}

func (l *lane) answer(generation, id uint32, body []byte, err error) {
	l.out = appendAnswer(l.out, generation, id, body, err)
}

func appendAnswer(b []byte, generation, id uint32, body []byte, err error) []byte {
	code := byte(statusOK)
	if err != nil {
		code, body = byte(statusOf(err)), []byte(err.Error())
	}
	return appendFrame(b, frame{generation, id, code, body})
}

// serveDesk does the slow requests, one after the other, and returns the module
// if one was loaded.
func (w *worker) serveDesk() *module {
	runtime.LockOSThread()
	d := &desk{worker: w}
	for j := range w.desk {
		body, err := d.do(j)
		clear(j.body) // it may have been a PIN
		if w.write(appendAnswer(nil, w.generation, j.id, body, err)) != nil {
			continue // the daemon is gone, and the lanes know
		}
	}
	return d.module
}

// A desk is the thread that owns the module.
type desk struct {
	worker *worker
	module *module // loaded; w.module has it once it is logged in
}

var errOrder = errors.New("request out of order")

func (d *desk) do(j job) ([]byte, error) {
	switch j.verb {
	case verbHello:
		if len(j.body) != 1 || j.body[0] != protocolVersion {
			return nil, errors.New("another protocol version")
		}
		return d.worker.report, nil
	case verbLoad:
		return nil, d.load(string(j.body))
	case verbTokens:
		return d.tokens()
	case verbLogin:
		return d.login(j.body)
	}
	if d.worker.module.Load() == nil {
		return nil, errOrder
	}
	switch j.verb {
	case verbFind:
		return d.key(j.body, d.module.find)
	case verbGenerate:
		return d.key(j.body, d.module.generate)
	case verbList:
		list, err := d.module.list()
		if err != nil {
			return nil, err
		}
		return json.Marshal(list)
	case verbProbe:
		return nil, d.module.check()
	case verbDestroy:
		if len(j.body) != nameSize {
			return nil, errOrder
		}
		return nil, d.module.destroy(keyName(j.body))
	case verbWriteNote:
		var n keystore.Note
		if err := json.Unmarshal(j.body, &n); err != nil {
			return nil, err
		}
		return nil, d.module.writeNote(n)
	case verbReadNotes:
		notes, err := d.module.readNotes()
		if err != nil {
			return nil, err
		}
		return json.Marshal(notes)
	}
	return nil, fmt.Errorf("unknown verb %d", j.verb)
}

func (d *desk) load(path string) (err error) {
	if d.module != nil {
		return errOrder
	}
	d.module, err = loadModule(path)
	return err
}

func (d *desk) tokens() ([]byte, error) {
	if d.module == nil || d.module.begun {
		return nil, errOrder
	}
	tokens, err := d.module.begin()
	if err != nil {
		return nil, err
	}
	return json.Marshal(tokens)
}

func (d *desk) login(body []byte) ([]byte, error) {
	head, pin, ok := bytes.Cut(body, []byte{0})
	var r loginRequest
	if err := json.Unmarshal(head, &r); err != nil || !ok || d.module == nil || d.module.loggedIn {
		return nil, errOrder // without the cause: it might quote the PIN
	}
	if err := d.module.login(r, pin); err != nil {
		return nil, err
	}
	d.worker.module.Store(d.module)
	// It serves from now on: two threads sign and one does the rest, on a heap that
	// is small and short-lived.
	debug.SetGCPercent(50)
	runtime.GOMAXPROCS(max(2, min(4, runtime.NumCPU())))
	return json.Marshal(loginAnswer{d.module.algs})
}

func (d *desk) key(body []byte, get func(keyRequest) (*heldKey, error)) ([]byte, error) {
	var r keyRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	k, err := get(r)
	if err != nil {
		return nil, err
	}
	return k.spki, nil
}

// read is read(2) on the socket, with the end as io.EOF.
func (w *worker) read(b []byte) (int, error) {
	for {
		n, err := unix.Read(w.fd, b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (w *worker) write(b []byte) error {
	w.out.Lock()
	defer w.out.Unlock()
	for len(b) > 0 {
		n, err := unix.Write(w.fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
