// Package softhsm makes SoftHSM tokens to develop and test against, each set
// isolated in a directory of its own.
//
//	DIR/softhsm2.conf      names DIR/tokens; goes into SOFTHSM2_CONF
//	DIR/tokens/UUID/       one token, in SoftHSM's own format
//	DIR/LABEL.pin          the user PIN, mode 0600
//	DIR/LABEL.so-pin       the security officer's PIN, mode 0600
//	DIR/LABEL.serial       the token's serial number
//	DIR/kept/UUID          a copy of the token's object, for Mend
//
// A token appears in DIR/tokens by one rename, initialised and with its PIN
// files already durable, so a crash leaves a whole token or none. What SoftHSM
// itself may tear later, when a process is killed while it logs in, Mend puts
// back, and Watch while the token is used. PINs are random and never stand on a
// command line, in the environment or in an error.
//
//	t, err := softhsm.Create(ctx, dir, "signing")
//	// a PKCS#11 provider takes t.Module, t.URI() and t.Env()
package softhsm
