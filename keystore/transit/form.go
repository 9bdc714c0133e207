package transit

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"chancery/keystore"
)

// onlyVersion is the one version a Transit key of Chancery's has. Versions that
// somebody else adds are never used.
const onlyVersion = 1

// signaturePrefix begins a signature by onlyVersion.
const signaturePrefix = "vault:v1:"

// A signRequest is the body of a POST to MOUNT/sign/NAME.
type signRequest struct {
	KeyVersion int         `json:"key_version"`
	Prehashed  bool        `json:"prehashed,omitempty"`
	Hash       string      `json:"hash_algorithm,omitempty"`
	Scheme     string      `json:"signature_algorithm,omitempty"`
	Marshaling string      `json:"marshaling_algorithm,omitempty"`
	Salt       string      `json:"salt_length,omitempty"`
	Batch      []signInput `json:"batch_input,omitempty"`
}

type signInput struct {
	Input []byte `json:"input"` // base64, standard alphabet
}

// A signReply is the data of the answer.
type signReply struct {
	Results []signResult `json:"batch_results"`
}

type signResult struct {
	Signature  string `json:"signature"`
	KeyVersion int    `json:"key_version"`
	Error      string `json:"error"`
}

// signForm returns how Transit is asked for signatures by alg: the digest, hashed
// here, for everything but EdDSA, which hashes inside and knows no hash_algorithm.
// Only ECDSA has a JWS form of its own, and a PSS salt is as long as the hash
// (RFC 7518 Section 3.5), where Transit's default is the longest that fits.
func signForm(alg keystore.Algorithm) signRequest {
	r := signRequest{KeyVersion: onlyVersion}
	switch {
	case alg.Curve() != nil:
		r.Marshaling = "jws"
	case alg.IsPKCS1():
		r.Scheme = "pkcs1v15"
	case alg.IsPSS():
		r.Scheme, r.Salt = "pss", "hash"
	default:
		return r
	}
	r.Prehashed = true
	r.Hash = fmt.Sprintf("sha2-%d", alg.Hash().Size()*8)
	return r
}

// parseSignature returns the signature, in JOSE form, that Transit gave as text.
// Its errors wrap keystore.ErrSignature.
func parseSignature(alg keystore.Algorithm, r signResult) ([]byte, error) {
	text, ok := strings.CutPrefix(r.Signature, signaturePrefix)
	if !ok || r.KeyVersion != onlyVersion {
		return nil, fmt.Errorf("%w: it is by version %d and begins %.12q, not by version %d", keystore.ErrSignature, r.KeyVersion, r.Signature, onlyVersion)
	}
	encoding := base64.StdEncoding
	if alg.Curve() != nil {
		encoding = base64.RawURLEncoding
	}
	sig, err := encoding.Strict().DecodeString(text)
	if err == nil && strings.ContainsAny(text, "\r\n") { // which it skips
		err = errors.New("it has line breaks")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", keystore.ErrSignature, err)
	}
	return sig, nil
}

// keyType returns Transit's type of the keys of alg.
func keyType(alg keystore.Algorithm, rsaBits int) string {
	switch alg {
	case keystore.ES256:
		return "ecdsa-p256"
	case keystore.ES384:
		return "ecdsa-p384"
	case keystore.ES512:
		return "ecdsa-p521"
	case keystore.EdDSA:
		return "ed25519"
	}
	return fmt.Sprintf("rsa-%d", rsaBits)
}

// A keyInfo is what Transit says of a key, as far as Chancery looks at it
// (GET MOUNT/keys/NAME).
type keyInfo struct {
	Type                 string      `json:"type"`
	Derived              bool        `json:"derived"`
	Exportable           bool        `json:"exportable"`
	AllowPlaintextBackup bool        `json:"allow_plaintext_backup"`
	DeletionAllowed      bool        `json:"deletion_allowed"`
	Imported             bool        `json:"imported_key"`
	AutoRotatePeriod     json.Number `json:"auto_rotate_period"`
	MinAvailable         int         `json:"min_available_version"`
	MinEncryption        int         `json:"min_encryption_version"`
	Latest               int         `json:"latest_version"`

	// Keys is by version; for a symmetric key each is a number.
	Keys map[string]json.RawMessage `json:"keys"`
}

