package witness

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// specRequest is the example of C2SP tlog-witness.
const specRequest = `old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
`

func TestARequestIsReadAsSpecified(t *testing.T) {
	r, err := ParseRequest([]byte(specRequest))
	if err != nil {
		t.Fatal(err)
	}
	text, _, err := splitNote(r.Note)
	if err != nil {
		t.Fatal(err)
	}
	b, err := parseBody(text)
	if err != nil || r.Old != 20852014 || len(r.Proof) != 4 || b.origin != "example.com/behind-the-sofa" || b.size != 20852163 {
		t.Errorf("read %+v, %+v, %v", r, b, err)
	}
	if string(r.Bytes()) != specRequest {
		t.Errorf("written as %q", r.Bytes())
	}
}

func TestRequestsInAnotherSpellingAreRefused(t *testing.T) {
	const hash = "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw="
	for _, body := range []string{
		"", "\n", "old 0\n", "\n\nx\n", "old \n\nx\n", "old 00\n\nx\n", "old 01\n\nx\n", "old +1\n\nx\n", "old -1\n\nx\n", "old  1\n\nx\n", "OLD 1\n\nx\n",
		"old 9223372036854775808\n\nx\n", "old 1 \n\nx\n", "old 1\r\n\nx\n",
		"old 1\n" + hash + " \n\nx\n", "old 1\n" + hash[:40] + "\n\nx\n", "old 1\n" + strings.Replace(hash, "kaw=", "kax=", 1) + "\n\nx\n",
		"old 1\n" + strings.Repeat(hash+"\n", 64) + "\nx\n",
		"old 0\n\n" + strings.Repeat("x", largestRequest),
	} {
		if r, err := ParseRequest([]byte(body)); err == nil {
			t.Errorf("%.80q was read as %+v", body, r)
		}
	}
	if _, err := ParseRequest([]byte("old 1\n" + strings.Repeat(hash+"\n", 63) + "\nx\n")); err != nil {
		t.Errorf("63 hashes: %v", err)
	}
}

// FuzzAddCheckpoint: whatever is posted, what is read has one spelling, and what
// the log did not sign is not cosigned.
func FuzzAddCheckpoint(f *testing.F) {
	l := newTestLog(f).add(5, "entry")
	s := newServer(f, l)
	f.Add([]byte(specRequest))
	f.Add(l.request(0, 3).Bytes())
	f.Add(l.request(3, 5).Bytes())
	other := l.fork().add(3, "other")
	f.Add(other.request(5, 8).Bytes())
	f.Add([]byte("old 0\n\n" + node + "/lifecycle\n1\n" + emptyHash + "\n\n"))
	signed := map[string]bool{}
	for size := range other.size + 1 {
		text, _, _ := splitNote(other.checkpoint(size))
		signed[text] = true
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := ParseRequest(data); err == nil && !bytes.Equal(r.Bytes(), data) {
			t.Errorf("written as %q", r.Bytes())
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/add-checkpoint", bytes.NewReader(data)))
		switch w.Code {
		case http.StatusOK:
			r, _ := ParseRequest(data)
			if text, _, _ := splitNote(r.Note); !signed[text] {
				t.Errorf("cosigned %q", text)
			}
		case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity:
		default:
			t.Errorf("answered %d", w.Code)
		}
	})
}

const emptyHash = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
