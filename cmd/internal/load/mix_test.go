package load

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestAMixIsReadOneWay(t *testing.T) {
	for _, c := range []struct {
		text string
		want Mix
		says string // of the error; empty: none
	}{
		{"json", Mix{{Layer: JSON, KeySet: "web", Weight: 1}}, ""},
		{"json=1,grpc=3", Mix{{Layer: JSON, KeySet: "web", Weight: 1}, {Layer: GRPC, KeySet: "web", Weight: 3}}, ""},
		{"grpc/edge=2, json/legacy", Mix{{Layer: GRPC, KeySet: "edge", Weight: 2}, {Layer: JSON, KeySet: "legacy", Weight: 1}}, ""},
		{"grpc-batch", Mix{{Layer: GRPCBatch, KeySet: "web", Batch: 64, Weight: 1}}, ""},
		{"json-batch/edge*8=5", Mix{{Layer: JSONBatch, KeySet: "edge", Batch: 8, Weight: 5}}, ""},
		{"", nil, `"" in a mix: there are json, `},
		{"raw", nil, `"raw" in a mix: there are json, `},
		{"json,", nil, `"" in a mix`},
		{"json=0", nil, `the weight in "json=0": "0" is no number from 1 to 1000`},
		{"json=01", nil, `"01" is no number`},
		{"json=", nil, `"" is no number`},
		{"json=1001", nil, "no number from 1 to 1000"},
		{"json*8", nil, "only json-batch and grpc-batch are batches"},
		{"json-batch*257", nil, "no number from 1 to 256"},
		{"json/", nil, "names no key set"},
		{"json/a/b", nil, "names no key set"},
		{strings.Repeat("json,", 16) + "json", nil, "a mix of 17 parts: at most 16"},
	} {
		got, err := ParseMix(c.text, "web", 64)
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q: error %v, want %q in it", c.text, err, c.says)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q: %s", c.text, diff)
		}
	}
}

func FuzzParseMix(f *testing.F) {
	for _, seed := range []string{"json", "json=1,grpc=3", "json-batch/edge*8=5", "grpc-stream/a.b_c=1000", "json=,", "*=/", "json/\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseMix(text, "web", 64)
		if err != nil {
			return
		}
		again, err := ParseMix(m.String(), "other", 1)
		if err != nil {
			t.Fatalf("%q is written as %q: %v", text, m, err)
		}
		if diff := cmp.Diff(m, again); diff != "" {
			t.Errorf("%q is written as %q: %s", text, m, diff)
		}
	})
}

func TestAMixIsDealtEvenly(t *testing.T) {
	p := newPicker([]int{3, 1}, 0)
	var dealt []int
	for range 8 {
		dealt = append(dealt, p.next())
	}
	if want := []int{0, 0, 1, 0, 0, 0, 1, 0}; !slices.Equal(dealt, want) {
		t.Errorf("dealt %v, want %v", dealt, want)
	}
}

func TestOfEverySumOfWeightsEachPartHasItsShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(1, 50), 1, maxParts).Draw(t, "weights")
		p := newPicker(weights, rapid.IntRange(0, 1000).Draw(t, "skip"))
		counts := make([]int, len(weights))
		for range p.sum {
			counts[p.next()]++
		}
		if !slices.Equal(counts, weights) {
			t.Errorf("of weights %v each had %v", weights, counts)
		}
	})
}
