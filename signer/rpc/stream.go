package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "chancery/signer/api/chanceryv1"

	"chancery/signer"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// A pipeline is one SignJWTStream. Its reader takes a message when there is room for
// one more being worked on, and hands it to one of its workers; each sends its answer
// as soon as it has it. The handler waits for the end: gRPC ends a stream, and the
// reading of it, when its handler returns.
type pipeline struct {
	*Server
	call grpc.ServerStream
	conn *connection
	room chan struct{} // one for each message being read or worked on
	work chan *frame   // has room for them all
	busy atomic.Int64  // messages that workers have or will have
	over chan struct{} // closed when the handler has returned
	ends chan error    // the first reason to end; nil: no more comes

	sending sync.Mutex // SendMsg is for one at a time

	mu      sync.Mutex // guards what follows
	stopped bool       // no more is begun
	begun   sync.WaitGroup
}

// errUnread ends a stream whose client takes no answers.
var errUnread = status.Error(codes.DeadlineExceeded, "the answers were not read")

// serveStream is the handler of SignJWTStream.
func (s *Server) serveStream(_ any, call grpc.ServerStream) (err error) {
	defer recovered(&err)
	conn, leave, err := s.arrive(call.Context(), streamRoute)
	if err != nil {
		return s.ended(call.Context(), err)
	}
	defer leave()
	if _, err := s.admit(conn, streamRoute); err != nil { // before a byte is read
		return s.ended(call.Context(), err)
	}
	p := &pipeline{
		Server: s, call: call, conn: conn, room: make(chan struct{}, s.limits.InFlight),
		work: make(chan *frame, s.limits.InFlight), over: make(chan struct{}), ends: make(chan error, 1),
	}
	defer close(p.over)
	s.readers.Go(p.read)
	age := time.NewTimer(s.limits.StreamAge)
	defer age.Stop()
	select {
	case err = <-p.ends:
	case <-age.C:
	case <-s.stopping:
	case <-call.Context().Done():
		err = gone(call.Context())
	}
	p.finish()
	if err != nil {
		return s.ended(call.Context(), err)
	}
	return nil
}

// ended makes a status of why a stream ends.
func (s *Server) ended(ctx context.Context, err error) error {
	if _, ok := errors.AsType[*api.Error](err); !ok {
		return err
	}
	e := s.failed(ctx, streamRoute, err)
	s.Observe(streamRoute, string(e.Code), 0)
	return Status(e).Err()
}

// end gives the stream a reason to end, unless it has one.
func (p *pipeline) end(err error) {
	select {
	case p.ends <- err:
	default:
	}
}

// finish begins nothing more and waits for what was begun, for as long as it may take
// to be made and written: answers that nobody reads are not waited for.
func (p *pipeline) finish() {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	done := make(chan struct{})
	p.readers.Go(func() {
		p.begun.Wait()
		close(done)
	})
	select {
	case <-done:
	case <-time.After(p.Limits.RequestTimeout + p.Limits.Write):
	}
}

// begin counts a message in, unless no more is begun.
func (p *pipeline) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.begun.Add(1)
	}
	return !p.stopped
}

// read reads until the client has said its last, or the handler has returned. It
// starts a worker when all there are have something to do; there is room for as many
// as there may be messages.
func (p *pipeline) read() {
	started := int64(0)
	for {
		select {
		case p.room <- struct{}{}:
		case <-p.over:
			return
		}
		f := new(frame)
		if err := p.call.RecvMsg(f); err != nil {
			f.free()
			p.end(p.unreadable(err))
			return
		}
		if !p.begin() {
			f.free()
			return
		}
		if p.busy.Add(1) > started {
			started++
			go p.worker()
		}
		p.work <- f
	}
}

func (p *pipeline) unreadable(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	who, unknown := p.identify(p.conn)
	if unknown != nil {
		return err
	}
	return p.unread(who, streamRoute, err)
}

// worker answers what comes until the stream is over.
func (p *pipeline) worker() {
	for {
		select {
		case f := <-p.work:
			p.answer(f)
			p.busy.Add(-1)
			<-p.room
			p.begun.Done()
		case <-p.over:
			return
		}
	}
}

// answer is one request, as SignJWT has it.
func (p *pipeline) answer(f *frame) {
	start := time.Now()
	ctx, cancel := signer.Within(p.call.Context(), p.Limits.RequestTimeout)
	defer cancel()
	if ctx.Err() != nil {
		f.free()
		return
	}
	// It counts with its principal's others until the answer is out: one that nobody
	// reads is not to make room for more of them.
	release := func() {}
	defer func() { release() }()
	answer, code, err := p.sign(ctx, f, &release)
	if err != nil {
		p.end(err)
		return
	}
	p.Observe(streamRoute, code, time.Since(start))
	p.sending.Lock()
	defer p.sending.Unlock()
	late := time.AfterFunc(p.Limits.Write, func() { p.end(errUnread) })
	defer late.Stop()
	if err := p.call.SendMsg(answer); err != nil {
		p.end(err)
	}
}

// sign returns the answer to a message, and its code for the metrics; or an error
// that ends the stream.
func (p *pipeline) sign(ctx context.Context, f *frame, release *func()) (answer *pb.SignJWTStreamResponse, code string, err error) {
	defer recovered(&err)
	defer f.free()
	who, err := p.admit(p.conn, streamRoute)
	if err != nil {
		return nil, "", err
	}
	var m pb.SignJWTStreamRequest
	if err := f.decode(&m, p.Limits.MaxBody); err != nil {
		return nil, "", p.refuse(who, streamRoute, err)
	}
	result, code := p.result(ctx, who, m.GetRequest(), release)
	return &pb.SignJWTStreamResponse{Id: m.GetId(), Result: result}, code, nil
}

func (p *pipeline) result(ctx context.Context, who policy.Caller, m *pb.SignJWTRequest, release *func()) (*pb.SignJWTResult, string) {
	reply, err := p.reply(ctx, who, m, release)
	if err == nil {
		return &pb.SignJWTResult{Outcome: &pb.SignJWTResult_Reply{Reply: jwtResponse(&reply)}}, "ok"
	}
	e := p.failed(ctx, streamRoute, err)
	return problem(e.Problem()), string(e.Code)
}

// reply answers one request, which is too much as a call of its own would be: its
// message is read by then, for the number that the refusal has.
func (p *pipeline) reply(ctx context.Context, who policy.Caller, m *pb.SignJWTRequest, release *func()) (reply api.SignJWTReply, err error) {
	let, err := p.allow(who, streamRoute)
	if err != nil {
		return reply, err
	}
	*release = let
	req, err := jwtRequest(m)
	if err != nil {
		return reply, p.refuse(who, streamRoute, err)
	}
	return p.Service.SignJWT(ctx, who, req)
}
