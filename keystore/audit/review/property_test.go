package review

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// TestOrderWithinAMomentIsNothing: acts of the same time may be read in any order,
// and nodes in any order.
func TestOrderWithinAMomentIsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := sound().of(33, 2, keystore.ActSuspend).of(50, 2, keystore.ActResume)
		other := &history{node: "b"}
		for range rapid.IntRange(1, 40).Draw(t, "acts") {
			at := float64(rapid.IntRange(0, 60).Draw(t, "at"))
			version := rapid.IntRange(1, 3).Draw(t, "version")
			ttl := float64(rapid.IntRange(1, 20).Draw(t, "ttl"))
			node := rapid.SampledFrom([]*history{h, other}).Draw(t, "node")
			node.signed(at, version, ttl)
			e := &node.acts[len(node.acts)-1].Entry
			e.Outcome = rapid.SampledFrom([]keystore.Outcome{keystore.OutcomeDone, keystore.OutcomeRefused, keystore.OutcomeFailed, keystore.OutcomeUnknown}).Draw(t, "outcome")
		}
		opt := Options{Since: born.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "since")) * time.Second), Now: born.Add(time.Hour)}
		want := asJSON(t, opt, h.log(), other.log())
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		for _, x := range []*history{h, other} {
			r.Shuffle(len(x.acts), func(i, j int) { x.acts[i], x.acts[j] = x.acts[j], x.acts[i] })
		}
		if got := asJSON(t, opt, other.log(), h.log()); !bytes.Equal(got, want) {
			t.Fatalf("two reports of the same acts:\n%s\n%s", want, got)
		}
	})
}

// asJSON makes a report and returns it as JSON.
func asJSON(t *rapid.T, opt Options, logs ...Log) []byte {
	r, err := Make(logs, opt)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestEveryActIsCounted: none is lost between all the lists.
func TestEveryActIsCounted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := sound()
		want := int64(len(h.acts))
		for range rapid.IntRange(0, 30).Draw(t, "acts") {
			rec := keystore.Record{
				Principal: "p" + strconv.Itoa(rapid.IntRange(0, 3).Draw(t, "principal")), Action: keystore.ActSignJWT, KeySet: "web", Version: 2, KID: kid("web", 2),
				Outcome: rapid.SampledFrom([]keystore.Outcome{keystore.OutcomeDone, keystore.OutcomeRefused}).Draw(t, "outcome"),
				Count:   rapid.IntRange(0, 5).Draw(t, "count"),
			}
			h.told(22, rec)
			want += int64(max(rec.Count, 1))
		}
		r, err := Make([]Log{h.log()}, Options{Now: born.Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		var principals, versions int64
		for _, p := range r.Principals {
			principals += p.Acts.All()
		}
		for _, v := range r.KeySets[0].Versions {
			versions += v.Acts.All()
		}
		if r.Acts.All() != want || principals != want || versions != want {
			t.Fatalf("%d acts; counted %d, by principal %d, by version %d", want, r.Acts.All(), principals, versions)
		}
	})
}

// TestListsEnd: what strangers can name without end is counted without being kept.
func TestListsEnd(t *testing.T) {
	h := sound()
	for i := range maxRows + 50 {
		h.told(40, keystore.Record{Principal: "p" + strconv.Itoa(i), Action: keystore.ActSignJWT, Outcome: keystore.OutcomeRefused, Code: "forbidden"})
	}
	r := report(t, Options{}, h)
	if len(r.Principals) != maxRows || r.Acts.Refused != maxRows+50 || len(r.Left) != 2 || r.Left[0].Rows != 51 {
		t.Errorf("%d rows, %d refused, left out %+v", len(r.Principals), r.Acts.Refused, r.Left)
	}
}

// BenchmarkActs measures what an act costs once it is read.
func BenchmarkActs(b *testing.B) {
	h := sound()
	m := newModel(mustFacts(b, h))
	c := &counting{model: m, opt: Options{Now: born.Add(time.Hour), Lease: DefaultLease}, open: map[string]audit.Located{}, suspects: map[suspicion]*suspect{}}
	at := h.acts[1]
	b.ReportAllocs()
	for b.Loop() {
		c.act(at)
	}
}

func mustFacts(t testing.TB, h *history) []fact {
	facts, err := lifecycle([]Log{h.log()})
	if err != nil {
		t.Fatal(err)
	}
	return facts
}
