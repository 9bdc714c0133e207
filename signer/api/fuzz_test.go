package api

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// What Decode accepts, encoding/json accepts too, with the same values, and raw
// members are the bytes that came.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"keyset":"web","claims":{"sub":"x"},"ttl":60,"typ":"JWT"}`,
		`{"keyset":"w\u0065b","claims":{"n":9007199254740993,"e":1e400}}`,
		`{"keyset":"\ud83d\ude00","claims":[]}`, `{"keyset":"\ud800","claims":0}`,
		"{\"\u212aeyset\":\"\",\"claims\":null}", `{"keyset":"a","claims":{},"keyset":"b"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		given := bytes.Clone(data)
		var ours, theirs SignJWTRequest
		if err := Decode(data, &ours, Limits{}); err != nil {
			checkDetail(t, err)
			return
		}
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&theirs); err != nil {
			t.Fatalf("encoding/json refuses %q: %v", data, err)
		}
		if !reflect.DeepEqual(ours, theirs) {
			t.Fatalf("%q: %+v, encoding/json reads %+v", data, ours, theirs)
		}
		if !bytes.Equal(data, given) || !bytes.Contains(data, ours.Claims) {
			t.Fatalf("%q: claims %q", data, ours.Claims)
		}
	})
}

// The bodies of a compromise, of which one decides over every key, have one
// reading, too.
func FuzzDecodeCompromise(f *testing.F) {
	for _, seed := range []string{
		`{"reason":"stolen","token":"hsm"}`, `{"reason":"stolen","node":"two"}`, `{"reason":"","token":"","node":""}`,
		`{"reason":"a","Token":"hsm"}`, `{"token":"a","token":"b"}`, `{"reason":"\ud800","token":"\u0000"}`, `{"node":null}`,
		`{"reason":"stolen","kid":"abc"}`, `{"token":["hsm"]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var ours, theirs CompromiseAllRequest
		if err := Decode(data, &ours, DefaultLimits); err != nil {
			checkDetail(t, err)
			return
		}
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&theirs); err != nil {
			t.Fatalf("encoding/json refuses %q: %v", data, err)
		}
		if ours != theirs {
			t.Fatalf("%q: %+v, encoding/json reads %+v", data, ours, theirs)
		}
	})
}

// Object agrees with an independent reading by encoding/json's tokens: what it
// accepts has the same members, and what it refuses has a reason.
func FuzzObject(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { "a" : 1 , "b":[true,false,null,-0.5e+7] } `, `{"a":{"b":1,"B":2}}`, `{"a":1,"\u0061":2}`,
		`{"a":"\ud83d\ude00\/\b\f\n\r\t\"\\"}`, `{"a":"\udc00"}`, "{\"a\":\"\xff\"}", `{"":{"":{}}}`, `{"a":01}`,
		`{` + manyMembers(20) + `,"M3":0}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		members := map[string]json.RawMessage{}
		err := Object(data, Limits{}, func(name, value []byte) error {
			members[string(name)] = json.RawMessage(value)
			return nil
		})
		if err != nil {
			checkDetail(t, err)
			if beyondReproach(data) {
				t.Fatalf("%q refused: %v", data, err)
			}
			return
		}
		var theirs map[string]json.RawMessage
		if err := json.Unmarshal(data, &theirs); err != nil {
			t.Fatalf("encoding/json refuses %q: %v", data, err)
		}
		if !reflect.DeepEqual(members, theirs) {
			t.Fatalf("%q: %q, encoding/json reads %q", data, members, theirs)
		}
	})
}

func checkDetail(t *testing.T, err error) {
	t.Helper()
	e, ok := err.(*Error)
	if !ok || e.Code != CodeMalformed && e.Code != CodeTooLarge {
		t.Fatalf("error %v", err)
	}
	if len(e.Detail) > 600 || strings.ContainsFunc(e.Detail, func(r rune) bool { return r < ' ' || r > '~' }) {
		t.Fatalf("detail %q", e.Detail)
	}
}

// beyondReproach reports whether data is one JSON object with nothing in it
// that is near a limit or has two readings, as far as encoding/json can tell.
func beyondReproach(data []byte) bool {
	if !utf8.Valid(data) || !json.Valid(data) || len(data) > 200 || !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return plainValue(dec, 0)
}

func plainValue(dec *json.Decoder, depth int) bool {
	token, err := dec.Token()
	if err != nil || depth > 30 {
		return false
	}
	if s, ok := token.(string); ok {
		return !strings.ContainsRune(s, utf8.RuneError) // perhaps a lone surrogate
	}
	open, ok := token.(json.Delim)
	if !ok {
		return true
	}
	var names []string
	for dec.More() {
		if open == '{' {
			name, err := dec.Token()
			s, _ := name.(string)
			if err != nil || strings.ContainsRune(s, utf8.RuneError) {
				return false
			}
			for _, n := range names {
				if strings.EqualFold(n, s) {
					return false
				}
			}
			names = append(names, s)
		}
		if !plainValue(dec, depth+1) {
			return false
		}
	}
	_, err = dec.Token()
	return err == nil
}
