package signer

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"chancery/keystore"
	"chancery/signer/api"
)

func TestServiceNeedsEverything(t *testing.T) {
	whole := newWorld(t).Config
	if s, err := New(whole); err != nil || s.Now == nil {
		t.Fatal(err)
	}
	typ := reflect.TypeFor[Config]()
	for i := range typ.NumField() {
		lacking := whole
		reflect.ValueOf(&lacking).Elem().Field(i).SetZero()
		name := typ.Field(i).Name
		if _, err := New(lacking); (err == nil) != slices.Contains([]string{"Now", "Salt", "Profile", "Queue", "Limits"}, name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// The digest of a request tells equal ones from others, and nothing to who does
// not have the salt.
func TestDigestOfARequest(t *testing.T) {
	w := newWorld(t)
	seen := map[string]string{}
	for _, parts := range [][][]byte{
		{}, {nil}, {nil, nil}, {[]byte("ab")}, {[]byte("a"), []byte("b")}, {[]byte("b"), []byte("a")}, {nil, []byte("ab")}, {[]byte("ab"), nil},
		{make([]byte, 8)}, {make([]byte, 300)},
	} {
		d, text := w.digest(parts...), fmt.Sprintf("%q", parts)
		if len(d) != 64 || d != w.digest(parts...) {
			t.Errorf("%s: %q", text, d)
		}
		if was, ok := seen[d]; ok {
			t.Errorf("%s and %s are the same", was, text)
		}
		seen[d] = text
	}
	other := newWorld(t)
	other.Salt = [32]byte{2}
	if d := other.digest([]byte("ab")); seen[d] != "" {
		t.Error("another salt, the same digest")
	}
}

// A refusal from outside keeps its code and is entered once.
func TestRefuse(t *testing.T) {
	w := newWorld(t)
	for err, code := range map[error]api.Code{
		api.Errorf(api.CodeTooLarge, "too large"):                            api.CodeTooLarge,
		fmt.Errorf("reading: %w", api.Errorf(api.CodeMalformed, "bad JSON")): api.CodeMalformed,
		errors.New("anything"):                                               api.CodeInternal,
	} {
		w.log.refused = nil
		e := w.Service.Refuse(keystore.Record{Action: keystore.ActRequest}, err)
		if r := w.log.refused; e.Code != code || len(r) != 1 || r[0].Code != string(code) || r[0].Outcome != keystore.OutcomeRefused || r[0].Reason == "" {
			t.Errorf("%v: %v, %+v", err, e, r)
		}
	}
}
