package crl

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// MaxSize is the largest file of lists that is read, in bytes. A list of a
// million certificates has about 37 MB.
const MaxSize = 64 << 20

// A List is one complete revocation list. It is immutable.
type List struct {
	// ThisUpdate is when it was made, NextUpdate when there is to be another.
	ThisUpdate, NextUpdate time.Time
	// Issuer is the DER of its issuer's name.
	Issuer []byte

	header  *x509.RevocationList // without its entries
	serials map[string]struct{}  // contents of DER INTEGERs
}

// Parse reads the lists in data: PEM blocks of type X509 CRL, or DER, one after
// the other. It refuses what it could only half understand: delta and indirect
// lists, lists of a part of what their issuer signs, critical extensions it does
// not know, and signatures by SHA-1 or MD5. Signatures are another question: see
// CheckFrom.
func Parse(data []byte) ([]*List, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("it has more than %d bytes", MaxSize)
	}
	next := nextPEM
	if len(data) > 0 && data[0] == byte(cryptobyteasn1.SEQUENCE) {
		next = nextDER
	}
	var lists []*List
	for rest := data; len(bytes.TrimSpace(rest)) > 0; {
		var der []byte
		var err error
		if der, rest, err = next(rest); err != nil {
			return nil, err
		}
		l, err := parse(der)
		if err != nil {
			return nil, fmt.Errorf("list %d: %w", len(lists)+1, err)
		}
		lists = append(lists, l)
	}
	if len(lists) == 0 {
		return nil, errors.New("it holds no revocation list")
	}
	return lists, nil
}

func nextPEM(data []byte) (der, rest []byte, err error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "X509 CRL" {
		return nil, nil, errors.New("it holds something that is no revocation list")
	}
	return block.Bytes, rest, nil
}

func nextDER(data []byte) (der, rest []byte, err error) {
	s := cryptobyte.String(data)
	var element cryptobyte.String
	if !s.ReadASN1Element(&element, cryptobyteasn1.SEQUENCE) {
		return nil, nil, errors.New("it holds something that is no revocation list, or half of one")
	}
	return element, s, nil
}

// parse reads one list. The entries, of which there may be a million, it reads
// itself, into a map of serial numbers; crypto/x509 reads the list without them.
func parse(der []byte) (*List, error) {
	short, tbs, entries, err := divide(der)
	if err != nil {
		return nil, err
	}
	header, err := x509.ParseRevocationList(short)
	if err != nil {
		return nil, err
	}
	header.RawTBSRevocationList = tbs // what is signed
	if err := checkHeader(header); err != nil {
		return nil, err
	}
	l := &List{
		ThisUpdate: header.ThisUpdate, NextUpdate: header.NextUpdate, Issuer: header.RawIssuer,
		header: header, serials: make(map[string]struct{}, len(entries)/entrySize),
	}
	text := string(entries) // the numbers are parts of it: a million of them are one allocation
	for n := 1; !entries.Empty(); n++ {
		begin := len(text) - len(entries)
		number, err := readEntry(&entries)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", n, err)
		}
		serial := text[begin:][number.from:number.to]
		l.serials[serial] = struct{}{}
	}
	return l, nil
}

// entrySize is about how many bytes an entry has, with a serial number of 16 bytes.
const entrySize = 37

// part is where in an entry something stands.
type part struct{ from, to int }

var errMalformed = errors.New("it is malformed")

// divide returns a list without its entries, the part of the whole list that is
// signed, and the entries (RFC 5280 Section 5.1).
func divide(der []byte) (short, tbs []byte, entries cryptobyte.String, err error) {
	in := cryptobyte.String(der)
	var list, signed, inner, algorithm, signature cryptobyte.String
	ok := in.ReadASN1(&list, cryptobyteasn1.SEQUENCE) && in.Empty() &&
		list.ReadASN1Element(&signed, cryptobyteasn1.SEQUENCE) &&
		list.ReadASN1Element(&algorithm, cryptobyteasn1.SEQUENCE) &&
		list.ReadASN1Element(&signature, cryptobyteasn1.BIT_STRING) && list.Empty()
	tbs = signed
	if !ok || !signed.ReadASN1(&inner, cryptobyteasn1.SEQUENCE) {
		return nil, nil, nil, errMalformed
	}
	var kept []byte
	sequences, times := 0, 0
	for !inner.Empty() {
		var element cryptobyte.String
		var tag cryptobyteasn1.Tag
		if !inner.ReadAnyASN1Element(&element, &tag) {
			return nil, nil, nil, errMalformed
		}
		switch tag {
		case cryptobyteasn1.UTCTime, cryptobyteasn1.GeneralizedTime:
			times++
		case cryptobyteasn1.SEQUENCE: // the algorithm, the issuer, and after the times the entries
			sequences++
			if sequences < 3 {
				break
			}
			if sequences > 3 || times == 0 || !inner.Empty() && !inner.PeekASN1Tag(cryptobyteasn1.Tag(0).ContextSpecific().Constructed()) {
				return nil, nil, nil, errMalformed
			}
			if !element.ReadASN1(&entries, cryptobyteasn1.SEQUENCE) {
				return nil, nil, nil, errMalformed
			}
			continue
		}
		kept = append(kept, element...)
	}
	var b cryptobyte.Builder
	b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(kept) })
		b.AddBytes(algorithm)
		b.AddBytes(signature)
	})
	short, err = b.Bytes()
	return short, tbs, entries, err
}

