package load

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of chancery.v1 (signer/api/chanceryv1/chancery.proto). The tests
// compare what is written and read here with the generated code, which this
// package does without: it allocates, and would bring all of gRPC with it.
const (
	fieldKeySet  = 1 // of SignJWTRequest
	fieldClaims  = 2
	fieldToken   = 1 // of SignJWTResponse
	fieldBatch   = 1 // of SignJWTBatchRequest and SignJWTBatchResponse
	fieldReply   = 1 // of SignJWTResult
	fieldProblem = 2
	fieldCode    = 1 // of Problem
	fieldDetail  = 2
	fieldID      = 1 // of SignJWTStreamRequest and SignJWTStreamResponse
	fieldRequest = 2
	fieldResult  = 2
)

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func jwtMessage(keyset string, claims []byte) []byte {
	return appendBytes(appendBytes(nil, fieldKeySet, []byte(keyset)), fieldClaims, claims)
}

func batchMessage(keyset string, claims []byte, n int) []byte {
	var b []byte
	for range n {
		b = appendBytes(b, fieldBatch, jwtMessage(keyset, claims))
	}
	return b
}

func streamMessage(id uint64, one []byte) []byte {
	b := protowire.AppendVarint(protowire.AppendTag(nil, fieldID, protowire.VarintType), id)
	return appendBytes(b, fieldRequest, one)
}

var errMessage = errors.New("an answer that is no message of chancery.v1")

// each calls f with every field of b; v is the content of a field with a length.
func each(b []byte, f func(field protowire.Number, number uint64, v []byte) error) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errMessage
		}
		b = b[n:]
		var number uint64
		var v []byte
		switch kind {
		case protowire.BytesType:
			v, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return errMessage
		}
		b = b[n:]
		if err := f(field, number, v); err != nil {
			return err
		}
	}
	return nil
}

// hasToken reports an error unless a SignJWTResponse brings a token.
func hasToken(reply []byte) error {
	found := false
	err := each(reply, func(field protowire.Number, _ uint64, v []byte) error {
		found = found || field == fieldToken && len(v) > 0
		return nil
	})
	if err == nil && !found {
		err = errors.New("the answer has no token")
	}
	return err
}

// succeeded reports an error unless a SignJWTResult is a token.
func succeeded(result []byte) error {
	err := errors.New("a result without an outcome")
	if e := each(result, func(field protowire.Number, _ uint64, v []byte) error {
		switch field {
		case fieldReply:
			err = hasToken(v)
		case fieldProblem:
			err = problemOf(v)
		}
		return nil
	}); e != nil {
		return e
	}
	return err
}

// passing are the codes of what passes by itself.
var passing = []string{"overloaded", "backend_unavailable", "audit_unavailable", "lease_expired"}

