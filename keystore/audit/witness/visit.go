package witness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
)

// A Visit is what came of looking at a log once.
type Visit struct {
	Origin string
	Before int64  // entries that the witness had cosigned before; 0: none
	Size   int64  // that it has cosigned now
	Signed []byte // the checkpoint, with its log's signatures and the witness's
}

// ErrContradicts is what an error of Visit wraps when the log is not what became
// of the one that the witness cosigned before.
var ErrContradicts = errors.New("the log contradicts what this witness cosigned")

// Visit reads the checkpoint and tiles of a log and, if it is what became of the
// log that the witness cosigned last, cosigns it. read reads a file of the log by
// its slash-separated name, such as "checkpoint", and returns an error wrapping
// fs.ErrNotExist if there is none: see Files and Pages. When ctx ends, reading
// ends, nothing is cosigned, and the error wraps ctx's.
func (s *Server) Visit(ctx context.Context, read func(ctx context.Context, name string) ([]byte, error)) (Visit, error) {
	signed, err := read(ctx, "checkpoint")
	if err != nil {
		return Visit{}, fmt.Errorf("reading the checkpoint: %w", err)
	}
	text, _, err := splitNote(signed)
	if err != nil {
		return Visit{}, err
	}
	b, err := parseBody(text)
	if err != nil {
		return Visit{}, err
	}
	old, err := s.Size(b.origin)
	if err != nil {
		return Visit{}, err
	}
	// Only what a log's own key signed can contradict: Cosign looks at that first.
	req := Request{Old: min(old, b.size), Note: signed}
	if old > 0 && old < b.size {
		if req.Proof, _, err = prove(ctx, read, b, old); err != nil {
			return Visit{}, fmt.Errorf("%s: %w", b.origin, err)
		}
	}
	line, err := s.Cosign(req)
	if r, refused := errors.AsType[*refusal](err); refused {
		switch r.status {
		case http.StatusNotFound, http.StatusForbidden:
			return Visit{}, fmt.Errorf("%s: %w (hint: which keys may sign it is said with the log keys given)", b.origin, err)
		case http.StatusConflict, http.StatusUnprocessableEntity:
			if old > b.size {
				return Visit{}, fmt.Errorf("%w: %s has %d entries, and had %d", ErrContradicts, b.origin, b.size, old)
			}
			return Visit{}, fmt.Errorf("%w: the %d entries of %s are not what the %d cosigned before became", ErrContradicts, b.size, b.origin, old)
		}
	}
	if err != nil {
		return Visit{}, fmt.Errorf("%s: %w", b.origin, err)
	}
	return Visit{b.origin, old, b.size, append(signed, line...)}, nil
}

// Files reads the files of the log in dir.
func Files(dir string) func(ctx context.Context, name string) ([]byte, error) { return logFiles(dir) }

// Pages reads the files of the log under base, an http or https URL, as Visit
// wants it. transport is as NewClient takes it; no redirect is followed. A request
// ends after ten seconds, or with its context.
func Pages(base string, transport http.RoundTripper) (func(ctx context.Context, name string) ([]byte, error), error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is no URL of a log: want http(s)://HOST[:PORT]/PATH", base)
	}
	client := newHTTP(transport)
	return func(ctx context.Context, name string) ([]byte, error) {
		get, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(u.String(), "/")+"/"+name, nil)
		if err != nil {
			return nil, err
		}
		answer, err := client.Do(get)
		if err != nil {
			return nil, err
		}
		defer answer.Body.Close()
		switch answer.StatusCode {
		case http.StatusOK:
		case http.StatusNotFound:
			return nil, fmt.Errorf("%s: %w", answer.Request.URL, fs.ErrNotExist)
		default:
			return nil, fmt.Errorf("%s answers %s", answer.Request.URL, answer.Status)
		}
		b, err := io.ReadAll(io.LimitReader(answer.Body, largestRequest+1))
		if err == nil && len(b) > largestRequest {
			err = fmt.Errorf("%s is over %d bytes", answer.Request.URL, largestRequest)
		}
		return b, err
	}, nil
}
