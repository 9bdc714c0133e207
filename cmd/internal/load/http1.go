package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// A Request is what a caller by HTTP/1.1 sends over and over.
type Request struct {
	Method, Path string
	Headers      [][2]string // beside Host, Content-Type and Content-Length
	Body         []byte
	// Mark stands in a reply once for each token it brings, such as `"token":"`.
	Mark   string
	Tokens int // how many a reply has to bring
}

// bytes returns the request as it is written.
func (r Request) bytes(host string) []byte {
	b := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", r.Method, r.Path, host, len(r.Body))
	for _, h := range r.Headers {
		b = fmt.Appendf(b, "%s: %s\r\n", h[0], h[1])
	}
	return append(append(b, "\r\n"...), r.Body...)
}

// NewHTTP connects a Caller that sends r by HTTP/1.1 on a connection of its own.
func NewHTTP(ctx context.Context, t Target, r Request) (Caller, error) {
	conn, err := t.dial(ctx, "http/1.1")
	if err != nil {
		return nil, err
	}
	return &http1{conn: conn, r: bufio.NewReaderSize(conn, 8<<10), request: r.bytes(t.ServerName), mark: []byte(r.Mark), want: r.Tokens}, nil
}

// http1 is an HTTP/1.1 client that reads of a reply its status, its length and its
// body, and reuses what it reads into.
type http1 struct {
	conn     *tls.Conn
	r        *bufio.Reader
	patience patience
	request  []byte
	mark     []byte
	want     int
	body     []byte
}

func (c *http1) Close() error { return c.conn.NetConn().Close() }

// Ask implements Caller.
func (c *http1) Ask() (int, error) {
	if err := c.patience.extend(c.conn); err != nil {
		return 0, err
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return 0, err
	}
	status, err := c.read()
	if err != nil {
		return 0, fmt.Errorf("reading the answer: %w", err)
	}
	if status/100 != 2 {
		return 0, refusal(status, c.body)
	}
	if got := bytes.Count(c.body, c.mark); got != c.want {
		if e := refusalWithin(c.body); e != nil {
			return 0, e
		}
		return 0, fmt.Errorf("the answer has %d tokens, want %d: %.200q", got, c.want, c.body)
	}
	return c.want, nil
}

// A problem is what this package knows of a refusal: Chancery's has a code, a Vault
// has errors.
type problem struct {
	Code   string   `json:"code"`
	Detail string   `json:"detail"`
	Errors []string `json:"errors"`
}

func refusal(status int, body []byte) error {
	var p problem
	if json.Unmarshal(body, &p) != nil || p.Code == "" && len(p.Errors) == 0 {
		return fmt.Errorf("the server answered %d: %.200q", status, body)
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		return &Refused{p.Code}
	}
	if p.Code == "" {
		return fmt.Errorf("the server answered %d: %s", status, p.Errors[0])
	}
	return &Problem{p.Code, p.Detail}
}

// A Problem is a refusal that asking again does not mend, by its stable code.
type Problem struct{ Code, Detail string }

func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// refusalWithin returns what the first refused request of a batch was told; nil if
// there is none.
func refusalWithin(body []byte) error {
	var batch struct {
		Results []problem `json:"results"`
	}
	if json.Unmarshal(body, &batch) != nil {
		return nil
	}
	for _, p := range batch.Results {
		if p.Code != "" {
			return (&Problem{p.Code, p.Detail}).refused()
		}
	}
	return nil
}

// read reads one reply into body, and returns its status.
func (c *http1) read() (status int, err error) {
	line, err := c.line()
	if err != nil {
		return 0, err
	}
	if len(line) < len("HTTP/1.1 200") || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, fmt.Errorf("%.40q is no status line", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, fmt.Errorf("%.40q is no status line", line)
	}
	length, chunked := -1, false
	for {
		if line, err = c.line(); err != nil {
			return 0, err
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch value = bytes.TrimSpace(value); {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 || length > maxReply {
				return 0, fmt.Errorf("a reply of %.20q bytes", value)
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = bytes.EqualFold(value, []byte("chunked"))
		}
	}
	c.body = c.body[:0]
	switch {
	case chunked:
		return status, c.chunks()
	case length < 0:
		return 0, errors.New("a reply without a length")
	}
	return status, c.take(length)
}

// maxReply is the longest reply that is read.
const maxReply = 32 << 20

// chunks reads a chunked body (RFC 9112 Section 7.1).
func (c *http1) chunks() error {
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 32)
		if err != nil || n > maxReply || len(c.body)+int(n) > maxReply {
			return fmt.Errorf("a chunk of %.20q bytes", size)
		}
		if n == 0 {
			break
		}
		if err := c.take(int(n)); err != nil {
			return err
		}
		if line, err = c.line(); err != nil || len(line) > 0 {
			return errors.Join(errors.New("a chunk is longer than it says"), err)
		}
	}
	for { // trailers
		line, err := c.line()
		if err != nil || len(line) == 0 {
			return err
		}
	}
}

// take reads n more bytes of the body.
func (c *http1) take(n int) error {
	at := len(c.body)
	if need := at + n; need > cap(c.body) {
		c.body = append(make([]byte, 0, max(need, 2*cap(c.body))), c.body...)
	}
	c.body = c.body[:at+n]
	_, err := io.ReadFull(c.r, c.body[at:])
	return err
}

// line reads a line, without its end. It is good until the next read.
func (c *http1) line() ([]byte, error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}
