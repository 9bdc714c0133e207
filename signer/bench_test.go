package signer

import (
	"context"
	"crypto"
	"encoding/json"
	"slices"
	"testing"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// idleLog keeps nothing.
type idleLog struct{}

func (idleLog) Act(context.Context, keystore.Record) (audit.Receipt, error) {
	return audit.Receipt{Entry: "localhost/audit/dev/acts/2026-03#1"}, nil
}
func (idleLog) Hurry()                                {}
func (l idleLog) Start(keystore.Record) audit.Pending { return l }
func (l idleLog) Wait(ctx context.Context) (audit.Receipt, error) {
	return l.Act(ctx, keystore.Record{})
}
func (idleLog) Leave()                            {}
func (idleLog) Take(keystore.KID) (int64, error)  { return 1, nil }
func (idleLog) GiveBack(keystore.KID, int64) bool { return true }
func (idleLog) Refuse(keystore.Record)            {}
func (idleLog) Health() error                     { return nil }

// idleKey makes no signature: what is left is the Service.
type idleKey struct {
	pub crypto.PublicKey
	sig []byte
}

func (k idleKey) Public() crypto.PublicKey                     { return k.pub }
func (k idleKey) Algorithm() keystore.Algorithm                { return keystore.ES256 }
func (k idleKey) Sign(context.Context, []byte) ([]byte, error) { return k.sig, nil }

type oneKey struct{ key keystore.Key }

func (o oneKey) Open(context.Context, *keystore.KeySet, *keystore.Version) (keystore.Key, error) {
	return o.key, nil
}

// still turns w into a Service without a log, and with one key.
func still(b *testing.B, key func(w *world) keystore.Key) (*Service, api.SignJWTRequest) {
	w := newWorld(b)
	view, err := w.view()
	if err != nil {
		b.Fatal(err)
	}
	c := w.Config
	c.Log, c.Keys = idleLog{}, oneKey{key(w)}
	c.View = func() (*keystore.View, error) { return view, nil }
	s, err := New(c)
	if err != nil {
		b.Fatal(err)
	}
	return s, ask("web")
}

func BenchmarkSignJWT(b *testing.B) {
	for _, c := range []struct {
		name string
		key  func(w *world) keystore.Key
	}{
		{"service", func(*world) keystore.Key { return idleKey{sig: make([]byte, 64)} }},
		{"ES256", func(w *world) keystore.Key { return w.keys[w.active("web")] }},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, req := still(b, c.key)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.SignJWT(b.Context(), issuer, req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// idleBatch makes no signatures, in one call.
type idleBatch struct{ idleKey }

func (k idleBatch) SignBatch(_ context.Context, messages [][]byte) ([][]byte, []error) {
	return slices.Repeat([][]byte{k.sig}, len(messages)), make([]error, len(messages))
}

func BenchmarkSignJWTBatch(b *testing.B) {
	idle := idleKey{sig: make([]byte, 64)}
	for _, c := range []struct {
		name string
		key  keystore.Key
	}{{"alone", idle}, {"together", idleBatch{idle}}} {
		b.Run(c.name, func(b *testing.B) {
			s, _ := still(b, func(*world) keystore.Key { return c.key })
			one := json.RawMessage(`{"keyset":"web","claims":{"sub":"alice"}}`)
			req := api.BatchRequest{Requests: slices.Repeat([]json.RawMessage{one}, api.MaxBatch)}
			b.ReportAllocs()
			for b.Loop() {
				reply, err := s.SignJWTBatch(b.Context(), issuer, req)
				if err != nil || reply.Results[0].Problem != nil {
					b.Fatal(err, reply.Results[0].Problem)
				}
			}
		})
	}
}
