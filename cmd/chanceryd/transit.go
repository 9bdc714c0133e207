package main

import (
	"path/filepath"

	"chancery/cmd/internal/config"
	"chancery/keystore"
	"chancery/keystore/transit"
)

// openTransit opens a mount of a Vault.
func (n *node) openTransit(_ string, ks config.Keystore) (keystore.Provider, error) {
	cfg := ks.TransitConfig()
	cfg.StateDir = filepath.Join(n.config.Load().Data, "tokens")
	cfg.Log, cfg.Now, cfg.OnState = n.log, n.now, n.tokenState
	cfg.OnChange = n.keysChanged
	return transit.Open(cfg)
}

// keysChanged is told that somebody else has changed keys in use: what is wrong
// is found, entered and told by a comparison.
func (n *node) keysChanged() {
	if n.running.Load() {
		n.comparing.Kick()
	}
}
