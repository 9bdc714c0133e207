package crl

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// An authority signs certificates and lists for a test.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newAuthority returns a root, or with a parent an authority below it.
func newAuthority(t testing.TB, name string, serial int64, parent *authority, usage x509.KeyUsage) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: usage,
	}
	by, key := template, a.key
	if parent != nil {
		by, key = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, a.key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

const forLists = x509.KeyUsageCertSign | x509.KeyUsageCRLSign

// leaf returns a client's certificate, of which only the serial number matters.
func leaf(serial *big.Int) *x509.Certificate { return &x509.Certificate{SerialNumber: serial} }

func extension(critical bool, id ...int) pkix.Extension {
	return pkix.Extension{Id: id, Critical: critical, Value: asn1.NullBytes}
}

// list returns the DER of a list of a's; change makes it what it is.
func (a *authority) list(t testing.TB, change func(*x509.RevocationList), serials ...int64) []byte {
	t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: noon, NextUpdate: noon.Add(24 * time.Hour)}
	for _, n := range serials {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(n), RevocationTime: noon})
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func armoured(lists ...[]byte) []byte {
	var out []byte
	for _, der := range lists {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})...)
	}
	return out
}

func mustParse(t testing.TB, data ...[]byte) []*List {
	t.Helper()
	lists, err := Parse(bytes.Join(data, nil))
	if err != nil {
		t.Fatal(err)
	}
	return lists
}

func TestListsAreReadWhole(t *testing.T) {
	root := newAuthority(t, "root", 1, nil, forLists)
	first, second := root.list(t, nil, 1, 127, 128, 255, 256, 1<<40), root.list(t, nil)
	for what, data := range map[string][]byte{
		"DER": append(bytes.Clone(first), second...), "PEM": armoured(first, second), "PEM with space around": []byte("\n" + string(armoured(first, second)) + "\n\n"),
	} {
		lists, err := Parse(data)
		if err != nil || len(lists) != 2 {
			t.Fatalf("%s: %d lists, %v", what, len(lists), err)
		}
		l := lists[0]
		for _, n := range []int64{1, 127, 128, 255, 256, 1 << 40} {
			if !l.Has(big.NewInt(n)) {
				t.Errorf("%s: %d is not on it", what, n)
			}
		}
		for _, n := range []int64{0, 2, -1, -128, 257, 1<<40 + 1} {
			if l.Has(big.NewInt(n)) {
				t.Errorf("%s: %d is on it", what, n)
			}
		}
		if l.Len() != 6 || lists[1].Len() != 0 || !l.ThisUpdate.Equal(noon) || !l.NextUpdate.Equal(noon.Add(24*time.Hour)) {
			t.Errorf("%s: %d and %d entries, %v to %v", what, l.Len(), lists[1].Len(), l.ThisUpdate, l.NextUpdate)
		}
		if err := l.CheckFrom(root.cert); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if l := mustParse(t, first)[0]; l.Has(new(big.Int).Lsh(big.NewInt(1), 600)) {
		t.Error("a number of 75 bytes is on it")
	}
}

// A17: what cannot be understood whole is not used.
func TestA17ListsThatAreRefused(t *testing.T) {
	root := newAuthority(t, "root", 1, nil, forLists)
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	old := &authority{cert: root.cert, key: weak}
	of := func(ext ...pkix.Extension) []byte {
		return root.list(t, func(l *x509.RevocationList) { l.ExtraExtensions = ext }, 7)
	}
	entry := func(ext ...pkix.Extension) []byte {
		return root.list(t, func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ExtraExtensions = ext }, 7)
	}
	good := root.list(t, nil, 7)
	noNext := bytes.Clone(good)
	// The second time in the list is NextUpdate: UTCTime, 13 bytes.
	at := bytes.Index(noNext, []byte("260302120000Z"))
	noNext = resized(t, good, func(tbs []byte) []byte {
		i := bytes.Index(tbs, noNext[at-2:at+13])
		return append(bytes.Clone(tbs[:i]), tbs[i+15:]...)
	})
	for _, c := range []struct {
		what string
		data []byte
		want string
	}{
		{"nothing", nil, "holds no revocation list"},
		{"half a PEM", armoured(good)[:100], "something that is no revocation list"},
		{"half a DER", good[:len(good)-1], "half of one"},
		{"one and a half", append(bytes.Clone(good), good[:40]...), "half of one"},
		{"a certificate", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw}), "something that is no revocation list"},
		{"a certificate in DER", root.cert.Raw, ""},
		{"a list and more", append(armoured(good), "more"...), "something that is no revocation list"},
		{"a delta", of(extension(true, 2, 5, 29, 27)), "delta"},
		{"a delta that does not say it is critical", of(extension(false, 2, 5, 29, 27)), "delta"},
		{"of a part", of(extension(true, 2, 5, 29, 28)), "issuing distribution point"},
		{"a critical extension nobody knows", of(extension(true, 1, 2, 3)), "critical extension that is not known here, 1.2.3"},
		{"an extension twice", of(extension(false, 1, 2, 3), extension(false, 1, 2, 3)), "1.2.3 twice"},
		{"an entry of another issuer", entry(extension(true, 2, 5, 29, 29)), "indirect"},
		{"an entry's critical extension", entry(extension(true, 1, 2, 3)), "entry 1: it has a critical extension"},
		{"signed by SHA-1", old.list(t, func(l *x509.RevocationList) { l.SignatureAlgorithm = x509.SHA1WithRSA }), "not secure"},
		{"no next update", noNext, "when there is to be another"},
		{"too much", make([]byte, MaxSize+1), "more than"},
	} {
		if lists, err := Parse(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %d lists, %v; want %q", c.what, len(lists), err, c.want)
		}
	}
	for what, data := range map[string][]byte{
		"an extension that is not critical": of(extension(false, 1, 2, 3)), "a date that is": entry(pkix.Extension{Id: oidInvalidity, Value: []byte("\x18\x0f20260301120000Z")}),
		"a reason": root.list(t, func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ReasonCode = 1 }, 7), "where a delta is": of(extension(false, 2, 5, 29, 46)),
	} {
		if lists, err := Parse(data); err != nil || !lists[0].Has(big.NewInt(7)) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// resized returns a list whose signed part has been changed, with lengths that fit.
func resized(t *testing.T, der []byte, change func(tbs []byte) []byte) []byte {
	t.Helper()
	var outer struct {
		TBS       asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.RawValue
	}
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		t.Fatal(err)
	}
	outer.TBS = asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: change(outer.TBS.Bytes)}
	out, err := asn1.Marshal(outer)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A17: a list counts for its issuer alone.
