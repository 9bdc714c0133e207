package catalog

import (
	"bytes"
	"context"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"chancery/keystore"
)

// The statuses of a certificate. An intent is on the disk before the signature
// is made; one that was still an intent when the process ended is unknown, and
// counts as issued.
const (
	StatusIntent  = "intent"
	StatusIssued  = "issued"
	StatusFailed  = "failed"
	StatusUnknown = "unknown"
)

// A Certificate is what the catalog knows of one that was issued, or may have
// been.
type Certificate struct {
	Serial    string // lower-case hexadecimal, unique over the catalog
	Authority string
	Profile   string
	Principal string
	Version   int // of the authority's key set
	SPKIHash  keystore.SPKIHash
	Names     []string
	NotBefore time.Time
	NotAfter  time.Time
	Status    string
	DER       []byte // nil unless issued
	Entry     string // in the log
}

var serialForm = form(`^[0-9a-f]{1,40}$`)

// AddCertificate records the intent to issue a certificate; its Status is empty
// or StatusIntent and it has no DER. It returns an error wrapping
// keystore.ErrExists if the serial was ever used.
func (c *Catalog) AddCertificate(ctx context.Context, cert Certificate) error {
	if cert.Status != "" && cert.Status != StatusIntent || len(cert.DER) > 0 {
		return illegal("a certificate begins as an intent")
	}
	if !serialForm().MatchString(cert.Serial) || cert.NotBefore.IsZero() || cert.NotAfter.IsZero() {
		return illegal("a certificate needs its serial, in lower-case hexadecimal, and its validity")
	}
	names, err := json.Marshal(cert.Names)
	if err != nil {
		return fmt.Errorf("encoding the names of a certificate: %w", err)
	}
	happened := func(tx *transaction) (bool, error) {
		found, err := scanCertificate(tx.row(sqlCertificate, cert.Serial))
		if isNotFound(err) {
			return false, nil
		}
		return err == nil && found.Principal == cert.Principal && found.SPKIHash == cert.SPKIHash, err
	}
	return c.write(ctx, writing, "recording a certificate", happened, func(tx *transaction) error {
		n, err := tx.affected(sqlInsertCertificate, cert.Serial, cert.Authority, cert.Profile, cert.Principal, cert.Version,
			cert.SPKIHash[:], string(names), micros(cert.NotBefore), micros(cert.NotAfter), StatusIntent, nil, cert.Entry, tx.node, tx.epoch)
		if err == nil && n == 0 {
			err = fmt.Errorf("certificate %s: %w", cert.Serial, keystore.ErrExists)
		}
		return err
	})
}

// FinishCertificate records the outcome of an intent: StatusIssued with its
// DER, StatusFailed or StatusUnknown; entry, unless empty, is where that stands
// in the log. An unknown one may become issued. Saying the same again is no
// error; another outcome wraps keystore.ErrOvertaken.
func (c *Catalog) FinishCertificate(ctx context.Context, serial, status string, der []byte, entry string) error {
	if status != StatusIssued && status != StatusFailed && status != StatusUnknown {
		return illegal("%q is no outcome of a certificate", status)
	}
	if (status == StatusIssued) != (len(der) > 0) {
		return illegal("a certificate has its DER when it was issued, and only then")
	}
	happened := func(tx *transaction) (bool, error) {
		found, err := scanCertificate(tx.row(sqlCertificate, serial))
		return err == nil && found.Status == status && bytes.Equal(found.DER, der), err
	}
	return c.write(ctx, writing, "recording the outcome of a certificate", happened, func(tx *transaction) error {
		was, err := scanCertificate(tx.row(tx.locked(sqlCertificate, forNoKeyUpdate), serial))
		if err != nil {
			return err
		}
		if entry == "" {
			entry = was.Entry
		}
		switch {
		case was.Status == status && bytes.Equal(was.DER, der) && was.Entry == entry:
			return errNothing
		case was.Status == StatusIntent,
			was.Status == StatusUnknown && status == StatusIssued,
			was.Status == status && bytes.Equal(was.DER, der):
			_, err = tx.exec(sqlFinishCertificate, status, nullable(der), entry, serial)
			return err
		}
		return fmt.Errorf("certificate %s is %s: %w", serial, was.Status, keystore.ErrOvertaken)
	})
}

