// Package client asks a chancery for signatures, operates its key sets, and
// verifies what it signed.
//
// A Client speaks JSON over HTTP/1.1 and mutual TLS 1.3, to a Unix socket or to
// an address, over connections it keeps. It asks once: it never repeats a
// request by itself, unless its caller made it Patient. A refusal is an
// *api.Problem, found by errors.As, exactly as the daemon wrote it.
//
// A DigestSigner is a crypto.Signer on a key set of purpose digest, for code that
// brings its own digests.
//
// An RPC asks the same over gRPC, for JWTs and certificates alone, with any number of
// requests at the daemon at a time; its Stream is for issuers that ask for thousands a
// second. Errors are the same.
//
// A Verifier checks JWTs under the key set an issuer publishes. It believes
// nothing a token says about how it is to be checked: the algorithm is the
// key's, the key is the issuer's, and a token has one form only (JWS compact
// serialization, RFC 7515 Section 7.1, strict base64url).
//
//	c, err := client.New(client.Config{Endpoint: "unix:/run/chancery/sign.sock", Certificate: cert, Roots: roots})
//	reply, err := c.SignJWT(ctx, api.SignJWTRequest{KeySet: "web", Claims: []byte(`{"sub":"alice"}`)})
//	if p, ok := errors.AsType[*api.Problem](err); ok && p.Code == api.CodeKeySetSuspended {
//		// an operator stopped it; p.RetryAfter says when to ask again
//	}
//
//	v, err := client.NewVerifier(client.VerifierConfig{Issuer: "https://keys.example/issuers/web"})
//	token, err := v.Verify(ctx, reply.Token)
package client
