package rpc

import (
	"sync/atomic"
	"testing"

	"chancery/signer/api"
	"chancery/signer/server"
)

// BenchmarkCalls is everything but the key and the log: TLS, HTTP/2, who asks, and
// the Service, of client and server in one process.
func BenchmarkCalls(b *testing.B) {
	h := newHouse(b, Limits{}, server.Limits{})
	h.still = make([]byte, 64)
	for name, ask := range map[string]func() func() error{
		"unary": func() func() error {
			c := h.rpc(b)
			return func() error { _, err := c.SignJWT(b.Context(), jwt(`{"sub":"alice"}`)); return err }
		},
		"stream": func() func() error {
			s := h.rpc(b).Stream()
			return func() error { _, err := s.Sign(b.Context(), jwt(`{"sub":"alice"}`)); return err }
		},
		"batch of 64": func() func() error {
			c, reqs := h.rpc(b), make([]api.SignJWTRequest, 64)
			for i := range reqs {
				reqs[i] = jwt(`{"sub":"alice"}`)
			}
			return func() error { _, err := c.SignJWTBatch(b.Context(), reqs); return err }
		},
	} {
		b.Run(name, func(b *testing.B) {
			do := ask()
			var failed atomic.Pointer[error]
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := do(); err != nil {
						failed.Store(&err)
						return
					}
				}
			})
			if err := failed.Load(); err != nil {
				b.Fatal(*err)
			}
		})
	}
}
