// Package api is what the server and its clients share: the wire types, the
// strict decoder, and the error codes.
//
// JSON members are snake_case, durations whole seconds, times RFC 3339 in UTC,
// serial numbers lower-case hexadecimal, certificates PEM strings.
package api

import (
	"encoding/json"
	"time"
)

// SignJWTRequest asks for a JWT: POST /v1/sign/jwt.
type SignJWTRequest struct {
	KeySet string          `json:"keyset"`
	Claims json.RawMessage `json:"claims"`        // a JSON object, copied into the payload verbatim
	TTL    *int64          `json:"ttl,omitempty"` // seconds; absent: the key set's default
	Typ    string          `json:"typ,omitempty"` // absent: "JWT", or the profile's

	// Profile is the claims profile; absent: the only one of the rule that decides,
	// or "jwt".
	Profile string `json:"profile,omitempty"`
	// CNFCertificate is the certificate that the token is bound to, where rule or
	// profile say that one is named: PEM, or the SHA-256 of its DER in base64url.
	CNFCertificate string `json:"cnf_certificate,omitempty"`
}

// SignJWTReply is a signed JWT.
type SignJWTReply struct {
	Token     string    `json:"token"`
	KID       string    `json:"kid"`
	ExpiresAt time.Time `json:"expires_at"`
	Entry     string    `json:"entry"` // where it stands in the log: origin#index
}

// BatchRequest asks for several JWTs: POST /v1/sign/jwt/batch.
type BatchRequest struct {
	Requests []json.RawMessage `json:"requests"` // each a SignJWTRequest; at most MaxBatch
}

// BatchReply answers a BatchRequest in its order.
type BatchReply struct {
	Results []BatchResult `json:"results"`
}

// Gravest returns what the batch counts as (Gravest).
func (r BatchReply) Gravest() string {
	return Gravest(func(yield func(Code) bool) {
		for _, one := range r.Results {
			if one.Problem != nil && !yield(one.Problem.Code) {
				return
			}
		}
	})
}

// BatchResult is a SignJWTReply, or a Problem: exactly one is set, and it is
// written as that object.
type BatchResult struct {
	Reply   *SignJWTReply
	Problem *Problem
}

// MarshalJSON writes whichever is set.
func (r BatchResult) MarshalJSON() ([]byte, error) {
	if r.Problem != nil {
		return json.Marshal(r.Problem)
	}
	return json.Marshal(r.Reply)
}

// UnmarshalJSON tells the two apart by the member "code".
func (r *BatchResult) UnmarshalJSON(b []byte) error {
	var p Problem
	if err := json.Unmarshal(b, &p); err == nil && p.Code != "" {
		r.Problem = &p
		return nil
	}
	r.Reply = new(SignJWTReply)
	return json.Unmarshal(b, r.Reply)
}

// SignCSRRequest asks for a certificate: POST /v1/sign/csr.
type SignCSRRequest struct {
	Authority string `json:"authority"`
	Profile   string `json:"profile"`
	CSR       string `json:"csr"`           // PEM, one CERTIFICATE REQUEST
	TTL       *int64 `json:"ttl,omitempty"` // seconds; absent: the profile's default
}

// SignCSRReply is an issued certificate.
type SignCSRReply struct {
	Certificate string    `json:"certificate"` // PEM
	Chain       []string  `json:"chain"`       // PEM, the issuer first, a self-signed one included
	Serial      string    `json:"serial"`
	NotAfter    time.Time `json:"not_after"`
	Entry       string    `json:"entry"`
}

// SignDigestRequest asks for the signature of a digest that the caller made:
// POST /v1/sign/digest. Nobody but the caller knows of what it is one.
type SignDigestRequest struct {
	KeySet string `json:"keyset"`
	Digest string `json:"digest"`           // standard base64, padded, of exactly the bytes of the algorithm's hash
	Format string `json:"format,omitempty"` // FormatDER, FormatRaw; absent: FormatDER
}

// The forms of a signature. Of an RSA signature both are the same bytes.
const (
	// FormatDER is what X.509, CMS and openssl read: of ECDSA the DER of
	// ECDSA-Sig-Value (RFC 3279 Section 2.2.3).
	FormatDER = "der"
	// FormatRaw is the JOSE form: of ECDSA r and s side by side, each as long as the
	// curve's order (RFC 7518 Section 3.4).
	FormatRaw = "raw"
)

