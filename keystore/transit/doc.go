// Package transit keeps private keys in the Transit engine of a HashiCorp Vault
// or OpenBao server, with the promises that hold for an HSM.
package transit
