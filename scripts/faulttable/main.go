// Command faulttable reads the output of go test -json and prints one line for
// each row of the fault matrix: how it was provoked, what was seen, how long it
// took until all was well, and whether that was as it has to be. It ends with
// status 1 if a test failed or a row has no test.
//
// A test belongs to the rows and promises that its name begins with, such as
// TestP27P28… or a subtest called "P04 a storm", and to those that its attribute
// "promises" lists. What it tells of itself are its attributes "provoked", "seen"
// and "recovered".
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// elsewhere are rows that no test can show, and where they are kept.
var elsewhere = map[string]string{
	"A31": "nothing to run: README, \"Which modules work\"",
}

// wanted are the rows and promises that have to be there.
func wanted() []string {
	var rows []string
	for i := 1; i <= 32; i++ {
		rows = append(rows, fmt.Sprintf("P%02d", i))
	}
	for i := 1; i <= 16; i++ {
		rows = append(rows, fmt.Sprintf("V%02d", i))
	}
	return append(rows, "S02", "S03", "S04", "S05", "S15", "S16", "S18", "S19", "S20", "A30", "A31", "A32", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I13", "I14", "I16")
}

func main() {
	results, err := read(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	if !render(os.Stdout, results) {
		os.Exit(1)
	}
}

// A result is what one test came to.
type result struct {
	test       string
	rows       []string
	attributes map[string]string
	outcome    string // pass, fail or skip
	output     []string
}

type event struct{ Action, Package, Test, Key, Value, Output string }

// read collects the tests that belong to a row, in the order they ended.
func read(r io.Reader) ([]*result, error) {
	running := map[string]*result{}
	var done []*result
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("this is not the output of go test -json: %.80q", lines.Text())
		}
		if e.Test == "" {
			if e.Action == "fail" { // a package that does not build, or that died
				done = append(done, &result{test: e.Package, rows: []string{"?"}, outcome: "fail"})
			}
			continue
		}
		key := e.Package + " " + e.Test
		t := running[key]
		if t == nil {
			t = &result{test: e.Test, rows: rowsOf(e.Test), attributes: map[string]string{}}
			running[key] = t
		}
		switch e.Action {
		case "attr":
			if e.Key == "promises" { // said more than once
				e.Value = t.attributes[e.Key] + " " + e.Value
			}
			t.attributes[e.Key] = e.Value
		case "output":
			if strings.Contains(e.Output, "_test.go:") {
				t.output = append(t.output, strings.TrimSpace(e.Output))
			}
		case "pass", "fail", "skip":
			t.outcome = e.Action
			t.rows = append(t.rows, strings.Fields(t.attributes["promises"])...)
			if len(t.rows) > 0 {
				done = append(done, t)
			}
		}
	}
	return done, lines.Err()
}

var leading = regexp.MustCompile(`^(Test)?((?:[PSAIV]\d+)+)`)

// rowsOf returns the rows that the last part of a test's name begins with.
func rowsOf(test string) []string {
	last := test[strings.LastIndexByte(test, '/')+1:]
	m := leading.FindStringSubmatch(last)
	if m == nil {
		return nil
	}
	return regexp.MustCompile(`[PSAIV]\d+`).FindAllString(m[2], -1)
}

// render prints the table and returns whether every row passed.
func render(w io.Writer, results []*result) bool {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"row", "provoked", "seen", "recovered", "result"})
	t.SetColumnConfigs([]table.ColumnConfig{
		{Name: "provoked", WidthMax: 50, WidthMaxEnforcer: text.WrapSoft},
		{Name: "seen", WidthMax: 60, WidthMaxEnforcer: text.WrapSoft},
	})
	ok := true
	for _, row := range wanted() {
		var of []*result
		for _, r := range results {
			if slices.Contains(r.rows, row) {
				of = append(of, r)
			}
		}
		if len(of) == 0 {
			where, known := elsewhere[row]
			if !known {
				where, ok = "no test", false
			}
			t.AppendRow(table.Row{row, "-", where, "", map[bool]string{true: "-", false: "MISSING"}[known]})
			continue
		}
		if row[0] == 'I' { // a promise is kept by many tests
			ok = promise(t, row, of) && ok
			continue
		}
		for _, r := range of {
			ok = r.outcome == "pass" && ok
			t.AppendRow(table.Row{row, provoked(r), seen(r), r.attributes["recovered"], r.outcome})
		}
	}
	for _, r := range results {
		if slices.Contains(r.rows, "?") {
			ok = false
			t.AppendRow(table.Row{"?", r.test, "the package failed", "", "fail"})
		}
	}
	t.Render()
	return ok
}

func promise(t table.Writer, row string, of []*result) bool {
	passed := 0
	for _, r := range of {
		if r.outcome == "pass" {
			passed++
		}
	}
	outcome := "pass"
	if passed < len(of) {
		outcome = "fail"
	}
	t.AppendRow(table.Row{row, "in each of its tests", fmt.Sprintf("kept in %d of %d", passed, len(of)), "", outcome})
	return passed == len(of)
}

// apart are the places where one word of a test's name ends and another begins.
var apart = regexp.MustCompile(`([a-z0-9])([A-Z])|\b(A)([A-Z][a-z])`)

// provoked says how, or else what the test is called.
func provoked(r *result) string {
	words := r.test[strings.LastIndexByte(r.test, '/')+1:]
	words = strings.ReplaceAll(leading.ReplaceAllString(words, ""), "_", " ")
	words = strings.TrimSpace(apart.ReplaceAllString(words, "$1$3 $2$4"))
	if how := r.attributes["provoked"]; how != "" {
		return words + ": " + how
	}
	return words
}

func seen(r *result) string {
	if s := r.attributes["seen"]; s != "" && r.outcome == "pass" {
		return s
	}
	if r.outcome == "pass" {
		return "as it has to be"
	}
	return strings.Join(r.output, "\n")
}
