package main

import (
	"fmt"
	"path/filepath"

	"chancery/cmd/internal/config"
	"chancery/keystore/audit"
	"chancery/signer/policy"
)

// keepPolicy keeps the text of a policy beside the log, whose entries name it by
// its hash alone, before it comes into force.
func keepPolicy(cfg *config.Config, p *policy.Policy) error {
	hash, err := audit.KeepPolicy(filepath.Join(cfg.Data, "audit"), p.Text())
	if err == nil && hash != p.Hash() {
		err = fmt.Errorf("the policy's hash is %s, and that of its text %s", p.Hash(), hash)
	}
	return err
}
