package ca

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"chancery/signer/api"
)

// Limits of a request.
const (
	MaxRequest = 64 << 10 // bytes of PEM
	MaxNames   = 100      // alternative names
)

const pemType = "CERTIFICATE REQUEST"

var (
	oidSAN              = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}

	// signed by SHA-256 or better.
	signatureAlgorithms = []x509.SignatureAlgorithm{
		x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512,
		x509.PureEd25519,
	}
)

// refuse returns an error for the caller with the cause for the log. A text
// of ours, never one from inside the request, crosses the wire.
func refuse(code api.Code, detail string, cause error) error {
	e := api.Errorf(code, "%s", detail)
	if cause != nil {
		e = e.Because(cause)
	}
	return e
}

// Names returns the DNS names that a CSR in PEM asks for, as they were requested.
// The rest of it is read as Prepare reads it, the signature is not checked. Its
// errors are *api.Error.
func Names(csr []byte) ([]string, error) {
	_, names, err := readRequest(csr)
	return names, err
}

// readRequest takes text to the point where only names, the key's numbers and
// the signature are left to check. The names are as they were requested.
func readRequest(text []byte) (csr *x509.CertificateRequest, names []string, err error) {
	if len(text) > MaxRequest {
		return nil, nil, refuse(api.CodeTooLarge, "the certification request is larger than 64 KiB", nil)
	}
	der, err := readPEM(text)
	if err != nil {
		return nil, nil, refuse(api.CodeMalformed, err.Error(), nil)
	}
	spki, err := publicKeyOf(der)
	if err != nil {
		return nil, nil, refuse(api.CodeMalformed, err.Error(), nil)
	}
	if err := checkShape(spki); err != nil {
		return nil, nil, refuse(api.CodeKeyRejected, err.Error(), nil)
	}
	csr, err = x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, nil, refuse(api.CodeMalformed, "the certification request cannot be read", err)
	}
	if !bytes.Equal(csr.RawSubjectPublicKeyInfo, spki) {
		return nil, nil, refuse(api.CodeMalformed, "the certification request cannot be read one way only", nil)
	}
	if !slices.Contains(signatureAlgorithms, csr.SignatureAlgorithm) {
		return nil, nil, refuse(api.CodeMalformed, "the signature algorithm is not SHA-256 or better", nil)
	}
	names, err = readExtensions(csr)
	if err != nil {
		return nil, nil, err
	}
	return csr, names, nil
}

// readPEM returns the content of the one block text consists of.
func readPEM(text []byte) ([]byte, error) {
	text = bytes.TrimSpace(text)
	if !bytes.HasPrefix(text, []byte("-----BEGIN "+pemType+"-----")) {
		return nil, errors.New("it does not begin with a PEM block CERTIFICATE REQUEST")
	}
	// pem.Decode skips what it cannot read; a second beginning would let it.
	if bytes.Count(text, []byte("-----BEGIN")) != 1 {
		return nil, errors.New("it holds more than one PEM block")
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != pemType || len(block.Headers) != 0 {
		return nil, errors.New("the PEM block CERTIFICATE REQUEST cannot be read")
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("something follows the PEM block")
	}
	return block.Bytes, nil
}

// readExtensions returns the requested DNS names and refuses what a requester
// must not even ask for. Other extensions are ignored.
func readExtensions(csr *x509.CertificateRequest) ([]string, error) {
	var names []string
	for _, ext := range csr.Extensions {
		switch {
		case ext.Id.Equal(oidBasicConstraints):
			if err := checkNoCA(ext.Value); err != nil {
				return nil, err
			}
		case ext.Id.Equal(oidSAN):
			var err error
			if names, err = readNames(ext.Value); err != nil {
				return nil, err
			}
		}
	}
	if len(names) == 0 {
		return nil, refuse(api.CodeNameNotAllowed, "the certification request names no DNS name (the common name does not count)", nil)
	}
	return names, nil
}

// checkNoCA refuses a basicConstraints that asks to be an authority (RFC 5280
// Section 4.2.1.9).
func checkNoCA(value []byte) error {
	outer := cryptobyte.String(value)
	var seq cryptobyte.String
	var isCA bool
	if !outer.ReadASN1(&seq, cbasn1.SEQUENCE) || !outer.Empty() ||
		(seq.PeekASN1Tag(cbasn1.BOOLEAN) && !seq.ReadASN1Boolean(&isCA)) {
		return refuse(api.CodeMalformed, "the requested basicConstraints cannot be read", nil)
	}
	if isCA {
		return refuse(api.CodeMalformed, "CA:TRUE is requested", nil)
	}
	return nil
}

// readNames reads GeneralNames (RFC 5280 Section 4.2.1.6) by hand, because
// crypto/x509 passes over the kinds it does not know.
func readNames(value []byte) ([]string, error) {
	const dNSName = cbasn1.Tag(2 | 0x80)
	outer := cryptobyte.String(value)
	var seq cryptobyte.String
	if !outer.ReadASN1(&seq, cbasn1.SEQUENCE) || !outer.Empty() {
		return nil, refuse(api.CodeMalformed, "the requested names cannot be read", nil)
	}
	var names []string
	for !seq.Empty() {
		var name cryptobyte.String
		var tag cbasn1.Tag
		if !seq.ReadAnyASN1(&name, &tag) {
			return nil, refuse(api.CodeMalformed, "the requested names cannot be read", nil)
		}
		if len(names) == MaxNames {
			return nil, refuse(api.CodeMalformed, "the certification request has more than 100 names", nil)
		}
		if tag != dNSName {
			return nil, refuse(api.CodeNameNotAllowed, "a requested name is not a DNS name", nil)
		}
		names = append(names, string(name))
	}
	return names, nil
}

// checkKey does the mathematics: first with the key, then with the signature,
// which proves that the requester holds it.
func checkKey(csr *x509.CertificateRequest) error {
	var err error
	switch key := csr.PublicKey.(type) {
	case *rsa.PublicKey:
		err = checkModulus(key.N)
	case ed25519.PublicKey:
		err = checkPoint(key)
	}
	if err != nil {
		return refuse(api.CodeKeyRejected, err.Error(), nil)
	}
	if err := csr.CheckSignature(); err != nil {
		return refuse(api.CodeMalformed, "the signature of the certification request does not verify", err)
	}
	return nil
}
