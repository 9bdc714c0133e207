package load

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The layers of a daemon, by the names they have in a mix and in reports.
const (
	JSON       = "json"        // POST /v1/sign/jwt
	JSONBatch  = "json-batch"  // POST /v1/sign/jwt/batch
	GRPC       = "grpc"        // unary SignJWT
	GRPCStream = "grpc-stream" // one stream for many callers
	GRPCBatch  = "grpc-batch"  // unary SignJWTBatch
)

// Layers are the names a mix may use.
var Layers = []string{JSON, JSONBatch, GRPC, GRPCStream, GRPCBatch}

// A Part is one kind of request of a mix.
type Part struct {
	Layer  string `json:"layer"`
	KeySet string `json:"keyset"`
	Batch  int    `json:"batch,omitempty"` // tokens in one request; 0: one, and no batch
	Weight int    `json:"weight"`
}

// Tokens is how many tokens one request brings.
func (p Part) Tokens() int { return max(1, p.Batch) }

// A Mix is the kinds of requests of one run. Of every sum of the weights many
// requests each part makes as many as its weight says.
type Mix []Part

// The most parts a mix may have, and the largest weight of one.
const (
	maxParts  = 16
	maxWeight = 1000
	maxBatch  = 256 // as the daemon has it
)

// ParseMix reads a mix: LAYER[/KEYSET][*BATCH][=WEIGHT], separated by commas. What
// a part does not say is keyset, batch (of the layers that are batches) and 1.
func ParseMix(text, keyset string, batch int) (Mix, error) {
	var m Mix
	for field := range strings.SplitSeq(text, ",") {
		p, err := parsePart(strings.TrimSpace(field), keyset, batch)
		if err != nil {
			return nil, err
		}
		m = append(m, p)
	}
	if len(m) > maxParts {
		return nil, fmt.Errorf("a mix of %d parts: at most %d", len(m), maxParts)
	}
	return m, nil
}

func parsePart(text, keyset string, batch int) (Part, error) {
	p := Part{KeySet: keyset, Weight: 1}
	rest, weight, weighted := strings.Cut(text, "=")
	rest, size, sized := strings.Cut(rest, "*")
	layer, set, named := strings.Cut(rest, "/")
	p.Layer = layer
	if !slices.Contains(Layers, layer) {
		return p, fmt.Errorf("%q in a mix: there are %s", layer, strings.Join(Layers, ", "))
	}
	if named {
		p.KeySet = set
	}
	if p.KeySet == "" || strings.ContainsAny(p.KeySet, "/*") {
		return p, fmt.Errorf("%q in a mix names no key set", text)
	}
	var err error
	if weighted {
		if p.Weight, err = number(weight, maxWeight); err != nil {
			return p, fmt.Errorf("the weight in %q: %w", text, err)
		}
	}
	isBatch := layer == JSONBatch || layer == GRPCBatch
	switch {
	case sized && !isBatch:
		return p, fmt.Errorf("%q: only %s and %s are batches", text, JSONBatch, GRPCBatch)
	case sized:
		if p.Batch, err = number(size, maxBatch); err != nil {
			return p, fmt.Errorf("the size of the batch in %q: %w", text, err)
		}
	case isBatch:
		p.Batch = batch
	}
	return p, nil
}

func number(text string, most int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most || strconv.Itoa(n) != text {
		return 0, fmt.Errorf("%q is no number from 1 to %d", text, most)
	}
	return n, nil
}

// String returns p as ParseMix reads it.
func (p Part) String() string {
	s := p.Layer + "/" + p.KeySet
	if p.Batch > 0 {
		s += "*" + strconv.Itoa(p.Batch)
	}
	return s + "=" + strconv.Itoa(p.Weight)
}

// String returns m as ParseMix reads it.
func (m Mix) String() string {
	parts := make([]string, len(m))
	for i, p := range m {
		parts[i] = p.String()
	}
	return strings.Join(parts, ",")
}

// Weights returns the weight of each part.
func (m Mix) Weights() []int {
	w := make([]int, len(m))
	for i, p := range m {
		w[i] = p.Weight
	}
	return w
}

// A picker deals the parts of a mix out to one caller: evenly, not in runs, and
// the same way every time. It is the smooth weighted round robin of nginx: each
// part gains its weight, the one with most is next and loses the sum.
type picker struct {
	weights, credit []int
	sum             int
}

// newPicker returns a picker that has dealt skip times, so that not every caller
// begins with the same part.
func newPicker(weights []int, skip int) *picker {
	p := &picker{weights: weights, credit: make([]int, len(weights))}
	for _, w := range weights {
		p.sum += w
	}
	for range skip % max(1, p.sum) {
		p.next()
	}
	return p
}

func (p *picker) next() int {
	best := 0
	for i, w := range p.weights {
		p.credit[i] += w
		if p.credit[i] > p.credit[best] {
			best = i
		}
	}
	p.credit[best] -= p.sum
	return best
}
