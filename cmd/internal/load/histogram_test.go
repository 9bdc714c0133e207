package load

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestAHistogramIsDrawn(t *testing.T) {
	h := newHistogram()
	for range 90 {
		h.RecordValue(int64(time.Millisecond))
	}
	for range 9 {
		h.RecordValue(int64(2 * time.Millisecond))
	}
	h.RecordValue(int64(10 * time.Millisecond))
	l := LatencyOf(h)
	var ascii, blocks strings.Builder
	if err := l.Print(&ascii, 20, true); err != nil {
		t.Fatal(err)
	}
	if err := l.Print(&blocks, 20, false); err != nil {
		t.Fatal(err)
	}
	want := []string{
		" < 1.48ms │#################### 90, 90 %",
		" < 2.22ms │##                   9, 99 %",
		" < 3.33ms │                     0, 99 %",
		" < 4.99ms │                     0, 99 %",
		" < 7.48ms │                     0, 99 %",
		" < 11.2ms │#                    1, 100 %",
		"p50 1ms, p90 1ms, p99 2ms, p99.9 10ms, max 10ms", "",
	}
	if diff := cmp.Diff(want, strings.Split(ascii.String(), "\n")); diff != "" {
		t.Error(diff)
	}
	if lines := strings.Split(blocks.String(), "\n"); lines[0] != " < 1.48ms │████████████████████ 90, 90 %" || lines[1] != " < 2.22ms │██                   9, 99 %" {
		t.Errorf("with blocks:\n%s", blocks.String())
	}
}

func TestNoAnswersAreNoHistogram(t *testing.T) {
	var b strings.Builder
	if err := LatencyOf(newHistogram()).Print(&b, 40, false); err != nil || b.String() != "no request was answered\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

func TestAHistogramFitsOnAScreen(t *testing.T) {
	h := newHistogram()
	for us := 1.0; us < 60e6; us *= 1.3 {
		h.RecordValue(int64(us * 1000))
	}
	var b strings.Builder
	if err := LatencyOf(h).Print(&b, 40, false); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(b.String(), "\n"); lines > maxRows+1 {
		t.Errorf("%d lines:\n%s", lines, b.String())
	}
}

func TestEveryRequestIsInABucketThatFitsIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistogram()
		values := rapid.SliceOfN(rapid.Int64Range(1000, int64(slowest)), 1, 50).Draw(t, "nanoseconds")
		for _, v := range values {
			h.RecordValue(v)
		}
		all := int64(0)
		buckets := LatencyOf(h).Buckets
		for i, b := range buckets {
			all += b.Count
			if i > 0 && b.Below <= buckets[i-1].Below {
				t.Fatalf("bucket %d ends at %v, the one before at %v", i, b.Below, buckets[i-1].Below)
			}
		}
		if all != int64(len(values)) {
			t.Errorf("%d of %d requests are in buckets", all, len(values))
		}
		joined := int64(0)
		for _, b := range fewer(buckets) {
			joined += b.Count
		}
		if joined != all {
			t.Errorf("%d of %d are left when buckets are joined", joined, all)
		}
	})
	for _, us := range []float64{0, 0.5, 1, 1.49, 1.5, 2.25, 3.375, 1e6} {
		i := bucketOf(us)
		if below := pow(i); us >= below || i > 0 && us < pow(i-1) {
			t.Errorf("%v µs is put below %v", us, below)
		}
	}
}

func pow(i int) float64 {
	p := 1.0
	for range i {
		p *= step
	}
	return p
}

func TestALatencyIsJSON(t *testing.T) {
	h := newHistogram()
	h.RecordValue(int64(time.Millisecond))
	got, err := json.Marshal(LatencyOf(h))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"p50_us":1000.447,"p90_us":1000.447,"p99_us":1000.447,"p999_us":1000.447,"max_us":1000.447,"buckets":[{"below_us":1477.8918800354004,"count":1}]}`
	if string(got) != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
