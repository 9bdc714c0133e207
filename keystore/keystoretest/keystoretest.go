// Package keystoretest is the contract of keystore.Provider as one test suite,
// which every backend passes.
//
//	func TestContract(t *testing.T) {
//		keystoretest.Run(t, func(t *testing.T) keystore.Provider { return openMine(t) })
//	}
package keystoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"chancery/keystore"
)

// patience is what a step may take on a slow backend.
const patience = 30 * time.Second

// Run tests that what open returns keeps the contract. open returns a provider
// with a fresh or a shared backend and closes it with the test; Run makes a few
// keys in it and takes none away. An algorithm the backend answers with
// ErrUnsupported is left out, and what is not about an algorithm is tested with
// ES256, or with RS256 where there is none.
func Run(t *testing.T, open func(t *testing.T) keystore.Provider) {
	alg := usual(t, open(t))
	t.Run("every algorithm signs what verifies", func(t *testing.T) { algorithms(t, open(t)) })
	t.Run("a key signs for its purpose only", func(t *testing.T) { purposes(t, open(t), alg) })
	t.Run("a digest is signed as it is", func(t *testing.T) { digests(t, open(t)) })
	t.Run("generate never overwrites", func(t *testing.T) { generateTwice(t, open(t), alg) })
	t.Run("a name without a key is not found", func(t *testing.T) { notFound(t, open(t), alg) })
	t.Run("both names of a key must fit", func(t *testing.T) { mismatch(t, open(t), alg) })
	t.Run("a key is found and opened again", func(t *testing.T) { findAgain(t, open(t), alg) })
	t.Run("many sign at once", func(t *testing.T) { concurrent(t, open(t), alg) })
	t.Run("a batch is as many signatures", func(t *testing.T) { batches(t, open(t), alg) })
	t.Run("it tells when it was asked", func(t *testing.T) { announcements(t, open(t), alg) })
	t.Run("deadlines are kept", func(t *testing.T) { deadlines(t, open(t), alg) })
	t.Run("list shows every key", func(t *testing.T) { list(t, open(t), alg) })
	t.Run("a probe is a signature", func(t *testing.T) { probe(t, open(t)) })
	t.Run("drop is not destroy", func(t *testing.T) { drop(t, open(t), alg) })
	t.Run("destroy leaves nothing", func(t *testing.T) { destroy(t, open(t), alg) })
	t.Run("a note is kept and replaced", func(t *testing.T) { notes(t, open(t)) })
	t.Run("a closed provider says so", func(t *testing.T) { closed(t, open(t), alg) })
}

// usual returns the algorithm to test with what is not about one.
func usual(t *testing.T, p keystore.Provider) keystore.Algorithm {
	t.Helper()
	defer p.Close() // so that the next one may have the backend
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, alg := range []keystore.Algorithm{keystore.ES256, keystore.RS256} {
		_, err := p.Generate(ctx, keystore.NewKeyID(), keystore.PurposeJWT, alg)
		if err == nil {
			return alg
		}
		if !errors.Is(err, keystore.ErrUnsupported) {
			t.Fatal(err)
		}
	}
	t.Fatal("the backend has neither ES256 nor RS256")
	return ""
}

// unlike returns an algorithm for another type of key than alg's.
func unlike(alg keystore.Algorithm) keystore.Algorithm {
	if alg.IsRSA() {
		return keystore.ES256
	}
	return keystore.RS256
}

// Message returns a message that a key of the given purpose and algorithm signs.
func Message(p keystore.Purpose, alg keystore.Algorithm) []byte {
	switch p {
	case keystore.PurposeJWT:
		return []byte("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ0ZXN0In0")
	case keystore.PurposeCA:
		return []byte{0x30, 0x03, 0x02, 0x01, 0x05}
	case keystore.PurposeAudit:
		return []byte("localhost/audit/test/lifecycle\n1\nAAAA\n")
	case keystore.PurposeDigest:
		return keystore.Digest(alg, []byte("what was digested"))
	}
	return []byte("\x00probe")
}

