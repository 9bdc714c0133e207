package rpc

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"chancery/signer/api"
	pb "chancery/signer/api/chanceryv1"
	"chancery/signer/server"
)

// A witness has one signature after the other made, until it is told to stop.
type witness struct {
	stop   context.CancelFunc
	wg     sync.WaitGroup
	signed int64
	err    error
}

func (h *house) witness(t *testing.T) *witness {
	t.Helper()
	issuer := h.issuer(t)
	if _, err := issuer.SignJWT(t.Context(), web(`{}`)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	w := &witness{stop: stop, signed: 1}
	w.wg.Go(func() {
		for ctx.Err() == nil && w.err == nil {
			_, w.err = issuer.SignJWT(t.Context(), web(`{}`))
			w.signed++
		}
	})
	return w
}

// had returns how many signatures it had made, all of them.
func (w *witness) had(t *testing.T) int64 {
	t.Helper()
	w.stop()
	w.wg.Wait()
	if w.err != nil {
		t.Errorf("while others flooded: %v", w.err)
	}
	return w.signed
}

// settled waits until what a flood left behind has ended.
func settled(t *testing.T, goroutines int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for runtime.NumGoroutine() > goroutines {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, and %d before", runtime.NumGoroutine(), goroutines)
		}
		runtime.Gosched()
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

const (
	floodResets      = 200
	floodConnections = 4
	floodCalls       = 5_000 // on one connection, unless it has ended before
)

// endedSoon waits until the server has ended a connection on which all was said.
func endedSoon(t *testing.T, f *frames, gone <-chan int) {
	t.Helper()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the connection goes on")
		f.conn.Close()
		<-gone
	}
}

// TestA14RapidReset (CVE-2023-39325): calls that are opened and reset at once cost no
// signature, or at most as many as a connection may reset; then it is ended. Others
// are served meanwhile.
func TestA14RapidReset(t *testing.T) {
	for name, complete := range map[string]bool{"headers alone": false, "whole requests": true} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, Limits{Resets: floodResets, ResetsWithin: time.Hour}, server.Limits{})
			w := h.witness(t)
			goroutines, bytes, most := runtime.NumGoroutine(), heap(), 0
			for range floodConnections {
				f := dialFrames(t, h, h.root.named(t, "other"))
				gone := make(chan int, 1)
				go func() { gone <- f.ended() }()
				for i := range uint32(floodCalls) {
					id := 2*i + 1
					ok := f.headers(id, "/chancery.v1.Signer/SignJWT", false) && (!complete || f.message(id, web(`{}`))) &&
						f.WriteRSTStream(id, http2.ErrCodeCancel) == nil
					if !ok {
						break
					}
					most = max(most, runtime.NumGoroutine())
				}
				endedSoon(t, f, gone)
			}
			ours := w.had(t)
			theirs := h.asked.Load() - ours
			if limit := int64(floodConnections * floodResets); !complete && theirs != 0 || theirs > limit {
				t.Errorf("%d signatures for calls that were reset, want at most %d, and none for those without a message", theirs, limit)
			}
			if most > goroutines+floodConnections*300 {
				t.Errorf("%d goroutines, and %d before", most, goroutines)
			}
			if got := h.refusals(); !slices.Contains(got, string(api.CodeOverloaded)) {
				t.Errorf("the log does not say that a connection was ended: %v", got)
			}
			settled(t, goroutines+2)
			if grown := int64(heap()) - int64(bytes); grown > 16<<20 {
				t.Errorf("%d bytes more than before", grown)
			}
		})
	}
}

// TestA14Cancelled: a call that is cancelled does not wait for the key any longer.
func TestA14Cancelled(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{})
	h.hold = make(chan struct{})
	issuer := h.issuer(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := issuer.SignJWT(ctx, web(`{}`))
		done <- err
	}()
	<-h.held
	cancel()
	if err := <-done; err == nil {
		t.Error("a cancelled call was answered")
	}
	settledCalls(t, h) // nothing of it is left, though nobody let the key go on
}

func settledCalls(t *testing.T, h *house) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for h.server.open.Load() != 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d calls are open", h.server.open.Load())
		}
		runtime.Gosched()
	}
}

// TestA14Continuation (CVE-2023-45288): headers that never end, end the connection.
func TestA14Continuation(t *testing.T) {
	for name, fragment := range map[string]int{"large": 16 << 10, "small": 100, "empty": 0} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, Limits{}, server.Limits{})
			w := h.witness(t)
			bytes := heap()
			f := dialFrames(t, h, h.root.named(t, "other"))
			gone := make(chan int, 1)
			go func() { gone <- f.ended() }()
			more := f.block("/chancery.v1.Signer/SignJWT")
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: more}); err != nil {
				t.Fatal(err)
			}
			for i := range floodCalls {
				part := f.block("/", "x-more", strings.Repeat(fmt.Sprint(i%10), fragment))
				if fragment == 0 {
					part = nil
				}
				if f.WriteContinuation(1, false, part[:min(len(part), 16<<10)]) != nil {
					break
				}
			}
			endedSoon(t, f, gone)
			w.had(t)
			if n := h.server.open.Load(); n != 0 {
				t.Errorf("%d calls are open", n)
			}
			if grown := int64(heap()) - int64(bytes); grown > 16<<20 {
				t.Errorf("%d bytes more than before", grown)
			}
		})
	}
}

