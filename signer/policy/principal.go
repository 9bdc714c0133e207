package policy

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// ErrNobody: the certificate names no principal. It wraps nothing and is
// wrapped by what Identify says of the reason, which is for the log.
var ErrNobody = errors.New("the certificate is nobody's")

// A Kind is what sort of name a principal has.
type Kind string

// The kinds.
const (
	KindSPIFFE Kind = "spiffe" // a SPIFFE ID: a URI SAN with the scheme spiffe
	KindDNS    Kind = "dns"    // a DNS SAN
	KindURI    Kind = "uri"    // any other URI SAN
	KindPIN    Kind = "pin"    // the SHA-256 of the SubjectPublicKeyInfo, in hexadecimal
)

// A Principal is someone: what a trust anchor calls them. Two are the same if
// all three members are. The zero Principal is nobody.
type Principal struct {
	Anchor string
	Kind   Kind
	Value  string
}

// String returns anchor:kind:value, or nothing for nobody.
func (p Principal) String() string {
	if p == (Principal{}) {
		return ""
	}
	return p.Anchor + ":" + string(p.Kind) + ":" + p.Value
}

// ParsePrincipal reads what String returns, in that spelling only.
func ParsePrincipal(s string) (Principal, error) {
	anchor, rest, ok := strings.Cut(s, ":")
	kind, value, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 || !isName(anchor) {
		return Principal{}, errors.New("want anchor:kind:value")
	}
	p := Principal{Anchor: anchor, Kind: Kind(kind), Value: value}
	var err error
	switch p.Kind {
	case KindSPIFFE:
		_, err = canonicalSPIFFE(value)
	case KindDNS:
		err = canonicalDNS(value)
	case KindURI:
		_, err = canonicalURI(value)
	case KindPIN:
		_, err = parsePIN(value)
	default:
		err = errors.New("the kind is spiffe, dns, uri or pin")
	}
	if err != nil {
		return Principal{}, err
	}
	return p, nil
}

func parsePIN(s string) (sum [sha256.Size]byte, err error) {
	if len(s) != 2*len(sum) || strings.ToLower(s) != s {
		return sum, errors.New("want the SHA-256 of a public key as 64 lower-case hexadecimal digits")
	}
	if _, err := hex.Decode(sum[:], []byte(s)); err != nil {
		return sum, errors.New("want the SHA-256 of a public key as 64 lower-case hexadecimal digits")
	}
	return sum, nil
}

// CheckPIN returns nil if s is spelt as PinOf returns it.
func CheckPIN(s string) error {
	_, err := parsePIN(s)
	return err
}

// PinOf returns the value a principal of KindPIN has who holds cert's key: the
// SHA-256 of its SubjectPublicKeyInfo in hexadecimal.
func PinOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// speaksFor reports whether the anchor has declared the name.
func (a *Anchor) speaksFor(kind Kind, value string) bool {
	switch kind {
	case KindSPIFFE:
		domain, err := canonicalSPIFFE(value)
		return err == nil && slices.Contains(a.SPIFFE, domain)
	case KindDNS:
		return canonicalDNS(value) == nil &&
			slices.ContainsFunc(a.DNS, func(pattern string) bool { return matchDNS(pattern, value) })
	case KindURI:
		origin, err := canonicalURI(value)
		return err == nil && slices.Contains(a.URI, origin)
	case KindPIN:
		return slices.Contains(a.PINs, value)
	}
	return false
}

// A Caller is a principal, and what else is known of who asks. The zero Caller
// is nobody.
type Caller struct {
	Principal
	// Certificate is the client certificate of the request, which is not to be
	// changed; nil where there was none.
	Certificate *x509.Certificate
	// Unix is who connected, where that was by a Unix socket: the process that
	// connected, whoever has the connection now (unix(7), SO_PEERCRED). It is a fact
	// beside the certificate and never an identity.
	Unix *Unix
}