// verify is keystore.Verify, or VerifyDigest for a key that signs digests.
func verify(p keystore.Purpose, k keystore.Key, message, sig []byte) error {
	if p == keystore.PurposeDigest {
		return keystore.VerifyDigest(k.Algorithm(), k.Public(), message, sig)
	}
	return keystore.Verify(k.Algorithm(), k.Public(), message, sig)
}

// generate makes a key and opens it.
func generate(t *testing.T, p keystore.Provider, purpose keystore.Purpose, alg keystore.Algorithm) (keystore.KeyRef, keystore.Key) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ref := keystore.KeyRef{ID: keystore.NewKeyID(), Algorithm: alg}
	spki, err := p.Generate(ctx, ref.ID, purpose, alg)
	if errors.Is(err, keystore.ErrUnsupported) {
		t.Skipf("the backend has no %s", alg)
	}
	if err != nil {
		t.Fatalf("generating %s for %s: %v", alg, purpose, err)
	}
	ref.SPKI = spki
	k, err := p.Open(ctx, ref, purpose)
	if err != nil {
		t.Fatalf("opening %s for %s: %v", alg, purpose, err)
	}
	return ref, k
}

func algorithms(t *testing.T, p keystore.Provider) {
	for _, alg := range keystore.Algorithms() {
		t.Run(string(alg), func(t *testing.T) {
			ref, k := generate(t, p, keystore.PurposeJWT, alg)
			pub, err := keystore.ParsePublic(ref.SPKI)
			if err != nil {
				t.Fatal(err)
			}
			if err := alg.Fits(pub); err != nil {
				t.Error(err)
			}
			if k.Algorithm() != alg {
				t.Errorf("the key is for %s", k.Algorithm())
			}
			message := Message(keystore.PurposeJWT, alg)
			sig, err := k.Sign(t.Context(), message)
			if err != nil {
				t.Fatal(err)
			}
			if err := keystore.Verify(alg, pub, message, sig); err != nil {
				t.Error(err)
			}
			if err := keystore.Verify(alg, pub, append(message, 'x'), sig); !errors.Is(err, keystore.ErrSignature) {
				t.Errorf("another message: %v, want %v", err, keystore.ErrSignature)
			}
		})
	}
}

func purposes(t *testing.T, p keystore.Provider, alg keystore.Algorithm) {
	all := []keystore.Purpose{keystore.PurposeJWT, keystore.PurposeCA, keystore.PurposeAudit, keystore.PurposeDigest, keystore.PurposeProbe}
	for _, purpose := range all {
		t.Run(string(purpose), func(t *testing.T) {
			ref, k := generate(t, p, purpose, alg)
			message := Message(purpose, alg)
			sig, err := k.Sign(t.Context(), message)
			if err != nil {
				t.Fatal(err)
			}
			if err := verify(purpose, k, message, sig); err != nil {
				t.Error(err)
			}
			for _, other := range all {
				foreign := Message(other, alg)
				if keystore.CheckMessage(purpose, alg, foreign) == nil {
					continue
				}
				if _, err := k.Sign(t.Context(), foreign); !errors.Is(err, keystore.ErrMessage) {
					t.Errorf("a message of %s: %v, want %v", other, err, keystore.ErrMessage)
				}
			}
			for _, other := range all {
				if other == purpose {
					continue
				}
				if _, err := p.Open(t.Context(), ref, other); !errors.Is(err, keystore.ErrAttributes) {
					t.Errorf("opened for %s: %v, want %v", other, err, keystore.ErrAttributes)
				}
				if _, err := p.Find(t.Context(), ref.ID, other, alg); !errors.Is(err, keystore.ErrAttributes) {
					t.Errorf("found for %s: %v, want %v", other, err, keystore.ErrAttributes)
				}
			}
		})
	}
	if _, err := p.Generate(t.Context(), keystore.NewKeyID(), keystore.PurposeDigest, keystore.EdDSA); !errors.Is(err, keystore.ErrUnsupported) {
		t.Errorf("EdDSA for digests: %v, want %v", err, keystore.ErrUnsupported)
	}
}

