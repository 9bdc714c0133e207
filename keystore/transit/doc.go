// Package transit keeps private keys in the Transit engine of a HashiCorp Vault or
// OpenBao server, with the promises that hold for an HSM: what is released
// verifies under the public key of the version, a key is made once and never
// overwritten, a key that is not sign-only and inside is refused, and a server
// that hangs, is sealed or lies harms nobody but its own keys.
//
//	p, err := transit.Open(transit.Config{
//		Name: "vault", Addresses: []string{"https://vault.example.com:8200"},
//		Auth: transit.Auth{Method: transit.MethodAppRole, RoleID: role, File: secretID},
//	})
//	spki, err := p.Generate(ctx, id, keystore.PurposeJWT, keystore.ES256)
//	key, err := p.Open(ctx, keystore.KeyRef{ID: id, Algorithm: keystore.ES256, SPKI: spki}, keystore.PurposeJWT)
//	sig, err := key.Sign(ctx, message) // in JOSE form, verified
//
// # Keys
//
// Each key is a Transit key of its own:
//
//	chancery-PURPOSE-ALGORITHM-ID     chancery-jwt-es256-0f5c…
//
// with ID the 32 hexadecimal digits of its KeyID. Of its versions the first is
// used, pinned in each request and checked in each answer; one that somebody else
// adds is told of and never used. Messages are hashed here, except for EdDSA.
//
// # Requests
//
// What many callers want signed at the same time by one key travels in one
// request. Signing, reading and listing are repeated, on another server too, while
// their callers wait. Making, configuring and deleting are asked for once, and what
// became of it when the answer is lost is read. A server that serves nobody is not
// asked anything but once a second whether it does again.
//
//	Provider ── key ──┐
//	          look ───┼── cluster ── server (breaker, HTTP)
//	          login ──┘
//
// One goroutine, the login's, has to do with tokens: it logs in, renews before the
// token runs out, and when a request is refused finds out, once for all who were,
// whether the token is dead or may not do that.
//
// Nothing is read from the environment: HashiCorp's library, which does, is told
// everything, and what it has read all the same is taken out of it.
package transit
