package jwks

import (
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