func generateTwice(t *testing.T, p keystore.Provider, alg keystore.Algorithm) {
	ref, k := generate(t, p, keystore.PurposeJWT, alg)
	for _, purpose := range []keystore.Purpose{keystore.PurposeJWT, keystore.PurposeCA} {
		if _, err := p.Generate(t.Context(), ref.ID, purpose, alg); !errors.Is(err, keystore.ErrExists) {
			t.Errorf("again for %s: %v, want %v", purpose, err, keystore.ErrExists)
		}
	}
	if _, err := k.Sign(t.Context(), Message(keystore.PurposeJWT, alg)); err != nil {
		t.Errorf("the first key afterwards: %v", err)
	}
}

func notFound(t *testing.T, p keystore.Provider, alg keystore.Algorithm) {
	ref, _ := generate(t, p, keystore.PurposeJWT, alg)
	ref.ID = keystore.NewKeyID()
	if _, err := p.Open(t.Context(), ref, keystore.PurposeJWT); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("open: %v, want %v", err, keystore.ErrNotFound)
	}
	if _, err := p.Find(t.Context(), ref.ID, keystore.PurposeJWT, alg); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("find: %v, want %v", err, keystore.ErrNotFound)
	}
	if _, err := p.Open(t.Context(), keystore.KeyRef{Algorithm: alg, SPKI: ref.SPKI}, keystore.PurposeJWT); err == nil {
		t.Error("the zero key id opened a key")
	}
}

func mismatch(t *testing.T, p keystore.Provider, alg keystore.Algorithm) {
	one, _ := generate(t, p, keystore.PurposeJWT, alg)
	two, _ := generate(t, p, keystore.PurposeJWT, alg)
	one.SPKI = two.SPKI
	if _, err := p.Open(t.Context(), one, keystore.PurposeJWT); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("one key's id with another's public key: %v, want %v", err, keystore.ErrNotFound)
	}
	two.Algorithm = unlike(alg)
	if _, err := p.Open(t.Context(), two, keystore.PurposeJWT); err == nil {
		t.Errorf("an %s key opened for %s", alg, two.Algorithm)
	}
}

func findAgain(t *testing.T, p keystore.Provider, alg keystore.Algorithm) {
	ref, _ := generate(t, p, keystore.PurposeAudit, alg)
	spki, err := p.Find(t.Context(), ref.ID, keystore.PurposeAudit, alg)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(spki, ref.SPKI) {
		t.Error("found another public key than was generated")
	}
	if _, err := p.Find(t.Context(), ref.ID, keystore.PurposeAudit, unlike(alg)); !errors.Is(err, keystore.ErrAttributes) {
		t.Errorf("found for another algorithm: %v, want %v", err, keystore.ErrAttributes)
	}
}