// TestA14OpenCalls: a client that opens calls and says nothing has as many as a
// connection may have, and no more.
func TestA14OpenCalls(t *testing.T) {
	h := newHouse(t, Limits{Streams: 16}, server.Limits{RequestTimeout: time.Second})
	w := h.witness(t)
	f := dialFrames(t, h, h.root.named(t, "other"))
	const calls = 500
	for i := range uint32(calls) {
		if !f.headers(2*i+1, "/chancery.v1.Signer/SignJWT", false) {
			t.Fatal("the connection was ended")
		}
	}
	refused, timedOut := 0, 0
	for refused+timedOut < calls {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("after %d refused and %d over: %v", refused, timedOut, err)
		}
		switch frame := frame.(type) {
		case *http2.RSTStreamFrame:
			if frame.ErrCode == http2.ErrCodeRefusedStream {
				refused++
			}
		case *http2.MetaHeadersFrame:
			if frame.StreamEnded() {
				timedOut++
			}
		}
	}
	if timedOut == 0 || timedOut > calls/2 {
		t.Errorf("%d calls were open, %d refused; at most 16 at a time", timedOut, refused)
	}
	w.had(t)
}

// TestA14Stream: what is worked on of one stream is bounded; the rest is not read.
func TestA14Stream(t *testing.T) {
	h := newHouse(t, Limits{InFlight: 8}, server.Limits{})
	h.hold = make(chan struct{})
	stream, err := h.issuer(t).SignJWTStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const requests = 40
	for i := range uint64(requests) {
		if err := stream.Send(&pb.SignJWTStreamRequest{Id: i, Request: web(`{}`)}); err != nil {
			t.Fatal(err)
		}
	}
	for range 8 {
		<-h.held
	}
	if n := h.asked.Load(); n != 8 {
		t.Errorf("%d requests at the key, want 8", n)
	}
	for range requests {
		select {
		case h.hold <- struct{}{}:
		case <-time.After(20 * time.Second):
			t.Fatal("nothing waits for the key")
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestA14MadeYouReset (CVE-2025-8671): a client that has us reset its calls, by frames
// that break the protocol, is ended like one that resets them itself; so is one that
// opens more calls than there may be, over and over.
func TestA14MadeYouReset(t *testing.T) {
	for name, each := range map[string]func(f *frames, id uint32) bool{
		"a window that grows by nothing": func(f *frames, id uint32) bool {
			return f.headers(id, "/chancery.v1.Signer/SignJWT", false) && f.WriteRawFrame(http2.FrameWindowUpdate, 0, id, make([]byte, 4)) == nil
		},
		"more calls than there may be": func(f *frames, id uint32) bool {
			return f.headers(id, "/chancery.v1.Signer/SignJWTStream", false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, Limits{Resets: floodResets / refusedPerReset, ResetsWithin: time.Hour}, server.Limits{})
			w := h.witness(t)
			goroutines := runtime.NumGoroutine()
			f := dialFrames(t, h, h.root.named(t, "other"))
			gone := make(chan int, 1)
			go func() { gone <- f.ended() }()
			for i := range uint32(floodCalls) {
				if !each(f, 2*i+1) {
					break
				}
			}
			endedSoon(t, f, gone)
			ours := w.had(t)
			if theirs := h.asked.Load() - ours; theirs != 0 {
				t.Errorf("%d signatures for calls without a message", theirs)
			}
			if got := h.refusals(); !slices.Contains(got, string(api.CodeOverloaded)) {
				t.Errorf("the log does not say that a connection was ended: %v", got)
			}
			settled(t, goroutines+2)
		})
	}
}

// TestA13UnreadAnswers: a stream whose client takes no answers ends when they have
// waited as long as an answer may take to be written, and leaves nothing behind; the
// connection itself goes on.
func TestA13UnreadAnswers(t *testing.T) {
	h := newHouse(t, Limits{}, server.Limits{Write: 100 * time.Millisecond, RequestTimeout: 200 * time.Millisecond})
	w := h.witness(t)
	goroutines := runtime.NumGoroutine()
	f := dialFrames(t, h, h.root.named(t, "other"))
	if err := f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
		t.Fatal(err)
	}
	gone := make(chan int, 1)
	go func() { gone <- f.ended() }()
	for _, id := range []uint32{1, 3} {
		ok := f.headers(id, "/chancery.v1.Signer/SignJWTStream", false)
		for n := range uint64(300) { // more than gRPC takes off our hands
			ok = ok && f.more(id, &pb.SignJWTStreamRequest{Id: n, Request: web(`{}`)})
		}
		if !ok {
			t.Fatal("the connection has ended")
		}
	}
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() < goroutines+100; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("no answers wait to be read")
		}
	}
	settled(t, goroutines+12) // those of the connection, and the one that reads here
	select {
	case <-gone:
		t.Error("the connection has ended")
	default:
	}
	f.conn.Close()
	<-gone
	w.had(t)
}