// SignDigestReply is the signature of a digest.
type SignDigestReply struct {
	Signature string `json:"signature"` // standard base64, padded
	KID       string `json:"kid"`
	Algorithm string `json:"algorithm"` // by its JOSE name
	Entry     string `json:"entry"`
}

// KeySetList answers GET /v1/keysets.
type KeySetList struct {
	KeySets []KeySet `json:"keysets"`
}

// KeySet answers GET /v1/keysets/NAME.
type KeySet struct {
	Name      string    `json:"name"`
	Purpose   string    `json:"purpose"`
	Algorithm string    `json:"algorithm"`
	Keystore  string    `json:"keystore"`
	Revision  int64     `json:"revision"`
	Versions  []Version `json:"versions"`
}

// Version is one key version. Times are null until they are known.
type Version struct {
	Version     int        `json:"version"`
	KID         string     `json:"kid"`
	State       string     `json:"state"`
	NIST        string     `json:"nist_state"`
	Algorithm   string     `json:"algorithm,omitempty"` // for ever; the key set's is the next version's
	Keystore    string     `json:"keystore"`            // where its private key is
	PublishedAt *time.Time `json:"published_at"`
	SignsFrom   *time.Time `json:"signs_from"`
	SignsUntil  *time.Time `json:"signs_until"`
	RetiresAt   *time.Time `json:"retires_at"`
	ExpHorizon  *time.Time `json:"exp_horizon"`
	Suspended   bool       `json:"suspended"`
	Compromised bool       `json:"compromised"`
	Alarms      []string   `json:"alarms,omitempty"` // what is wrong with it, in words
	// PublicKey is the key that verifies, in PEM: of key sets of purpose digest
	// only, which are published nowhere else, and of versions that are known.
	PublicKey string `json:"public_key,omitempty"`
}

// OperateRequest is the body of POST /v1/keysets/NAME/{rotate,suspend,resume}.
type OperateRequest struct {
	Reason string `json:"reason"`
	KID    string `json:"kid,omitempty"`  // absent: the active version
	When   string `json:"when,omitempty"` // rotate only: absent or "now"
}

// DestroyRequest is the body of POST /v1/keysets/NAME/destroy. KID or Version
// names the version; none is meant without.
type DestroyRequest struct {
	Reason  string `json:"reason"`
	KID     string `json:"kid,omitempty"`
	Version int64  `json:"version,omitempty"`
}

// DestroyReply answers a DestroyRequest: the version's private key is gone.
type DestroyReply struct {
	Version int    `json:"version"`
	KID     string `json:"kid"`
	State   string `json:"state"` // "destroyed"
	Entry   string `json:"entry"`
}

// VersionRef names a version.
type VersionRef struct {
	Version int    `json:"version"`
	KID     string `json:"kid"`
}

// RotateReply answers a rotate, with status 202.
type RotateReply struct {
	From      VersionRef `json:"from"`
	To        VersionRef `json:"to"`
	SignsFrom time.Time  `json:"signs_from"`
	Entry     string     `json:"entry"`
}

// SuspendReply answers a suspend or a resume.
type SuspendReply struct {
	Version   int    `json:"version"`
	KID       string `json:"kid"`
	Suspended bool   `json:"suspended"`
	Durable   bool   `json:"durable"`
	Entry     string `json:"entry"` // empty while the log cannot be written
}

// Plan answers GET /v1/keysets/NAME/plan.
type Plan struct {
	Steps []PlanStep `json:"steps"`
	// Held says what holds the next step, for "rotation why".
	Held string `json:"held,omitempty"`
	// Waits are the steps that can come next, and what each waits for; Held is of
	// one of them.
	Waits []Wait `json:"waits"`
	// Asked is the rotation that an operator asked for and that is not done.
	Asked *Asked `json:"asked,omitempty"`
}

// PlanStep is one step ahead.
type PlanStep struct {
	At      time.Time `json:"at"`
	Version int       `json:"version"`
	Step    string    `json:"step"`           // generate, publish, activate, retire, remove
	Rule    int       `json:"rule,omitempty"` // the rotation rule that holds it; absent: the schedule
	HeldBy  string    `json:"held_by"`
}