func problemOf(message []byte) error {
	var p Problem
	err := each(message, func(field protowire.Number, _ uint64, v []byte) error {
		switch field {
		case fieldCode:
			p.Code = string(v)
		case fieldDetail:
			p.Detail = string(v)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.refused()
}

func (p *Problem) refused() error {
	if slices.Contains(passing, p.Code) {
		return &Refused{p.Code}
	}
	return p
}

// batchTokens counts the tokens of a SignJWTBatchResponse; all must have come.
func batchTokens(response []byte) (int, error) {
	n := 0
	err := each(response, func(field protowire.Number, _ uint64, v []byte) error {
		if field != fieldBatch {
			return nil
		}
		n++
		return succeeded(v)
	})
	return n, err
}

// Statuses of gRPC that say to come back later.
const (
	resourceExhausted = 8
	unavailable       = 14
)

// failure returns why an exchange brought nothing; nil: it did.
func (x *exchange) failure() error {
	switch {
	case x.reason != "":
		return errors.New(x.reason)
	case x.status == 0:
		return nil
	case x.status == resourceExhausted, x.status == unavailable:
		return &Refused{string(x.text)}
	}
	return &Problem{fmt.Sprintf("grpc-status %d", x.status), string(x.text)}
}

// NewGRPC connects count Callers that share one connection, each with calls of its
// own: SignJWT, or with batch > 0 SignJWTBatch.
func NewGRPC(ctx context.Context, t Target, keyset string, claims []byte, batch, count int) ([]Caller, error) {
	method, message := "SignJWT", jwtMessage(keyset, claims)
	if batch > 0 {
		method, message = "SignJWTBatch", batchMessage(keyset, claims, batch)
	}
	w, err := dialGRPC(ctx, t, method)
	if err != nil {
		return nil, err
	}
	callers := make([]Caller, count)
	for i := range callers {
		callers[i] = &unary{wire: w, exchange: newExchange(), message: framed(message), batch: batch}
	}
	return callers, nil
}

// unary makes calls of one request and one response.
type unary struct {
	*wire
	exchange *exchange
	message  []byte
	batch    int
}

// Ask implements Caller.
func (u *unary) Ask() (int, error) {
	x := u.exchange
	if _, err := u.begin(x, u.message, true); err != nil {
		return 0, err
	}
	<-x.done
	if err := x.failure(); err != nil {
		return 0, err
	}
	message, _, ok, err := unframed(x.body)
	switch {
	case err != nil:
		return 0, err
	case !ok:
		return 0, errMessage
	case u.batch == 0:
		return 1, hasToken(message)
	}
	n, err := batchTokens(message)
	if err == nil && n != u.batch {
		err = fmt.Errorf("the answer has %d tokens, want %d", n, u.batch)
	}
	return n, err
}

// NewGRPCStream connects count Callers that share one stream, SignJWTStream, on
// which each has one request at a time.
func NewGRPCStream(ctx context.Context, t Target, keyset string, claims []byte, count int) ([]Caller, error) {
	w, err := dialGRPC(ctx, t, "SignJWTStream")
	if err != nil {
		return nil, err
	}
	s := &stream{wire: w, exchange: newExchange(), lanes: make([]*lane, count)}
	s.exchange.message = s.take
	callers := make([]Caller, count)
	for i := range callers {
		l := &lane{stream: s, message: framed(streamMessage(uint64(i+1), jwtMessage(keyset, claims))), answer: make(chan error, 1)}
		s.lanes[i], callers[i] = l, l
	}
	return callers, nil
}

// A stream is one SignJWTStream.
type stream struct {
	*wire
	exchange *exchange
	lanes    []*lane

	opening sync.Mutex // guards id
	id      uint32     // 0: not open yet
}

// A lane is one caller on a stream; its id there is its place and one.
type lane struct {
	*stream
	message []byte
	answer  chan error
}

// send sends a lane's request, the first of all with the stream.
func (s *stream) send(message []byte) error {
	s.opening.Lock()
	if s.id == 0 {
		defer s.opening.Unlock()
		var err error
		s.id, err = s.begin(s.exchange, message, false)
		return err
	}
	s.opening.Unlock()
	return s.more(s.id, s.exchange, message)
}

// Ask implements Caller.
func (l *lane) Ask() (int, error) {
	if err := l.send(l.message); err != nil {
		return 0, err
	}
	select {
	case err := <-l.answer:
		return 1, err
	case <-l.exchange.done:
		l.exchange.end() // for the other lanes
		if err := l.exchange.failure(); err != nil {
			return 0, err
		}
		return 0, errors.New("the server ended the stream")
	}
}

// take hands out the answers in body; it is called by the wire's reader.
func (s *stream) take(body []byte) (rest []byte, err error) {
	for {
		message, rest, ok, err := unframed(body)
		if err != nil || !ok {
			return rest, err
		}
		if err := s.hand(message); err != nil {
			return rest, err
		}
		body = rest
	}
}

func (s *stream) hand(message []byte) error {
	var id uint64
	err := errors.New("an answer without a result")
	if e := each(message, func(field protowire.Number, number uint64, v []byte) error {
		switch field {
		case fieldID:
			id = number
		case fieldResult:
			err = succeeded(v)
		}
		return nil
	}); e != nil {
		return e
	}
	if id == 0 || id > uint64(len(s.lanes)) {
		return fmt.Errorf("an answer to request %d, which nobody sent", id)
	}
	select {
	case s.lanes[id-1].answer <- err:
		return nil
	default:
		return fmt.Errorf("a second answer to request %d", id)
	}
}
