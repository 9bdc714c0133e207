package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

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
	closed bool
}

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
		l, err := s.current()
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

// Close says that no more comes, and waits until what was asked is answered.
func (s *Stream) Close() error {
	s.mu.Lock()
	s.closed = true
	l := s.link
	s.mu.Unlock()
	if l == nil {
		return nil
	}
	l.finish()
	<-l.over
	l.cancel()
	return nil
}

// current returns the stream there is, or a new one if that has ended.
func (s *Stream) current() (*link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrStreamClosed
	}
	if s.link != nil && !s.link.ended() {
		return s.link, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := s.rpc.signer.SignJWTStream(ctx)
	if err != nil {
		cancel()
		return nil, refusal(ctx, err)
	}
	l := &link{
		stream: stream, cancel: cancel, over: make(chan struct{}),
		sending: make(chan struct{}, 1), waiting: make(map[uint64]chan outcome),
	}
	go l.receive()
	s.link = l
	return l, nil
}

// A link is one gRPC stream of a Stream.
type link struct {
	stream  grpc.BidiStreamingClient[pb.SignJWTStreamRequest, pb.SignJWTStreamResponse]
	cancel  context.CancelFunc
	over    chan struct{} // closed when nothing more is received
	sending chan struct{} // held by who sends

	mu      sync.Mutex // guards what follows
	last    uint64     // id
	waiting map[uint64]chan outcome
	err     error // why it has ended; set before over is closed
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

// ask sends a request and waits for its answer.
func (l *link) ask(ctx context.Context, m *pb.SignJWTRequest) (api.BatchResult, error) {
	select {
	case l.sending <- struct{}{}:
	case <-l.over:
		return api.BatchResult{}, errUnbegun // it was not sent
	case <-ctx.Done():
		return api.BatchResult{}, fmt.Errorf("asking the daemon: %w", context.Cause(ctx))
	}
	id, answer := l.enter()
	if answer == nil {
		<-l.sending
		return api.BatchResult{}, errUnbegun
	}
	err := l.stream.Send(&pb.SignJWTStreamRequest{Id: id, Request: m})
	<-l.sending
	if err != nil && !errors.Is(err, io.EOF) { // at EOF the receiving side learns why
		l.leave(id)
		return api.BatchResult{}, refusal(ctx, err)
	}
	select {
	case o := <-answer:
		return o.result, o.err
	case <-ctx.Done():
		l.leave(id)
		return api.BatchResult{}, fmt.Errorf("asking the daemon: %w", context.Cause(ctx))
	}
}

// enter returns an id and where its answer will be, or nil when none will come.
func (l *link) enter() (uint64, chan outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, nil
	}
	l.last++
	answer := make(chan outcome, 1)
	l.waiting[l.last] = answer
	return l.last, answer
}

func (l *link) leave(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, id)
}

// finish says that no more is sent.
func (l *link) finish() {
	l.sending <- struct{}{}
	defer func() { <-l.sending }()
	_ = l.stream.CloseSend() // if the stream is broken, receive learns why
}

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
