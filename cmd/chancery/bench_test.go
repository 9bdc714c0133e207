package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/go-cmp/cmp"

	"chancery/cmd/internal/load"
)

// fakeBenchToken stands in for chanceryd bench-token and bench-floor.
func fakeBenchToken() {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "bench-token":
		fakeToken(os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "bench-floor":
		fakeFloor(os.Getenv("DEV"))
	default:
		fmt.Fprintln(os.Stderr, "unknown command")
		os.Exit(2)
	}
}

func fakeToken(args []string) {
	fs := flag.NewFlagSet("bench-token", flag.ExitOnError)
	fs.Bool("json", false, "")
	algorithms := fs.String("algorithms", "", "")
	fs.String("callers", "", "")
	fs.Duration("duration", 0, "")
	fs.String("disk", "", "")
	parts := fs.String("parts", "", "")
	if err := fs.Parse(args); err != nil {
		os.Exit(2)
	}
	fmt.Printf(`{"results":[{"layer":"raw","algorithm":%[1]q,"callers":1,"rate":8000,"p50_us":110,"p99_us":200},`+
		`{"layer":"raw","algorithm":%[1]q,"callers":2,"rate":10000,"p50_us":180,"p99_us":300},`+
		`{"layer":"worker","algorithm":%[1]q,"workers":2,"callers":1,"rate":5000,"p50_us":190,"p99_us":400}],"parts":[`, *algorithms)
	for i, n := range strings.Split(*parts, ",") {
		if n == "" {
			continue
		}
		if i > 0 {
			fmt.Print(",")
		}
		fmt.Printf(`{"algorithm":%q,"concurrency":%s,"sign_us":60,"verify_us":80,"log_us":10}`, *algorithms, n)
	}
	fmt.Println("]}")
}

// fakeFloor lends the fake daemon as one that has nothing done.
func fakeFloor(dir string) {
	at := func(name string) string { return filepath.Join(dir, name) }
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"endpoint": "unix:" + at("sign.sock"), "cert": at("clients/issuer.crt"), "key": at("clients/issuer.key"), "ca": at("ca.crt"), "keyset": "web", "service_us": 0.001,
	})
	io.Copy(io.Discard, os.Stdin)
}

func TestWhatIsAskedOfTheDaemon(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags benchFlags
		want  []string
	}{
		{"each layer by itself", benchFlags{layers: benchLayers, keyset: "web", batch: 64}, []string{"json/web=1", "json-batch/web*64=1", "grpc/web=1", "grpc-stream/web=1", "grpc-batch/web*64=1"}},
		{"the token alone", benchFlags{layers: []string{"raw", "worker"}, keyset: "web"}, nil},
		{"a mix in their place", benchFlags{layers: benchLayers, mix: "json=1,grpc/edge=3", keyset: "web"}, []string{"json/web=1,grpc/edge=3"}},
	} {
		got, err := c.flags.mixes()
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		var texts []string
		for _, m := range got {
			texts = append(texts, m.String())
		}
		if !slices.Equal(texts, c.want) {
			t.Errorf("%s: %q, want %q", c.name, texts, c.want)
		}
	}
}

