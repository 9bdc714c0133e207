package main

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/client"
)

func (a *app) signDigestCommand() *cobra.Command {
	var keyset, file, digest, format, out string
	c := &cobra.Command{
		Use:   "digest --keyset NAME (--file FILE | --digest HEX)",
		Short: "Have a digest signed and print the signature",
		Long: "Have the digest of a file signed by a key set of purpose digest. The file is read here and\n" +
			"stays here: the daemon gets its digest alone, and cannot tell what it signs. The daemon is\n" +
			"asked which hash that is, for which a rule has to allow keysets.read as well; --digest does\n" +
			"without. The signature is printed in base64, or written with --out\n" +
			"as the bytes that openssl and others read. Who verifies needs the public key:\n" +
			"`chancery keys show NAME --pem`.",
		Example: "  chancery --dir dev sign digest --keyset release --file app.tar.gz --out app.tar.gz.sig",
		Args:    noArgs,
	}
	c.Flags().StringVar(&keyset, "keyset", "", "key set to sign with, of purpose digest")
	c.Flags().StringVar(&file, "file", "", "the file whose digest is signed, or - for standard input")
	c.Flags().StringVar(&digest, "digest", "", "the digest itself, in hexadecimal")
	c.Flags().StringVar(&format, "format", api.FormatDER, "form of an ECDSA signature: der, as X.509 and openssl have it, or raw, as JOSE has it")
	c.Flags().StringVar(&out, "out", "", "write the bytes of the signature to this file")
	required(c, "keyset")
	c.RunE = does(func(ctx context.Context, _ []string) error {
		if (file == "") == (digest == "") {
			return usagef("sign digest: want either --file or --digest")
		}
		if format != api.FormatDER && format != api.FormatRaw {
			return usagef("sign digest: --format is %s or %s", api.FormatDER, api.FormatRaw)
		}
		sum, err := hex.DecodeString(digest)
		if err != nil {
			return usagef("sign digest: --digest is not hexadecimal")
		}
		client, err := a.connect(roleIssuer)
		if err != nil {
			return err
		}
		if file != "" {
			if sum, err = a.digestOf(ctx, client, keyset, file); err != nil {
				return err
			}
		}
		to, err := openSignature(out) // before there is a signature that nobody would have
		if err != nil {
			return err
		}
		defer to.discard()
		reply, err := client.SignDigest(ctx, api.SignDigestRequest{KeySet: keyset, Digest: base64.StdEncoding.EncodeToString(sum), Format: format})
		if err != nil {
			return err
		}
		return a.printSignature(reply, to)
	})
	return c
}

// digestOf returns the digest of a file by the hash that the key set signs now.
func (a *app) digestOf(ctx context.Context, c *client.Client, keyset, file string) ([]byte, error) {
	set, err := c.KeySet(ctx, keyset)
	if err != nil {
		return nil, fmt.Errorf("asking which hash key set %q signs: %w", keyset, err)
	}
	hash := crypto.Hash(0)
	for _, v := range set.Versions {
		if v.State == "active" {
			hash = keystore.Algorithm(v.Algorithm).Hash()
		}
	}
	if hash == 0 || set.Purpose != string(keystore.PurposeDigest) {
		return nil, fmt.Errorf("key set %q has no version that signs digests now: it is of purpose %q", keyset, set.Purpose)
	}
	return waiting(ctx, func() ([]byte, error) { return a.hashOf(hash.New(), file) })
}

// hashOf returns the hash of a file, or of standard input for "-".
func (a *app) hashOf(h hash.Hash, file string) ([]byte, error) {
	r := a.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close() // read only
		r = f
	}
	if _, err := io.Copy(h, r); err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	return h.Sum(nil), nil
}

// A signatureFile is where a signature is to be: a new file beside it, which takes its
// place whole. The nil one is nowhere.
type signatureFile struct {
	path string
	f    *os.File // nil: it has taken its place
}

func openSignature(path string) (*signatureFile, error) {
	if path == "" {
		return nil, nil
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("--out %s is there and is no file", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".chancery-signature-*")
	if err != nil {
		return nil, fmt.Errorf("--out %s: %w", path, err)
	}
	return &signatureFile{path, f}, nil
}

// put writes the signature.
func (s *signatureFile) put(sig []byte) error {
	if s == nil {
		return nil
	}
	_, err := s.f.Write(sig)
	err = errors.Join(err, s.f.Chmod(0o644), s.f.Close())
	if err == nil {
		err = os.Rename(s.f.Name(), s.path)
	}
	if err != nil {
		return fmt.Errorf("--out %s: %w", s.path, err)
	}
	s.f = nil
	return nil
}

// discard removes what was not put.
func (s *signatureFile) discard() {
	if s != nil && s.f != nil {
		s.f.Close() // it may be closed
		os.Remove(s.f.Name())
	}
}

func (a *app) printSignature(reply *api.SignDigestReply, out *signatureFile) error {
	sig, err := base64.StdEncoding.Strict().DecodeString(reply.Signature)
	if err != nil || len(sig) == 0 {
		return errors.New("the daemon's reply has no signature in base64")
	}
	if err := out.put(sig); err != nil {
		return err
	}
	switch {
	case a.json:
		return a.printReply()
	case out == nil:
		_, err = fmt.Fprintln(a.out, base64.StdEncoding.EncodeToString(sig))
	}
	return err
}

// printPublicKey prints in PEM the public key of the version that signs, or of the one
// with that kid.
func (a *app) printPublicKey(ks *api.KeySet, kid string) error {
	for _, v := range ks.Versions {
		if kid == "" && v.State != "active" || kid != "" && v.KID != kid {
			continue
		}
		if v.PublicKey == "" {
			return fmt.Errorf("no public key of version %d is served here: of purpose digest only those of known versions are, and this one is %s of purpose %s", v.Version, v.State, ks.Purpose)
		}
		_, err := io.WriteString(a.out, lines(v.PublicKey))
		return err
	}
	if kid == "" {
		return fmt.Errorf("no version of key set %q signs now", ks.Name)
	}
	return fmt.Errorf("key set %q has no version with the kid %q", ks.Name, kid)
}
