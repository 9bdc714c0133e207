package config

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// reason shortens an error about a file whose name is said already.
func reason(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", e.Path, e.Err)
	}
	return err
}

// checkTrusted returns nil if nobody but root and our own user can change what
// is in the file at path, or put another in its place (FAULTS A30).
func checkTrusted(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return reason(err)
	}
	for _, p := range []string{real, filepath.Dir(real)} {
		info, err := os.Stat(p)
		if err != nil {
			return reason(err)
		}
		if !ours(info) {
			return fmt.Errorf("%s belongs neither to root nor to this user", p)
		}
		// In a directory with the sticky bit others cannot replace our files.
		sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0
		if info.Mode().Perm()&0o022 != 0 && !sticky {
			return fmt.Errorf("%s can be changed by others (mode %04o)", p, info.Mode().Perm())
		}
	}
	return nil
}

func ours(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && (st.Uid == 0 || int(st.Uid) == os.Geteuid())
}

func checkModule(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return reason(err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file", path)
	}
	return checkTrusted(path)
}

// checkSecret returns nil if the file at path can be read, and has none of the
// permissions in forbidden.
func checkSecret(path string, forbidden fs.FileMode) error {
	info, err := os.Stat(path)
	if err != nil {
		return reason(err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file", path)
	}
	if !ours(info) {
		return fmt.Errorf("%s belongs neither to root nor to this user", path)
	}
	if perm := info.Mode().Perm(); perm&forbidden != 0 {
		return fmt.Errorf("%s has mode %04o: others can read or change it, chmod %04o it", path, perm, perm&^forbidden)
	}
	f, err := os.Open(path)
	if err != nil {
		return reason(err)
	}
	return f.Close()
}

// checkData returns nil if path is a directory that is ours alone to write, or
// can become one.
func checkData(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		parent, err := os.Stat(filepath.Dir(path))
		if err != nil {
			return reason(err)
		}
		if !parent.IsDir() {
			return fmt.Errorf("%s is no directory", filepath.Dir(path))
		}
		return nil
	}
	if err != nil {
		return reason(err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no directory", path)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s can be changed by others (mode %04o)", path, info.Mode().Perm())
	}
	return nil
}

// maxPEM is the largest file of certificates, in bytes.
const maxPEM = 1 << 20

// readAnchors reads a file of CA certificates.
func readAnchors(path string) ([]*x509.Certificate, error) {
	certs, err := readCertificates(path)
	if err != nil {
		return nil, err
	}
	for i, cert := range certs {
		if !cert.BasicConstraintsValid || !cert.IsCA {
			return nil, fmt.Errorf("%s: certificate %d is no authority's", path, i+1)
		}
	}
	return certs, nil
}

// readCertificates reads a file of certificates.
func readCertificates(path string) ([]*x509.Certificate, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, reason(err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxPEM {
		return nil, fmt.Errorf("%s is no file of certificates", path)
	}
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, reason(err)
	}
	var certs []*x509.Certificate
	for len(bytes.TrimSpace(rest)) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s holds something that is no PEM certificate", path)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", path, len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return certs, nil
}

// clients reads the anchors, and refuses two that could be taken for each other.
func (k checker) clients() {
	owner := make(map[string]string) // public key → client
	for i := range k.Clients {
		c := &k.Clients[i]
		if c.CA == "" {
			continue
		}
		path := fmt.Sprintf("clients[%d].ca", i)
		certs, err := readAnchors(c.CA)
		if err != nil {
			k.errorf(path, "", "%v", err)
			continue
		}
		for _, cert := range certs {
			k.validity(path, cert)
			spki := string(cert.RawSubjectPublicKeyInfo)
			if other, ok := owner[spki]; ok && other != c.Name {
				k.errorf(path, "one client for each root", "client %.40q has the same key", other)
			}
			owner[spki] = c.Name
		}
		c.certificates = certs
		k.crls(fmt.Sprintf("clients[%d]", i), c)
	}
	if len(k.Clients) == 0 && k.has("clients") && !k.said("clients") {
		k.errorf("clients", "", "there is no trust anchor, so nobody could connect")
	}
}
