package rpc

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"pgregory.net/rapid"
)

func watching(resets int) *watch {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return newWatch(nil, Limits{Resets: resets}.withDefaults(), func() time.Time { return noon })
}

// said returns a client's first words and some frames.
func said(t testing.TB, write func(f *http2.Framer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&b, nil)
	f.AllowIllegalWrites = true
	if err := write(f); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func repeat(n int, write func(f *http2.Framer) error) func(f *http2.Framer) error {
	return func(f *http2.Framer) error {
		for range n {
			if err := write(f); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestWatchEndsFloods(t *testing.T) {
	headers := func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 50)})
	}
	more := func(f *http2.Framer) error { return f.WriteContinuation(1, false, make([]byte, 70)) }
	for name, c := range map[string]struct {
		write func(*http2.Framer) error
		want  error
	}{
		"as many resets as there may be": {repeat(10, func(f *http2.Framer) error { return f.WriteRSTStream(1, 8) }), nil},
		"one reset more":                 {repeat(11, func(f *http2.Framer) error { return f.WriteRSTStream(1, 8) }), errResets},
		"settings":                       {repeat(11, func(f *http2.Framer) error { return f.WriteSettings() }), errResets},
		"priorities":                     {repeat(11, func(f *http2.Framer) error { return f.WritePriority(1, http2.PriorityParam{}) }), errResets},
		"data that looks like resets":    {repeat(20, func(f *http2.Framer) error { return f.WriteData(1, false, bytes.Repeat([]byte{0, 0, 4, 3, 0}, 50)) }), nil},
		"headers in a few frames": {repeat(20, func(f *http2.Framer) error {
			return errors.Join(headers(f), more(f), more(f), more(f), more(f))
		}), nil},
		"headers in many": {func(f *http2.Framer) error {
			return errors.Join(headers(f), more(f), more(f), more(f), more(f), more(f))
		}, errContinuation},
	} {
		if got := watching(10).look(said(t, c.write)); !errors.Is(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// What is written is looked at as well: resets that a client has us send, and only
// those. So is what is read and no reset, once there is a thousand times as much.
func TestWatchEndsFloodsInBothDirections(t *testing.T) {
	w := watching(1)
	if err := w.in.each(said(t, repeat(framesPerReset, func(f *http2.Framer) error { return f.WriteData(1, false, nil) })), w.read); err != nil {
		t.Errorf("as many frames as there may be: %v", err)
	}
	if err := w.look(said(t, func(f *http2.Framer) error { return f.WriteWindowUpdate(0, 1) })[prefaceLength:]); !errors.Is(err, errFrames) {
		t.Errorf("one frame more: %v", err)
	}
	ours := func(n int) []byte {
		return said(t, repeat(n, func(f *http2.Framer) error {
			return errors.Join(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 50)}), f.WriteRSTStream(1, 8))
		}))[prefaceLength:]
	}
	if err := w.out.each(ours(refusedPerReset), w.wrote); err != nil {
		t.Errorf("as many resets of ours as there may be: %v", err)
	}
	if err := w.out.each(ours(1), w.wrote); !errors.Is(err, errRefused) {
		t.Errorf("one more: %v", err)
	}
}

// Resets come back with time, and never more than there may be.
func TestBucket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := bucket{most: 10, level: 10, rate: 1}
		at, taken := time.Unix(0, 0), 0
		for range rapid.IntRange(1, 100).Draw(t, "times") {
			at = at.Add(time.Duration(rapid.IntRange(-2000, 5000).Draw(t, "ms")) * time.Millisecond)
			if b.take(at) {
				taken++
			}
			if b.level < 0 || b.level > 10 {
				t.Fatalf("the bucket holds %v", b.level)
			}
		}
	})
	b := bucket{most: 2, level: 2, rate: 1}
	noon := time.Unix(1000, 0)
	for i, want := range []bool{true, true, false} {
		if b.take(noon) != want {
			t.Errorf("take %d: not %v", i, want)
		}
	}
	if !b.take(noon.Add(time.Second)) || b.take(noon.Add(time.Second)) {
		t.Error("a second gives one back")
	}
}

// FuzzWatch: how bytes come in parts makes no difference.
func FuzzWatch(f *testing.F) {
	f.Add(said(f, repeat(3, func(f *http2.Framer) error { return f.WriteRSTStream(1, 8) })), uint8(1))
	f.Add(said(f, repeat(12, func(f *http2.Framer) error { return f.WriteSettings() })), uint8(7))
	f.Add(said(f, func(f *http2.Framer) error { return f.WriteData(1, true, make([]byte, 300)) }), uint8(10))
	f.Fuzz(func(t *testing.T, b []byte, part uint8) {
		whole, parts := watching(10), watching(10)
		want := whole.look(b)
		var got error
		for rest := b; len(rest) > 0 && got == nil; {
			n := min(len(rest), int(part)+1)
			got, rest = parts.look(rest[:n]), rest[n:]
		}
		if !errors.Is(got, want) {
			t.Errorf("in parts of %d: %v, whole: %v", part+1, got, want)
		}
	})
}