// Unix is the user and group of the process that connected to a Unix socket.
type Unix struct {
	UID, GID uint32
}

// Identify returns who cert is, given the name of the trust anchor its verified
// chain ends in, or an error wrapping ErrNobody. It does not verify the chain,
// and knows nothing of time; Revoked is another question.
//
// A certificate is somebody if it is an end entity's and for client
// authentication, if it has exactly one name, counting everything in its
// subject alternative name and never the common name, if that name is in
// canonical form, and if the anchor has declared it. A certificate with one
// name or none whose public key the anchor pins is its pin instead.
func (p *Policy) Identify(anchor string, cert *x509.Certificate) (Principal, error) {
	a, ok := p.anchors[anchor]
	if !ok {
		return Principal{}, fmt.Errorf("%w: no such trust anchor", ErrNobody)
	}
	if cert.IsCA {
		return Principal{}, fmt.Errorf("%w: it is a CA's", ErrNobody)
	}
	if !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return Principal{}, fmt.Errorf("%w: it is not for client authentication", ErrNobody)
	}
	n, kind, value, err := alternativeName(cert)
	if err != nil {
		return Principal{}, fmt.Errorf("%w: %w", ErrNobody, err)
	}
	if n > 1 {
		return Principal{}, fmt.Errorf("%w: it has %d names", ErrNobody, n)
	}
	if pin := PinOf(cert); a.speaksFor(KindPIN, pin) {
		return Principal{Anchor: a.Name, Kind: KindPIN, Value: pin}, nil
	}
	switch {
	case n == 0:
		return Principal{}, fmt.Errorf("%w: it has no name", ErrNobody)
	case kind == "":
		return Principal{}, fmt.Errorf("%w: its name is neither DNS nor URI", ErrNobody)
	case !a.speaksFor(kind, value):
		return Principal{}, fmt.Errorf("%w: the anchor does not speak for %s %s", ErrNobody, kind, shown(value))
	}
	return Principal{Anchor: a.Name, Kind: kind, Value: value}, nil
}

// shown returns a name from a certificate for the log: quoted, and not long.
func shown(name string) string {
	const most = 200
	if len(name) > most {
		return fmt.Sprintf("%+q...", name[:most])
	}
	return fmt.Sprintf("%+q", name)
}

var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// alternativeName returns how many names of whatever sort cert has in its
// subject alternative name (RFC 5280 Section 4.2.1.6), and the last one as it
// is written if that is a DNS name or URI. It reads the extension itself: the
// fields of x509.Certificate leave other names out and spell URIs anew.
func alternativeName(cert *x509.Certificate) (n int, kind Kind, value string, err error) {
	for _, e := range cert.Extensions {
		if !e.Id.Equal(subjectAltName) {
			continue
		}
		der := cryptobyte.String(e.Value)
		var names cryptobyte.String
		if !der.ReadASN1(&names, cryptobyteasn1.SEQUENCE) || !der.Empty() {
			return 0, "", "", errors.New("its subject alternative name is malformed")
		}
		for ; !names.Empty(); n++ {
			var tag cryptobyteasn1.Tag
			var name cryptobyte.String
			if !names.ReadAnyASN1(&name, &tag) {
				return 0, "", "", errors.New("its subject alternative name is malformed")
			}
			kind, value = kindOf(tag, string(name)), string(name)
		}
	}
	return n, kind, value, nil
}

func kindOf(tag cryptobyteasn1.Tag, value string) Kind {
	const dnsName, uniformResourceIdentifier = 2, 6
	switch {
	case tag == cryptobyteasn1.Tag(dnsName).ContextSpecific():
		return KindDNS
	case tag != cryptobyteasn1.Tag(uniformResourceIdentifier).ContextSpecific():
		return ""
	case strings.HasPrefix(value, "spiffe://"):
		return KindSPIFFE
	}
	return KindURI
}
