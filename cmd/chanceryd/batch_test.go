package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
)

// oneKey is a keystore that has that key.
type oneKey struct {
	keystore.Provider
	key keystore.Key
}

func (p oneKey) Open(context.Context, keystore.KeyRef, keystore.Purpose) (keystore.Key, error) {
	return p.key, nil
}

// answering is a key that answers a batch as it is told.
type answering struct {
	*keystoretest.SoftBatch
	errs func() []error
}

func (k answering) SignBatch(_ context.Context, messages [][]byte) ([][]byte, []error) {
	errs := k.errs()
	sigs := make([][]byte, len(errs))
	for i := range errs {
		if errs[i] == nil {
			sigs[i] = []byte("signature")
		}
	}
	return sigs, errs
}

// behind returns key as the daemon sees it: behind a stop, and watched.
func behind(t *testing.T, key keystore.Key, s *stops, k *keyring) keystore.Key {
	t.Helper()
	key, err := (&stoppable{oneKey{key: key}, "vault", s}).Open(t.Context(), keystore.KeyRef{}, keystore.PurposeJWT)
	if err != nil {
		t.Fatal(err)
	}
	return k.watched(key, "kid")
}

// What stands before a key signs batches if, and only if, the key does.
func TestBatchSignersAreToldApart(t *testing.T) {
	soft := keystoretest.NewKey(t, keystore.PurposeJWT, keystore.ES256)
	s := newStops(time.Now, func(keystore.TokenStatus) {})
	k := &keyring{await: func(context.Context, string) error { return nil }, lost: func(keystore.KID, error) {}, found: func(keystore.KID) {}}
	if _, ok := behind(t, soft, s, k).(keystore.BatchSigner); ok {
		t.Error("a key that signs one message at a time became one that signs several")
	}
	several, ok := behind(t, &keystoretest.SoftBatch{SoftKey: soft}, s, k).(keystore.BatchSigner)
	if !ok {
		t.Fatal("a key that signs several messages became one that signs one at a time")
	}
	keystoretest.Batches(t, several, keystore.PurposeJWT)
}

// A batch under way when its keystore is stopped releases nothing; what went
// wrong with a message for itself is told as it was.
func TestBatchesOfAStoppedKeystore(t *testing.T) {
	s := newStops(time.Now, func(keystore.TokenStatus) {})
	k := &keyring{await: func(context.Context, string) error { return nil }, lost: func(keystore.KID, error) {}, found: func(keystore.KID) {}}
	asked := 0
	key := behind(t, answering{errs: func() []error {
		asked++
		s.Stop("vault", "the destroyed key of web version 1 is there again")
		return []error{nil, keystore.ErrNotFound, nil}
	}}, s, k).(keystore.BatchSigner)
	for turn, want := range [][]error{
		{keystore.ErrUnavailable, keystore.ErrNotFound, keystore.ErrUnavailable},
		{keystore.ErrUnavailable, keystore.ErrUnavailable, keystore.ErrUnavailable},
	} {
		sigs, errs := key.SignBatch(t.Context(), make([][]byte, 3))
		if len(sigs) != 3 || len(errs) != 3 || asked != 1 {
			t.Fatalf("turn %d: %d signatures, %d errors, asked %d times", turn, len(sigs), len(errs), asked)
		}
		for i := range want {
			if sigs[i] != nil || !errors.Is(errs[i], want[i]) {
				t.Errorf("turn %d: message %d: %q, %v, want %v", turn, i, sigs[i], errs[i], want[i])
			}
		}
	}
}

// Each error of a batch is told, and that it ended, once.
func TestBatchErrorsAreTold(t *testing.T) {
	var told []string
	k := &keyring{
		await: func(context.Context, string) error { return nil },
		lost:  func(kid keystore.KID, err error) { told = append(told, fmt.Sprint(kid, " lost ", err)) },
		found: func(kid keystore.KID) { told = append(told, fmt.Sprint(kid, " found")) },
	}
	var errs []error
	key := behind(t, answering{errs: func() []error { return errs }}, newStops(time.Now, func(keystore.TokenStatus) {}), k).(keystore.BatchSigner)
	for _, c := range []struct {
		errs []error
		told []string
	}{
		{[]error{nil, nil}, nil},
		{[]error{nil, keystore.ErrNotFound, keystore.ErrMessage}, []string{"kid lost not found", "kid lost " + keystore.ErrMessage.Error()}},
		{[]error{nil, nil}, []string{"kid found"}},
		{[]error{nil}, nil},
	} {
		told, errs = nil, c.errs
		if _, got := key.SignBatch(t.Context(), make([][]byte, len(errs))); !slices.Equal(got, c.errs) || !slices.Equal(told, c.told) {
			t.Errorf("%v: returned %v, told %q", c.errs, got, told)
		}
	}
}