// A bound counts for a run whose parts were all measured, at its own number of
// callers and by its own protocol.
func TestWhichRunsHaveABound(t *testing.T) {
	parts := load.Parts{Sign: 60, Verify: 80, Log: 10, Floor: 50}
	b := &bench{benchFlags: benchFlags{verify: "all"}, report: benchReport{Cores: 2, Parts: []tokenPart{
		{Algorithm: "ES256", Concurrency: 16, Parts: parts, RPC: load.JSON}, {Algorithm: "ES256", Concurrency: 1024, Parts: parts, RPC: load.GRPC},
	}}}
	for _, c := range []struct {
		name string
		m    measurement
		want float64
	}{
		{"its own", measurement{Layer: load.JSON, Algorithm: "ES256", Callers: 16, Rate: 5000}, 0.5},
		{"other callers", measurement{Layer: load.JSON, Algorithm: "ES256", Callers: 64, Rate: 5000}, 0},
		{"another algorithm", measurement{Layer: load.JSON, Algorithm: "EdDSA", Callers: 16, Rate: 5000}, 0},
		{"another protocol", measurement{Layer: load.GRPC, Algorithm: "ES256", Callers: 16, Rate: 5000}, 0},
		{"batches", measurement{Layer: load.GRPCBatch, Algorithm: "ES256", Callers: 64, Batch: 50, Rate: 1e6 / 151}, 0.5},
	} {
		m := c.m
		b.bind(&m)
		if diff := m.OfBound - c.want; diff > 1e-9 || diff < -1e-9 {
			t.Errorf("%s: a share of %v, want %v", c.name, m.OfBound, c.want)
		}
	}
}

func TestRatiosAreToTheRawRateOfTheAlgorithm(t *testing.T) {
	r := benchReport{Results: []measurement{
		{Layer: layerRaw, Algorithm: "ES256", Rate: 8000}, {Layer: layerRaw, Algorithm: "ES256", Rate: 10000}, {Layer: layerRaw, Algorithm: "EdDSA", Rate: 4000},
		{Layer: load.GRPC, Algorithm: "ES256", Rate: 5000}, {Layer: load.GRPC, Algorithm: "EdDSA", Rate: 1000}, {Layer: "mix", Rate: 3000},
	}}
	r.compare()
	var got []float64
	for _, m := range r.Results {
		got = append(got, m.Ratio)
	}
	if want := []float64{0.8, 1, 1, 0.5, 0.25, 0}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// scripts/bench and others read it.
func TestTheReportsJSON(t *testing.T) {
	h := hdrhistogram.New(1000, int64(time.Minute), 3)
	h.RecordValue(int64(time.Millisecond))
	r := newReport(benchFlags{duration: 2 * time.Second, warmup: 400 * time.Millisecond, rate: 100, verify: "sampled"})
	r.Started, r.Cores = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), 2
	r.Results = []measurement{{
		Layer: load.GRPC, Algorithm: "ES256", KeySet: "web", Callers: 16, Connections: 1, Rate: 5000, Requests: 10000,
		Latency: load.LatencyOf(h), Ratio: 0.5, Refused: 3, Unanswered: 1, CPU: &cpuTime{30, 60, 70},
		Memory: &load.Memory{Daemon: 22000, Workers: 33000, Count: 3}, Bound: 8000, OfBound: 0.625,
	}}
	r.Parts = []tokenPart{{Algorithm: "ES256", Concurrency: 16, Parts: load.Parts{Sign: 60, Verify: 80, Log: 10, Floor: 50}, RPC: load.GRPC}}
	r.Notes = []string{"raw: not measured: why"}
	got, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"started":"2026-03-01T12:00:00Z","cores":2,"duration_s":2,"warmup_s":0.4,"loop":"open","offered":100,"verify":"sampled","results":[` +
		`{"layer":"grpc","algorithm":"ES256","keyset":"web","callers":16,"connections":1,"rate":5000,"requests":10000,` +
		`"p50_us":1000.447,"p90_us":1000.447,"p99_us":1000.447,"p999_us":1000.447,"max_us":1000.447,"buckets":[{"below_us":1477.8918800354004,"count":1}],` +
		`"ratio":0.5,"refused":3,"unanswered":1,"cpu":{"client_us":30,"daemon_us":60,"workers_us":70},"pss":{"daemon_kb":22000,"workers_kb":33000,"workers":3},"bound":8000,"of_bound":0.625}],` +
		`"parts":[{"algorithm":"ES256","concurrency":16,"sign_us":60,"verify_us":80,"log_us":10,"rpc_us":50,"rpc":"grpc"}],"notes":["raw: not measured: why"]}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}