// Certificate returns what is known of the certificate with that serial, or an
// error wrapping keystore.ErrNotFound.
func (c *Catalog) Certificate(ctx context.Context, serial string) (cert Certificate, err error) {
	err = c.read(ctx, "reading a certificate", func(tx *transaction) error {
		cert, err = scanCertificate(tx.row(sqlCertificate, serial))
		return err
	})
	return cert, err
}

func scanCertificate(s scanner) (Certificate, error) {
	var cert Certificate
	var hash []byte
	var names string
	var notBefore, notAfter sql.NullInt64
	err := s.Scan(&cert.Serial, &cert.Authority, &cert.Profile, &cert.Principal, &cert.Version, &hash,
		&names, &notBefore, &notAfter, &cert.Status, &cert.DER, &cert.Entry)
	if err != nil {
		return Certificate{}, missing(err, "certificate")
	}
	copy(cert.SPKIHash[:], hash)
	cert.NotBefore, cert.NotAfter = timeOf(notBefore), timeOf(notAfter)
	if err := json.Unmarshal([]byte(names), &cert.Names); err != nil {
		return Certificate{}, damaged("certificate %s: %v", cert.Serial, err)
	}
	return cert, nil
}

// SetAuthorityCertificate keeps the certificate of a CA key version. There is
// one for ever: the same again is no error, another wraps keystore.ErrExists,
// one of another key ErrIllegal.
func (c *Catalog) SetAuthorityCertificate(ctx context.Context, keyset string, version int, der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return illegal("the certificate of key set %q version %d: %v", keyset, version, err)
	}
	return c.write(ctx, writing, fmt.Sprintf("keeping the certificate of key set %q", keyset), nil, func(tx *transaction) error {
		ks, err := loadSet(tx, keyset)
		if err != nil {
			return err
		}
		v, ok := ks.Version(version)
		switch {
		case !ok:
			return fmt.Errorf("key set %q version %d: %w", keyset, version, keystore.ErrNotFound)
		case ks.Purpose != keystore.PurposeCA:
			return illegal("key set %q is for %q, not %q", keyset, ks.Purpose, keystore.PurposeCA)
		case !bytes.Equal(v.SPKI, cert.RawSubjectPublicKeyInfo):
			return illegal("the certificate is not of the key of key set %q version %d", keyset, version)
		}
		if n, err := tx.affected(sqlInsertAuthorityCertificate, keyset, version, der); err != nil || n > 0 {
			return err
		}
		var was []byte
		if err := tx.row(sqlAuthorityCertificate, keyset, version).Scan(&was); err != nil {
			return err
		}
		if !bytes.Equal(was, der) {
			return fmt.Errorf("the certificate of key set %q version %d: %w", keyset, version, keystore.ErrExists)
		}
		return errNothing
	})
}

// AuthorityCertificates returns the certificates of a key set's versions, by
// number, in DER.
func (c *Catalog) AuthorityCertificates(ctx context.Context, keyset string) (map[int][]byte, error) {
	certs := make(map[int][]byte)
	err := c.read(ctx, "reading authority certificates", func(tx *transaction) error {
		rows, err := tx.query(sqlAuthorityCertificates, keyset)
		if err != nil {
			return err
		}
		_, err = collect(rows, func(s scanner) (struct{}, error) {
			var number int
			var der []byte
			err := s.Scan(&number, &der)
			certs[number] = der
			return struct{}{}, err
		})
		return err
	})
	return certs, err
}

// IsOurKey reports whether a public key is that of any version of any key set,
// whatever its state (FAULTS A10).
func (c *Catalog) IsOurKey(ctx context.Context, spki keystore.SPKIHash) (yes bool, err error) {
	err = c.read(ctx, "looking for a key", func(tx *transaction) error {
		return tx.row(sqlIsOurKey, spki[:]).Scan(&yes)
	})
	return yes, err
}
