package main

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"chancery/keystore/audit"
	"chancery/signer/api"
	"chancery/signer/client"
)

// report prints err, and what to do about it, to standard error. With --json a
// refusal of the daemon goes to standard output as well, where its reply would.
func (a *app) report(err error, hint string) {
	if errors.Is(err, errFound) {
		return
	}
	text := err.Error()
	if p, ok := errors.AsType[*api.Problem](err); ok {
		text = problemText(p)
		if a.json {
			json.NewEncoder(a.out).Encode(p)
		}
	}
	fmt.Fprintln(a.err, "error:", clean(text))
	if hint != "" {
		fmt.Fprintln(a.err, "hint:", clean(hint))
	}
}

// problemText tells a problem in a line, with its rule and waiting time.
func problemText(p *api.Problem) string {
	text := string(p.Code)
	if p.Detail != "" {
		text += ": " + p.Detail
	}
	var more []string
	if rule := fmt.Sprintf("rule %d", p.Rule); p.Rule != 0 && !strings.Contains(p.Detail, rule) {
		more = append(more, rule)
	}
	if p.RetryAfter > 0 {
		wait := "again in %d s"
		if p.Code == api.CodeTooEarly {
			wait = "%d s left"
		}
		more = append(more, fmt.Sprintf(wait, p.RetryAfter))
	}
	if len(more) > 0 {
		text += " (" + strings.Join(more, ", ") + ")"
	}
	return text
}

// hinted is an error that brings its hint along.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// hint returns the next move after err, or nothing.
// dialled reports whether err is of a connection that was to be made.
func dialled(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

func (a *app) hint(err error) string {
	if h, ok := errors.AsType[hinted](err); ok {
		return h.hint
	}
	if p, ok := errors.AsType[*api.Problem](err); ok {
		return a.problemHint(p)
	}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.Is(err, errNotRunning):
		return a.startHint() + "; if it is starting, its log says what it waits for"
	case errors.Is(err, client.ErrKeysUnavailable): // before what kept them away: that is not our socket
		return "the public listener publishes the key set: check that the daemon runs and the URL is right"
	case errors.Is(err, audit.ErrDamaged):
		return "`chancery audit verify` names what is wrong"
	case a.connected == nil && errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: check the URL, and that the daemon runs"
	case errors.Is(err, syscall.ECONNREFUSED),
		a.connected != nil && errors.Is(err, syscall.ENOENT) && dialled(err): // not a file of the user's
		return a.startHint()
	case errors.Is(err, syscall.EACCES), errors.Is(err, fs.ErrPermission):
		return "socket and key belong to the user the daemon serves: run as that user"
	case errors.As(err, &unknown):
		return "the daemon's certificate is not from the roots given: check --ca"
	case errors.As(err, &name):
		return "the daemon's certificate is for another name: --server-name says which one to expect"
	case errors.Is(err, client.ErrUnknownKey):
		return "a key leaves the set when the last token it signed has expired: the token may be older, or another issuer's"
	}
	if hint := alertHint(err.Error()); hint != "" || a.connected == nil || !closed(err) {
		return hint
	}
	return "the daemon closed the connection without an answer: it takes 1024, 256 of them from one user or address, " +
		"and none when it ends; close some, or try again"
}

