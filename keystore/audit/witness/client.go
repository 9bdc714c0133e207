package witness

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Answers of a witness other than a cosignature.
var (
	ErrUnknownLog   = errors.New("the witness does not know the log")
	ErrUnknownKey   = errors.New("the witness knows no key that signed the checkpoint") // some say so of an unknown log too
	ErrInconsistent = errors.New("the witness finds the checkpoint inconsistent with what it cosigned before")
)

// A Conflict is the answer of a witness that cosigned another size last than
// Request.Old, or another tree of that size.
type Conflict struct {
	Size int64 // that it cosigned last; -1 if it does not say
}

func (c *Conflict) Error() string {
	return fmt.Sprintf("the witness cosigned %d entries last", c.Size)
}

// ErrUnreachable is what an error wraps when the witness did not answer at all.
var ErrUnreachable = errors.New("the witness does not answer")

const (
	clientPatience = 10 * time.Second
	largestAnswer  = 64 << 10 // bytes
)

// A Client asks one witness for cosignatures over HTTP (C2SP tlog-witness). It
// follows no redirect. Its methods may be called concurrently.
type Client struct {
	url  string
	http *http.Client
}

// NewClient returns a Client of the witness with that submission prefix, an http
// or https URL without query. transport may be nil: it verifies certificates
// against the system's roots, and goes through no proxy.
func NewClient(prefix string, transport http.RoundTripper) (*Client, error) {
	u, err := url.Parse(prefix)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is no submission prefix of a witness: want http(s)://HOST[:PORT][/PATH]", prefix)
	}
	return &Client{strings.TrimSuffix(u.String(), "/") + addPath, newHTTP(transport)}, nil
}

func newHTTP(transport http.RoundTripper) *http.Client {
	if transport == nil {
		transport = &http.Transport{
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
			MaxIdleConns: 2, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: clientPatience,
			MaxResponseHeaderBytes: largestAnswer,
		}
	}
	return &http.Client{
		Transport:     transport,
		Timeout:       clientPatience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Add asks for cosignatures on req and returns the signature lines of the
// answer, at most 64 KiB. They are not verified. The error wraps *Conflict,
// ErrUnknownLog, ErrUnknownKey, ErrInconsistent or ErrUnreachable, or tells
// another answer. It gives up after ten seconds, or when ctx ends.
func (c *Client) Add(ctx context.Context, req Request) ([]byte, error) {
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(req.Bytes()))
	if err != nil {
		return nil, fmt.Errorf("asking a witness: %w", err)
	}
	post.Header.Set("Content-Type", "text/plain; charset=utf-8")
	answer, err := c.http.Do(post)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, largestAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if len(b) > largestAnswer {
		return nil, fmt.Errorf("the witness's answer is over %d bytes", largestAnswer)
	}
	switch answer.StatusCode {
	case http.StatusOK:
		return b, nil
	case http.StatusConflict:
		return nil, &Conflict{conflictSize(answer.Header.Get("Content-Type"), string(b))}
	case http.StatusNotFound:
		return nil, ErrUnknownLog
	case http.StatusForbidden:
		return nil, ErrUnknownKey
	case http.StatusUnprocessableEntity:
		return nil, ErrInconsistent
	}
	return nil, fmt.Errorf("the witness answers %s", answer.Status)
}

// conflictSize reads the size in the body of a 409, or returns -1.
func conflictSize(contentType, text string) int64 {
	media, _, err := mime.ParseMediaType(contentType)
	digits, ended := strings.CutSuffix(text, "\n")
	size, err2 := strconv.ParseInt(digits, 10, 64)
	if err != nil || media != contentSize || !ended || err2 != nil || size < 0 || strconv.FormatInt(size, 10) != digits {
		return -1
	}
	return size
}
