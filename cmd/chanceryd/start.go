package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"runtime"
	"strings"

	"chancery/cmd/internal/config"
	"chancery/keystore"
)

// startRecord says what starts: hashes of binary, modules and configuration, and
// which mounts of which Vaults.
func (n *node) startRecord(cfg *config.Config) keystore.Record {
	rec := keystore.Record{
		Principal: "chancery", Action: keystore.ActStart, Outcome: keystore.OutcomeDone,
		Detail: map[string]string{
			"version": version(), "go": runtime.Version(), "config": cfg.Hash(), "binary": <-n.binary,
		},
	}
	for name, ks := range cfg.Keystores {
		if t := ks.Transit; t != nil {
			rec.Detail["transit "+name] = strings.TrimSpace(strings.Join(t.Addresses, " ") + " " + t.Mount + " " + t.Namespace)
			continue
		}
		rec.Detail["module "+name] = fileHash(ks.PKCS11.Module)
	}
	return rec
}

// fileHash returns the SHA-256 of a file in hexadecimal, or why there is none.
func fileHash(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "unreadable"
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "unreadable"
	}
	return hex.EncodeToString(h.Sum(nil))
}
