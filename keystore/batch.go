package keystore

import (
	"context"
	"slices"
)

// MaxBatch is how many messages one call of SignBatch takes.
const MaxBatch = 256

// A BatchSigner is a Key that signs several messages in one call to its
// backend. Whoever holds a Key asks whether it is one; a Key that stands before
// another is one if, and only if, the other is.
type BatchSigner interface {
	Key
	// SignBatch returns, at each message's place, what Sign would return for it.
	// sigs and errs are as long as messages, and at every place one of the two
	// is nil and the other is not. A message that is not signed keeps no other
	// from being signed; what went wrong with the call as a whole stands at
	// every place that has no signature for it.
	//
	// An empty batch asks the backend nothing. Of one with more than MaxBatch
	// messages none is signed, and there is an error at every place. When ctx
	// ends, SignBatch returns, and the places without a signature have the error
	// that Sign would return then.
	//
	// It may be used concurrently. It changes no message, and keeps none after
	// it has returned.
	SignBatch(ctx context.Context, messages [][]byte) (sigs [][]byte, errs []error)
}

// RefuseBatch returns what SignBatch does where none of n messages is signed,
// all for the same reason.
func RefuseBatch(n int, err error) (sigs [][]byte, errs []error) {
	return make([][]byte, n), slices.Repeat([]error{err}, n)
}
