package signer

import (
	"testing"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
)

// A node whose configuration allows longer tokens than the one that is in force
// signed them, and they outlived their key. What caches and verifiers were told
// counts, in force for as long as it was before it was lowered.
func TestNoTokenOutlivesWhatTheCatalogKnows(t *testing.T) {
	w := newWorld(t)
	hour, minute := keystore.Promise{MaxLifetime: time.Hour}, keystore.Promise{MaxLifetime: time.Minute}
	at := func(p keystore.Promise, ago time.Duration) keystore.Promise {
		p.At = w.now.Add(-ago)
		return p
	}
	for _, c := range []struct {
		name     string
		promises []keystore.Promise
		code     api.Code // empty: signed
	}{
		{"an hour is in force", []keystore.Promise{at(hour, time.Hour)}, ""},
		{"a minute is in force", []keystore.Promise{at(minute, time.Hour)}, api.CodeTTLTooLong},
		{"lowered a while ago, the hour counts still", []keystore.Promise{at(hour, 3*time.Hour), at(minute, 30*time.Minute)}, ""},
		{"lowered longer ago", []keystore.Promise{at(hour, 3*time.Hour), at(minute, time.Hour)}, api.CodeTTLTooLong},
		{"raised just now", []keystore.Promise{at(minute, time.Hour), at(hour, 0)}, ""},
	} {
		w.sets["web"].Promises = c.promises
		ttl := int64(3600)
		req := ask("web")
		req.TTL = &ttl
		_, err := w.SignJWT(t.Context(), issuer, req)
		if c.code != "" {
			wants(t, c.name, err, c.code)
		} else if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