// closed reports whether err is that the other side closed the connection: what
// is seen of it depends on what we were at.
func closed(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// alertHint explains the alerts a daemon refuses a handshake with. The standard
// library has no type for them that could be asked.
func alertHint(text string) string {
	_, alert, found := strings.Cut(text, "remote error: tls: ")
	switch {
	case !found:
		return ""
	case strings.HasPrefix(alert, "expired certificate"):
		return "the client certificate has expired: renew it (`chanceryd dev` renews those of its directory when it starts)"
	case strings.HasPrefix(alert, "unknown certificate authority"):
		return "the daemon does not know who issued the client certificate: check --cert"
	case strings.HasPrefix(alert, "certificate required"):
		return "the daemon wants a client certificate: check --cert"
	}
	return "the daemon refused the client certificate: its log says why"
}

func (a *app) startHint() string {
	if a.dir != "" {
		return "start it with `chanceryd dev --dir " + a.dir + "`"
	}
	return "start the daemon, or check --endpoint"
}

// The hints that do not depend on anything.
var problemHints = map[api.Code]string{
	api.CodeClaimReserved:         "leave out iss, iat, nbf, exp and jti: the daemon sets them; --ttl sets how long the token lives",
	api.CodeTTLTooLong:            "ask for a shorter one with --ttl",
	api.CodeClaimInvalid:          "the profile of the token, or the policy, says which claims it has and of what form",
	api.CodeClaimNotAllowed:       "the policy says which claims this principal may have: `chancery policy explain` tells why",
	api.CodeClaimMissing:          "the policy asks for this claim",
	api.CodeAudienceNotAllowed:    "the policy lists who may be in aud",
	api.CodeScopeNotAllowed:       "the policy lists what the claim scope may hold, with a space between them",
	api.CodeTypNotAllowed:         "the policy lists the types this principal may use, and a profile has its own: leave out --typ for the usual one",
	api.CodeNameNotAllowed:        "policy and profile say which names a certificate may have",
	api.CodeKeyRejected:           "make a new key: RSA of 2048, 3072 or 4096 bits with exponent 65537, P-256, P-384, P-521 or Ed25519",
	api.CodeCertificateExpired:    "renew the client certificate",
	api.CodeCertificateRevoked:    "an operator revoked this client certificate: ask for another",
	api.CodeTooEarly:              "leave out --now: the successor then signs at the earliest safe moment",
	api.CodeRevocationUnknown:     "a revocation list of this client's CA is missing or too old: /readyz?verbose of the node says which",
	api.CodeIdempotencyMismatch:   "an Idempotency-Key belongs to one request: use another for this one",
	api.CodeIdempotencyInProgress: "the first request with this Idempotency-Key is not done: ask again in a moment",
	api.CodeSignatureInvalid:      "the token made a signature that does not verify; nothing was released, and the log has it",
	api.CodeInternal:              "the daemon's log says why",
	api.CodeDeadlineExceeded:      "give it more time, or see whether others ask for too much: chancery_queue_waiting and chancery_request_duration_seconds of /metrics",
}

func (a *app) problemHint(p *api.Problem) string {
	hint := problemHints[p.Code]
	switch p.Code {
	case api.CodeForbidden:
		return a.forbiddenHint()
	case api.CodeClaimReserved:
		if strings.Contains(p.Detail, `"cnf"`) {
			hint = "leave out cnf: the token's profile, or the policy, has the daemon make it"
		}
	case api.CodeTooEarly:
		if p.Rule == 2 || p.Rule == 9 { // of a destruction
			hint = fmt.Sprintf("run it again in %d s: a key is destroyed when nothing it signed can be valid", p.RetryAfter)
		}
	case api.CodeNotFound:
		if strings.Contains(p.Detail, "endpoint") {
			hint = "signing and operating have a socket each: check --as or --endpoint"
		}
	case api.CodeKeySetSuspended:
		hint = "an operator suspended it or ended its key: `chancery keys show` tells which version, `chancery resume` takes a suspension back"
	case api.CodeBackendUnavailable:
		hint = "the keystore did not do it in time, or cannot now: `chancery token list` and `chancery rotation why KEYSET` say why"
	case api.CodeAuditUnavailable:
		hint = "the log cannot be written (is its disk full?), or is not what it was: /readyz?verbose of the node says why"
	case api.CodeLeaseExpired:
		hint = "the key catalog cannot be read or written (is its disk full, its database down?): nothing is signed until it can"
		if p.RetryAfter == 0 {
			hint = "/readyz?verbose of the node says why; ask another node"
		}
	}
	if _, later := client.RetryAfter(p); later {
		hint = strings.TrimPrefix(fmt.Sprintf("%s; try again in %d s, or let the command wait with --wait", hint, p.RetryAfter), "; ")
	}
	return hint
}

func (a *app) forbiddenHint() string {
	if a.connected == nil || a.connected.role == "" {
		return "the policy gives this certificate no such right, or there is nothing of that name"
	}
	return fmt.Sprintf("asked as %s, which may not do this, or there is nothing of that name; --as chooses another: %s",
		a.connected.role, strings.Join(roles, ", "))
}
