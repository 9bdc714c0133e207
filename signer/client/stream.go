package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "chancery/signer/api/chanceryv1"

	"chancery/signer/api"
)

// inFlight is how many requests of a Stream are at the daemon at a time: what the
// daemon works on of one stream.
const inFlight = 64

// errUnbegun: the daemon ended the stream in order, and had not begun the request.
var errUnbegun = errors.New("the daemon ended the stream before it began the request")

// A Stream asks for JWTs over one gRPC stream, which costs less than a call for each:
// requests follow each other without waiting for answers, and answers come as they
// are ready. It may be used concurrently, and is meant to be. A stream that the
// daemon ends, as it does now and then, is made anew when it is needed.
type Stream struct {
	rpc  *RPC
	room chan struct{} // one for each request at the daemon

	mu     sync.Mutex // guards what follows
	link   *link      // nil: none yet
	making *making    // nil: none is being made
	closed bool
}

// A making is a stream that is being made, for all who wait for it.
type making struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when err is set, or the Stream has a link
	err    error
}

// madeWithin is how long a stream may take to be made, whoever waits for it.
const madeWithin = 30 * time.Second

// Stream returns a Stream. It does not connect.
func (r *RPC) Stream() *Stream { return &Stream{rpc: r, room: make(chan struct{}, inFlight)} }

// ErrStreamClosed: Sign was called after Close.
var ErrStreamClosed = errors.New("the stream is closed")

// Sign asks for a JWT and waits for it. A request for which ctx ends before its answer
// has come may have been signed.
func (s *Stream) Sign(ctx context.Context, req api.SignJWTRequest) (*api.SignJWTReply, error) {
	ctx, cancel := s.rpc.limited(ctx)
	defer cancel()
	select {
	case s.room <- struct{}{}:
		defer func() { <-s.room }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for room on the stream: %w", context.Cause(ctx))
	}
	for {
		l, err := s.current(ctx)
		if err != nil {
			return nil, err
		}
		result, err := l.ask(ctx, jwtMessage(req))
		if errors.Is(err, errUnbegun) && ctx.Err() == nil {
			continue // it may be sent again, for as long as there is time
		}
		if err != nil {
			return nil, err
		}
		if result.Problem != nil {
			return nil, result.Problem
		}
		return result.Reply, nil
	}
}

// Close says that no more comes, and waits until what was asked is answered, for as
// long as a request may take.
func (s *Stream) Close() error {
	s.mu.Lock()
	s.closed = true
	l, m := s.link, s.making
	s.mu.Unlock()
	if m != nil {
		m.cancel()
		<-m.done
	}
	if l == nil {
		return nil
	}
	defer l.cancel()
	l.finish()
	select {
	case <-l.over:
	case <-time.After(s.rpc.timeout):
		l.cancel()
		<-l.over
	}
	return nil
}

// current returns the stream there is, or a new one if that has ended.
func (s *Stream) current(ctx context.Context) (*link, error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, ErrStreamClosed
		}
		if s.link != nil && !s.link.ended() {
			l := s.link
			s.mu.Unlock()
			return l, nil
		}
		m := s.making
		if m == nil {
			m = s.make()
		}
		s.mu.Unlock()
		select {
		case <-m.done:
			if m.err != nil {
				return nil, m.err
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("making the stream: %w", context.Cause(ctx))
		}
	}
}

