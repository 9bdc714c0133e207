package client

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"

	"chancery/signer/api"
)

// SignDigest asks for the signature of a digest, by a key set of purpose digest.
func (c *Client) SignDigest(ctx context.Context, req api.SignDigestRequest) (*api.SignDigestReply, error) {
	return ask[api.SignDigestReply](ctx, c, call{method: http.MethodPost, path: "/v1/sign/digest", in: req})
}

// A DigestSigner is a crypto.Signer by the key of a digest key set that was active
// when it was made, for code that brings its own digests, such as crypto/x509. It may
// be used concurrently.
//
// It signs by that one key only: once the key set has been rotated Sign returns an
// error wrapping ErrRotated, and another DigestSigner is to be made. Each signature is
// verified under Public before it is returned.
type DigestSigner struct {
	ctx    context.Context
	client *Client
	keyset string
	kid    string
	alg    algorithm
	public crypto.PublicKey
}

var _ crypto.Signer = (*DigestSigner)(nil)

// ErrRotated: another version of the key set signs now than when a DigestSigner was
// made. The signature that was made for nothing is in the log.
var ErrRotated = errors.New("the key set has been rotated")

// DigestSigner returns a crypto.Signer for the version of a digest key set that signs
// now, which it asks the daemon for. ctx also bounds every signature. The caller has to
// be allowed to read the key set (keysets.read) as well as to have digests signed.
func (c *Client) DigestSigner(ctx context.Context, keyset string) (*DigestSigner, error) {
	set, err := c.KeySet(ctx, keyset)
	if err != nil {
		return nil, err
	}
	for _, v := range set.Versions {
		if v.State != "active" {
			continue
		}
		s := &DigestSigner{ctx: ctx, client: c, keyset: keyset, kid: v.KID}
		if v.PublicKey == "" {
			return nil, fmt.Errorf("the daemon gives no public key of version %d of key set %q, which is of purpose %q", v.Version, keyset, set.Purpose)
		}
		block, rest := pem.Decode([]byte(v.PublicKey))
		if block == nil || len(rest) > 0 {
			return nil, fmt.Errorf("the public key of version %d of key set %q is no PEM", v.Version, keyset)
		}
		if s.public, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
			return nil, fmt.Errorf("the public key of version %d of key set %q: %w", v.Version, keyset, err)
		}
		var ok bool
		if s.alg, ok = algorithmNamed(v.Algorithm); !ok || s.alg.hash == 0 || !s.alg.fits(s.public) {
			return nil, fmt.Errorf("the public key of version %d of key set %q is no key that signs digests by %q", v.Version, keyset, v.Algorithm)
		}
		return s, nil
	}
	return nil, fmt.Errorf("no version of key set %q is active", keyset)
}

// Public returns the *ecdsa.PublicKey or *rsa.PublicKey.
func (s *DigestSigner) Public() crypto.PublicKey { return s.public }

// KID returns the key's RFC 7638 thumbprint, by which the log knows it.
func (s *DigestSigner) KID() string { return s.kid }

// Sign has the daemon sign digest, which opts.HashFunc made. It returns what
// crypto.Signer wants: of ECDSA the ASN.1 form. The first argument is not used: the
// randomness is the keystore's. opts must fit the key: its hash, and for the PS
// algorithms *rsa.PSSOptions with a salt as long as the hash (RFC 7518 Section 3.5),
// or rsa.PSSSaltLengthEqualsHash or rsa.PSSSaltLengthAuto; for the RS ones no
// *rsa.PSSOptions.
func (s *DigestSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := s.fits(digest, opts); err != nil {
		return nil, err
	}
	reply, err := s.client.SignDigest(s.ctx, api.SignDigestRequest{
		KeySet: s.keyset, Digest: base64.StdEncoding.EncodeToString(digest), Format: api.FormatDER,
	})
	if err != nil {
		return nil, err
	}
	if reply.KID != s.kid {
		return nil, fmt.Errorf("%w: key %s signed, not %s", ErrRotated, reply.KID, s.kid)
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(reply.Signature)
	if err != nil {
		return nil, fmt.Errorf("reading the signature: %w", err)
	}
	if !s.verifies(digest, sig) {
		return nil, errors.New("the signature does not verify under the public key of the key set")
	}
	return sig, nil
}

// fits returns nil if opts asks for nothing but what the key does.
func (s *DigestSigner) fits(digest []byte, opts crypto.SignerOpts) error {
	if opts == nil || opts.HashFunc() != s.alg.hash {
		return fmt.Errorf("the key signs digests of %v", s.alg.hash)
	}
	if len(digest) != s.alg.hash.Size() {
		return fmt.Errorf("a digest of %v has %d bytes, this one %d", s.alg.hash, s.alg.hash.Size(), len(digest))
	}
	pss, asked := opts.(*rsa.PSSOptions)
	switch {
	case asked != s.alg.pss && s.alg.pss:
		return errors.New("the key signs by RSASSA-PSS: opts has to be *rsa.PSSOptions")
	case asked != s.alg.pss:
		return errors.New("the key does not sign by RSASSA-PSS")
	case !asked:
		return nil
	}
	switch pss.SaltLength {
	case s.alg.hash.Size(), rsa.PSSSaltLengthEqualsHash, rsa.PSSSaltLengthAuto:
		return nil
	}
	return fmt.Errorf("the key signs with a salt of %d bytes, not %d", s.alg.hash.Size(), pss.SaltLength)
}

func (s *DigestSigner) verifies(digest, sig []byte) bool {
	switch k := s.public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest, sig)
	case *rsa.PublicKey:
		if s.alg.pss {
			return rsa.VerifyPSS(k, s.alg.hash, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(k, s.alg.hash, digest, sig) == nil
	}
	return false
}
