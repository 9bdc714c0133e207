package audit

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

func TestEdgeOfATree(t *testing.T) {
	for _, size := range []int64{1, 2, 255, 256, 257, 511, 512, 65535, 65536, 65537, 70000} {
		var grown tree
		for range size {
			grown.add(tlog.Hash{}, nil)
		}
		if !isEdge(grown.levels, size) {
			t.Errorf("%d: the edge of the tree is none", size)
		}
		if isEdge(grown.levels, size+1) || isEdge(grown.levels, size<<tileHeight) || isEdge(grown.levels[1:], size) {
			t.Errorf("%d: it is the edge of another tree too", size)
		}
	}
}

func TestWhatIsNoState(t *testing.T) {
	sound, err := os.ReadFile("testdata/state.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseState(sound); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ old, new, want string }{
		{"", "", "not a state"},
		{`{"v":2`, `{"v":1`, "version 1"},
		{`{"v":2`, `{ "v":2`, "another spelling"},
		{`"compared":[]`, `"compared":null`, "not in order"},
		{`"seals":{}`, `"seals":null`, "no months"},
		{`"kids":{`, `"kids":{"k":null,`, "without a use"},
		{`"intents":{}`, `"intents":{"i":{"kid":"unknown","use":1,"time":"2026-10-04T12:00:00Z"}}`, "intent i is of no key"},
		{`"announced":[]`, `"announced":[{"index":1,"vkey":"no","key":"no"}]`, "announces no log key"},
		{`"name":"lifecycle"`, `"name":"lifecycl"`, "no lifecycle"},
		{`acts/2026-10`, `acts/2026-1`, "no month"},
		{`"size":3,`, `"size":4,`, "is none of 4 entries"},
		{`"size":3,`, `"size":-3,`, "-3 entries"},
		{`"durable":`, `"durable":9`, "entries of"},
	} {
		b := bytes.Replace(sound, []byte(test.old), []byte(test.new), 1)
		if test.old == "" {
			b = nil
		}
		if _, err := ParseState(b); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.new, err, test.want)
		}
	}
}

func FuzzReadState(f *testing.F) {
	sound, err := os.ReadFile("testdata/state.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sound)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseState(b)
		if err != nil {
			return
		}
		again, err := s.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%v: it comes back as %s", err, again)
		}
		for _, l := range s.Logs {
			at := l.tree()
			at.root()
			at.add(tlog.Hash{}, nil)
		}
		v := verification{report: &Report{Logs: []LogReport{{Name: lifecycleName}}}, away: map[string]bool{}}
		s.Uses.conclude(&v)
		s.Months.conclude(&v)
	})
}