// make begins to make a stream. It waits for the connection, and for room on it, which
// no request's own context may end: others wait for it too. The caller holds mu.
func (s *Stream) make() *making {
	ctx, cancel := context.WithCancel(context.Background())
	m := &making{cancel: cancel, done: make(chan struct{})}
	s.making = m
	late := time.AfterFunc(madeWithin, cancel)
	go func() {
		defer close(m.done)
		stream, err := s.rpc.signer.SignJWTStream(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.making = nil
		if !late.Stop() && err == nil { // ctx has ended, and the stream with it
			err = ctx.Err()
		}
		if err == nil && s.closed {
			err = ErrStreamClosed
		}
		if err != nil {
			cancel()
			m.err = refusal(ctx, err)
			return
		}
		s.link = newLink(stream, cancel)
	}()
	return m
}

// A link is one gRPC stream of a Stream.
type link struct {
	stream  grpc.BidiStreamingClient[pb.SignJWTStreamRequest, pb.SignJWTStreamResponse]
	cancel  context.CancelFunc
	over    chan struct{} // closed when nothing more is received
	out     chan *pb.SignJWTStreamRequest
	last    chan struct{} // closed when no more is sent
	closing sync.Once

	mu      sync.Mutex // guards what follows
	id      uint64     // of the last request
	waiting map[uint64]chan outcome
	err     error // why it has ended; set before over is closed
}

func newLink(stream grpc.BidiStreamingClient[pb.SignJWTStreamRequest, pb.SignJWTStreamResponse], cancel context.CancelFunc) *link {
	l := &link{
		stream: stream, cancel: cancel, over: make(chan struct{}),
		out: make(chan *pb.SignJWTStreamRequest), last: make(chan struct{}), waiting: make(map[uint64]chan outcome),
	}
	go l.send()
	go l.receive()
	return l
}

type outcome struct {
	result api.BatchResult
	err    error
}

func (l *link) ended() bool {
	select {
	case <-l.over:
		return true
	default:
		return false
	}
}

// ask has a request sent and waits for its answer.
func (l *link) ask(ctx context.Context, m *pb.SignJWTRequest) (api.BatchResult, error) {
	id, answer := l.enter()
	if answer == nil {
		return api.BatchResult{}, errUnbegun
	}
	select {
	case l.out <- &pb.SignJWTStreamRequest{Id: id, Request: m}:
	case <-l.last:
		l.leave(id)
		return api.BatchResult{}, ErrStreamClosed
	case <-l.over:
		l.leave(id)
		return api.BatchResult{}, errUnbegun // it was not sent
	case <-ctx.Done():
		l.leave(id)
		return api.BatchResult{}, fmt.Errorf("asking the daemon: %w", context.Cause(ctx))
	}
	select {
	case o := <-answer:
		return o.result, o.err
	case <-ctx.Done():
		l.leave(id)
		return api.BatchResult{}, fmt.Errorf("asking the daemon: %w", context.Cause(ctx))
	}
}

// send sends what is asked, one after the other, until the stream ends: to send waits
// while the daemon reads nothing, which no request's own context can end.
func (l *link) send() {
	for {
		select {
		case m := <-l.out:
			if err := l.stream.Send(m); err != nil {
				if !errors.Is(err, io.EOF) { // at EOF the receiving side learns why
					l.cancel()
				}
				<-l.over
				return
			}
		case <-l.last:
			_ = l.stream.CloseSend() // if the stream is broken, receive learns why
			return
		case <-l.over:
			return
		}
	}
}

// enter returns an id and where its answer will be, or nil when none will come.
func (l *link) enter() (uint64, chan outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, nil
	}
	l.id++
	answer := make(chan outcome, 1)
	l.waiting[l.id] = answer
	return l.id, answer
}

func (l *link) leave(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, id)
}

// finish says that no more is sent.
func (l *link) finish() { l.closing.Do(func() { close(l.last) }) }

// receive hands out answers until the stream ends, and then says to everyone who
// waits that it has.
func (l *link) receive() {
	defer close(l.over)
	for {
		m, err := l.stream.Recv()
		if err != nil {
			l.end(err)
			return
		}
		var o outcome
		o.result, o.err = jwtResult(m.GetResult())
		l.mu.Lock()
		answer := l.waiting[m.GetId()]
		delete(l.waiting, m.GetId())
		l.mu.Unlock()
		if answer != nil { // or its caller has left
			answer <- o
		}
	}
}

func (l *link) end(err error) {
	if errors.Is(err, io.EOF) {
		err = errUnbegun
	} else {
		err = refusal(l.stream.Context(), err)
	}
	l.cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
	for id, answer := range l.waiting {
		answer <- outcome{err: err}
		delete(l.waiting, id)
	}
}
