// Package transittest is Vault servers to test the Transit keystore against.
//
// There are three kinds behind one type, so that one suite holds on all:
//
//	Vault(t)    the vault binary, run by the test; stopped, sealed, paused at will
//	External()  a server that somebody else runs, named by the environment
//	Fake(t)     the test server of this package, which answers badly on demand
//
// The test server speaks the part of the published HTTP API that a signing
// client uses. Its keys, signatures, tokens and policies are real; it refuses
// what Vault refuses, in the same words. The package's own tests send the same
// requests to it and to a real Vault, and compare the answers.
//
//	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
//		mount := s.Mount(t)
//		s.Call(t, "POST", mount+"/keys/k1", map[string]any{"type": "ecdsa-p256"})
//	})
//
// The environment says which real servers there are:
//
//	CHANCERY_TEST_VAULT_BINARY   the vault binary; else ~/.cache/chancery/vault-1.21.1
//	CHANCERY_TEST_VAULT_ADDR     an external server, with
//	CHANCERY_TEST_VAULT_TOKEN    a root token of it, and
//	CHANCERY_TEST_VAULT_CACERT   the file to verify it by, if the system's roots do not
//	CHANCERY_TEST_VAULT=required it is a failure that there is neither
package transittest
