package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"

	"chancery/keystore"
	"chancery/signer"
	"chancery/signer/api"
	pb "chancery/signer/api/chanceryv1"
	"chancery/signer/policy"
)

// A method is one unary method: its route, how large its request may be, and what it
// does.
type method struct {
	name string
	most int64
	do   func(ctx context.Context, who policy.Caller, f *frame, most int64) (proto.Message, error)
}

// endKey is where a call's context has the function that ends it.
type endKey struct{}

// tapped gives every call but a stream its time: the caller's, and at most the
// given. It counts from the headers on, so that a message that is slow to come is
// not waited for.
func tapped(most time.Duration) tap.ServerInHandle {
	return func(ctx context.Context, info *tap.Info) (context.Context, error) {
		if info.FullMethodName == streamRoute {
			return ctx, nil
		}
		ctx, cancel := signer.Within(ctx, most)
		return context.WithValue(ctx, endKey{}, cancel), nil // gRPC ends the outer context, if no handler does
	}
}

// unary returns the handler of m. gRPC calls it when the headers have come.
func (s *Server) unary(m method) grpc.StreamDesc {
	route := "/" + serviceName + "/" + m.name
	return grpc.StreamDesc{StreamName: m.name, Handler: func(_ any, call grpc.ServerStream) error {
		ctx, start := call.Context(), time.Now()
		if cancel, ok := ctx.Value(endKey{}).(context.CancelFunc); ok {
			defer cancel()
		}
		if ctx.Err() != nil {
			s.Observe(route, unbegun(ctx), time.Since(start))
			return gone(ctx) // cancelled before it was looked at: it costs nothing more
		}
		reply, err := s.answer(ctx, route, call, m)
		if err == nil {
			s.Observe(route, counted(reply), time.Since(start))
			return call.SendMsg(reply)
		}
		if _, ok := errors.AsType[*api.Error](err); !ok {
			s.Observe(route, unanswered(ctx, err), time.Since(start))
			return err // nobody waits for an answer, or the message came too slowly
		}
		e := s.failed(ctx, route, err)
		s.Observe(route, string(e.Code), time.Since(start))
		return Status(e).Err()
	}}
}

// answer identifies, reads and acts. A panic is an internal error whose stack is
// logged.
func (s *Server) answer(ctx context.Context, route string, call grpc.ServerStream, m method) (reply proto.Message, err error) {
	defer recovered(&err)
	conn, leave, err := s.arrive(ctx, route)
	if err != nil {
		return nil, err
	}
	defer leave()
	who, err := s.admit(conn, route)
	if err != nil {
		return nil, err
	}
	release, err := s.allow(who, route)
	if err != nil {
		return nil, err
	}
	defer release()
	var f frame
	defer f.free()
	if err := call.RecvMsg(&f); err != nil {
		return nil, s.unread(who, route, err)
	}
	reply, err = m.do(ctx, who, &f, m.most)
	if e, ok := errors.AsType[*decodeError](err); ok { // the Service never saw it
		return nil, s.refuse(who, route, e.cause)
	}
	return reply, err
}

// streamWeight is for how many calls a stream counts, which may have InFlight requests
// worked on at a time.
const streamWeight = 16

// arrive counts a call in, until leave, or refuses it when there are too many: of
// the client's, or in all.
func (s *Server) arrive(ctx context.Context, route string) (c *connection, leave func(), err error) {
	p, ok := peer.FromContext(ctx)
	if ok {
		c, ok = p.AuthInfo.(*connection)
	}
	if !ok {
		return nil, nil, api.Errorf(api.CodeForbidden, "not allowed").Because(errors.New("a call on no connection of ours"))
	}
	weight := int64(1)
	if route == streamRoute {
		weight = streamWeight
	}
	all, theirs := s.open.Add(weight), c.client.open.Add(weight)
	leave = func() {
		s.open.Add(-weight)
		c.client.open.Add(-weight)
	}
	if all > s.limits.Calls || theirs > s.limits.PerClient {
		leave()
		e := api.Errorf(api.CodeOverloaded, "too many calls are open")
		e.RetryAfter = 1
		return nil, nil, s.Service.Refuse(s.record(c, route), e)
	}
	return c, leave, nil
}