// lacks returns what a key of Chancery's must be and this one is not, in the
// words of Transit's own fields.
func (k *keyInfo) lacks() []string {
	lacks := k.unfit()
	if k.Latest != onlyVersion {
		lacks = append(lacks, "latest_version=1") // signed with version 1 all the same
	}
	return lacks
}

// unfit returns for what a key is refused: it may be or have been outside Vault,
// somebody else or a schedule may take it away, or its version does not sign.
func (k *keyInfo) unfit() []string {
	var lacks []string
	for _, c := range []struct {
		bad  bool
		want string
	}{
		{k.Derived, "derived=false"},
		{k.Imported, "imported_key=false"},
		{k.Exportable, "exportable=false"},
		{k.AllowPlaintextBackup, "allow_plaintext_backup=false"},
		{k.DeletionAllowed, "deletion_allowed=false"},
		{k.AutoRotatePeriod != "" && k.AutoRotatePeriod != "0", "auto_rotate_period=0"},
		{k.MinEncryption > onlyVersion, "min_encryption_version=0"},
		{k.MinAvailable > onlyVersion, "min_available_version=0"},
	} {
		if c.bad {
			lacks = append(lacks, c.want)
		}
	}
	return lacks
}

// check returns the DER public key of a key that is to be one of alg, or an error
// wrapping keystore.ErrAttributes, or keystore.ErrNotFound if the version is gone.
func (k *keyInfo) check(alg keystore.Algorithm) ([]byte, error) {
	if k.MinAvailable > onlyVersion {
		return nil, fmt.Errorf("%w: its version %d was trimmed and is gone for ever", keystore.ErrNotFound, onlyVersion)
	}
	if lacks := k.unfit(); len(lacks) > 0 {
		return nil, fmt.Errorf("%w: it should have %s", keystore.ErrAttributes, strings.Join(lacks, ", "))
	}
	spki, err := k.spki()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", keystore.ErrAttributes, err)
	}
	pub, err := keystore.ParsePublic(spki)
	if err == nil {
		err = alg.Fits(pub)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", keystore.ErrAttributes, err)
	}
	return spki, nil
}

// spki returns the DER public key of onlyVersion.
func (k *keyInfo) spki() ([]byte, error) {
	raw, ok := k.Keys[fmt.Sprint(onlyVersion)]
	if !ok {
		return nil, fmt.Errorf("it has no version %d", onlyVersion)
	}
	var version struct {
		PublicKey string `json:"public_key"`
	}
	if err := json.Unmarshal(raw, &version); err != nil || version.PublicKey == "" {
		return nil, errors.New("it has no public key")
	}
	if k.Type == "ed25519" { // RFC 8032: 32 bytes, base64
		b, err := base64.StdEncoding.Strict().DecodeString(version.PublicKey)
		if err != nil || len(b) != ed25519.PublicKeySize {
			return nil, errors.New("its Ed25519 public key cannot be read")
		}
		return keystore.MarshalPublic(ed25519.PublicKey(b))
	}
	block, rest := pem.Decode([]byte(version.PublicKey))
	if block == nil || block.Type != "PUBLIC KEY" || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("its public key is no PEM public key")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("its public key: %w", err)
	}
	return keystore.MarshalPublic(pub)
}

// object returns the key as Provider.List shows it.
func (k *keyInfo) object(mount, name string) keystore.Object {
	o := keystore.Object{Token: mount, Label: name, Type: objectType(k.Type)}
	o.SPKI, _ = k.spki()
	if id, _, _, ours := parseName(name); ours {
		o.ID, o.Missing = id.String(), k.lacks()
	}
	return o
}

func objectType(t string) string {
	switch {
	case strings.HasPrefix(t, "ecdsa-"):
		return "EC"
	case strings.HasPrefix(t, "rsa-"):
		return "RSA"
	case t == "ed25519":
		return "Ed25519"
	case strings.HasPrefix(t, "aes"), strings.HasPrefix(t, "chacha"), t == "hmac":
		return "secret"
	}
	return t
}
