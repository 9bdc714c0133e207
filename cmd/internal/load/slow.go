package load

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Slow holds n connections to a server that give it as much trouble as they cost
// little, until ctx ends, and connects anew what the server cuts: of three one is
// silent and never shakes hands, one shakes hands and is silent, and one shakes
// hands and sends the header of a request a byte at a time. connected, which may be
// nil, is how many there are now.
func Slow(ctx context.Context, t Target, n int, connected *atomic.Int64) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				t.dawdle(ctx, i%3, connected)
				pause(ctx, time.Second) // the server may have cut it at once
			}
		})
	}
	wg.Wait()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (t Target) dawdle(ctx context.Context, how int, connected *atomic.Int64) {
	conn, err := t.dialSlow(ctx, how)
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if connected != nil {
		connected.Add(1)
		defer connected.Add(-1)
	}
	if how == 2 {
		for _, b := range []byte("POST /v1/sign/jwt HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + string(make([]byte, 1<<10))) {
			if b == 0 {
				b = 'a'
			}
			if _, err := conn.Write([]byte{b}); err != nil {
				return
			}
			pause(ctx, 200*time.Millisecond)
			if ctx.Err() != nil {
				return
			}
		}
	}
	_, _ = conn.Read(make([]byte, 1)) // until the server cuts it, or ctx ends
}

func (t Target) dialSlow(ctx context.Context, how int) (net.Conn, error) {
	if how == 0 {
		return new(net.Dialer).DialContext(ctx, t.Network, t.Address)
	}
	conn, err := t.dial(ctx, "http/1.1")
	if err != nil {
		return nil, err // not a nil *tls.Conn
	}
	return conn, nil
}