func concurrent(t *testing.T, p keystore.Provider, alg keystore.Algorithm) {
	_, one := generate(t, p, keystore.PurposeJWT, alg)
	_, two := generate(t, p, keystore.PurposeJWT, alg)
	var all sync.WaitGroup
	for i := range 16 {
		k := []keystore.Key{one, two}[i%2]
		all.Go(func() {
			for n := range 20 {
				message := fmt.Appendf(nil, "e%d.e%d", i, n)
				sig, err := k.Sign(t.Context(), message)
				if err != nil {
					t.Error(err)
					return
				}
				if err := keystore.Verify(alg, k.Public(), message, sig); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func deadlines(t *testing.T, p keystore.Provider, alg keystore.Algorithm) {
	_, k := generate(t, p, keystore.PurposeJWT, alg)
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	began := time.Now()
	_, signed := k.Sign(ctx, Message(keystore.PurposeJWT, alg))
	_, generated := p.Generate(ctx, keystore.NewKeyID(), keystore.PurposeJWT, alg)
	_, listed := p.List(ctx)
	for what, err := range map[string]error{"sign": signed, "generate": generated, "list": listed} {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s after its deadline: %v, want %v", what, err, context.DeadlineExceeded)
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("three refusals took %v", took)
	}
	if _, err := k.Sign(t.Context(), Message(keystore.PurposeJWT, alg)); err != nil {
		t.Errorf("signing afterwards: %v", err)
	}
}

func list(t *testing.T, p keystore.Provider, alg keystore.Algorithm) {
	ref, _ := generate(t, p, keystore.PurposeJWT, alg)
	objects, err := p.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(objects, func(o keystore.Object) bool { return bytes.Equal(o.SPKI, ref.SPKI) })
	if i < 0 {
		t.Fatalf("not among the %d listed", len(objects))
	}
	if o := objects[i]; o.ID != ref.ID.String() || o.Type != keyType(alg) || len(o.Missing) != 0 || o.Token == "" {
		t.Errorf("listed as %+v", o)
	}
}

func keyType(alg keystore.Algorithm) string {
	if alg.IsRSA() {
		return "RSA"
	}
	return "EC"
}

func probe(t *testing.T, p keystore.Provider) {
	if err := p.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	for _, s := range p.Status() {
		if s.State != keystore.TokenReady || s.Err != "" || s.Since.IsZero() {
			t.Errorf("after a probe: %+v", s)
		}
	}
}

func drop(t *testing.T, p keystore.Provider, alg keystore.Algorithm) {
	ref, k := generate(t, p, keystore.PurposeJWT, alg)
	for range 2 {
		if err := p.Drop(t.Context(), ref.ID); err != nil {
			t.Error(err)
		}
		if _, err := k.Sign(t.Context(), Message(keystore.PurposeJWT, alg)); err != nil {
			t.Error(err)
		}
	}
	if err := p.Drop(t.Context(), keystore.NewKeyID()); err != nil {
		t.Errorf("dropping what was never held: %v", err)
	}
}

func destroy(t *testing.T, p keystore.Provider, alg keystore.Algorithm) {
	ref, k := generate(t, p, keystore.PurposeJWT, alg)
	other, kept := generate(t, p, keystore.PurposeJWT, alg)
	message := Message(keystore.PurposeJWT, alg)
	if _, err := k.Sign(t.Context(), message); err != nil {
		t.Fatal(err)
	}
	wrong := keystore.KeyRef{ID: ref.ID, Algorithm: ref.Algorithm, SPKI: other.SPKI}
	if err := p.Destroy(t.Context(), wrong); !errors.Is(err, keystore.ErrAmbiguous) {
		t.Errorf("destroying by another's public key: %v, want %v", err, keystore.ErrAmbiguous)
	}
	if _, err := k.Sign(t.Context(), message); err != nil {
		t.Errorf("after that was refused: %v", err)
	}
	for range 2 {
		if err := p.Destroy(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Sign(t.Context(), message); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("signing with what was destroyed: %v, want %v", err, keystore.ErrNotFound)
		}
		if _, err := p.Find(t.Context(), ref.ID, keystore.PurposeJWT, ref.Algorithm); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("finding what was destroyed: %v, want %v", err, keystore.ErrNotFound)
		}
	}
	objects, err := p.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if o.ID == ref.ID.String() {
			t.Errorf("listed still: %+v", o)
		}
	}
	if _, err := kept.Sign(t.Context(), message); err != nil {
		t.Errorf("the key beside it: %v", err)
	}
}

func closed(t *testing.T, p keystore.Provider, alg keystore.Algorithm) {
	_, k := generate(t, p, keystore.PurposeJWT, alg)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign(t.Context(), Message(keystore.PurposeJWT, alg)); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("signing: %v, want %v", err, keystore.ErrUnavailable)
	}
	if err := p.Probe(t.Context()); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("probing: %v, want %v", err, keystore.ErrUnavailable)
	}
	if err := p.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}
