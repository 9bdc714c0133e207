package keystore

import (
	"context"
	"crypto"
	"io"
	"time"
)

// A Provider holds private keys and signs with them. Private keys never leave
// it. It knows a key's purpose, which decides the form of what it signs, and
// nothing of callers, claims or policy.
//
// All methods may be called concurrently and return when ctx ends at the
// latest. Their errors wrap the sentinels of this package; none carries a
// secret.
type Provider interface {
	// Generate makes a new key pair named id, sign-only, sensitive and never
	// extractable, proves by a self-test that its halves belong together, and
	// returns its DER SubjectPublicKeyInfo. It returns an error wrapping
	// ErrExists if id is taken and never overwrites; ErrUnsupported if the
	// backend lacks alg; ErrUncertain if the key may or may not exist now. It is
	// never tried again under the same id; Find tells what became of it.
	Generate(ctx context.Context, id KeyID, purpose Purpose, alg Algorithm) (spki []byte, err error)

	// Find returns the DER SubjectPublicKeyInfo of the complete pair named id,
	// after the same self-test and attribute checks as Generate: a key whose
	// generation was interrupted is adopted by it. It returns an error wrapping
	// ErrNotFound if there is nothing of that name, ErrAmbiguous or
	// ErrAttributes if what is there must not be used.
	Find(ctx context.Context, id KeyID, purpose Purpose, alg Algorithm) (spki []byte, err error)

	// Open returns the private key that ref names, or an error wrapping
	// ErrNotFound, ErrAmbiguous, ErrAttributes or ErrUnavailable. The Key stays
	// good across failures and recoveries of the backend.
	Open(ctx context.Context, ref KeyRef, purpose Purpose) (Key, error)

	// List enumerates every private key of the backend, known or not, and what
	// else there is that could harm them.
	List(ctx context.Context) ([]Object, error)

	// Status returns the state of each token behind the provider. It does not
	// wait for any.
	Status() []TokenStatus

	// Probe makes a real signature by the token's probe key, making that key
	// first if there is none, and verifies it.
	Probe(ctx context.Context) error

	// Drop tells the backend that the key is not to be held ready any more: it
	// has left active. Signing with it again is not an error.
	Drop(ctx context.Context, id KeyID) error

	// Destroy removes both halves of the key pair that ref names, and every copy
	// of it that the backend holds ready, and proves by an enumeration that sees
	// the backend afresh that nothing of it is left. Nothing brings the key back.
	// Destroying what is gone already is not an error, so that an interrupted
	// destruction can be run again. It returns an error wrapping ErrAmbiguous,
	// and destroys nothing, if what goes by that id is not that pair alone;
	// ErrUncertain if the key may or may not be there still.
	Destroy(ctx context.Context, ref KeyRef) error

	io.Closer
}

// A Key signs. It may be used concurrently.
type Key interface {
	// Public returns the *ecdsa.PublicKey, *rsa.PublicKey or ed25519.PublicKey
	// of the KeyRef it was opened with.
	Public() crypto.PublicKey
	Algorithm() Algorithm
	// Sign returns the signature of message in JOSE form (see Verify), verified
	// under Public before it is returned. message is hashed inside, except for
	// keys of purpose digest. It returns an error wrapping ErrMessage if the
	// message does not fit the key's purpose, ErrSignature if what came back
	// does not verify, ErrUnavailable if the backend cannot sign now.
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// A KeyRef names one key pair: by the provider's name and by its public key,
// which must both fit.
type KeyRef struct {
	ID        KeyID
	Algorithm Algorithm
	SPKI      []byte // DER
}

// An Object is a private key found in a backend, half of one, or another key that
// could harm private ones.
type Object struct {
	Token   string // the token's serial, or the Transit mount
	ID      string // the provider's name for it in hexadecimal; may be empty
	Label   string
	Type    string   // "EC", "RSA", "Ed25519", "secret" or what the backend calls it
	SPKI    []byte   // nil where no public half was found
	Missing []string // required attributes it lacks
}

// A TokenState is how a token is doing.
type TokenState string

// The states of a token.
const (
	TokenStarting    TokenState = "starting"     // not logged in yet
	TokenReady       TokenState = "ready"        // signs
	TokenUnavailable TokenState = "unavailable"  // tried again by itself
	TokenFailed      TokenState = "failed"       // its workers crash as they start; tried again by itself, seldom
	TokenPINRejected TokenState = "pin_rejected" // waits for an operator
	TokenPINLocked   TokenState = "pin_locked"   // the token says so itself; waits for an operator
	TokenChanged     TokenState = "changed"      // another token under this name; waits for an operator
	TokenAmbiguous   TokenState = "ambiguous"    // several tokens fit the name; waits for an operator
	TokenStopped     TokenState = "stopped"      // a destroyed key is there again; waits for an operator

	TokenSealed       TokenState = "sealed"        // Vault holds its keys shut until somebody unseals it; then it goes on by itself
	TokenAuthRejected TokenState = "auth_rejected" // Vault refuses the login; tried again by itself, at once when the credentials' file changes
)

// A TokenStatus tells one token's state. Err has no secret and is for operators.
type TokenStatus struct {
	Keystore string     `json:"keystore"`
	Label    string     `json:"label"`
	Serial   string     `json:"serial"`
	State    TokenState `json:"state"`
	Since    time.Time  `json:"since"`
	Module   string     `json:"module"`
	Err      string     `json:"error,omitempty"`
	Workers  int        `json:"workers"`
	Restarts int        `json:"restarts"`

	// Unconfined is what the module's processes could not be kept from, or what a
	// backend that runs nothing lets Chancery do beyond what it needs; "": nothing.
	Unconfined string `json:"unconfined,omitempty"`
	// Sampled says that not every signature is verified before it leaves.
	Sampled bool `json:"sampled,omitempty"`
}

// A Retrier is a Provider that may be waiting for an operator.
type Retrier interface {
	// Retry tries the token with the given serial or label once more, over what
	// stopped it, and returns the outcome. A PIN that the token is known to have
	// refused is not tried: the error wraps ErrPINRejected as that of a try would.
	Retry(ctx context.Context, token string) error
}
