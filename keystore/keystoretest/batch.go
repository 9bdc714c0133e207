package keystoretest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"chancery/keystore"
)

// batches tests the keys of a provider if they are BatchSigners: one that hashes
// what it signs, and one that does not.
func batches(t *testing.T, p keystore.Provider, alg keystore.Algorithm) {
	for _, purpose := range []keystore.Purpose{keystore.PurposeJWT, keystore.PurposeDigest} {
		_, key := generate(t, p, purpose, alg)
		k, ok := key.(keystore.BatchSigner)
		if !ok {
			t.Skip("the backend signs one message at a time")
		}
		t.Run(string(purpose), func(t *testing.T) { Batches(t, k, purpose) })
	}
}

// Batches tests that what k.SignBatch returns is what as many calls of k.Sign
// would. k is a key of the given purpose. Run calls it for a provider's keys.
func Batches(t *testing.T, k keystore.BatchSigner, purpose keystore.Purpose) {
	t.Run("each signature is of its own message", func(t *testing.T) {
		for _, n := range []int{0, 1, 2, 33, keystore.MaxBatch} {
			signed(t, k, purpose, distinct(k.Algorithm(), purpose, n), nil)
		}
	})
	t.Run("equal messages are signed each", func(t *testing.T) {
		one := distinct(k.Algorithm(), purpose, 1)[0]
		signed(t, k, purpose, [][]byte{one, one, one}, nil)
	})
	t.Run("a message of a wrong form keeps no other from it", func(t *testing.T) {
		messages := distinct(k.Algorithm(), purpose, 9)
		messages[0], messages[4], messages[8] = []byte("of no form"), nil, make([]byte, keystore.MaxMessage+1)
		signed(t, k, purpose, messages, map[int]error{0: keystore.ErrMessage, 4: keystore.ErrMessage, 8: keystore.ErrMessage})
		signed(t, k, purpose, [][]byte{nil}, map[int]error{0: keystore.ErrMessage})
	})
	t.Run("a batch that is too large is refused whole", func(t *testing.T) { tooLarge(t, k, purpose) })
	t.Run("many batches at once", func(t *testing.T) {
		var all sync.WaitGroup
		for n := range 8 {
			all.Go(func() { signed(t, k, purpose, distinct(k.Algorithm(), purpose, 3*n+1), nil) })
		}
		all.Wait()
	})
	t.Run("deadlines are kept", func(t *testing.T) { late(t, k, purpose) })
}

// distinct returns n messages that a key of purpose signs.
func distinct(alg keystore.Algorithm, purpose keystore.Purpose, n int) [][]byte {
	messages := make([][]byte, n)
	for i := range messages {
		messages[i] = fmt.Appendf(nil, "e%d.e%d", i, n)
		if purpose == keystore.PurposeDigest {
			messages[i] = keystore.Digest(alg, messages[i])
		}
	}
	return messages
}

// signed has messages signed, and tests that those at the places of wrong have
// that error and the others a signature of their own.
func signed(t *testing.T, k keystore.BatchSigner, purpose keystore.Purpose, messages [][]byte, wrong map[int]error) {
	t.Helper()
	sigs, errs := k.SignBatch(t.Context(), messages)
	if len(sigs) != len(messages) || len(errs) != len(messages) {
		t.Errorf("%d signatures and %d errors for %d messages", len(sigs), len(errs), len(messages))
		return
	}
	for i, message := range messages {
		switch want := wrong[i]; {
		case want != nil:
			if !errors.Is(errs[i], want) || sigs[i] != nil {
				t.Errorf("message %d of %d: %d bytes, %v, want %v", i, len(messages), len(sigs[i]), errs[i], want)
			}
		case errs[i] != nil:
			t.Errorf("message %d of %d: %v", i, len(messages), errs[i])
		default:
			if err := verify(purpose, k, message, sigs[i]); err != nil {
				t.Errorf("message %d of %d: %v", i, len(messages), err)
			}
		}
	}
}

// tooLarge tests a batch of one message more than there may be.
func tooLarge(t *testing.T, k keystore.BatchSigner, purpose keystore.Purpose) {
	n := keystore.MaxBatch + 1
	sigs, errs := k.SignBatch(t.Context(), distinct(k.Algorithm(), purpose, n))
	if len(sigs) != n || len(errs) != n {
		t.Fatalf("%d signatures and %d errors for %d messages", len(sigs), len(errs), n)
	}
	for i := range n {
		if sigs[i] != nil || errs[i] == nil {
			t.Fatalf("message %d of %d: %d bytes, %v", i, n, len(sigs[i]), errs[i])
		}
	}
}

// late tests a batch whose time was over before it began.
func late(t *testing.T, k keystore.BatchSigner, purpose keystore.Purpose) {
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	messages := distinct(k.Algorithm(), purpose, 5)
	began := time.Now()
	sigs, errs := k.SignBatch(ctx, messages)
	if took := time.Since(began); took > time.Second {
		t.Errorf("the refusal took %v", took)
	}
	if len(sigs) != len(messages) || len(errs) != len(messages) {
		t.Fatalf("%d signatures and %d errors for %d messages", len(sigs), len(errs), len(messages))
	}
	for i := range messages {
		if sigs[i] != nil || !errors.Is(errs[i], context.DeadlineExceeded) {
			t.Errorf("message %d: %d bytes, %v, want %v", i, len(sigs[i]), errs[i], context.DeadlineExceeded)
		}
	}
	signed(t, k, purpose, messages, nil)
}

// announcements tests a key that tells when its backend was asked: once for each
// message that was signed, and never for one that the backend has not seen.
func announcements(t *testing.T, p keystore.Provider, alg keystore.Algorithm) {
	_, key := generate(t, p, keystore.PurposeJWT, alg)
	k, ok := key.(keystore.BatchAnnouncer)
	one, also := key.(keystore.Announcer)
	if !ok || !also {
		t.Skip("the backend does not tell when it was asked")
	}
	past, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, c := range []struct {
		what    string
		ctx     context.Context
		message []byte
		asked   int
	}{
		{"a message", t.Context(), Message(keystore.PurposeJWT, alg), 1},
		{"a message of a wrong form", t.Context(), []byte("of no form"), 0},
		{"a message that comes too late", past, Message(keystore.PurposeJWT, alg), 0},
	} {
		asked := 0
		if _, err := one.SignAsked(c.ctx, c.message, func() { asked++ }); asked != c.asked || (err == nil) != (c.asked > 0) {
			t.Errorf("%s: it was told %d times, want %d; %v", c.what, asked, c.asked, err)
		}
	}
	if _, err := one.SignAsked(t.Context(), Message(keystore.PurposeJWT, alg), nil); err != nil {
		t.Errorf("nobody wants to know: %v", err)
	}
	messages := distinct(alg, keystore.PurposeJWT, 30)
	messages[7] = []byte("of no form")
	var mu sync.Mutex
	asked := make([]int, len(messages))
	_, errs := k.SignBatchAsked(t.Context(), messages, func(place int) {
		mu.Lock()
		defer mu.Unlock()
		asked[place]++
	})
	for i, n := range asked {
		if want := map[bool]int{true: 0, false: 1}[i == 7]; n != want || (errs[i] == nil) != (want == 1) {
			t.Errorf("message %d: it was told %d times, want %d; %v", i, n, want, errs[i])
		}
	}
}