func TestA17WhoMadeIt(t *testing.T) {
	root, other := newAuthority(t, "root", 1, nil, forLists), newAuthority(t, "other", 2, nil, forLists)
	namesake := newAuthority(t, "root", 3, nil, forLists)
	unfit := newAuthority(t, "root", 4, nil, x509.KeyUsageCertSign)
	unfit.key = root.key
	changed := bytes.Clone(root.list(t, nil, 7))
	changed[bytes.Index(changed, []byte("260301120000Z"))+9]++ // ten seconds later
	sameKeyID := *namesake.cert
	sameKeyID.SubjectKeyId = root.cert.SubjectKeyId
	notForLists := *root.cert
	notForLists.KeyUsage = x509.KeyUsageCertSign
	for _, c := range []struct {
		what   string
		list   []byte
		issuer *x509.Certificate
		want   string
	}{
		{"its issuer", root.list(t, nil, 7), root.cert, ""},
		{"another", root.list(t, nil, 7), other.cert, "is by CN=root, not by CN=other"},
		{"another key of the same name", root.list(t, nil, 7), namesake.cert, "another key"},
		{"another key that says it is the same", root.list(t, nil, 7), &sameKeyID, "signature"},
		{"a certificate that may not", root.list(t, nil, 7), &notForLists, "not for signing revocation lists"},
		{"changed", changed, root.cert, "signature"},
	} {
		err := mustParse(t, c.list)[0].CheckFrom(c.issuer)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
}

// A17: hard fail. Each certificate below the anchor needs a list of its issuer
// that counts now.
func TestA17Verdicts(t *testing.T) {
	root := newAuthority(t, "root", 1, nil, forLists)
	mid := newAuthority(t, "mid", 20, root, forLists)
	other := newAuthority(t, "other", 2, nil, forLists)
	direct := func(serial int64) []*x509.Certificate {
		return []*x509.Certificate{leaf(big.NewInt(serial)), root.cert}
	}
	below := func(serial int64) []*x509.Certificate {
		return []*x509.Certificate{leaf(big.NewInt(serial)), mid.cert, root.cert}
	}
	from := func(made time.Time) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { l.ThisUpdate = made }
	}
	lists := func(ders ...[]byte) [][]byte { return ders }
	ofRoot, ofMid := root.list(t, nil, 7), mid.list(t, nil, 8)
	for _, c := range []struct {
		what   string
		lists  [][]byte
		maxAge time.Duration
		chain  []*x509.Certificate
		now    time.Time
		want   error
	}{
		{"not on it", lists(ofRoot), 0, direct(9), noon, nil},
		{"on it", lists(ofRoot), 0, direct(7), noon, ErrRevoked},
		{"at its last moment", lists(ofRoot), 0, direct(9), noon.Add(24 * time.Hour), nil},
		{"past its next update", lists(ofRoot), 0, direct(9), noon.Add(24*time.Hour + 1), ErrUnknown},
		{"revoked by a list that is past it", lists(ofRoot), 0, direct(7), noon.Add(48 * time.Hour), ErrRevoked},
		{"as old as it may be", lists(ofRoot), time.Hour, direct(9), noon.Add(time.Hour), nil},
		{"older than it may be", lists(ofRoot), time.Hour, direct(9), noon.Add(time.Hour + 1), ErrUnknown},
		{"allowed to be older than its next update", lists(ofRoot), 48 * time.Hour, direct(9), noon.Add(25 * time.Hour), ErrUnknown},
		{"made by a clock a little ahead", lists(ofRoot), 0, direct(9), noon.Add(-ahead), nil},
		{"from the future", lists(ofRoot), 0, direct(9), noon.Add(-ahead - 1), ErrUnknown},
		{"none at all", nil, 0, direct(9), noon, ErrUnknown},
		{"another's alone", lists(other.list(t, nil)), 0, direct(9), noon, ErrUnknown},
		{"an older one revokes nothing", lists(root.list(t, from(noon.Add(-time.Hour)), 9), ofRoot), 0, direct(9), noon, nil},
		{"a younger one revokes", lists(ofRoot, root.list(t, from(noon.Add(time.Minute)), 9)), 0, direct(9), noon, ErrRevoked},

		{"below, both lists", lists(ofRoot, ofMid), 0, below(9), noon, nil},
		{"below, on the intermediate's", lists(ofRoot, ofMid), 0, below(8), noon, ErrRevoked},
		{"below, with a number that the root revoked", lists(ofRoot, ofMid), 0, below(7), noon, nil},
		{"below, the intermediate on the root's", lists(root.list(t, nil, 20), ofMid), 0, below(9), noon, ErrRevoked},
		{"below, no list of the intermediate's", lists(ofRoot), 0, below(9), noon, ErrUnknown},
		{"below, no list of the root's", lists(ofMid), 0, below(9), noon, ErrUnknown},
		{"below, revoked, and no list of the root's", lists(ofMid), 0, below(8), noon, ErrRevoked},
		{"below, the intermediate's has passed", lists(root.list(t, from(noon.Add(time.Hour))), mid.list(t, nil)), 90 * time.Minute, below(9), noon.Add(2 * time.Hour), ErrUnknown},
	} {
		var all []*List
		for _, der := range c.lists {
			all = append(all, mustParse(t, der)...)
		}
		set := NewSet(all, c.maxAge)
		for range 2 { // the second time from memory
			v := set.Judge(c.chain)
			if err := v.At(c.now); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.what, err, c.want)
			}
		}
	}
}

