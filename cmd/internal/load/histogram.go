package load

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Latency is how long requests took, in microseconds.
type Latency struct {
	P50  float64 `json:"p50_us"`
	P90  float64 `json:"p90_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
	Max  float64 `json:"max_us"`
	// Buckets has every request, in steps of a half more: below 1, 1.5, 2.25, …
	// microseconds. Those before the first and after the last request are left out.
	Buckets []Bucket `json:"buckets,omitempty"`
}

// A Bucket is how many requests took less than so many microseconds, and not less
// than the bucket before says.
type Bucket struct {
	Below float64 `json:"below_us"`
	Count int64   `json:"count"`
}

// LatencyOf reads a histogram of nanoseconds.
func LatencyOf(h *hdrhistogram.Histogram) Latency {
	if h.TotalCount() == 0 {
		return Latency{}
	}
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1e3 }
	return Latency{P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.Max()) / 1e3, Buckets: bucketsOf(h)}
}

// step is by how much the limit of a bucket is over that of the one before.
const step = 1.5

func bucketsOf(h *hdrhistogram.Histogram) []Bucket {
	counts := map[int]int64{}
	first, last := math.MaxInt, math.MinInt
	for _, bar := range h.Distribution() {
		if bar.Count == 0 {
			continue
		}
		i := bucketOf(float64(bar.From) / 1e3)
		counts[i] += bar.Count
		first, last = min(first, i), max(last, i)
	}
	var buckets []Bucket
	for i := first; i <= last; i++ {
		buckets = append(buckets, Bucket{Below: math.Pow(step, float64(i)), Count: counts[i]})
	}
	return buckets
}

// bucketOf returns i, the least for which step to the power of i is over us.
func bucketOf(us float64) int {
	if us < 1 {
		return 0
	}
	i := int(math.Floor(math.Log(us)/math.Log(step))) + 1
	if math.Pow(step, float64(i)) <= us { // by rounding
		i++
	}
	return i
}

// maxRows is how many lines a printed histogram has at most.
const maxRows = 20

// Print draws the buckets as bars, width characters at most, each with the limit
// it is below, its count, and the share of requests that were no slower; then the
// percentiles. ascii: with characters that every terminal has.
func (l Latency) Print(w io.Writer, width int, ascii bool) error {
	buckets := fewer(l.Buckets)
	most, all := int64(0), int64(0)
	for _, b := range buckets {
		most = max(most, b.Count)
		all += b.Count
	}
	if all == 0 {
		_, err := fmt.Fprintln(w, "no request was answered")
		return err
	}
	sum := int64(0)
	for _, b := range buckets {
		sum += b.Count
		if _, err := fmt.Fprintf(w, "%9s │%s %d, %s\n", "< "+Micros(b.Below), pad(bar(b.Count, most, width, ascii), width), b.Count, percent(sum, all)); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "p50 %s, p90 %s, p99 %s, p99.9 %s, max %s\n", Micros(l.P50), Micros(l.P90), Micros(l.P99), Micros(l.P999), Micros(l.Max))
	return err
}

// fewer joins buckets by twos until they fit on a screen.
func fewer(buckets []Bucket) []Bucket {
	for len(buckets) > maxRows {
		var half []Bucket
		for i := 0; i < len(buckets); i += 2 {
			b := buckets[i]
			if i+1 < len(buckets) {
				b = Bucket{Below: buckets[i+1].Below, Count: b.Count + buckets[i+1].Count}
			}
			half = append(half, b)
		}
		buckets = half
	}
	return buckets
}

// bar draws count of most in eighths of a character. What is there is seen: the
// least bar is an eighth.
func bar(count, most int64, width int, ascii bool) string {
	if count == 0 {
		return ""
	}
	eighths := max(1, int(float64(count)/float64(most)*float64(width)*8+0.5))
	if ascii {
		return strings.Repeat("#", max(1, eighths/8))
	}
	s := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		s += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return s
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-len([]rune(s))))
}

// percent says "100 %" of nothing but all.
func percent(part, all int64) string {
	p := float64(part) / float64(all) * 100
	if part < all {
		p = min(p, 99.99)
	}
	return fmt.Sprintf("%.4g %%", p)
}

// Micros writes so many microseconds as a duration, to three digits.
func Micros(us float64) string {
	d := time.Duration(us * float64(time.Microsecond))
	for _, unit := range []time.Duration{10 * time.Second, time.Second, 100 * time.Millisecond, 10 * time.Millisecond, time.Millisecond} {
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.Round(time.Microsecond).String()
}
