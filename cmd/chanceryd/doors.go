package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"chancery/signer/policy"
	"chancery/signer/rpc"
	"chancery/signer/server"
)

// doors are the listeners of the daemon. Whoever opens them closes them.
type doors struct {
	log     *slog.Logger
	guarded []guardedDoor
	https   []*http.Server
	calls   []*rpc.Server
	plain   []*http.Server
	sockets []net.Listener
	wg      sync.WaitGroup
	failed  chan error // a listener that ended by itself
}

// A guardedDoor lets in whom its gate, as it is at the time, does.
type guardedDoor struct {
	*server.Door
	gate func() *server.Gate
}

func newDoors(log *slog.Logger) *doors { return &doors{log: log, failed: make(chan error, 8)} }

// hold keeps listeners for Close, whatever comes after.
func (d *doors) hold(listeners []net.Listener, err error) ([]net.Listener, error) {
	d.sockets = append(d.sockets, listeners...)
	return listeners, err
}

func (d *doors) holdOne(l net.Listener, err error) (net.Listener, error) {
	if err != nil {
		return nil, err
	}
	d.sockets = append(d.sockets, l)
	return l, nil
}

// guard opens a door behind mutual TLS on the listeners. Without calls it serves
// HTTP/1.1 alone.
func (d *doors) guard(handler http.Handler, calls *rpc.Server, lim server.Limits, gate func() *server.Gate, refused func(peer string, err error), full func(peer string, b server.Bound), listeners ...net.Listener) {
	door := &server.Door{
		TLS: func() *tls.Config { return gate().TLS() }, Admit: func(who *policy.Unix) error { return gate().Admits(who) },
		Failed: refused, Full: full, Limits: lim, Log: d.log,
	}
	web := server.HTTPServer(handler, lim, d.log)
	conns := door.Protocol("http/1.1")
	d.guarded, d.https = append(d.guarded, guardedDoor{door, gate}), append(d.https, web)
	d.run("https", func() error { return web.Serve(conns) })
	if calls != nil {
		h2 := door.Protocol("h2")
		d.calls = append(d.calls, calls)
		d.run("grpc", func() error { return calls.Serve(h2) })
	}
	for _, l := range listeners {
		d.run(l.Addr().String(), func() error { return door.Serve(l) })
	}
}

// open opens a door for everyone.
func (d *doors) open(handler http.Handler, lim server.Limits, full func(peer string, b server.Bound), l net.Listener, tlsConfig *tls.Config) {
	web := server.HTTPServer(handler, lim, d.log)
	d.plain = append(d.plain, web)
	l = server.Limited(l, lim, full)
	if tlsConfig != nil {
		l = tls.NewListener(l, tlsConfig)
	}
	d.run(l.Addr().String(), func() error { return web.Serve(l) })
}

func (d *doors) run(name string, serve func() error) {
	d.wg.Go(func() {
		if err := serve(); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			select {
			case d.failed <- fmt.Errorf("listener %s: %w", name, err):
			default:
			}
		}
	})
}

// Close stops accepting, lets requests end within ctx, and cuts what is left.
func (d *doors) Close(ctx context.Context) {
	var wg sync.WaitGroup
	for _, door := range d.guarded {
		wg.Go(door.Door.Close)
	}
	for _, calls := range d.calls {
		wg.Go(func() { calls.Shutdown(ctx) })
	}
	for _, web := range append(d.https, d.plain...) {
		wg.Go(func() {
			if err := web.Shutdown(ctx); err != nil {
				web.Close()
			}
		})
	}
	wg.Wait()
	for _, l := range d.sockets {
		l.Close()
	}
	d.wg.Wait()
}

// How often connections are looked at whose certificate has expired or been
// revoked, and how long such a connection stays open for its next request to be
// told so. Together they are less than the five seconds that are promised.
const (
	sweepEvery = time.Second
	cutAfter   = 1500 * time.Millisecond
)

// sweep cuts connections that are condemned, until ctx ends.
func (d *doors) sweep(ctx context.Context, now func() time.Time) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	condemned := make(map[*server.Visitor]time.Time) // since when
	for {
		select {
		case <-ctx.Done():
			return
		case at := <-tick.C:
			still := make(map[*server.Visitor]time.Time)
			for _, door := range d.guarded {
				gate := door.gate()
				door.CloseIf(func(v *server.Visitor, cs *tls.ConnectionState) bool {
					if !gate.Condemned(v, cs, now()) {
						return false
					}
					since, ok := condemned[v]
					if !ok {
						since = at
					}
					still[v] = since
					return at.Sub(since) >= cutAfter
				})
			}
			condemned = still
		}
	}
}
