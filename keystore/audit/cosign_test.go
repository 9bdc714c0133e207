package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
)

func newTestCosigner(t testing.TB, name string) *Cosigner {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCosigner(name, private)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// specCosigned is the example of C2SP tlog-cosignature.
const specCosigned = `example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
`

// TestTheMessageUnderACosignatureIsAsSpecified, as far as the example shows it:
// its time is that of the example's message.
func TestTheMessageUnderACosignatureIsAsSpecified(t *testing.T) {
	b64 := specCosigned[strings.LastIndex(specCosigned, " ")+1 : len(specCosigned)-1]
	b, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		t.Fatal(err)
	}
	at, sig, err := splitCosignature(b[4:])
	if err != nil || at != 1679315147 || len(sig) != ed25519.SignatureSize {
		t.Fatalf("time %d, %d bytes, %v", at, len(sig), err)
	}
	text, _, _ := strings.Cut(specCosigned, "\n\n")
	want := "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
	if got := string(cosigned([]byte(text+"\n"), at)); got != want {
		t.Errorf("message %q, want %q", got, want)
	}
}

func TestACosignatureIsOfItsCheckpointTimeAndWitness(t *testing.T) {
	w, other := newTestCosigner(t, "witness.example/w1"), newTestCosigner(t, "witness.example/w1")
	text, _, _ := strings.Cut(specCosigned, "\n\n")
	at := time.Unix(1679315147, 0)
	line, err := w.Cosign(text+"\n", at)
	if err != nil {
		t.Fatal(err)
	}
	signed := specCosigned + line
	c, by, err := OpenCosigned([]byte(signed), []WitnessKey{other.Key, w.Key})
	if err != nil || c.Size != 20852163 || len(by) != 1 || by[0].Key != w.Key.String() || !by[0].Time.Equal(at) {
		t.Errorf("opened %+v, %+v, %v", c, by, err)
	}
	if _, by, err := OpenCosigned([]byte(signed), []WitnessKey{other.Key}); err != nil || len(by) != 0 {
		t.Errorf("by another: %v, %v", by, err)
	}
	raw, err := base64.StdEncoding.DecodeString(line[strings.LastIndex(line, " ")+1 : len(line)-1])
	if err != nil {
		t.Fatal(err)
	}
	for i := 4; i < len(raw); i++ { // each byte of time and signature
		wrong := bytes.Clone(raw)
		wrong[i] ^= 1
		bad := specCosigned + "— witness.example/w1 " + base64.StdEncoding.EncodeToString(wrong) + "\n"
		_, _, err := OpenCosigned([]byte(bad), []WitnessKey{w.Key})
		if _, invalid := errors.AsType[*note.InvalidSignatureError](err); !invalid {
			t.Fatalf("with byte %d changed: %v", i, err)
		}
	}
	if _, _, err := OpenCosigned([]byte(strings.Replace(signed, "20852163", "20852164", 1)), []WitnessKey{w.Key}); err == nil {
		t.Error("it is of another size too")
	}
	if _, err := w.Cosign(text, time.Unix(-1, 0)); err == nil {
		t.Error("cosigned before 1970")
	}
}

// TestATimeOutOfBoundsIsNone: "It MUST NOT exceed 2^63 - 1".
func TestATimeOutOfBoundsIsNone(t *testing.T) {
	sig := append([]byte{0x80}, make([]byte, 7+ed25519.SignatureSize)...)
	if _, _, err := splitCosignature(sig); err == nil {
		t.Error("2^63 is a time")
	}
	for _, n := range []int{0, 8, 71, 73} {
		if _, _, err := splitCosignature(make([]byte, n)); err == nil {
			t.Errorf("%d bytes are a cosignature", n)
		}
	}
}

func TestWitnessKeysHaveOneSpelling(t *testing.T) {
	k := newTestCosigner(t, "wïtness.example/w1").Key
	if again, err := ParseWitnessKey(k.VKey()); err != nil || again.VKey() != k.VKey() || again.String() != k.String() {
		t.Errorf("%s: %v", k.VKey(), err)
	}
	log, err := VKeyFor("log", newSoftKey(t, "EdDSA").alg, newSoftKey(t, "EdDSA").Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, vkey := range []string{
		"", "w", "w+", "w+00000000+", "w+00000000+BA==", log,
		strings.Replace(k.VKey(), "w1+", "w2+", 1), " " + k.VKey(), k.VKey() + " ", k.VKey() + "\n",
		strings.Replace(k.VKey(), "+", "\t+", 1),
	} {
		if _, err := ParseWitnessKey(vkey); err == nil {
			t.Errorf("%q is a witness's key", vkey)
		}
	}
	for _, name := range []string{"", "a b", "a+b", "a\u00a0b", "a\x1bb", "a\nb", "\xff"} {
		if _, err := NewWitnessKey(name, k.Public()); err == nil {
			t.Errorf("%q names a witness", name)
		}
	}
	if _, err := NewWitnessKey("w", k.Public()[1:]); err == nil {
		t.Error("31 bytes are a key")
	}
}

// FuzzOpenCosigned: what is anyone's to write is read or refused; no cosignature
// comes from nowhere.
func FuzzOpenCosigned(f *testing.F) {
	w := newTestCosigner(f, "w")
	f.Add([]byte(specCosigned))
	text := specCosigned[:strings.Index(specCosigned, "\n\n")+1]
	line, err := w.Cosign(text, time.Unix(1, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(specCosigned + line))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, by, err := OpenCosigned(data, []WitnessKey{w.Key})
		if err == nil && len(by) > 0 && c.String() != text {
			t.Errorf("cosigned %q", c.String())
		}
		if k, err := ParseWitnessKey(string(data)); err == nil && k.VKey() != string(data) {
			t.Errorf("%q is spelled %q", data, k.VKey())
		}
	})
}