func TestA17Trouble(t *testing.T) {
	root, next := newAuthority(t, "root", 1, nil, forLists), newAuthority(t, "next root", 2, nil, forLists)
	mid := newAuthority(t, "mid", 20, root, forLists)
	anchors := []*x509.Certificate{root.cert, next.cert}
	short := func(l *x509.RevocationList) { l.NextUpdate = noon.Add(time.Hour) }
	ofRoot, ofNext := root.list(t, nil), next.list(t, nil)
	for _, c := range []struct {
		what  string
		lists []*List
		now   time.Time
		want  string
		until time.Time
	}{
		{"a list of each", mustParse(t, ofRoot, ofNext), noon, "", noon.Add(24 * time.Hour)},
		{"none of one", mustParse(t, ofRoot), noon, "no revocation list of CN=next root", time.Time{}},
		{"both past", mustParse(t, ofRoot, ofNext), noon.Add(25 * time.Hour), "CN=root was good until 2026-03-02T12:00:00Z", noon.Add(24 * time.Hour)},
		{"an intermediate's past", mustParse(t, ofRoot, ofNext, mid.list(t, short)), noon.Add(2 * time.Hour), "CN=mid was good until", noon.Add(time.Hour)},
		{"one past and its successor", mustParse(t, ofRoot, ofNext, root.list(t, func(l *x509.RevocationList) {
			l.ThisUpdate, l.NextUpdate = noon.Add(-2*time.Hour), noon.Add(-time.Hour)
		})), noon, "", noon.Add(24 * time.Hour)},
		{"from the future", mustParse(t, ofRoot, ofNext), noon.Add(-time.Hour), "from the future", noon.Add(24 * time.Hour)},
	} {
		set := NewSet(c.lists, 0)
		err := set.Trouble(anchors, c.now)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
		if got := set.Until(anchors); !got.Equal(c.until) {
			t.Errorf("%s: until %v, want %v", c.what, got, c.until)
		}
	}
}

