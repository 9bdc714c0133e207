package jwks

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"chancery/keystore"
)

func historical(t *testing.T, alg keystore.Algorithm, issued time.Time) HistoricalKey {
	t.Helper()
	v := version(t, 1, keystore.Retired, alg)
	pub, err := v.Public()
	if err != nil {
		t.Fatal(err)
	}
	return HistoricalKey{Public: pub, Algorithm: alg, KID: v.KID, IssuedAt: issued, NotBefore: issued.Add(time.Hour), Expires: issued.Add(3 * time.Hour)}
}

func TestTheHistoryHasEachKeyWithItsLife(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 600e6, time.UTC)
	newer, older := historical(t, keystore.ES256, start.Add(time.Hour)), historical(t, keystore.RS256, start)
	older.Revoked, older.Reason = start.Add(2*time.Hour), ReasonCompromised
	newer.NotBefore = time.Time{}
	body, err := Historical([]HistoricalKey{newer, older})
	if err != nil {
		t.Fatal(err)
	}
	var keys []map[string]any
	if err := json.Unmarshal(body, &keys); err != nil || len(keys) != 2 {
		t.Fatalf("%s: %v", body, err)
	}
	base := float64(start.Unix())
	for i, want := range []map[string]any{
		{"kid": string(older.KID), "alg": "RS256", "kty": "RSA", "use": "sig", "iat": base, "nbf": base + 3600, "exp": base + 3*3600 + 1},
		{"kid": string(newer.KID), "alg": "ES256", "kty": "EC", "use": "sig", "iat": base + 3600, "nbf": nil, "exp": base + 4*3600 + 1, "revoked": nil},
	} {
		for name, value := range want {
			if keys[i][name] != value {
				t.Errorf("key %d: %s is %v, want %v", i, name, keys[i][name], value)
			}
		}
	}
	if got := fmt.Sprint(keys[0]["revoked"]); got != fmt.Sprint(map[string]any{"reason": "compromised", "revoked_at": base + 2*3600}) {
		t.Errorf("revoked: %s", got)
	}
	var parsed []jose.JSONWebKey
	if err := json.Unmarshal(body, &parsed); err != nil || !parsed[0].IsPublic() || !parsed[1].IsPublic() {
		t.Errorf("read by another: %v", err)
	}
	again, err := Historical([]HistoricalKey{older, newer})
	if err != nil || string(again) != string(body) {
		t.Errorf("in another order it is another: %s", again)
	}
}

// A list that grows for ever could not be signed one day.
func TestALongHistoryHasTheLatestKeys(t *testing.T) {
	first := historical(t, keystore.RS256, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	one, err := Historical([]HistoricalKey{first})
	if err != nil {
		t.Fatal(err)
	}
	fit := (MaxHistory - len("[]")) / (len(one) - len("[]") + len(","))
	var keys []HistoricalKey
	for i := range fit + 3 {
		k := first
		k.IssuedAt = k.IssuedAt.Add(time.Duration(i) * time.Second)
		keys = append(keys, k)
	}
	body, err := Historical(keys)
	var got []struct{ IAT int64 }
	if err := errors.Join(err, json.Unmarshal(body, &got)); err != nil {
		t.Fatal(err)
	}
	if len(got) != fit || got[0].IAT != keys[3].IssuedAt.Unix() || got[fit-1].IAT != keys[fit+2].IssuedAt.Unix() {
		t.Errorf("%d keys of %d, %d to %d", len(got), len(keys), got[0].IAT, got[len(got)-1].IAT)
	}
	if n := base64.RawURLEncoding.EncodedLen(len(body) + 2048); n > keystore.MaxMessage {
		t.Errorf("%d bytes are to be signed", n)
	}
}

func TestNoHistoryOfKeysThatContradictThemselves(t *testing.T) {
	if _, err := Historical(nil); !errors.Is(err, ErrEmpty) {
		t.Errorf("no key: %v", err)
	}
	for what, spoil := range map[string]func(k *HistoricalKey){
		"has not left":           func(k *HistoricalKey) { k.Expires = time.Time{} },
		"left before it was in":  func(k *HistoricalKey) { k.Expires = k.IssuedAt.Add(-1) },
		"left before it signed":  func(k *HistoricalKey) { k.Expires = k.NotBefore.Add(-1) },
		"thumbprint":             func(k *HistoricalKey) { k.KID = "other" },
		"key":                    func(k *HistoricalKey) { k.Algorithm = keystore.RS256 },
		"unsupported public key": func(k *HistoricalKey) { k.Public = strings.NewReader("") },
	} {
		k := historical(t, keystore.ES256, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
		spoil(&k)
		if body, err := Historical([]HistoricalKey{k}); err == nil {
			t.Errorf("%s: %s", what, body)
		}
	}
}
