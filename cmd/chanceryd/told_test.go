package main

import (
	"testing"

	"chancery/keystore"
)

// What it was: each death of a worker was two entries in the log that is kept
// for ever.
func TestWhichTokenStatesAreNews(t *testing.T) {
	var told told
	for i, v := range []struct {
		state keystore.TokenState
		err   string
		news  bool
	}{
		{keystore.TokenReady, "", true},
		{keystore.TokenStarting, "", false},
		{keystore.TokenReady, "", false},
		{keystore.TokenStarting, "", false},
		{keystore.TokenUnavailable, "a", true},
		{keystore.TokenStarting, "", false},
		{keystore.TokenUnavailable, "a", false},
		{keystore.TokenUnavailable, "b", true},
		{keystore.TokenReady, "", true},
		{keystore.TokenPINRejected, "", true},
	} {
		s := keystore.TokenStatus{Keystore: "hsm", State: v.state, Err: v.err, Restarts: i}
		if got := told.isNews(s); got != v.news {
			t.Errorf("state %d, %s %q: news %v, want %v", i, v.state, v.err, got, v.news)
		}
		s.Keystore = "other"
		if i == 0 && !told.isNews(s) {
			t.Error("the first state of another keystore is no news")
		}
	}
}
