package witness

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A roundTrip answers what a client asks.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestWhatAnAnswerMeans(t *testing.T) {
	for _, c := range []struct {
		what   string
		status int
		media  string
		body   string
		want   error // nil: the body is returned
		size   int64 // of a *Conflict
	}{
		{"cosigned", 200, "text/plain", "— w sig\n", nil, 0},
		{"another size", 409, "text/x.tlog.size", "7\n", &Conflict{}, 7},
		{"another size, with a parameter", 409, "text/x.tlog.size; charset=utf-8", "0\n", &Conflict{}, 0},
		{"a conflict of another type", 409, "text/plain", "7\n", &Conflict{}, -1},
		{"a conflict without a size", 409, "text/x.tlog.size", "", &Conflict{}, -1},
		{"a size in another spelling", 409, "text/x.tlog.size", "07\n", &Conflict{}, -1},
		{"a size below zero", 409, "text/x.tlog.size", "-7\n", &Conflict{}, -1},
		{"a size without an end", 409, "text/x.tlog.size", "7", &Conflict{}, -1},
		{"an unknown log", 404, "", "unknown log\n", ErrUnknownLog, 0},
		{"an unknown key", 403, "", "no\n", ErrUnknownKey, 0},
		{"a wrong proof", 422, "", "no\n", ErrInconsistent, 0},
		{"a redirect", 307, "", "", errors.New("the witness answers 307"), 0},
		{"overload", 503, "", "later\n", errors.New("the witness answers 503"), 0},
		{"a success without content", 204, "", "", errors.New("the witness answers 204"), 0},
		{"too much", 200, "", strings.Repeat("x", largestAnswer+1), errors.New("the witness's answer is over 65536 bytes"), 0},
	} {
		var asked []string
		client, err := NewClient("https://witness.example/prefix/", roundTrip(func(r *http.Request) (*http.Response, error) {
			b, _ := io.ReadAll(r.Body)
			asked = append(asked, r.Method+" "+r.URL.String()+" "+string(b))
			h := http.Header{"Content-Type": {c.media}, "Location": {"https://elsewhere.example/add-checkpoint"}}
			return &http.Response{StatusCode: c.status, Status: strconv.Itoa(c.status), Header: h, Body: io.NopCloser(strings.NewReader(c.body))}, nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		got, err := client.Add(t.Context(), Request{Old: 3, Note: []byte("note\n")})
		conflict, isConflict := errors.AsType[*Conflict](err)
		_, wantConflict := errors.AsType[*Conflict](c.want)
		switch {
		case c.want == nil:
			if err != nil || string(got) != c.body {
				t.Errorf("%s: %q, %v", c.what, got, err)
			}
		case wantConflict:
			if !isConflict || conflict.Size != c.size {
				t.Errorf("%s: %v, want a conflict at %d", c.what, err, c.size)
			}
		case !errors.Is(err, c.want) && (err == nil || !strings.HasPrefix(err.Error(), c.want.Error())):
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
		if len(asked) != 1 || asked[0] != "POST https://witness.example/prefix/add-checkpoint old 3\n\nnote\n" {
			t.Errorf("%s: asked %q", c.what, asked)
		}
	}
}

func TestPrefixesThatAreNone(t *testing.T) {
	for _, url := range []string{"", "witness.example", "ftp://witness.example", "https://", "https://w.example/?x=1", "https://w.example/#x", "https://u:p@w.example/", ":"} {
		if _, err := NewClient(url, nil); err == nil {
			t.Errorf("%q is a prefix", url)
		}
	}
}

// TestAWitnessWithoutATrustedCertificateIsNotAsked anything: the request never
// arrives.
func TestAWitnessWithoutATrustedCertificateIsNotAsked(t *testing.T) {
	at := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked") }))
	at.Config.ErrorLog = nil
	defer at.Close()
	client, err := NewClient(at.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Add(t.Context(), Request{}); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("asking it: %v", err)
	}
}

// TestAWitnessThatHangs is given up after ten seconds, and at once when the
// caller no longer wants it.
func TestAWitnessThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pipes []net.Conn
		client, err := NewClient("http://witness.example", &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			mine, its := net.Pipe()
			go io.Copy(io.Discard, its) // it reads, and says nothing
			pipes = append(pipes, its)
			return mine, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := client.Add(t.Context(), Request{}); !errors.Is(err, ErrUnreachable) || time.Since(began) != clientPatience {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		began = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := client.Add(ctx, Request{}); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		client.Close()
		for _, p := range pipes {
			p.Close()
		}
	})
}
