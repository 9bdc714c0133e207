// Package crl tells whether client certificates are revoked, by the revocation
// lists of those who issued them (RFC 5280 Sections 5 and 6.3). It reads no
// clock and no file, and imports nothing of ours.
//
//	lists, err := crl.Parse(data)             // PEM or DER, one or several
//	err = crl.Check(lists, before, anchors)   // signed by whom they name
//	set := crl.NewSet(lists, 24*time.Hour)    // immutable
//	verdict := set.Judge(chain)               // once for each connection
//	err = verdict.At(now)                     // for each request: nil, ErrRevoked or ErrUnknown
//
// It fails hard. Where lists are asked for, each certificate below the anchor
// needs a list of its issuer, also below an intermediate: one that is missing,
// past its NextUpdate or older than allowed is an ErrUnknown.
package crl
