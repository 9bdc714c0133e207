package pkcs11_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"chancery/keystore"
	"chancery/keystore/keystoretest"
	"chancery/keystore/pkcs11"
)

// several returns n different messages.
func several(n int) [][]byte {
	messages := make([][]byte, n)
	for i := range messages {
		messages[i] = fmt.Appendf(nil, "e30.%d", i)
	}
	return messages
}

// P13: what a worker was asked for when it died is signed by another.
func TestP13ABatchOutlivesTheWorker(t *testing.T) {
	cfg, _, m := faulty(t)
	cfg.Workers = 2
	p := open(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	messages := several(64)
	for _, fault := range []string{"segv", "rv 0x30", "hang"} {
		order(t, m, "C_Sign "+fault+" every=5 times=1")
		asked := make([]atomic.Int64, len(messages))
		sigs, errs := k.(keystore.BatchAnnouncer).SignBatchAsked(t.Context(), messages, func(place int) { asked[place].Add(1) })
		for i := range messages {
			if n := asked[i].Load(); n != 1 {
				t.Errorf("%s: message %d was told of %d times", fault, i, n)
			}
			if errs[i] != nil {
				t.Errorf("%s: message %d: %v", fault, i, errs[i])
			} else if err := keystore.Verify(keystore.ES256, k.Public(), messages[i], sigs[i]); err != nil {
				t.Errorf("%s: message %d: %v", fault, i, err)
			}
		}
		order(t, m)
	}
	t.Attr("provoked", "C_Sign segv, CKR_DEVICE_ERROR and hang in a batch of 64")
	t.Attr("seen", "64 of 64 signed each time")
}

// P23: one wrong signature of a batch is not released, and keeps no other back.
func TestP23AWrongSignatureInABatch(t *testing.T) {
	cfg, _, m := faulty(t)
	p := open(t, cfg)
	_, k := newKey(t, p, keystore.ES256)
	messages := several(24)
	order(t, m, "C_Sign corrupt every=3 times=1")
	sigs, errs := k.(keystore.BatchSigner).SignBatch(t.Context(), messages)
	wrong := 0
	for i := range messages {
		switch {
		case errors.Is(errs[i], keystore.ErrSignature) && sigs[i] == nil:
			wrong++
		case errs[i] != nil:
			t.Errorf("message %d: %v", i, errs[i])
		default:
			if err := keystore.Verify(keystore.ES256, k.Public(), messages[i], sigs[i]); err != nil {
				t.Errorf("message %d was released: %v", i, err)
			}
		}
	}
	if wrong != 1 {
		t.Errorf("%d signatures were refused, want 1", wrong)
	}
}

// What `verify: sampled` says of itself: a token that computes wrongly is noticed,
// soon and not at once, where the key is ECDSA's or Ed25519's and of purpose jwt;
// at once otherwise.
func TestP23SampledSignatures(t *testing.T) {
	cfg, _, m := faulty(t)
	cfg.Verify = pkcs11.VerifySampled
	p := open(t, cfg)
	if !p.Status()[0].Sampled {
		t.Error("the status does not say it")
	}
	for _, c := range []struct {
		purpose keystore.Purpose
		alg     keystore.Algorithm
		sampled bool
	}{
		{keystore.PurposeJWT, keystore.ES256, true},
		{keystore.PurposeJWT, keystore.EdDSA, true},
		{keystore.PurposeJWT, keystore.RS256, false},
		{keystore.PurposeCA, keystore.ES256, false},
	} {
		id := keystore.NewKeyID()
		spki, err := p.Generate(t.Context(), id, c.purpose, c.alg)
		if err != nil {
			t.Fatal(err)
		}
		k, err := p.Open(t.Context(), keystore.KeyRef{ID: id, Algorithm: c.alg, SPKI: spki}, c.purpose)
		if err != nil {
			t.Fatal(err)
		}
		text := keystoretest.Message(c.purpose, c.alg)
		if _, err := k.Sign(t.Context(), text); err != nil { // it is held from here on
			t.Fatal(err)
		}
		order(t, m, "C_Sign corrupt")
		left := 0 // wrong ones that did
		for ; left < 1000; left++ {
			if _, err = k.Sign(t.Context(), text); err != nil {
				break
			}
		}
		order(t, m)
		if !errors.Is(err, keystore.ErrSignature) {
			t.Errorf("%s %s: %v after %d wrong signatures", c.purpose, c.alg, err, left)
		}
		if !c.sampled && left > 0 {
			t.Errorf("%s %s: %d wrong signatures left", c.purpose, c.alg, left)
		}
	}
}
