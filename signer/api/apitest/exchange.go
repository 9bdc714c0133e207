package apitest

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"chancery/signer/api"
)

// CheckRequest returns nil if body is what the document says of a request.
func (d *Document) CheckRequest(method, path string, body []byte) error {
	op, ok := d.find(method, path)
	if !ok {
		return fmt.Errorf("%s %s: %w", method, path, errUndocumented)
	}
	return d.Check(op.at+"/requestBody/content/application~1json/schema", body)
}

// CheckReply returns nil if a reply is what the document says of it: a status
// that the operation lists, a media type of that status, the headers it must have,
// a body that fits the schema, and of a problem a code that stands beside the
// status. What any path may be answered with, since it is none of the door's or the
// caller is nobody, or too many, is told from 401, 403, 404, 405, 429 and 503.
func (d *Document) CheckReply(method, path string, status int, h http.Header, body []byte) error {
	response, at, err := d.response(method, path, status)
	if err != nil {
		return err
	}
	for name, header := range object(response, "headers") {
		if required, _ := header.(map[string]any)["required"].(bool); required && h.Get(name) == "" {
			return fmt.Errorf("%s %s: %d without %s", method, path, status, name)
		}
	}
	content := object(response, "content")
	if content == nil || method == http.MethodHead {
		if len(body) > 0 {
			return fmt.Errorf("%s %s: %d has a body: %w", method, path, status, errUndocumented)
		}
		return nil
	}
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || content[media] == nil {
		return fmt.Errorf("%s %s: %d as %q: %w", method, path, status, h.Get("Content-Type"), errUndocumented)
	}
	if !strings.HasSuffix(media, "json") {
		return nil // text
	}
	if err := d.Check(at+"/content/"+escape(media)+"/schema", body); err != nil {
		return fmt.Errorf("%s %s: %d: %w", method, path, status, err)
	}
	if media != "application/problem+json" {
		return nil
	}
	return checkProblem(object(object(content, media), "examples"), status, h, body)
}

// response finds what the document says of a status.
func (d *Document) response(method, path string, status int) (map[string]any, string, error) {
	if op, ok := d.find(method, path); ok && object(op.node, "responses")[strconv.Itoa(status)] != nil {
		return d.Resolve(op.at + "/responses/" + strconv.Itoa(status))
	}
	// It is no operation, or not one of the door that was asked.
	for _, name := range []string{"Unauthorized", "Forbidden", "NotFound", "TooManyRequests", "ServiceUnavailable", "Otherwise"} {
		response, at, err := d.Resolve("/components/responses/" + name)
		if err != nil {
			return nil, "", err
		}
		for _, e := range object(object(object(response, "content"), "application/problem+json"), "examples") {
			if object(e, "value")["status"] == float64(status) {
				return response, at, nil
			}
		}
	}
	return nil, "", fmt.Errorf("%s %s: status %d: %w", method, path, status, errUndocumented)
}

// checkProblem holds a problem against the examples of its response, which are
// named by their codes, and against its status line and headers.
func checkProblem(examples map[string]any, status int, h http.Header, body []byte) error {
	var p api.Problem
	if err := json.Unmarshal(body, &p); err != nil {
		return fmt.Errorf("reading a problem: %w", err)
	}
	if examples[string(p.Code)] == nil {
		return fmt.Errorf("code %s with status %d: %w", p.Code, status, errUndocumented)
	}
	if p.Status != status {
		return fmt.Errorf("a problem of status %d came with %d", p.Status, status)
	}
	if text := h.Get("Retry-After"); (p.RetryAfter > 0 || text != "") && text != strconv.FormatInt(p.RetryAfter, 10) {
		return fmt.Errorf("retry_after %d beside Retry-After %q", p.RetryAfter, text)
	}
	return nil
}
