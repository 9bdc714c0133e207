package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"chancery/cmd/internal/load"
	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/pkcs11"
)

// A tokenPart is the CPU time of the parts of one token, in microseconds, each
// measured by itself, with so many at a time.
type tokenPart struct {
	Algorithm   string  `json:"algorithm"`
	Concurrency int     `json:"concurrency"`
	Sign        float64 `json:"sign_us"`   // of the workers: C_Sign, and what is read and written around it
	Verify      float64 `json:"verify_us"` // of this process
	Log         float64 `json:"log_us"`    // of this process: one entry, in its share of a write and a sync
}

// mostSigners is how many signatures are waited for at a time: more only wait.
const mostSigners = 64

// part measures with n at a time.
func (b *tokenBench) part(ctx context.Context, p *pkcs11.Provider, ref keystore.KeyRef, n int) (part tokenPart, err error) {
	part = tokenPart{Algorithm: string(ref.Algorithm), Concurrency: n}
	key, err := p.Open(ctx, ref, keystore.PurposeJWT)
	if err != nil {
		return part, err
	}
	if part.Sign, err = b.signCost(ctx, key, min(n, mostSigners)); err != nil {
		return part, err
	}
	sig, err := key.Sign(ctx, message)
	if err != nil {
		return part, err
	}
	part.Verify, err = costOf(b.duration/2, func() error {
		return keystore.Verify(ref.Algorithm, key.Public(), message, sig)
	})
	if err != nil {
		return part, err
	}
	part.Log, err = b.logCost(ctx, n)
	return part, err
}

var errNoTime = errors.New("so little CPU time was used that it cannot be told: measure for longer")

// signCost returns the CPU time that the workers spend on a signature.
func (b *tokenBench) signCost(ctx context.Context, key keystore.Key, n int) (float64, error) {
	family, err := load.NewFamily(os.Getpid())
	if err != nil {
		return 0, err
	}
	before, err := family.Usage()
	if err != nil {
		return 0, err
	}
	r, err := b.measure(n, func(int) error {
		_, err := key.Sign(ctx, message)
		return err
	})
	if err != nil {
		return 0, err
	}
	after, err := family.Usage()
	if err != nil {
		return 0, err
	}
	used := after.Sub(before).Workers
	if used <= 0 {
		return 0, errNoTime
	}
	return micros(used) / float64(r.count), nil
}

// logCost returns the CPU time of an entry of a log that n wait for at a time.
func (b *tokenBench) logCost(ctx context.Context, n int) (float64, error) {
	dir, err := os.MkdirTemp(b.disk, "chancery-bench-log-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	log, err := audit.Open(ctx, audit.Config{Dir: filepath.Join(dir, "audit"), Host: "localhost:8443", Node: "bench", Log: newLogger(false)})
	if err != nil {
		return 0, err
	}
	defer log.Close(ctx)
	record := keystore.Record{
		Principal: floorIssuer.String(), Action: keystore.ActSignJWT, KeySet: floorKeySet, KID: "u1tUJ0tl2mL1vPYBsEvZSNlB36Lzk0xSRK2CWDRLhHM",
		Version: 1, State: keystore.Active.String(), Rule: "issuer", Policy: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		Request: "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae", Outcome: keystore.OutcomeDone,
		Exp: time.Now().Add(5 * time.Minute).Unix(), JTI: "AAAAAAAAAAAAAAAAAAAAAA",
	}
	if _, err := log.Act(ctx, record); err != nil { // makes the journal
		return 0, err
	}
	before, err := load.OwnCPU()
	if err != nil {
		return 0, err
	}
	r, err := b.measure(n, func(int) error {
		_, err := log.Act(ctx, record)
		return err
	})
	if err != nil {
		return 0, err
	}
	after, err := load.OwnCPU()
	return micros(after-before) / float64(r.count), err
}
