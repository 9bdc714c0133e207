// Package keystore holds the words of the chancery: key sets, their numbered
// versions, the states a version passes through, the algorithms, and the
// Provider that keeps private keys.
//
// A key set is a name, a purpose, an algorithm and a list of versions. A
// version has one key pair for ever; its public name is the KID, the RFC 7638
// thumbprint of the public key. A View is an immutable snapshot of all key sets
// at one revision of the catalog, and is what signing, publishing and rotation
// look at.
//
// The package does no I/O, reads no clock and starts no goroutine. Its types
// may be copied; a *View and what it points to must not be changed.
//
//	view, err := views()                        // a snapshot, or why there is none
//	set, ok := view.KeySet("web")               // what was configured and what lives
//	v, ok := set.Active()                       // the version that signs
//	key, err := provider.Open(ctx, v.Ref())     // its private half, by name
//	sig, err := key.Sign(ctx, message)          // JOSE form, verified by the caller:
//	err = keystore.Verify(v.Algorithm, key.Public(), message, sig)
package keystore
