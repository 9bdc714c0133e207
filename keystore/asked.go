package keystore

import "context"

// An Announcer is a Key that tells when it has asked its backend, so that what
// belongs to the signature can be done while it is made. A Key that stands before
// another is one if the other is.
type Announcer interface {
	Key
	// SignAsked is Sign that calls asked once the backend has the message, before it
	// waits for the answer; at most once, whatever is tried again after it, by the
	// goroutine that called SignAsked. If asked was not called, the backend has not
	// been asked. asked must not block; it may be nil.
	SignAsked(ctx context.Context, message []byte, asked func()) ([]byte, error)
}

// A BatchAnnouncer is an Announcer for several messages.
type BatchAnnouncer interface {
	BatchSigner
	// SignBatchAsked is SignBatch that calls asked as SignAsked does, with the place
	// of each message, from several goroutines at a time, and not any more once it has
	// returned.
	SignBatchAsked(ctx context.Context, messages [][]byte, asked func(place int)) (sigs [][]byte, errs []error)
}

// SignAsked is k's, or k.Sign where k tells nothing.
func SignAsked(ctx context.Context, k Key, message []byte, asked func()) ([]byte, error) {
	if a, ok := k.(Announcer); ok {
		return a.SignAsked(ctx, message, asked)
	}
	return k.Sign(ctx, message)
}

// SignBatchAsked is k's, or k.SignBatch where k tells nothing.
func SignBatchAsked(ctx context.Context, k BatchSigner, messages [][]byte, asked func(place int)) (sigs [][]byte, errs []error) {
	if a, ok := k.(BatchAnnouncer); ok {
		return a.SignBatchAsked(ctx, messages, asked)
	}
	return k.SignBatch(ctx, messages)
}
