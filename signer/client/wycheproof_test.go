package client

import (
	"encoding/json"
	"io/fs"
	"testing"

	"github.com/c2sp/wycheproof"
)

type vectors struct {
	NumberOfTests int `json:"numberOfTests"`
	TestGroups    []struct {
		Comment string          `json:"comment"`
		Public  json.RawMessage `json:"public"`
		Tests   []struct {
			ID      int      `json:"tcId"`
			Comment string   `json:"comment"`
			JWS     string   `json:"jws"`
			Result  string   `json:"result"`
			Flags   []string `json:"flags"`
		} `json:"tests"`
	} `json:"testGroups"`
}

func load(t *testing.T, name string) vectors {
	t.Helper()
	data, err := fs.ReadFile(wycheproof.TestVectors, name)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// verified reports whether jws verifies under the key of set that its kid
// names. A vector without kid has the only key there is.
func verified(set keySet, token string) bool {
	j, err := parseJWS(token)
	if err != nil {
		return false
	}
	key, ok := set[j.header.KID]
	if j.header.KID == "" && len(set) == 1 {
		for _, k := range set {
			key, ok = k, true
		}
	}
	return ok && j.check(key) == nil
}

// stricter are the vectors Wycheproof calls valid and we refuse, and why.
var stricter = map[int]string{
	346: "the key says PS256, the token PS384",
	347: "the key says ES521, which is no algorithm (RFC 7518 says ES512)",
	350: "the key says PS256, the token PS384",
	351: "the key says ES521, which is no algorithm (RFC 7518 says ES512)",
}

func TestWycheproofSignatures(t *testing.T) {
	v := load(t, "json_web_signature_test.json")
	tried := 0
	for _, g := range v.TestGroups {
		if len(g.Public) == 0 { // HMAC: there is no key set of such keys
			for _, c := range g.Tests {
				if verified(keySet{}, c.JWS) {
					t.Errorf("%s %d: an HMAC verifies", g.Comment, c.ID)
				}
				tried++
			}
			continue
		}
		set, err := parseKeySet([]byte(`{"keys":[` + string(g.Public) + `]}`))
		if err != nil {
			t.Errorf("%s: %v", g.Comment, err)
		}
		for _, c := range g.Tests {
			tried++
			want := c.Result == "valid" && stricter[c.ID] == ""
			if got := verified(set, c.JWS); got != want {
				t.Errorf("%s %d (%s, %v): verifies is %v, want %v", g.Comment, c.ID, c.Comment, c.Flags, got, want)
			}
		}
	}
	if tried != v.NumberOfTests {
		t.Errorf("tried %d of %d vectors", tried, v.NumberOfTests)
	}
}

func TestWycheproofKeys(t *testing.T) {
	// A weak key that only its owner's generator is to blame for (ROCA) is not a
	// verifier's to find.
	const roca = "rejectsKeyWithRocaVulnerability"
	for _, g := range load(t, "json_web_key_test.json").TestGroups {
		if len(g.Public) == 0 {
			continue
		}
		set, err := parseKeySet(g.Public)
		for _, c := range g.Tests {
			if c.Comment == roca {
				continue
			}
			if got := err == nil && verified(set, c.JWS); got != (c.Result == "valid") {
				t.Errorf("%s %d (%s, %v): verifies is %v (%v)", g.Comment, c.ID, c.Comment, c.Flags, got, err)
			}
		}
	}
}
