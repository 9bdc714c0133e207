package server

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"

	"chancery/signer/api"
)

// writeProblem answers with e as a problem document (RFC 9457). Its cause does
// not cross the wire.
func writeProblem(w http.ResponseWriter, e *api.Error) {
	p := e.Problem()
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(p.RetryAfter, 10))
	}
	if e.Code == api.CodeCertificateExpired || e.Code == api.CodeCertificateRevoked || e.Code == api.CodeTooLarge {
		closeAfter(w)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	body, err := json.Marshal(p)
	if err != nil { // strings and integers always marshal
		panic(err)
	}
	w.WriteHeader(p.Status)
	w.Write(append(body, '\n')) // a reader that has gone has gone
}

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, log *slog.Logger, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		log.Error("encoding a reply failed", "err", err)
		writeProblem(w, api.Errorf(api.CodeInternal, "internal error"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}
