package main

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestARatioIsThatOfEachRound(t *testing.T) {
	got, err := compare([]float64{200, 220, 180, 240}, []float64{100, 100, 100, 100})
	if err != nil {
		t.Fatal(err)
	}
	// Odd rounds of A have the median 190, even ones 230; B is quiet.
	if got.Median != 2.1 || got.Low != 1.8 || got.High != 2.4 || math.Abs(got.Noise-(1-190.0/230)) > 1e-9 {
		t.Errorf("%+v", got)
	}
}

func TestARatioOfNothingIsNone(t *testing.T) {
	for name, sides := range map[string][2][]float64{
		"no rounds":             {nil, nil},
		"one side has one more": {{1, 2}, {1}},
		"nothing was answered":  {{1, 0}, {1, 1}},
		"nothing on the right":  {{1, 1}, {0, 1}},
		"no number":             {{math.NaN()}, {1}},
	} {
		if got, err := compare(sides[0], sides[1]); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestWhatIsComparedWithItselfIsOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SliceOfN(rapid.Float64Range(1, 1e6), 1, 20).Draw(t, "a")
		b := rapid.SliceOfN(rapid.Float64Range(1, 1e6), len(a), len(a)).Draw(t, "b")
		same, err := compare(a, a)
		if err != nil || same.Median != 1 || same.Low != 1 || same.High != 1 {
			t.Fatalf("%+v, %v", same, err)
		}
		got, err := compare(a, b)
		if err != nil || got.Low > got.Median || got.Median > got.High || got.Noise < 0 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestWhatIsMet(t *testing.T) {
	for _, c := range []struct {
		w    wanted
		v    float64
		want string
	}{
		{more(1.7, 2.2), 2.2, "goal"}, {more(1.7, 2.2), 2.19, "bar"}, {more(1.7, 2.2), 1.7, "bar"}, {more(1.7, 2.2), 1.69, "no"},
		{wanted{bar: 80, goal: 50, less: true}, 50, "goal"}, {wanted{bar: 80, goal: 50, less: true}, 80, "bar"}, {wanted{bar: 80, goal: 50, less: true}, 80.1, "no"},
		{wanted{}, 3, ""},
	} {
		if got := c.w.met(c.v); got != c.want {
			t.Errorf("%v of %+v: %q, want %q", c.v, c.w, got, c.want)
		}
	}
}

func TestARowSaysWhatItSawOrWhyNot(t *testing.T) {
	r := report{Started: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Cores: 2, Rounds: 6, Duration: 3}
	seen := ratio{Median: 2, Low: 1.9, High: 2.1, Noise: 0.034}
	w := more(1.7, 2.2)
	w.unit, w.each = "×", "/s"
	seen.A, seen.B = []float64{8123, 8123}, []float64{999}
	r.add("A : B", w, seen, nil)
	r.add("A : C", w, ratio{Median: 1.75, Low: 1.7, High: 1.8, Noise: 0.05, A: seen.A, B: seen.B}, nil)
	r.add("A : D", w, ratio{Median: 1.65, Low: 1.6, High: 1.7, Noise: 0.05, A: seen.A, B: seen.B}, nil)
	r.add("share", wanted{bar: 0.6, goal: 0.75, unit: "share"}, ratio{Median: 0.8, Low: 0.8, High: 0.8}, nil)
	r.add("memory", wanted{bar: 80, goal: 50, less: true, unit: "MB"}, ratio{}, errors.New("nobody may | look\n"))
	seen.A, seen.B = []float64{12345}, []float64{450}
	r.add("for information", wanted{unit: "×", each: "µs"}, seen, nil)
	want := "2026-03-01, 2 cores shared with the client, 6 rounds of 3 s for each side:\n\n" +
		"| figure | bar | goal | measured | medians | rounds, noise | met |\n|---|---|---|---|---|---|---|\n" +
		"| A : B | ≥ 1.70 | ≥ 2.20 | 2.00 | 8.12k/s : 999/s | 1.90 to 2.10, ± 3 % | bar |\n" +
		"| A : C | ≥ 1.70 | ≥ 2.20 | 1.75 | 8.12k/s : 999/s | 1.70 to 1.80, ± 5 % | bar, within the noise |\n" +
		"| A : D | ≥ 1.70 | ≥ 2.20 | 1.65 | 8.12k/s : 999/s | 1.60 to 1.70, ± 5 % | no, within the noise |\n" +
		"| share | ≥ 60 % | ≥ 75 % | 80 % | - | 80 % to 80 %, ± 0 % | goal |\n" +
		"| memory | ≤ 80 MB | ≤ 50 MB | not measured | - | - | nobody may \\| look |\n" +
		"| for information | - | - | 2.00 | 12.3 ms : 450 µs | 1.90 to 2.10, ± 3 % | - |\n"
	if diff := cmp.Diff(want, r.markdown()); diff != "" {
		t.Error(diff)
	}
	if text := r.text(); !strings.Contains(text, "not measured") || !strings.Contains(text, "2.00") {
		t.Error(text)
	}
	got, err := json.Marshal(r.Rows[4])
	if err != nil || string(got) != `{"figure":"memory","unit":"MB","bar":80,"goal":50,"less":true,"why":"nobody may | look"}` {
		t.Errorf("%s, %v", got, err)
	}
}

func TestOnlyWhatIsBetweenTheMarksIsReplaced(t *testing.T) {
	page := "before\n" + markBegin + "old\n" + markEnd + "after\n"
	got, err := replaced(page, "new\n")
	if want := "before\n" + markBegin + "new\n" + markEnd + "after\n"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"", "no marks\n", markBegin, markEnd + markBegin, page + page} {
		if _, err := replaced(bad, "new\n"); !errors.Is(err, errNoMarks) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestTheReadmeHasItsMarks(t *testing.T) {
	page, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := replaced(string(page), "new\n"); err != nil {
		t.Error(err)
	}
}

// fakeChancery answers as chancery bench --json does, and keeps what it was asked.
func fakeChancery(t *testing.T, answer string) (command, asked string) {
	t.Helper()
	dir := t.TempDir()
	command, asked = filepath.Join(dir, "chancery"), filepath.Join(dir, "asked")
	script := "#!/bin/sh\necho \"$@\" >>" + asked + "\n" + answer + "\n"
	if err := os.WriteFile(command, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return command, asked
}

func TestSidesTakeTurns(t *testing.T) {
	command, asked := fakeChancery(t, `echo '{"results":[{"layer":"grpc","rate":200,"p50_us":1,"p99_us":2}]}'`)
	b := &bencher{chancery: command, rounds: 2, say: func(string, ...any) {}}
	var r report
	r.contest(t.Context(), b, "A : B", more(1, 2), side{layer: "grpc", args: []string{"A"}}, side{layer: "grpc", args: []string{"B"}})
	text, err := os.ReadFile(asked)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Split(strings.TrimSpace(string(text)), "\n"), []string{"--json A", "--json B", "--json A", "--json B"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	if row := r.Rows[0]; row.Got == nil || row.Got.Median != 1 || row.Met != "bar" || !slices.Equal(row.P99, []float64{2, 2}) {
		t.Errorf("%+v", row)
	}
}

func TestMemoryIsComparedOverManyRequests(t *testing.T) {
	command, asked := fakeChancery(t, `n=$(wc -l <$(dirname $0)/asked)
echo '{"results":[{"layer":"grpc","rate":1,"requests":100,"pss":{"daemon_kb":'$((20000 + n * 100))',"workers_kb":10000}}]}'`)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "endpoints.json"), []byte(`{"socket":"s","api":"https://localhost:1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &bencher{chancery: command, all: dir, soak: 4000, duration: time.Second, say: func(string, ...any) {}}
	var r report
	r.growth(t.Context(), b)
	text, err := os.ReadFile(asked)
	if err != nil || strings.Count(string(text), "\n") != 40 {
		t.Fatalf("%q, %v", text, err)
	}
	// 32.1 MB after 21 runs, 34 at the end.
	if row := r.Rows[0]; row.Got == nil || math.Abs(row.Got.Median-34/32.1) > 1e-9 || row.Met != "bar" {
		t.Errorf("%+v", row)
	}
}

// No row has a number that nobody measured.
func TestWhatCannotBeMeasuredSaysWhy(t *testing.T) {
	for _, c := range []struct{ name, answer, says string }{
		{"the command fails", "echo 'error: the daemon is not running' >&2; exit 1", "the daemon is not running"},
		{"a layer that is not spoken", `echo '{"results":[],"notes":["grpc: not measured: no application protocol"]}'`, "no application protocol"},
		{"another layer", `echo '{"results":[{"layer":"json","rate":200}]}'`, "bench says nothing of grpc"},
		{"nothing was answered", `echo '{"results":[{"layer":"grpc","rate":0}]}'`, "nothing was answered"},
		{"no JSON", `echo nothing`, "invalid character"},
	} {
		t.Run(c.name, func(t *testing.T) {
			command, _ := fakeChancery(t, c.answer)
			b := &bencher{chancery: command, rounds: 2, say: func(string, ...any) {}}
			var r report
			one := side{layer: "grpc", args: []string{"A"}}
			r.contest(t.Context(), b, "A : B", more(1, 2), one, one)
			if row := r.Rows[0]; row.Got != nil || row.Met != "" || !strings.Contains(row.Why, c.says) {
				t.Errorf("%+v", row)
			}
		})
	}
}

// Where there is neither a daemon nor a Vault every promised row is there, and says
// why it has no number.
func TestEveryPromisedRowIsThere(t *testing.T) {
	b := &bencher{chancery: "/nonexistent", rounds: 2, duration: time.Second, noSampled: "no samples", noVault: "no Vault", noNoisy: "no second client", say: func(string, ...any) {}}
	r := b.measure(t.Context())
	promised := 0
	for _, one := range r.Rows {
		if one.Got != nil || one.Why == "" {
			t.Errorf("%s: %+v", one.Figure, one)
		}
		if one.Bar > 0 {
			promised++
		}
	}
	if promised != 19 {
		t.Errorf("%d rows have a bar, want 19", promised)
	}
}
