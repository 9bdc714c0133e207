package api

import (
	"fmt"
	"iter"
	"net/http"
)

// A Code is the stable name of a failure. Codes are added, never changed.
type Code string

// The codes, by the HTTP status they are sent with.
const (
	CodeMalformed             Code = "malformed"
	CodeClaimReserved         Code = "claim_reserved"
	CodeClaimInvalid          Code = "claim_invalid"
	CodeTTLTooLong            Code = "ttl_too_long"
	CodeTypNotAllowed         Code = "typ_not_allowed"
	CodeNameNotAllowed        Code = "name_not_allowed"
	CodeClaimNotAllowed       Code = "claim_not_allowed"
	CodeClaimMissing          Code = "claim_missing"
	CodeAudienceNotAllowed    Code = "audience_not_allowed"
	CodeScopeNotAllowed       Code = "scope_not_allowed"
	CodeKeyRejected           Code = "key_rejected"
	CodeCertificateExpired    Code = "certificate_expired"
	CodeCertificateRevoked    Code = "certificate_revoked"
	CodeForbidden             Code = "forbidden"
	CodeNotFound              Code = "not_found"
	CodeMethodNotAllowed      Code = "method_not_allowed"
	CodeTooEarly              Code = "too_early"
	CodeIdempotencyInProgress Code = "idempotency_in_progress"
	CodeConflict              Code = "conflict"
	CodeTooLarge              Code = "too_large"
	CodeIdempotencyMismatch   Code = "idempotency_mismatch"
	CodeOverloaded            Code = "overloaded"
	CodeInternal              Code = "internal"
	CodeSignatureInvalid      Code = "signature_invalid"
	CodeKeySetSuspended       Code = "keyset_suspended"
	CodeBackendUnavailable    Code = "backend_unavailable"
	CodeAuditUnavailable      Code = "audit_unavailable"
	CodeLeaseExpired          Code = "lease_expired"
	CodeRevocationUnknown     Code = "revocation_unknown"
	CodeCanceled              Code = "canceled"
	CodeDeadlineExceeded      Code = "deadline_exceeded"
)

var statuses = map[Code]int{
	CodeMalformed: 400, CodeClaimReserved: 400, CodeClaimInvalid: 400, CodeTTLTooLong: 400, CodeTypNotAllowed: 400,
	CodeNameNotAllowed: 400, CodeKeyRejected: 400, CodeClaimNotAllowed: 400, CodeClaimMissing: 400,
	CodeAudienceNotAllowed: 400, CodeScopeNotAllowed: 400,
	CodeCertificateExpired: 401, CodeCertificateRevoked: 401,
	CodeForbidden: 403, CodeNotFound: 404, CodeMethodNotAllowed: 405,
	CodeCanceled: 408, // nobody reads it but in a log: RFC 9110 has no status for who hung up
	CodeTooEarly: 409, CodeIdempotencyInProgress: 409, CodeConflict: 409,
	CodeTooLarge: 413, CodeIdempotencyMismatch: 422, CodeOverloaded: 429,
	CodeInternal: 500, CodeSignatureInvalid: 500,
	CodeKeySetSuspended: 503, CodeBackendUnavailable: 503, CodeAuditUnavailable: 503, CodeLeaseExpired: 503,
	CodeRevocationUnknown: 503,
	CodeDeadlineExceeded:  504,
}

// Status returns the HTTP status the code is sent with.
func (c Code) Status() int {
	if s, ok := statuses[c]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// Gravest returns what an answer with several problems counts as: "ok" if there are
// none, one that is the daemon's to mend (500, 503) if there is any, and otherwise the
// one with the highest status; of equal ones the first.
func Gravest(problems iter.Seq[Code]) string {
	code, grave := "ok", 0
	for c := range problems {
		how := c.Status()
		if how == http.StatusInternalServerError || how == http.StatusServiceUnavailable {
			how += 100 // before a 504, which is its caller's
		}
		if how > grave {
			code, grave = string(c), how
		}
	}
	return code
}

// Codes returns every code and its status.
func Codes() map[Code]int {
	m := make(map[Code]int, len(statuses))
	for c, s := range statuses {
		m[c] = s
	}
	return m
}

// A Problem is a failure on the wire: RFC 9457 application/problem+json.
type Problem struct {
	Type       string `json:"type"` // "about:blank"
	Title      string `json:"title"`
	Status     int    `json:"status"`
	Code       Code   `json:"code"`
	Detail     string `json:"detail,omitempty"`
	Rule       int    `json:"rule,omitempty"`        // too_early: the rotation rule's number
	RetryAfter int64  `json:"retry_after,omitempty"` // seconds; the Retry-After header says the same
}

// Error makes a Problem an error, for clients.
func (p *Problem) Error() string { return fmt.Sprintf("%s: %s", p.Code, p.Detail) }

// An Error is a failure that a caller of the service may see. Only Code,
// Detail, Rule and RetryAfter cross the wire; the wrapped cause goes to the log.
type Error struct {
	Code       Code
	Detail     string
	Rule       int   // of rotation; 0: none
	RetryAfter int64 // seconds; every 503 has at least 1
	cause      error
}

// Errorf returns an Error with a detail for the caller and no hidden cause.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Because returns a copy of e with the cause that only the log learns.
func (e *Error) Because(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// Error returns everything, the cause included: it is for logs.
func (e *Error) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Detail, e.cause)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Detail)
}

// Reason returns what happened in words, the cause included and the code left
// out: it is for entries of the log, which hold the code apart.
func (e *Error) Reason() string {
	if e.cause != nil {
		return fmt.Sprintf("%s: %v", e.Detail, e.cause)
	}
	return e.Detail
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Problem returns what crosses the wire.
func (e *Error) Problem() *Problem {
	status := e.Code.Status()
	p := &Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status,
		Code: e.Code, Detail: e.Detail, Rule: e.Rule, RetryAfter: e.RetryAfter,
	}
	if status == http.StatusServiceUnavailable && p.RetryAfter < 1 {
		p.RetryAfter = 1
	}
	return p
}
