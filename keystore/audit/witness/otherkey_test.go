package witness

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

// What it was: a witness that answered with another key than the policy has was said
// to have no verifiable signatures, and which of the two was wrong nobody could tell.
func TestAWitnessWithAnotherKeyIsToldByBoth(t *testing.T) {
	l := newTestLog(t).add(1, "entry")
	named := func(cfg *ServerConfig) { cfg.Name = "w1.example" }
	known, other := newServer(t, l, named), newServer(t, l, named)
	line, err := other.Cosign(l.request(0, 1))
	if err != nil {
		t.Fatal(err)
	}
	_, err = cosignatureBy(known.Key(), l.checkpoint(1), []byte(line))
	if want := fmt.Sprintf("signed by %s; the policy has %s", other.Key(), known.Key()); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestWhoSignedIsToldBriefly(t *testing.T) {
	n := &note.Note{}
	for range 5 {
		n.UnverifiedSigs = append(n.UnverifiedSigs, note.Signature{Name: strings.Repeat("é", 600), Hash: 10})
	}
	one := strings.Repeat("é", longestSigner/2) + "+0000000a"
	if got, want := signersOf(n), one+", "+one+", "+one+", 2 more"; got != want {
		t.Errorf("%s", got)
	}
	n.UnverifiedSigs = []note.Signature{{Name: "a" + strings.Repeat("é", 600)}}
	if got, want := signersOf(n), "a"+strings.Repeat("é", longestSigner/2-1)+"+00000000"; got != want {
		t.Errorf("cut within a letter: %q", got)
	}
}
