package main

import (
	"slices"
	"strings"
	"testing"
)

func TestRowsOfATest(t *testing.T) {
	for name, want := range map[string]string{
		"TestP04AnOperatorEndsThePause":      "P04",
		"TestP27P28NothingButSigningToSign":  "P27 P28",
		"TestFaults/storms/P13_a_crash_loop": "P13",
		"TestS20BothWorkers":                 "S20",
		"TestVaultFaults/states/V01_sealed":  "V01",
		"TestVaultFaults":                    "",
		"TestFaults":                         "",
		"TestPausesGrow":                     "",
		"TestAKey":                           "",
		"TestFaults/storms":                  "",
	} {
		if got := strings.Join(rowsOf(name), " "); got != want {
			t.Errorf("%s belongs to %q, want %q", name, got, want)
		}
	}
}

// A row that failed, was skipped or has no test is never taken for one that
// passed.
func TestTheTableFailsWhereARowDoes(t *testing.T) {
	var passing []string
	for _, row := range wanted() {
		if elsewhere[row] == "" {
			passing = append(passing, `{"Action":"pass","Package":"p","Test":"Test`+row+`X"}`)
		}
	}
	without := slices.DeleteFunc(slices.Clone(passing), func(s string) bool { return strings.Contains(s, "TestP07X") })
	for name, v := range map[string]struct {
		lines []string
		ok    bool
	}{
		"all pass":          {passing, true},
		"one fails":         {append(slices.Clone(without), `{"Action":"fail","Package":"p","Test":"TestP07X"}`), false},
		"one is skipped":    {append(slices.Clone(without), `{"Action":"skip","Package":"p","Test":"TestP07X"}`), false},
		"one is missing":    {without, false},
		"one of two fails":  {append(slices.Clone(passing), `{"Action":"fail","Package":"p","Test":"TestFaults/P07_again"}`), false},
		"a package died":    {append(slices.Clone(passing), `{"Action":"fail","Package":"p"}`), false},
		"a promise is kept": {append(slices.Clone(without), `{"Action":"attr","Package":"p","Test":"TestP07Y","Key":"promises","Value":"I2"}`, `{"Action":"pass","Package":"p","Test":"TestP07Y"}`), true},
		"a promise is broken": {append(slices.Clone(passing), `{"Action":"attr","Package":"p","Test":"TestZ","Key":"promises","Value":"I2"}`,
			`{"Action":"fail","Package":"p","Test":"TestZ"}`), false},
	} {
		results, err := read(strings.NewReader(strings.Join(v.lines, "\n")))
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if got := render(&out, results); got != v.ok {
			t.Errorf("%s: %v, want %v\n%s", name, got, v.ok, out.String())
		}
	}
	if _, err := read(strings.NewReader("FAIL\n")); err == nil {
		t.Error("something else than JSON was read")
	}
}
