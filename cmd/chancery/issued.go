package main

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// An issued is a token, a certificate or the signature of a digest that somebody has, and that an entry of
// the log may have made.
type issued struct {
	place string // where it stands in the input
	token bool

	jti    string             // of a token
	serial string             // of a certificate, as the log spells it
	digest string             // of the signature of a digest: its hash, as the log has it
	kid    keystore.KID       // of a certificate: empty when its issuer is not at hand
	ends   int64              // exp or notAfter, in Unix seconds
	begins time.Time          // iat or notBefore; zero: it does not say
	beside []crypto.PublicKey // of a certificate: of those in the same file
	alien  error              // why it is nothing that Chancery makes; the rest is empty

	verify func(alg keystore.Algorithm, pub crypto.PublicKey) error // its signature
}

// what names it as people do.
func (i *issued) what() string {
	switch {
	case i.alien != nil:
		return "line " + i.place
	case i.token:
		return "jti " + i.jti
	case i.digest != "":
		return "signature " + i.digest
	}
	return "serial " + i.serial
}

// A match says what the log has of an issued.
type match string

const (
	matchMade        match = "made"        // this entry made it
	matchUnknown     match = "unknown"     // this entry may have: count it as made
	matchWithdrawn   match = "withdrawn"   // this entry says that it was not made, or never let out
	matchCounterfeit match = "counterfeit" // its jti or serial is the log's, and the rest is not
	matchNotKept     match = "not_kept"    // its entry would be in a month that is removed
	matchNone        match = "none"        // the log has nothing of it
	matchNamed       match = "named"       // this entry would have made it; nobody looked whose signature it has
)

// sound reports whether the log knows that it was let out.
func (m match) sound() bool { return m == matchMade || m == matchUnknown }

// matched is a match, the entry that decided, and why.
type matched struct {
	match match
	entry *audit.Located
	why   string
}

// takesBack reports whether an entry with that outcome says that what one before it
// calls done was not released: the version had stopped signing, or there was no
// signature when the entry, which is written while the key computes, was there.
func takesBack(o keystore.Outcome) bool {
	return o == keystore.OutcomeRefused || o == keystore.OutcomeFailed || o == keystore.OutcomeUnknown
}

// judge says which of entries, those with its jti or serial in the order of
// time, made i.
func judge(i *issued, entries []audit.Located) matched {
	if i.alien != nil {
		return matched{match: matchNone, why: i.alien.Error()}
	}
	first := map[keystore.Outcome]*audit.Located{}
	var other *audit.Located
	withdrawn := (*audit.Located)(nil)
	for n := range entries {
		at := &entries[n]
		outcome := at.Entry.Outcome
		switch {
		case i.differs(&at.Entry) != "":
			other = cmp.Or(other, at)
			continue
		case (i.token || i.digest != "") && takesBack(outcome) && first[keystore.OutcomeDone] != nil:
			withdrawn = cmp.Or(withdrawn, at) // a certificate may be asked for again, and refused
		}
		first[outcome] = cmp.Or(first[outcome], at)
	}
	made, unknown := first[keystore.OutcomeDone], cmp.Or(first[keystore.OutcomeUnknown], first[keystore.OutcomeIntent])
	ended := cmp.Or(first[keystore.OutcomeFailed], first[keystore.OutcomeRefused])
	switch {
	case withdrawn != nil:
		return matched{matchWithdrawn, made, "it was not released, says " + shortName(withdrawn)}
	case made != nil:
		return matched{match: matchMade, entry: made}
	case ended != nil && first[keystore.OutcomeUnknown] == nil:
		return matched{matchWithdrawn, ended, "it was " + string(ended.Entry.Outcome) + ": " + ended.Entry.Reason}
	case unknown != nil:
		return matched{matchUnknown, unknown, "nobody knows whether it was made: count it as made"}
	case other != nil:
		return matched{matchCounterfeit, other, "that entry has " + i.differs(&other.Entry)}
	}
	return matched{match: matchNone, why: "the log has no entry of it"}
}

// signed looks at the signature of i, which m says that an entry made, under the
// key that the lives of keys have for that entry. Where nobody has the key it says
// that it was not looked at.
func (i *issued) signed(m matched, lives []*audit.KeyLives) matched {
	if !m.match.sound() || i.digest != "" { // the entry has the hash of this signature
		return m
	}
	for _, l := range lives {
		good, known := i.verifies(m.entry.Entry.KID, l)
		if !known {
			continue
		}
		if !good {
			return matched{matchCounterfeit, m.entry, "it is not signed by the key of that entry"}
		}
		return m
	}
	if !i.token && i.kid != "" { // by its issuer, which is at hand
		return m
	}
	return m.unchecked()
}

// unchecked returns m as that of something whose signature nobody looked at: jti, kid
// and exp are no secrets, and whoever knows them can write a token that has them.
func (m matched) unchecked() matched {
	m.match, m.why = matchNamed, strings.TrimPrefix(m.why+"; its signature was not checked", "; ")
	return m
}