// Extensions of lists and of their entries (RFC 5280 Sections 5.2 and 5.3).
var (
	oidNumber            = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidReason            = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidInvalidity        = asn1.ObjectIdentifier{2, 5, 29, 24}
	oidDelta             = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidDistribution      = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidCertificateIssuer = asn1.ObjectIdentifier{2, 5, 29, 29}
	oidAuthorityKey      = asn1.ObjectIdentifier{2, 5, 29, 35}
)

func checkHeader(h *x509.RevocationList) error {
	seen := make(map[string]bool)
	for _, e := range h.Extensions {
		id := e.Id.String()
		switch {
		case seen[id]:
			return fmt.Errorf("it has the extension %s twice", id)
		case e.Id.Equal(oidDelta):
			return errors.New("it is a delta list, which tells only what changed (hint: give the complete one)")
		case e.Id.Equal(oidDistribution):
			return errors.New("it has an issuing distribution point: it is indirect, or of a part of what its issuer signs (hint: give a complete one)")
		case e.Critical && !e.Id.Equal(oidNumber) && !e.Id.Equal(oidAuthorityKey):
			return fmt.Errorf("it has a critical extension that is not known here, %s", id)
		}
		seen[id] = true
	}
	if h.NextUpdate.IsZero() {
		return errors.New("it does not say when there is to be another (RFC 5280 Section 5.1.2.5)")
	}
	switch h.SignatureAlgorithm {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519:
		return nil
	}
	return fmt.Errorf("it is signed by %v, which is not secure or not known", h.SignatureAlgorithm)
}

// readEntry reads the next entry and returns where in it the contents of the
// serial number's INTEGER stand.
func readEntry(entries *cryptobyte.String) (part, error) {
	before := len(*entries)
	var entry, number cryptobyte.String
	if !entries.ReadASN1(&entry, cryptobyteasn1.SEQUENCE) {
		return part{}, errMalformed
	}
	rest := len(*entries)
	if !entry.ReadASN1(&number, cryptobyteasn1.INTEGER) || !minimal(number) {
		return part{}, errMalformed
	}
	end := before - rest - len(entry) // of the number, from the beginning of the entry
	serial := part{end - len(number), end}
	if !readTime(&entry) {
		return part{}, errMalformed
	}
	if entry.Empty() {
		return serial, nil
	}
	var extensions cryptobyte.String
	if !entry.ReadASN1(&extensions, cryptobyteasn1.SEQUENCE) || !entry.Empty() {
		return part{}, errMalformed
	}
	for !extensions.Empty() {
		if err := readEntryExtension(&extensions); err != nil {
			return part{}, err
		}
	}
	return serial, nil
}

// minimal reports whether b is how DER writes an integer (X.690 Section 8.3.2).
func minimal(b []byte) bool {
	if len(b) < 2 {
		return len(b) == 1
	}
	return (b[0] != 0 || b[1] >= 0x80) && (b[0] != 0xff || b[1] < 0x80)
}

func readTime(s *cryptobyte.String) bool {
	var t time.Time
	if s.PeekASN1Tag(cryptobyteasn1.UTCTime) {
		return s.ReadASN1UTCTime(&t)
	}
	return s.ReadASN1GeneralizedTime(&t)
}

// readEntryExtension looks for what would make the list mean something else. The
// reason is not looked at: whatever it is, the certificate is on the list.
func readEntryExtension(extensions *cryptobyte.String) error {
	var extension, value cryptobyte.String
	var id asn1.ObjectIdentifier
	var critical bool
	if !extensions.ReadASN1(&extension, cryptobyteasn1.SEQUENCE) || !extension.ReadASN1ObjectIdentifier(&id) ||
		extension.PeekASN1Tag(cryptobyteasn1.BOOLEAN) && !extension.ReadASN1Boolean(&critical) ||
		!extension.ReadASN1(&value, cryptobyteasn1.OCTET_STRING) || !extension.Empty() {
		return errMalformed
	}
	switch {
	case id.Equal(oidCertificateIssuer):
		return errors.New("it is of another issuer: the list is indirect (hint: give each issuer's own)")
	case critical && !id.Equal(oidReason) && !id.Equal(oidInvalidity):
		return fmt.Errorf("it has a critical extension that is not known here, %s", id)
	}
	return nil
}

// Len returns how many certificates are on the list.
func (l *List) Len() int { return len(l.serials) }

// Has reports whether the certificate of the issuer's with this serial number is
// on the list.
func (l *List) Has(serial *big.Int) bool {
	var buf [64]byte // RFC 5280 allows 20
	n := (serial.BitLen() + 8) / 8
	if serial.Sign() < 0 || n > len(buf) {
		return false // crypto/x509 reads no such certificate
	}
	_, ok := l.serials[string(serial.FillBytes(buf[:n]))]
	return ok
}

// CheckFrom returns nil if issuer made the list: its name is the issuer's, the
// key it names too, the certificate may sign lists, and it has signed this one
// (RFC 5280 Section 6.3.3 (b), (f) and (g)).
func (l *List) CheckFrom(issuer *x509.Certificate) error {
	if !bytes.Equal(l.Issuer, issuer.RawSubject) {
		return fmt.Errorf("the list is by %s, not by %s", l.header.Issuer, issuer.Subject)
	}
	if a, s := l.header.AuthorityKeyId, issuer.SubjectKeyId; len(a) > 0 && len(s) > 0 && !bytes.Equal(a, s) {
		return fmt.Errorf("the list is signed with another key of %s than this", issuer.Subject)
	}
	if issuer.KeyUsage != 0 && issuer.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return fmt.Errorf("the certificate of %s is not for signing revocation lists", issuer.Subject)
	}
	if err := l.header.CheckSignatureFrom(issuer); err != nil {
		return fmt.Errorf("the signature of %s on the list: %w", issuer.Subject, err)
	}
	return nil
}
