package pkcs11

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	pkcs11uri "github.com/stefanberger/go-pkcs11uri"
)

// A URI names one token and where its PIN is (RFC 7512): in a file, in a
// credential of the service manager, or behind a descriptor.
type URI struct {
	Serial       string
	Label        string // of the token: RFC 7512's "token"
	Manufacturer string
	Model        string
	PINFile      string // absolute path
	Credential   string // the name of a file in Config.Credentials
	Descriptor   int    // 3 or more, read to its end once; 0: none
}

// ParseURI reads an RFC 7512 URI that names a token by its serial number or by
// a label, and its PIN by a pin-source, which is /path, file:/path,
// file:///path, credential:NAME or fd:NUMBER. It refuses what would be ambiguous or leak: slots, whose
// numbers change; pin-value; a pin-source that is a command; attributes of
// objects and of modules.
func ParseURI(s string) (URI, error) {
	if i := strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }); i >= 0 {
		return URI{}, fmt.Errorf("PKCS#11 URI: character %d is not printable ASCII (RFC 7512 Section 2.3: percent-encode it)", i)
	}
	parsed := pkcs11uri.New()
	if err := parsed.Parse(s); err != nil {
		// The library's error may quote the URI, and with it a pin-value.
		return URI{}, errors.New("PKCS#11 URI: not of the form pkcs11:serial=…;token=…?pin-source=…")
	}
	var u URI
	fields := map[string]*string{
		"serial": &u.Serial, "token": &u.Label, "manufacturer": &u.Manufacturer, "model": &u.Model,
	}
	path, query, _ := strings.Cut(strings.TrimPrefix(s, "pkcs11:"), "?")
	for _, name := range names(path, ";") {
		field, ok := fields[name]
		if !ok {
			return URI{}, refusal(name)
		}
		v, _ := parsed.GetPathAttribute(name, false)
		if err := checkValue(name, v); err != nil {
			return URI{}, err
		}
		*field = v
	}
	for _, name := range names(query, "&") {
		if name != "pin-source" {
			return URI{}, refusal(name)
		}
		source, _ := parsed.GetQueryAttribute(name, false)
		if err := u.parsePINSource(source); err != nil {
			return URI{}, err
		}
	}
	if u.Serial == "" && u.Label == "" {
		return URI{}, errors.New("PKCS#11 URI names no token (hint: pkcs11:serial=… or pkcs11:token=…)")
	}
	if !u.hasPIN() {
		return URI{}, errors.New("PKCS#11 URI has no pin-source (hint: ?pin-source=file:/path/to/pin)")
	}
	return u, nil
}

// names returns the attribute names of one part of a URI that has been parsed.
func names(part, separator string) []string {
	if part == "" {
		return nil
	}
	var ns []string
	for attr := range strings.SplitSeq(part, separator) {
		name, _, _ := strings.Cut(attr, "=")
		ns = append(ns, name)
	}
	return ns
}

func refusal(name string) error {
	switch name {
	case "slot-id", "slot-description", "slot-manufacturer":
		return fmt.Errorf("PKCS#11 URI: %s is refused, slots change their numbers (hint: name the token by serial or token)", name)
	case "pin-value":
		return errors.New("PKCS#11 URI: pin-value is refused, a PIN has no place in a configuration (hint: pin-source=file:/path)")
	case "module-path", "module-name":
		return fmt.Errorf("PKCS#11 URI: %s is refused (hint: the module has a setting of its own)", name)
	}
	return fmt.Errorf("PKCS#11 URI: attribute %q is not understood", name)
}

// limits are the widths of the fields of CK_TOKEN_INFO.
func limit(name string) int {
	if name == "serial" || name == "model" {
		return 16
	}
	return 32
}

func checkValue(name, v string) error {
	if v == "" || len(v) > limit(name) || strings.HasSuffix(v, " ") {
		return fmt.Errorf("PKCS#11 URI: %s must have 1 to %d characters, the last not a space", name, limit(name))
	}
	if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
		return fmt.Errorf("PKCS#11 URI: %s has control characters or is not UTF-8", name)
	}
	return nil
}

func (u URI) hasPIN() bool { return u.PINFile != "" || u.Credential != "" || u.Descriptor != 0 }

// goodCredential is what systemd.exec(5) allows, less what would be a path.
func goodCredential(name string) bool {
	return name != "" && len(name) <= 255 && name[0] != '.' && name[0] != '-' && isPlain(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
}

// isPlain reports whether s has lower-case letters, digits, '.', '_', '-' and what is in more only.
func isPlain(s, more string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || strings.ContainsRune("._-", r) || strings.ContainsRune(more, r))
	})
}

func (u *URI) parsePINSource(source string) error {
	if strings.HasPrefix(source, "|") {
		return errors.New("PKCS#11 URI: a pin-source that runs a command is refused (hint: pin-source=file:/path)")
	}
	if name, ok := strings.CutPrefix(source, "credential:"); ok {
		if !goodCredential(name) {
			return errors.New("PKCS#11 URI: pin-source names no credential (hint: credential:NAME, as in LoadCredential=NAME:/path)")
		}
		u.Credential = name
		return nil
	}
	if number, ok := strings.CutPrefix(source, "fd:"); ok {
		n, err := strconv.ParseUint(number, 10, 10)
		if err != nil || n < 3 || strconv.FormatUint(n, 10) != number {
			return errors.New("PKCS#11 URI: pin-source names no descriptor (hint: fd:3 and up; 0, 1 and 2 have another use)")
		}
		u.Descriptor = int(n)
		return nil
	}
	path := source
	if rest, ok := strings.CutPrefix(source, "file:"); ok {
		if after, ok := strings.CutPrefix(rest, "//"); ok {
			rest = after
		}
		var err error
		if path, err = url.PathUnescape(rest); err != nil {
			return errors.New("PKCS#11 URI: pin-source is badly percent-encoded")
		}
	}
	if !filepath.IsAbs(path) || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
		return errors.New("PKCS#11 URI: pin-source must be /path, file:/path, file:///path, credential:NAME or fd:NUMBER")
	}
	u.PINFile = filepath.Clean(path)
	return nil
}

// String returns the URI in one spelling, which ParseURI reads back to u.
func (u URI) String() string {
	var attrs []string
	for _, a := range []struct{ name, value string }{
		{"token", u.Label}, {"manufacturer", u.Manufacturer}, {"serial", u.Serial}, {"model", u.Model},
	} {
		if a.value != "" {
			attrs = append(attrs, a.name+"="+escape(a.value, ""))
		}
	}
	s := "pkcs11:" + strings.Join(attrs, ";")
	switch {
	case u.PINFile != "":
		// Escaped twice: once as a file URI, once as a value within ours.
		s += "?pin-source=" + escape("file:"+escape(u.PINFile, "/"), "/:")
	case u.Credential != "":
		s += "?pin-source=credential:" + u.Credential
	case u.Descriptor != 0:
		s += "?pin-source=fd:" + strconv.Itoa(u.Descriptor)
	}
	return s
}

// escape percent-encodes all but RFC 3986's unreserved characters and keep.
func escape(s, keep string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			strings.IndexByte("-._~", c) >= 0, strings.IndexByte(keep, c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// fits reports whether the URI means token t.
func (u URI) fits(t tokenInfo) bool {
	return (u.Serial == "" || u.Serial == t.Serial) &&
		(u.Label == "" || u.Label == t.Label) &&
		(u.Manufacturer == "" || u.Manufacturer == t.Manufacturer) &&
		(u.Model == "" || u.Model == t.Model)
}