// A new file takes the old one's place only if that brings nobody back by mistake.
func TestS21WhatMayTakeAListsPlace(t *testing.T) {
	root, namesake := newAuthority(t, "root", 1, nil, forLists), newAuthority(t, "root", 2, nil, forLists)
	mid := newAuthority(t, "mid", 20, root, forLists)
	anchors := []*x509.Certificate{root.cert}
	later := func(l *x509.RevocationList) { l.ThisUpdate = noon.Add(time.Minute) }
	second := func(l *x509.RevocationList) { l.Number = big.NewInt(2) }
	for _, c := range []struct {
		what          string
		lists, before []*List
		want          string
	}{
		{"the first", mustParse(t, root.list(t, nil)), nil, ""},
		{"the same", mustParse(t, root.list(t, nil)), mustParse(t, root.list(t, nil)), ""},
		{"a younger one", mustParse(t, root.list(t, later)), mustParse(t, root.list(t, nil)), ""},
		{"of the same second, and a higher number", mustParse(t, root.list(t, second)), mustParse(t, root.list(t, nil)), ""},
		{"of the same second, and a lower number", mustParse(t, root.list(t, nil)), mustParse(t, root.list(t, second)), "older than the one in force"},
		{"an older one", mustParse(t, root.list(t, nil)), mustParse(t, root.list(t, later)), "older than the one in force"},
		{"an older one of another", mustParse(t, mid.list(t, nil)), mustParse(t, root.list(t, later)), ""},
		{"a namesake's", mustParse(t, namesake.list(t, nil)), nil, "another key"},
		{"an intermediate's, whom nobody knows yet", mustParse(t, mid.list(t, nil)), nil, ""},
	} {
		err := Check(c.lists, c.before, anchors)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
}

func TestLookingUpAllocatesNothing(t *testing.T) {
	root := newAuthority(t, "root", 1, nil, forLists)
	set := NewSet(mustParse(t, root.list(t, nil, 7)), 0)
	cert := leaf(new(big.Int).Lsh(big.NewInt(1), 150))
	v := set.Judge([]*x509.Certificate{cert, root.cert})
	list := mustParse(t, root.list(t, nil, 7))[0]
	if n := testing.AllocsPerRun(100, func() {
		if v.At(noon) != nil || list.Has(cert.SerialNumber) {
			t.Error("revoked")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParse: what is read here crypto/x509 reads too, with the same certificates
// on it; and what is read is not lost when it is written anew.
func FuzzParse(f *testing.F) {
	root := newAuthority(f, "root", 1, nil, forLists)
	f.Add(root.list(f, nil, 1, 128, 1<<40))
	f.Add(armoured(root.list(f, nil), root.list(f, nil, 5)))
	f.Add(root.list(f, func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ReasonCode = 1 }, 5))
	f.Fuzz(func(t *testing.T, data []byte) {
		lists, err := Parse(data)
		if err != nil {
			return
		}
		next := nextPEM
		if data[0] == 0x30 {
			next = nextDER
		}
		for _, l := range lists {
			var der []byte
			if der, data, err = next(data); err != nil {
				t.Fatal(err)
			}
			theirs, err := x509.ParseRevocationList(der)
			if err != nil {
				t.Fatalf("crypto/x509 does not read it: %v", err)
			}
			if !theirs.ThisUpdate.Equal(l.ThisUpdate) || !theirs.NextUpdate.Equal(l.NextUpdate) || !bytes.Equal(theirs.RawIssuer, l.Issuer) ||
				!bytes.Equal(theirs.RawTBSRevocationList, l.header.RawTBSRevocationList) || !bytes.Equal(theirs.Signature, l.header.Signature) {
				t.Fatal("it is read in two ways")
			}
			seen := make(map[string]bool)
			for _, e := range theirs.RevokedCertificateEntries {
				seen[e.SerialNumber.String()] = true
				if e.SerialNumber.Sign() >= 0 && e.SerialNumber.BitLen() < 500 && !l.Has(e.SerialNumber) {
					t.Fatalf("%v is not on it", e.SerialNumber)
				}
			}
			if len(seen) != l.Len() {
				t.Fatalf("%d certificates, and crypto/x509 reads %d", l.Len(), len(seen))
			}
		}
	})
}

// BenchmarkParse reads a list of a million certificates.
func BenchmarkParse(b *testing.B) {
	root := newAuthority(b, "root", 1, nil, forLists)
	serials := make([]int64, 1_000_000)
	for i := range serials {
		serials[i] = 1<<61 + int64(i)*977
	}
	der := root.list(b, nil, serials...)
	b.SetBytes(int64(len(der)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(der); err != nil {
			b.Fatal(err)
		}
	}
}
