package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"chancery/signer/api"
	"chancery/signer/client"
)

// slowest is the longest latency that is told from longer ones.
const slowest = 60 * time.Second

// measureDaemon has n callers ask for tokens for a while, each on a connection
// of its own, and returns what they saw. Connecting is not measured.
func measureDaemon(ctx context.Context, cfg client.Config, f benchFlags, n int, line *progressLine) (measurement, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	lanes := make([]*lane, 0, n)
	defer func() {
		for _, l := range lanes {
			l.conn.Close()
		}
	}()
	for range n {
		l, err := openLane(ctx, cfg, f)
		if err != nil {
			return measurement{}, err
		}
		lanes = append(lanes, l)
		if err := l.ask(); err != nil { // its first answer may wait for things that are made once
			return measurement{}, err
		}
	}
	var answered atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	end := start.Add(f.duration)
	for _, l := range lanes {
		wg.Go(func() {
			if err := l.run(ctx, end, &answered); err != nil {
				cancel(err)
			}
		})
	}
	stop := make(chan struct{})
	var reporter sync.WaitGroup
	reporter.Go(func() { tell(stop, line, n, start, &answered) })
	wg.Wait()
	took := time.Since(start)
	close(stop)
	reporter.Wait()
	if err := context.Cause(ctx); err != nil {
		return measurement{}, err
	}
	return summary(lanes, max(1, f.batch), n, took), nil
}

func summary(lanes []*lane, tokens, callers int, took time.Duration) measurement {
	all := newHistogram()
	m := measurement{Layer: "daemon", Callers: callers, Batch: tokens}
	if tokens == 1 {
		m.Batch = 0
	}
	for _, l := range lanes {
		all.Merge(l.latency)
		m.Refused += l.refused
	}
	m.Rate = float64(all.TotalCount()) * float64(tokens) / took.Seconds()
	m.P50, m.P99 = float64(all.ValueAtQuantile(50))/1e3, float64(all.ValueAtQuantile(99))/1e3
	return m
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1000, int64(slowest), 3) // nanoseconds
}

// tell says how far a run is, on a terminal.
func tell(stop <-chan struct{}, line *progressLine, callers int, start time.Time, answered *atomic.Int64) {
	if !line.live {
		return
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			line.say(fmt.Sprintf("%d callers: %.1f s, %d answers", callers, time.Since(start).Seconds(), answered.Load()))
		}
	}
}

// A lane is one caller: a connection, one request sent over and over, and what
// it measured. It is leaner than http.Client, since it shares the processors
// with the daemon it measures.
type lane struct {
	conn    *tls.Conn
	r       *bufio.Reader
	request []byte
	batch   int
	latency *hdrhistogram.Histogram
	refused int64
}

func openLane(ctx context.Context, cfg client.Config, f benchFlags) (*lane, error) {
	network, address, name := "unix", strings.TrimPrefix(cfg.Endpoint, "unix:"), "localhost"
	if address == cfg.Endpoint {
		u, err := url.Parse(cfg.Endpoint)
		if err != nil {
			return nil, err
		}
		network, address, name = "tcp", u.Host, u.Hostname()
		if u.Port() == "" {
			address = net.JoinHostPort(name, "443")
		}
	}
	name = cmp.Or(cfg.ServerName, name)
	raw, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cfg.Certificate},
		RootCAs: cfg.Roots, ServerName: name, NextProtos: []string{"http/1.1"},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	request, err := benchRequest(name, f)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &lane{conn: conn, r: bufio.NewReader(conn), request: request, batch: f.batch, latency: newHistogram()}, nil
}

// benchRequest returns the bytes of the request that is sent over and over.
func benchRequest(host string, f benchFlags) ([]byte, error) {
	one, err := json.Marshal(api.SignJWTRequest{KeySet: f.keyset, Claims: json.RawMessage(`{"sub":"bench","aud":"chancery bench"}`)})
	if err != nil {
		return nil, err
	}
	path, body := "/v1/sign/jwt", one
	if f.batch > 0 {
		batch := api.BatchRequest{}
		for range f.batch {
			batch.Requests = append(batch.Requests, one)
		}
		path = "/v1/sign/jwt/batch"
		if body, err = json.Marshal(batch); err != nil {
			return nil, err
		}
	}
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		path, host, len(body), body), nil
}

// run asks until end. Being told to come back later is counted and heeded.
func (l *lane) run(ctx context.Context, end time.Time, answered *atomic.Int64) error {
	for ctx.Err() == nil {
		began := time.Now()
		if !began.Before(end) {
			return nil
		}
		err := l.ask()
		if p, ok := errors.AsType[*api.Problem](err); ok && p.Code == api.CodeOverloaded {
			l.refused++
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if err != nil {
			return err
		}
		if err := l.latency.RecordValue(min(int64(time.Since(began)), int64(slowest))); err != nil {
			return err
		}
		answered.Add(1)
	}
	return nil
}

// ask sends the request and reads the answer, which must have all its tokens.
func (l *lane) ask() error {
	if err := l.conn.SetDeadline(time.Now().Add(slowest)); err != nil {
		return err
	}
	if _, err := l.conn.Write(l.request); err != nil {
		return err
	}
	resp, err := http.ReadResponse(l.r, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		var p api.Problem
		if json.Unmarshal(body, &p) != nil || p.Code == "" {
			return fmt.Errorf("the server answered %q", resp.Status)
		}
		return &p
	}
	if got, want := bytes.Count(body, []byte(`"token":"`)), max(1, l.batch); got != want {
		return fmt.Errorf("the answer has %d tokens, want %d: %s", got, want, clean(string(body)))
	}
	return nil
}
