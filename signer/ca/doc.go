// Package ca turns a certificate signing request into a certificate, or into
// the reason why not. It reads no clock and no file; the one thing it does to
// the world is to ask a keystore.Key for one signature.
//
// What was written (ProfileConfig) becomes what was checked (Profile). Prepare
// takes a policy's grant and a request, passes the request through the gate,
// and returns a Prepared, which has its serial number already and is redeemed
// once: the caller writes the intent down before it asks the key.
//
//	profile, err := ca.NewProfile(ca.ProfileConfig{Name: "tls", NamesUnder: []string{"devices.test"}, Usages: []ca.Usage{ca.UsageServer}})
//	prepared, err := ca.Prepare(grant, profile, issuer, ca.Request{CSR: pem}, ca.Env{Now: now, Ours: ours})
//	// keep prepared.Serial(), Names(), NotAfter(), SPKIHash(); then
//	der, err := prepared.Redeem(ctx, key)
//
// # The gate
//
// A request is read in this order, and nothing expensive happens before the
// cheap reasons to refuse are exhausted:
//
//	size, PEM      one CERTIFICATE REQUEST block, at most 64 KiB, nothing else
//	public key     RSA 2048/3072/4096 with e = 65537, P-256/384/521, Ed25519; read
//	               from the DER by hand, before a number is computed with
//	parse          crypto/x509
//	algorithm      a signature with SHA-256 or better, or Ed25519
//	extensions     no CA:TRUE; at most 100 alternative names, DNS names only
//	names          canonical, each allowed by the profile and by the grant
//	key            none of ours; no small factors, close primes or ROCA shape; no
//	               point of small order
//	signature      proof that the requester holds the key
//
// The subject and every requested extension but the alternative names are
// ignored: names come from policy, the rest from the profile. The list of keys
// Debian's OpenSSL made in 2006–2008 is not carried.
//
// # The certificate
//
// RFC 5280 Section 4: version 3; a serial number of exactly 16 octets, positive
// and random; an empty subject and therefore a critical subjectAltName;
// basicConstraints CA:FALSE and keyUsage critical; extKeyUsage from the
// profile; key identifiers by RFC 7093 Section 2 method 1. It is valid from now
// less the skew, never before its issuer, to now plus the lifetime, never past
// its issuer.
package ca
