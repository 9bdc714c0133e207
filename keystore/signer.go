package keystore

import (
	"context"
	"crypto"
	"errors"
	"io"
)

// Signer lends k to code that wants a crypto.MessageSigner, such as
// crypto/x509, for the length of one call under ctx. Its signatures are in the
// form X.509 uses. SignMessage takes the message; Sign, which would take a
// digest, refuses, because a Key signs messages only.
func Signer(ctx context.Context, k Key) crypto.MessageSigner { return boundSigner{ctx, k} }

type boundSigner struct {
	ctx context.Context
	key Key
}

var _ crypto.MessageSigner = boundSigner{}

func (s boundSigner) Public() crypto.PublicKey { return s.key.Public() }

func (s boundSigner) SignMessage(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	alg := s.key.Algorithm()
	if opts.HashFunc() != alg.Hash() {
		return nil, errors.New("the caller's hash is not the key's")
	}
	sig, err := s.key.Sign(s.ctx, message)
	if err != nil {
		return nil, err
	}
	return SignatureASN1(alg, sig)
}

func (s boundSigner) Sign(_ io.Reader, _ []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() == 0 {
		return nil, errors.New("call SignMessage instead of Sign")
	}
	return nil, errors.New("a key of the chancery signs messages, not digests")
}
