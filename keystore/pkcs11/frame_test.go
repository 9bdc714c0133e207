package pkcs11

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"chancery/keystore"
)

// Frames come out as they went in, however the stream is cut.
func TestFramesSurviveAnyCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		var sent []frame
		for range rapid.IntRange(1, 8).Draw(t, "frames") {
			f := frame{rapid.Uint32().Draw(t, "generation"), rapid.Uint32().Draw(t, "id"),
				rapid.Byte().Draw(t, "code"), rapid.SliceOfN(rapid.Byte(), 0, 100_000).Draw(t, "body")}
			sent = append(sent, f)
			stream = appendFrame(stream, f)
		}
		var r io.Reader = bytes.NewReader(stream)
		if rapid.Bool().Draw(t, "halves") {
			r = iotest.HalfReader(r)
		}
		var in inbox
		for _, want := range sent {
			got, err := in.next()
			for errors.Is(err, errPartial) {
				if err := in.fill(r.Read); err != nil {
					t.Fatal(err)
				}
				got, err = in.next()
			}
			if err != nil || got.generation != want.generation || got.id != want.id || got.code != want.code || !bytes.Equal(got.body, want.body) {
				t.Fatalf("got %v, %v", got, err)
			}
		}
		if _, err := in.next(); !errors.Is(err, errPartial) {
			t.Fatalf("after the last: %v", err)
		}
	})
}

// What it was: the bytes of a login lay in the worker's inbox until later
// requests happened to overwrite them, also where a frame's beginning was moved
// or its buffer grew.
func TestI12AnInboxKeepsNothingThatWasTaken(t *testing.T) {
	secret := bytes.Repeat([]byte("PIN-4711"), 4)
	login := appendFrame(nil, frame{1, 2, byte(verbLogin), loginBody([]byte("{}"), secret)})
	long := appendFrame(nil, frame{1, 1, byte(verbTokens), make([]byte, 100<<10)})
	for name, before := range map[string][]byte{"alone": nil, "after another": appendFrame(nil, frame{1, 1, byte(verbHello), []byte{1}}), "after a long one": long} {
		t.Run(name, func(t *testing.T) {
			stream := append(bytes.Clone(before), login...)
			for cut := len(before); cut <= len(stream); cut++ {
				var in inbox
				var all [][]byte // every buffer it ever had
				parts := [][]byte{stream[:cut], stream[cut:], nil}
				taken := 0
				for len(parts) > 0 {
					f, err := in.next()
					if err == nil {
						taken += len(f.body)
						continue
					}
					if err := in.fill(func(b []byte) (int, error) {
						n := copy(b, parts[0])
						if parts[0] = parts[0][n:]; len(parts[0]) == 0 {
							parts = parts[1:]
						}
						return n, nil
					}); err != nil {
						t.Fatal(err)
					}
					all = append(all, in.buf[:cap(in.buf)])
				}
				if taken < len(secret) {
					t.Fatalf("cut at %d: %d bytes taken", cut, taken)
				}
				for _, buf := range all {
					if bytes.Contains(buf, secret[:8]) {
						t.Fatalf("cut at %d: the PIN is still there", cut)
					}
				}
			}
		})
	}
}

// Every error a worker answers with arrives as what it was.
func TestErrorsCrossTheSocket(t *testing.T) {
	for _, k := range statusErrors {
		if got := statusOf(errors.Join(errors.New("doing it"), k.err)); got != k.status {
			t.Errorf("%v travels as status %d", k.err, got)
		}
		if err := errorOf(k.status, []byte("text")); !errors.Is(err, k.err) || err.Error() != "text" {
			t.Errorf("status %d arrives as %v", k.status, err)
		}
	}
	if statusOf(errors.New("CKR_DEVICE_ERROR")) != statusFault {
		t.Error("an unknown error is no fault")
	}
	if err := errorOf(status(200), nil); !errors.Is(err, errFault) {
		t.Errorf("an unknown status is %v", err)
	}
	if !errors.Is(errorOf(statusPINLocked, nil), keystore.ErrPINRejected) {
		t.Error("a locked PIN is no rejected PIN")
	}
}

// What parses is written back to the same bytes.
func FuzzFrame(f *testing.F) {
	f.Add(appendFrame(nil, frame{1, 2, byte(verbSign), []byte("name and message")}))
	f.Add([]byte{0, 0, 0, 8, 1, 2, 3, 4})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, n, err := parseFrame(b)
		if err != nil {
			return
		}
		if got := appendFrame(nil, fr); !bytes.Equal(got, b[:n]) {
			t.Fatalf("%x was written as %x", b[:n], got)
		}
	})
}
