package server

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// BenchmarkJWKS fetches a key set of twenty RSA keys' size from the public door
// over kept-alive connections on loopback, 16 at a time, client and server on the
// same machine: whole, and as a revalidation that is answered with 304.
func BenchmarkJWKS(b *testing.B) {
	p := newPublic()
	pub := NewPublication()
	pub.Add("/issuers/web/jwks.json", Document{
		Body: make([]byte, 20*450), ContentType: "application/jwk-set+json", ETag: `"abc"`,
		MaxAge: func(time.Time) time.Duration { return 15 * time.Minute },
	})
	p.Publish(pub)
	p.Lease = func() error { return nil }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: p}
	go server.Serve(l)
	b.Cleanup(func() { server.Close() })
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	for _, c := range []struct {
		name, etag string
		status     int
	}{{"whole", "", http.StatusOK}, {"unchanged", `"abc"`, http.StatusNotModified}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					req, err := http.NewRequest("GET", fmt.Sprintf("http://%s/issuers/web/jwks.json", l.Addr()), nil)
					if err != nil {
						b.Error(err)
						return
					}
					if c.etag != "" {
						req.Header.Set("If-None-Match", c.etag)
					}
					reply, err := client.Do(req)
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, reply.Body)
					reply.Body.Close()
					if reply.StatusCode != c.status {
						b.Errorf("%s", reply.Status)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "fetches/s")
		})
	}
}
