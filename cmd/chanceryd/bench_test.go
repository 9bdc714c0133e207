package main

import (
	"os"
	"slices"
	"testing"
	"time"

	"chancery/cmd/internal/load"
	"chancery/keystore/pkcs11"
	"chancery/signer/client"
)

// What the floor answers is what the daemon answers, by every layer, so that a
// request costs there what it costs here.
func TestTheFloorAnswersByEveryLayer(t *testing.T) {
	dir, err := os.MkdirTemp("", "chancery") // a socket's path is at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	f, err := newFloor(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	ready, err := f.serve(t.Context(), 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if ready.Service <= 0 {
		t.Errorf("the Service by itself costs %v µs", ready.Service)
	}
	cfg, err := client.LoadConfig(ready.Endpoint, ready.Cert, ready.Key, ready.CA)
	if err != nil {
		t.Fatal(err)
	}
	target, err := load.NewTarget(cfg.Endpoint, "", cfg.Certificate, cfg.Roots)
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range load.Layers {
		m, err := load.ParseMix(layer, ready.KeySet, 8)
		if err != nil {
			t.Fatal(err)
		}
		ways, err := load.Open(t.Context(), target, m, 4, 2)
		if err != nil {
			t.Fatalf("%s: %v", layer, err)
		}
		for i, w := range ways {
			if n, err := w[0].Ask(); err != nil || n != m[0].Tokens() {
				t.Errorf("%s, caller %d: %d tokens, %v", layer, i, n, err)
			}
		}
		load.Close(ways)
	}
	if pid, err := target.PeerPID(t.Context()); err != nil || pid != os.Getpid() {
		t.Errorf("the socket is process %d's, %v; want %d", pid, err, os.Getpid())
	}
}

func TestATokenIsMeasuredRawByOneWorkerAndByAll(t *testing.T) {
	b := tokenBench{duration: 60 * time.Millisecond, algorithms: []string{"ES256"}, callers: []int{2}, parts: []int{2, 100}, disk: t.TempDir()}
	results, err := b.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range results {
		names = append(names, r.name())
		if r.Rate <= 0 || r.P50 <= 0 || r.P99 < r.P50 {
			t.Errorf("%+v", r)
		}
	}
	if want := []string{"raw", "raw", "raw", "worker ×1", "worker ×2"}; pkcs11.DefaultWorkers != 2 || !slices.Equal(names, want) {
		t.Errorf("measured %q, want %q", names, want)
	}
	if len(b.measured) != 2 {
		t.Fatalf("%d parts, want two", len(b.measured))
	}
	for i, n := range b.parts {
		if p := b.measured[i]; p.Concurrency != n || p.Algorithm != "ES256" || p.Sign <= 0 || p.Verify <= 0 || p.Log <= 0 {
			t.Errorf("%+v", p)
		}
	}
	if left, err := os.ReadDir(b.disk); err != nil || len(left) > 0 {
		t.Errorf("the log that was measured is left: %v, %v", left, err)
	}
}