// History answers GET /v1/keysets/NAME/history.
type History struct {
	Events []Event `json:"events"`
}

// Event is one step that was taken.
type Event struct {
	At      time.Time `json:"at"`
	Version int       `json:"version"`
	Event   string    `json:"event"`
	By      string    `json:"by"`
	Reason  string    `json:"reason"`
	Entry   string    `json:"entry"`
}

// TokenList answers GET /v1/ops/tokens.
type TokenList struct {
	Tokens []Token `json:"tokens"`
}

// Token is one token's state.
type Token struct {
	Keystore string    `json:"keystore"`
	Label    string    `json:"label"`
	Serial   string    `json:"serial"`
	State    string    `json:"state"`
	Since    time.Time `json:"since"`
	Module   string    `json:"module"`
	Error    string    `json:"error,omitempty"`
	Hint     string    `json:"hint,omitempty"`
	Workers  int       `json:"workers"`
	Restarts int       `json:"restarts"`

	// Unconfined is what the processes of its module could not be kept from.
	Unconfined string `json:"unconfined,omitempty"`
	// Sampled: not every signature is verified before it leaves.
	Sampled bool `json:"sampled,omitempty"`
}

// TokenRetryRequest is the body of POST /v1/ops/tokens/retry: a keystore's
// name, or a token's serial or label.
type TokenRetryRequest struct {
	Token string `json:"token"`
}

// ReconcileRequest is the body of POST /v1/ops/reconcile.
type ReconcileRequest struct {
	Keystore string `json:"keystore,omitempty"` // absent: every keystore
}

// Reconciliation answers a ReconcileRequest: how catalog and keystores compare.
// GET /v1/ops/reconcile/last answers with the last one there was.
type Reconciliation struct {
	At        time.Time  `json:"at"`
	Keystores []Compared `json:"keystores"`
	Findings  []Mismatch `json:"findings"`
}

// Compared is how one keystore was compared.
type Compared struct {
	Keystore string `json:"keystore"`
	Keys     int    `json:"keys"`            // what it listed
	Error    string `json:"error,omitempty"` // why it could not be compared, or not to the end
}

// Mismatch is one thing in which a keystore and the catalog do not agree: its kind
// is adopted, finished, orphan, unknown, half_pair, missing, resurrected or
// attributes. Or one in which the log, the catalog or the published set do not
// agree of a version: log_state, log_key, not_in_log, not_in_catalog, jwks_missing
// or jwks_extra. More may come.
type Mismatch struct {
	Kind     string   `json:"kind"`
	Keystore string   `json:"keystore"`
	KeySet   string   `json:"keyset,omitempty"` // of the version it is about
	Version  int      `json:"version,omitempty"`
	KID      string   `json:"kid,omitempty"`
	State    string   `json:"state,omitempty"`
	Token    string   `json:"token,omitempty"` // what is in the keystore, from here on
	KeyID    string   `json:"key_id,omitempty"`
	Label    string   `json:"label,omitempty"`
	Type     string   `json:"type,omitempty"`
	Lacks    []string `json:"lacks,omitempty"` // required attributes
	What     string   `json:"what"`            // is wrong, in words
	Todo     string   `json:"todo"`            // what an operator does about it
	Entry    string   `json:"entry,omitempty"` // empty while the log cannot be written
}

// ClockConfirmRequest is the body of POST /v1/ops/clock/confirm.
type ClockConfirmRequest struct {
	Reason string `json:"reason"`
}

// ClockConfirmReply answers a ClockConfirmRequest: the node goes by its wall
// clock again, as it is now.
type ClockConfirmReply struct {
	Node string `json:"node"`
	// Offset is the step that was confirmed, in seconds to the millisecond: how far
	// the wall clock is ahead of the time the node had gone by; negative: behind.
	Offset float64 `json:"offset"`
	Entry  string  `json:"entry"`
}

// Endpoints is what chanceryd dev writes to endpoints.json when it is ready.
type Endpoints struct {
	Socket string `json:"socket"`
	Ops    string `json:"ops"`
	API    string `json:"api"`
	Public string `json:"public"`
	Admin  string `json:"admin"`
}