// verifies reports whether i is signed by the key of that kid, and whether the lives
// of keys have it.
func (i *issued) verifies(kid keystore.KID, lives *audit.KeyLives) (good, known bool) {
	life, ok := lives.ByKID(kid)
	if !ok || life.Public == nil {
		return false, false
	}
	pub, err := keystore.ParsePublic(life.Public)
	if err == nil {
		err = i.verify(life.Algorithm, pub)
	}
	return err == nil, true
}

// differs tells in what e, an entry with the jti or serial of i, is of something
// else.
func (i *issued) differs(e *audit.Entry) string {
	ends := e.Exp
	if !i.token {
		ends = e.NotAfter
	}
	switch {
	case e.KID != i.kid && (i.token || i.kid != ""):
		return fmt.Sprintf("kid %q, not %q", e.KID, i.kid)
	case ends != i.ends:
		return fmt.Sprintf("its end at %s, not %s", when(time.Unix(ends, 0)), when(time.Unix(i.ends, 0)))
	}
	return ""
}

// is reports whether e has the jti or serial of i.
func (i *issued) is(e *audit.Entry) bool {
	return i.token && e.JTI == i.jti || !i.token && e.Serial == i.serial
}

// issuedIn reads tokens and replies to digests, one a line, or certificates in PEM. A line that is no
// token of Chancery is told as such, unless all are.
func issuedIn(data []byte) ([]*issued, error) {
	if bytes.Contains(data, []byte("-----BEGIN ")) {
		return certificatesIn(data)
	}
	var all []*issued
	var alien error
	n, tokens := 0, 0
	for line := range bytes.Lines(data) {
		n++
		text := strings.TrimSpace(string(line))
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		i, err := issuedLine(text)
		if err != nil {
			i = &issued{token: true, alien: err}
			alien = cmp.Or(alien, fmt.Errorf("line %d: %w", n, err))
		} else {
			tokens++
		}
		i.place = strconv.Itoa(n)
		all = append(all, i)
	}
	if tokens == 0 {
		return nil, alien
	}
	return all, nil
}

// issuedLine reads a token, or the reply to a digest.
func issuedLine(text string) (*issued, error) {
	if strings.HasPrefix(text, "{") {
		return issuedSignature(text)
	}
	return issuedToken(text)
}

// longestToken is the longest token that is read, in bytes.
const longestToken = 1 << 20

// issuedToken reads kid, jti and exp of a compact JWS. What is there twice, or
// can be read in two ways, is an error.
func issuedToken(text string) (*issued, error) {
	if len(text) > longestToken || strings.Count(text, ".") != 2 { // before it is split: dots cost nothing
		return nil, errors.New("not a JWT")
	}
	parts := strings.Split(text, ".")
	i := &issued{token: true}
	var kid string
	var iat any
	if err := readMembers(parts[0], map[string]any{"kid": &kid}); err != nil {
		return nil, fmt.Errorf("header of the token: %w", err)
	}
	if err := readMembers(parts[1], map[string]any{"jti": &i.jti, "exp": &i.ends, "iat": &iat}); err != nil {
		return nil, fmt.Errorf("claims of the token: %w", err)
	}
	if i.jti == "" {
		return nil, errors.New("the token has no jti, which every token of Chancery has")
	}
	i.kid = keystore.KID(kid)
	if at, ok := iat.(float64); ok && at > 0 && at < 1<<40 { // another's may be anything
		i.begins = time.Unix(int64(at), 0)
	}
	i.verify = func(alg keystore.Algorithm, pub crypto.PublicKey) error {
		sig, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
		if err != nil {
			return err
		}
		return keystore.Verify(alg, pub, []byte(parts[0]+"."+parts[1]), sig)
	}
	return i, nil
}

func readMembers(part string, into map[string]any) error {
	data, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return errors.New("not in base64url")
	}
	return api.Object(data, api.Limits{Bytes: longestToken}, func(name, value []byte) error {
		to, ok := into[string(name)]
		if !ok {
			return nil
		}
		if err := json.Unmarshal(value, to); err != nil {
			return fmt.Errorf("%s is not what it has to be", name)
		}
		return nil
	})
}

// certificatesIn reads PEM certificates. The kid of one is known when the
// certificate that signed it is among them.
func certificatesIn(data []byte) ([]*issued, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %d is a %s, not a certificate", len(certs)+1, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(bytes.TrimSpace(data)) > 0 {
		return nil, fmt.Errorf("what follows certificate %d is none", len(certs))
	}
	var all []*issued
	for n, c := range certs {
		i := &issued{place: strconv.Itoa(n + 1), serial: hex.EncodeToString(c.SerialNumber.Bytes()), ends: c.NotAfter.Unix(), begins: c.NotBefore}
		i.verify = func(_ keystore.Algorithm, pub crypto.PublicKey) error {
			return (&x509.Certificate{PublicKey: pub}).CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
		}
		for _, issuer := range certs {
			i.beside = append(i.beside, issuer.PublicKey)
			if bytes.Equal(issuer.RawSubject, c.RawIssuer) && issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil {
				kid, err := keystore.Thumbprint(issuer.PublicKey)
				if err == nil {
					i.kid = kid
				}
			}
		}
		all = append(all, i)
	}
	return all, nil
}
