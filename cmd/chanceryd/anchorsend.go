package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"chancery/cmd/internal/config"
	"chancery/keystore/audit"
)

// sender returns what sends a checkpoint to an anchor. It honours its context.
func sender(c config.LogAnchor, now func() time.Time) (func(context.Context, audit.Published) error, error) {
	switch {
	case c.File != "":
		return fileAnchor(c.File), nil
	case c.Syslog != "":
		network, address, err := config.SyslogAddress(c.Syslog)
		return func(ctx context.Context, p audit.Published) error {
			return toSyslog(ctx, network, address, p, now())
		}, err
	}
	client, err := anchorClient(c.CA)
	return func(ctx context.Context, p audit.Published) error { return postTo(ctx, client, c.URL, p) }, err
}

var errStuck = errors.New("a write that began earlier has not ended")

// fileAnchor returns what appends signed notes to a file, an empty line after each.
// A file system that hangs keeps one goroutine, and everything after it is told so.
func fileAnchor(path string) func(context.Context, audit.Published) error {
	turn := make(chan struct{}, 1)
	return func(ctx context.Context, p audit.Published) error {
		select {
		case turn <- struct{}{}:
		default:
			return errStuck
		}
		done := make(chan error, 1)
		go func() { // may outlive its caller, not its anchor's turn
			err := appendTo(path, append(p.Note[:len(p.Note):len(p.Note)], '\n'))
			<-turn // before the caller hears: the next one may come at once
			done <- err
		}()
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return fmt.Errorf("writing %s: %w", path, context.Cause(ctx))
		}
	}
}

// appendTo appends text to a file, on stable storage. It does not wait for whoever
// reads a pipe, and refuses what is no file.
func appendTo(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", path)
	}
	if err == nil {
		_, err = f.Write(text)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// The priority of a syslog message: facility 13 (log audit), severity 5 (notice)
// (RFC 5424 Section 6.2.1).
const syslogPriority = 13*8 + 5

// toSyslog sends a checkpoint as one message: RFC 5424 over UDP and, with its length
// before it (RFC 6587 Section 3.4.1), over TCP; as local daemons write it to a
// Unix socket. The note stands in it as a quoted string (RFC 8259), to be unquoted
// and kept as it was.
func toSyslog(ctx context.Context, network, address string, p audit.Published, now time.Time) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "-"
	}
	_, err = conn.Write(syslogMessage(network, host, p, now))
	return err
}

func syslogMessage(network, host string, p audit.Published, now time.Time) []byte {
	note := strconv.QuoteToASCII(string(p.Note))
	if network == "unixgram" {
		return fmt.Appendf(nil, "<%d>%s chanceryd: checkpoint %s", syslogPriority, now.Local().Format(time.Stamp), note)
	}
	message := fmt.Appendf(nil, "<%d>1 %s %s chanceryd - checkpoint - %s", syslogPriority, now.UTC().Format("2006-01-02T15:04:05.000000Z"), host, note)
	if network == "tcp" {
		return fmt.Appendf(nil, "%d %s", len(message), message)
	}
	return message
}

func anchorClient(ca string) (*http.Client, error) {
	var roots *x509.CertPool
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("reading the anchor's CA: %w", err)
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in %s", ca)
		}
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: anchorDeadline, IdleConnTimeout: time.Minute, MaxConnsPerHost: 1,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// postTo posts a signed note as it is. Every answer but 2xx is an error.
func postTo(ctx context.Context, client *http.Client, url string, p audit.Published) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(p.Note))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}
