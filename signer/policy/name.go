package policy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxURI is the longest URI that can be a name (SPIFFE-ID Section 2.3).
const maxURI = 2048

// canonicalDNS returns nil if s is a DNS name in the one spelling we compare:
// lower-case letters, digits and hyphens, A-labels for international names, no
// wildcard, no dot at the end, and not an IP address (RFC 5890 Section 2.3.1,
// RFC 1035 Section 2.3.4).
func canonicalDNS(s string) error {
	if s == "" || len(s) > 253 {
		return fmt.Errorf("a DNS name has 1 to 253 characters, not %d", len(s))
	}
	digits := false // the last label is digits only
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return errors.New("a label of a DNS name has 1 to 63 characters")
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("a label of a DNS name neither begins nor ends with a hyphen")
		}
		digits = true
		for _, c := range []byte(label) {
			isDigit := c >= '0' && c <= '9'
			if !isDigit && (c < 'a' || c > 'z') && c != '-' {
				return errors.New("a DNS name is written in lower-case letters, digits and hyphens")
			}
			digits = digits && isDigit
		}
	}
	if digits {
		return errors.New("an IP address is no DNS name")
	}
	return nil
}

// matchDNS reports whether the canonical name is what pattern says: the same
// name, or any name under it if pattern begins with a dot.
func matchDNS(pattern, name string) bool {
	if strings.HasPrefix(pattern, ".") {
		return len(name) > len(pattern) && strings.HasSuffix(name, pattern)
	}
	return name == pattern
}

// checkPattern returns nil if s is a pattern matchDNS knows.
func checkPattern(s string) error { return canonicalDNS(strings.TrimPrefix(s, ".")) }

// canonicalSPIFFE returns the trust domain of s if that is the SPIFFE ID of a
// workload in canonical form: with a path, which the ID of a trust domain has
// not (X509-SVID Section 4.1).
func canonicalSPIFFE(s string) (trustDomain string, err error) {
	if len(s) > maxURI {
		return "", fmt.Errorf("a SPIFFE ID has at most %d characters, not %d", maxURI, len(s))
	}
	id, err := spiffeid.FromString(s)
	if err != nil {
		return "", err
	}
	if id.Path() == "" || id.String() != s {
		return "", errors.New("a SPIFFE ID of a workload has a path")
	}
	return id.TrustDomain().Name(), nil
}

// canonicalURI returns the scheme and host of s, as scheme://host, if s is a URI
// in the one spelling we compare: a lower-case scheme, a canonical DNS name
// without user or port, and a path of segments that need no percent-encoding,
// are neither empty nor dots, and at least one (RFC 3986 Section 6.2.2 without
// the latitude). There is no query, fragment or slash at the end.
func canonicalURI(s string) (origin string, err error) {
	if len(s) > maxURI {
		return "", fmt.Errorf("a URI has at most %d characters, not %d", maxURI, len(s))
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || !isScheme(scheme) || scheme == "spiffe" {
		return "", errors.New("the URI has no lower-case scheme and host")
	}
	host, path, ok := strings.Cut(rest, "/")
	if err := canonicalDNS(host); err != nil {
		return "", fmt.Errorf("the URI's host: %w", err)
	}
	if !ok {
		return "", errors.New("the URI has no path")
	}
	for segment := range strings.SplitSeq(path, "/") {
		if err := checkSegment(segment); err != nil {
			return "", err
		}
	}
	return s[:len(scheme)+len("://")+len(host)], nil
}

func checkSegment(s string) error {
	if s == "" || s == "." || s == ".." {
		return errors.New("a segment of the URI's path is empty or dots")
	}
	for _, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (c < '0' || c > '9') && strings.IndexByte("-._~", c) < 0 {
			return errors.New("the URI's path has characters other than letters, digits and -._~")
		}
	}
	return nil
}

// isScheme reports whether s is a URI scheme in lower case (RFC 3986 Section 3.1).
func isScheme(s string) bool {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && strings.IndexByte("+-.", c) < 0 {
			return false
		}
	}
	return true
}

// checkOrigin returns nil if s is scheme://host as canonicalURI returns it.
func checkOrigin(s string) error {
	origin, err := canonicalURI(s + "/x")
	if err != nil {
		return err
	}
	if origin != s {
		return errors.New("want scheme://host and nothing more")
	}
	return nil
}
