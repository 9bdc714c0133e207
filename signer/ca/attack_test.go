package ca

import (
	"bytes"
	"encoding/asn1"
	"encoding/pem"
	"runtime"
	"slices"
	"strings"
	"testing"

	"chancery/keystore"
	"chancery/signer/api"
)

// A10: whoever holds a key may have it certified for another name that profile
// and rule allow, as when it is renewed or serves two names; whoever does not,
// and has its public half from a certificate, may not.
func TestA10AKeyOfAnotherSubject(t *testing.T) {
	b := newBench(t, keystore.ES256)
	holder, other := newKey(t, keystore.ES256), newKey(t, keystore.ES256)
	for _, name := range []string{"a.devices.test", "c.lab.devices.test"} {
		p, err := b.prepare(request(t, holder.signer, named(name)), nil)
		if err != nil || p.SPKIHash() != keystore.HashSPKI(spkiOf(t, holder.Public())) {
			t.Errorf("%s by who holds the key: %v", name, err)
		}
	}
	stolen := request(t, other.signer, named("a.devices.test"))
	block, _ := pem.Decode(stolen)
	der := bytes.Replace(block.Bytes, spkiOf(t, other.Public()), spkiOf(t, holder.Public()), 1)
	if bytes.Equal(der, block.Bytes) {
		t.Fatal("no key to put in the place of the other")
	}
	if _, err := b.prepare(armour(der), nil); codeOf(err) != api.CodeMalformed {
		t.Errorf("by who does not: %v", err)
	}
}

// der is one element with its content.
func der(tag byte, content []byte) []byte {
	b, err := asn1.Marshal(asn1.RawValue{Class: int(tag >> 6), Tag: int(tag & 0x1f), IsCompound: tag&0x20 != 0, Bytes: content})
	if err != nil {
		panic(err)
	}
	return b
}

// A11: whatever is sent for a request, what it costs to refuse it is bounded by
// its size, which is bounded: no element is believed about its length or number,
// and no text is gone over again for each line.
func TestA11RequestsCostNoMoreThanTheyWeigh(t *testing.T) {
	b := newBench(t, keystore.ES256)
	key := newKey(t, keystore.ES256)
	spki, version := spkiOf(t, key.Public()), []byte{2, 1, 0}
	const room = 47 << 10 // what MaxRequest leaves for DER
	many := func(element []byte, n int) []byte { return bytes.Repeat(element, min(n, room/len(element))) }
	signed := func(subject, attributes []byte) []byte {
		info := der(0x30, slices.Concat(version, der(0x30, subject), spki, der(0xa0, attributes)))
		return der(0x30, slices.Concat(info, der(0x30, der(6, []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2})), der(3, []byte{0, 0x30, 0})))
	}
	extensionRequest := func(extensions []byte) []byte {
		oid := der(6, []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14})
		return der(0x30, slices.Concat(oid, der(0x31, der(0x30, extensions))))
	}
	san := func(names []byte) []byte {
		return extensionRequest(der(0x30, slices.Concat(der(6, []byte{0x55, 0x1d, 17}), der(4, der(0x30, names)))))
	}
	nested := []byte{}
	for range 4000 {
		nested = der(0x30, nested)
	}
	begin, end := "-----BEGIN "+pemType+"-----\n", "-----END "+pemType+"-----\n"
	for name, text := range map[string][]byte{
		// CVE-2025-61723: a PEM that is no PEM, over and over.
		"beginnings of PEM":       []byte(strings.Repeat(begin, MaxRequest/len(begin))),
		"a beginning, and dashes": []byte(begin + strings.Repeat("-----BEGIN \n", 5000)),
		"ends of PEM":             []byte(begin + strings.Repeat(end, (MaxRequest-len(begin))/len(end))),
		"headers of PEM":          []byte(begin + strings.Repeat("A: b\n", 12000) + "\nAAAA\n" + end),
		"colons":                  []byte(begin + strings.Repeat(":", 60000) + "\n" + end),
		"empty lines":             []byte(begin + strings.Repeat("\n", 60000) + end),
		// CVE-2025-58185: elements by the thousand, each nothing.
		"attributes that are empty":   armour(signed(nil, many([]byte{0x30, 0}, 1<<20))),
		"names that are empty":        armour(signed(nil, san(many([]byte{0x82, 0}, 1<<20)))),
		"extensions that are empty":   armour(signed(nil, extensionRequest(many([]byte{0x30, 0}, 1<<20)))),
		"a subject of empty sets":     armour(signed(many([]byte{0x31, 0}, 1<<20), nil)),
		"a subject of many names":     armour(signed(many(der(0x31, der(0x30, slices.Concat(der(6, []byte{0x55, 4, 3}), der(12, []byte("x"))))), 1<<20), nil)),
		"sequences in sequences":      armour(nested),
		"a length of four gigabytes":  armour([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 2, 1, 0}),
		"a length of too many octets": armour(append([]byte{0x30, 0xff}, bytes.Repeat([]byte{0xff}, room)...)),
		"an identifier without end":   armour(der(0x30, der(0x30, slices.Concat(version, der(0x30, nil), der(0x30, der(0x30, der(6, bytes.Repeat([]byte{0xff}, room-100)))))))),
		"a version of 40 KB":          armour(der(0x30, der(0x30, slices.Concat(der(2, bytes.Repeat([]byte{0x7f}, 40<<10)), der(0x30, nil), spki)))),
	} {
		if len(text) > MaxRequest {
			t.Errorf("%s: %d bytes, which the size alone refuses", name, len(text))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := b.prepare(text, nil)
		runtime.ReadMemStats(&after)
		if code := codeOf(err); code != api.CodeMalformed && code != api.CodeKeyRejected && code != api.CodeNameNotAllowed {
			t.Errorf("%s: %v", name, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 8<<20 {
			t.Errorf("%s: %d bytes took %d of memory", name, len(text), took)
		}
	}
	if _, err := b.prepare(bytes.Repeat([]byte("-"), MaxRequest+1), nil); codeOf(err) != api.CodeTooLarge {
		t.Errorf("one byte more: %v", err)
	}
}

// A11: a text that holds a request holds one, and nothing else: written anew it
// is read as the same.
func FuzzReadPEM(f *testing.F) {
	good := request(f, newKey(f, keystore.ES256).signer, named("a.devices.test"))
	f.Add(good)
	f.Add(append(bytes.Clone(good), good...))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nProc-Type: 4,ENCRYPTED\n\nMAA=\n-----END CERTIFICATE REQUEST-----\n"))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\r\nMA A=\r\n-----END CERTIFICATE REQUEST-----"))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST----------END CERTIFICATE REQUEST-----"))
	f.Fuzz(func(t *testing.T, text []byte) {
		content, err := readPEM(text)
		if err != nil {
			return
		}
		again, err := readPEM(armour(content))
		if err != nil || !bytes.Equal(content, again) {
			t.Errorf("%q holds %x, and written anew %x, %v", text, content, again, err)
		}
		if n := bytes.Count(text, []byte("BEGIN")); n != 1 {
			t.Errorf("%q has %d beginnings", text, n)
		}
	})
}
