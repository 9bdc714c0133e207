package pkcs11

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"chancery/keystore"
)

// What a worker says of each message comes out as it went in.
func TestOutcomesComeOutAsTheyWentIn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var body []byte
		n := rapid.IntRange(0, maxSheaf).Draw(t, "messages")
		sigs, errs := make([][]byte, n), make([]error, n)
		for i := range n {
			if rapid.Bool().Draw(t, "signed") {
				sigs[i] = rapid.SliceOfN(rapid.Byte(), 0, 512).Draw(t, "signature")
			} else {
				errs[i] = rapid.SampledFrom([]error{keystore.ErrMessage, keystore.ErrUnsupported, errNotHeld}).Draw(t, "error")
			}
			body = appendOutcome(body, sigs[i], errs[i])
		}
		gotSigs, gotErrs, err := parseOutcomes(body, n)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if !bytes.Equal(gotSigs[i], sigs[i]) || !errors.Is(gotErrs[i], errs[i]) || (gotErrs[i] == nil) != (errs[i] == nil) {
				t.Fatalf("message %d: %x, %v; want %x, %v", i, gotSigs[i], gotErrs[i], sigs[i], errs[i])
			}
		}
		for _, other := range []int{n - 1, n + 1} {
			if _, _, err := parseOutcomes(body, max(0, other)); other >= 0 && !errors.Is(err, errSheaf) {
				t.Fatalf("an answer to %d messages is taken for one to %d: %v", n, other, err)
			}
		}
	})
}

// A worker that says anything else is not believed.
func FuzzOutcomes(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	f.Add(appendOutcome(appendOutcome(nil, make([]byte, 64), nil), nil, keystore.ErrMessage), uint8(2))
	f.Add([]byte{byte(statusFault), 0, 0, 0, 0}, uint8(1))
	f.Add([]byte{byte(statusOK), 0xff, 0xff, 0xff, 0xff}, uint8(1))
	f.Fuzz(func(t *testing.T, body []byte, n uint8) {
		sigs, errs, err := parseOutcomes(body, int(n))
		if err != nil {
			return
		}
		var again []byte
		for i := range sigs {
			if (sigs[i] == nil) == (errs[i] == nil) {
				t.Fatalf("message %d has a signature and an error, or neither", i)
			}
			again = appendOutcome(again, sigs[i], errs[i])
		}
		if !bytes.Equal(again, body) {
			t.Fatalf("%x becomes %x", body, again)
		}
	})
}