// admit returns who makes a call on c now, or enters and returns why it is nobody
// who may.
func (s *Server) admit(c *connection, route string) (policy.Caller, error) {
	who, err := s.identify(c)
	if err != nil {
		return policy.Caller{}, s.Service.Refuse(s.record(c, route), err)
	}
	return who, nil
}

// allow counts a request of who in (server.Config.Admit), until release, or enters and
// returns why it is too much.
func (s *Server) allow(who policy.Caller, route string) (release func(), err error) {
	if s.Admit == nil {
		return func() {}, nil
	}
	release, err = s.Admit(who)
	if err != nil {
		return nil, s.refuse(who, route, err)
	}
	return release, nil
}

// record is of a refusal before it is known who asks.
func (s *Server) record(c *connection, route string) keystore.Record {
	return keystore.Record{
		Action: keystore.ActRequest,
		Detail: map[string]string{"route": route, "certificate": policy.PinOf(c.tls.PeerCertificates[0])},
	}
}

func (s *Server) refuse(who policy.Caller, route string, err error) error {
	return s.Service.Refuse(keystore.Record{
		Principal: who.String(), Action: keystore.ActRequest, Detail: map[string]string{"route": route},
	}, err)
}

// unread is what becomes of a call whose message could not be read. What gRPC found
// itself it has told the client already, without our code.
func (s *Server) unread(who policy.Caller, route string, err error) error {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable:
		return err
	case codes.ResourceExhausted:
		return s.refuse(who, route, api.Errorf(api.CodeTooLarge, "the message is too large").Because(err))
	}
	return s.refuse(who, route, api.Errorf(api.CodeMalformed, "the message could not be read").Because(err))
}

// failed returns what the caller sees of err, and logs what is ours to mend.
func (s *Server) failed(ctx context.Context, route string, err error) *api.Error {
	e := publicError(err)
	level := slog.LevelDebug // the log of acts has the cause, once and within its budget
	if e.Code.Status() == http.StatusInternalServerError {
		level = slog.LevelError
	}
	s.Log.Log(ctx, level, "request refused", "route", route, "code", e.Code, "err", e)
	return e
}

// gone is the status of a call whose context has ended: nobody reads it, unless the
// time was ours.
func gone(ctx context.Context) error { return status.FromContextError(ctx.Err()).Err() }

// unbegun is what a call counts as whose time was over before it was looked at.
func unbegun(ctx context.Context) string {
	if errors.Is(context.Cause(ctx), signer.ErrTimeLimit) {
		return string(api.CodeOverloaded)
	}
	return unanswered(ctx, gone(ctx))
}

// unanswered is what a call counts as that ends with a status of gRPC's own: a message
// that did not come in the time that any has is no message.
func unanswered(ctx context.Context, err error) string {
	switch {
	case status.Code(err) != codes.DeadlineExceeded:
		return string(api.CodeCanceled)
	case errors.Is(context.Cause(ctx), signer.ErrTimeLimit):
		return string(api.CodeMalformed)
	}
	return string(api.CodeDeadlineExceeded)
}

// counted is what a call counts as that was answered with reply.
func counted(reply proto.Message) string {
	batch, ok := reply.(*pb.SignJWTBatchResponse)
	if !ok {
		return "ok"
	}
	return api.Gravest(func(yield func(api.Code) bool) {
		for _, r := range batch.GetResults() {
			if p := r.GetProblem(); p != nil && !yield(api.Code(p.GetCode())) {
				return
			}
		}
	})
}

// recovered makes an error of a panic.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = api.Errorf(api.CodeInternal, "internal error").Because(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
	}
}

// decodeError is a message that was refused before the Service was asked.
type decodeError struct{ cause error }

func (e *decodeError) Error() string { return e.cause.Error() }
