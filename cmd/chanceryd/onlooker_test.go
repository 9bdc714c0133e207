package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"chancery/signer/api"
	"chancery/signer/client"
)

// fastSets are the key sets of dev --fast for tokens.
var fastSets = []string{"web", "legacy", "edge"}

func signAs(keyset string) api.SignJWTRequest {
	return api.SignJWTRequest{KeySet: keyset, Claims: json.RawMessage(`{"sub":"x"}`)}
}

// An onlooker is what the world saw of a daemon and its successors: every set of
// keys that was fetched, and every token that was given.
type onlooker struct {
	sets    []fetchedSet
	answers []answer
	signed  time.Time // last
}

// A fetchedSet is the kids of a key set, served between asked and got.
type fetchedSet struct {
	keyset     string
	kids       []string
	asked, got time.Time
}

// look fetches every key set, from a daemon that may be gone.
func (w *onlooker) look(d *chanceryd) {
	for _, keyset := range fastSets {
		f := fetchedSet{keyset: keyset, asked: time.Now()}
		kids, err := fetchKIDs(d.issuer(keyset))
		if err == nil {
			f.kids, f.got = kids, time.Now()
			w.sets = append(w.sets, f)
		}
	}
}

// sign has a token of each key set signed, once a second, by a daemon that may
// be gone.
func (w *onlooker) sign(t *testing.T, d *chanceryd, c *client.Client) {
	if time.Since(w.signed) < time.Second {
		return
	}
	w.signed = time.Now()
	for _, keyset := range fastSets {
		a := answer{keyset: keyset, sent: time.Now()}
		if a.reply, a.err = c.SignJWT(t.Context(), signAs(keyset)); a.err == nil {
			a.answered = time.Now()
			w.answers = append(w.answers, a)
		}
	}
}

// signedBy reports whether a key set has signed, so that a kill is likely to
// come between tokens of two keys.
func (w *onlooker) signedBy(keyset string) bool {
	return slices.ContainsFunc(w.answers, func(a answer) bool { return a.keyset == keyset })
}

// gone reports whether of each key set the keys that were published first are
// published no more, but for those that still sign.
func (w *onlooker) gone() bool {
	first, last := make(map[string][]string), make(map[string][]string)
	for _, f := range w.sets {
		if first[f.keyset] == nil {
			first[f.keyset] = f.kids
		}
		last[f.keyset] = f.kids
	}
	for _, keyset := range fastSets {
		left := slices.ContainsFunc(first[keyset], func(kid string) bool { return !slices.Contains(last[keyset], kid) })
		if !left {
			return false
		}
	}
	return true
}

// wantKnown demands that the key of each token was in every set that was served
// from A + S before it was signed until it expired: a verifier may have fetched
// any of them and look at nothing else.
func (w *onlooker) wantKnown(t *testing.T) {
	t.Helper()
	checks := 0
	for _, a := range w.answers {
		for _, f := range w.sets {
			if f.keyset != a.keyset || !f.asked.Add(briefCache+briefSkew).After(a.answered) || !f.got.Before(a.reply.ExpiresAt) {
				continue
			}
			if checks++; !slices.Contains(f.kids, a.reply.KID) {
				t.Errorf("a token of %s was signed by %s at %v; the set served between %v and %v has %q",
					a.keyset, a.reply.KID, a.answered, f.asked, f.got, f.kids)
			}
		}
	}
	if checks == 0 && len(w.answers) > 0 {
		t.Error("no set was fetched while a token lived")
	}
}

// fetchKIDs returns what an issuer publishes now.
func fetchKIDs(issuer string) ([]string, error) {
	resp, err := http.Get(issuer + "/jwks.json")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var set struct{ Keys []struct{ KID string } }
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	err = json.NewDecoder(resp.Body).Decode(&set)
	var kids []string
	for _, k := range set.Keys {
		kids = append(kids, k.KID)
	}
	return kids, err
}
