package witness

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Limits of a request (C2SP tlog-witness).
const (
	mostProof      = 63        // hashes
	largestRequest = 256 << 10 // bytes: room for sixteen signatures of any known type
)

// A Request asks a witness to cosign a checkpoint: the body of add-checkpoint.
type Request struct {
	Old   int64          // size of the checkpoint that the witness cosigned last; 0: none
	Proof tlog.TreeProof // of consistency from Old to the checkpoint's size
	Note  []byte         // the signed checkpoint
}

// Bytes returns the request's body.
func (r Request) Bytes() []byte {
	b := fmt.Appendf(nil, "old %d\n", r.Old)
	for _, h := range r.Proof {
		b = fmt.Appendf(b, "%s\n", h)
	}
	b = append(b, '\n')
	return append(b, r.Note...)
}

// ParseRequest reads what Bytes returns, in that spelling only. The checkpoint in
// it is not looked at.
func ParseRequest(body []byte) (Request, error) {
	if len(body) > largestRequest {
		return Request{}, fmt.Errorf("request of %d bytes is over %d", len(body), largestRequest)
	}
	head, rest, found := bytes.Cut(body, []byte("\n\n"))
	if !found {
		return Request{}, errors.New("request without an empty line")
	}
	lines := strings.Split(string(head), "\n")
	if len(lines) > 1+mostProof {
		return Request{}, fmt.Errorf("proof of more than %d hashes", mostProof)
	}
	text, isOld := strings.CutPrefix(lines[0], "old ")
	old, err := strconv.ParseInt(text, 10, 64)
	if !isOld || err != nil || old < 0 || strconv.FormatInt(old, 10) != text {
		return Request{}, errors.New("request without an old size")
	}
	r := Request{Old: old, Note: rest}
	for _, line := range lines[1:] {
		h, err := tlog.ParseHash(line)
		if err != nil || h.String() != line {
			return Request{}, errors.New("proof line that is no hash")
		}
		r.Proof = append(r.Proof, h)
	}
	return r, nil
}

// A body is the text of a checkpoint, which of a foreign log may have extension
// lines (C2SP tlog-checkpoint).
type body struct {
	origin string
	size   int64
	root   tlog.Hash
}

// parseBody reads the text of a checkpoint of any log.
func parseBody(text string) (body, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 || lines[len(lines)-1] != "" {
		return body{}, errors.New("a checkpoint has at least three lines")
	}
	for _, l := range lines[:len(lines)-1] {
		if l == "" {
			return body{}, errors.New("checkpoint with an empty line")
		}
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return body{}, errors.New("checkpoint without a size")
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil || root.String() != lines[2] {
		return body{}, errors.New("checkpoint without a root")
	}
	return body{lines[0], size, root}, nil
}

// splitNote returns the text of a signed note and its signature lines.
func splitNote(signed []byte) (text string, signatures []byte, err error) {
	i := bytes.LastIndex(signed, []byte("\n\n"))
	if i < 0 {
		return "", nil, errors.New("not a signed note")
	}
	return string(signed[:i+1]), signed[i+2:], nil
}
