package keystore

import "errors"

// Errors a caller branches on. Providers, the catalog and the logs wrap them.
var (
	// ErrNotFound: there is no such key, key set or version.
	ErrNotFound = errors.New("not found")
	// ErrExists: the name is taken, and nothing was overwritten.
	ErrExists = errors.New("already exists")
	// ErrAmbiguous: several objects answer to one name; none was used.
	ErrAmbiguous = errors.New("ambiguous")
	// ErrUnavailable: the backend cannot do it now and may later.
	ErrUnavailable = errors.New("backend unavailable")
	// ErrOverloaded: so many wait for the keystore that one more is refused at
	// once. Nothing is wrong with it.
	ErrOverloaded = errors.New("too many requests wait for this keystore")
	// ErrPINRejected: the token refused the PIN once, and is not asked again
	// with that PIN until an operator says so. It wraps ErrUnavailable.
	ErrPINRejected = &kindError{"PIN rejected", ErrUnavailable}
	// ErrTokenChanged: the token with this name is not the one that held the keys.
	// It wraps ErrUnavailable.
	ErrTokenChanged = &kindError{"token changed", ErrUnavailable}
	// ErrSignature: a signature is not what it should be, and is not released.
	ErrSignature = errors.New("signature invalid")
	// ErrMessage: the message does not have the form of the key's purpose.
	ErrMessage = errors.New("message does not fit the key's purpose")
	// ErrAttributes: a key is not sign-only, sensitive and never extractable.
	ErrAttributes = errors.New("key attributes not as required")
	// ErrUnsupported: the backend has not this algorithm.
	ErrUnsupported = errors.New("not supported by this keystore")
	// ErrOvertaken: the state has moved since it was read; nothing was changed.
	ErrOvertaken = errors.New("overtaken by another change")
	// ErrUncertain: it may or may not have happened; look before doing it again.
	ErrUncertain = errors.New("outcome unknown")
)

type kindError struct {
	text string
	kind error
}

func (e *kindError) Error() string { return e.text }
func (e *kindError) Unwrap() error { return e.kind }
