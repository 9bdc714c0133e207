package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// A fileKey is an audit key in memory.
type fileKey struct{ private ed25519.PrivateKey }

func (k fileKey) Public() crypto.PublicKey      { return k.private.Public() }
func (k fileKey) Algorithm() keystore.Algorithm { return keystore.EdDSA }
func (k fileKey) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(k.private, message), nil
}

// writeLog makes a log in dir/audit with three proven entries and two behind
// the last checkpoint, and its key in dir/audit.vkey.
func writeLog(ctx context.Context, dir string) error {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	key := fileKey{private}
	var gone atomic.Bool
	log, err := audit.Open(ctx, audit.Config{
		Dir: filepath.Join(dir, "audit"), Host: "localhost:8443", Node: "dev", Interval: time.Hour, JournalSize: 64 << 10,
		Keys: func(context.Context) (audit.Keys, error) {
			if gone.Load() {
				return audit.Keys{}, errors.New("the token sleeps")
			}
			return audit.Keys{Active: key}, nil
		},
	})
	if err != nil {
		return err
	}
	const issuer = "dev:spiffe:spiffe://chancery.dev/issuer"
	enter := func(rec keystore.Record) {
		if err != nil {
			return
		}
		if rec.Action == keystore.ActSignJWT {
			_, err = log.Act(ctx, rec)
		} else {
			_, err = log.Lifecycle(ctx, rec)
		}
	}
	enter(keystore.Record{Principal: "chancery", Action: keystore.ActKeyActivate, Outcome: keystore.OutcomeDone, KeySet: "web", Version: 1, State: "active"})
	enter(keystore.Record{Principal: issuer, Action: keystore.ActSignJWT, Outcome: keystore.OutcomeDone, KeySet: "web", Version: 1, JTI: "first-token"})
	enter(keystore.Record{Principal: issuer, Action: keystore.ActSignJWT, Outcome: keystore.OutcomeRefused, KeySet: "vault", Code: "forbidden", Reason: "\x1b[2Jhostile"})
	if err = errors.Join(err, monthBegan(ctx, dir), log.Checkpoint(ctx)); err != nil {
		return err
	}
	gone.Store(true)
	enter(keystore.Record{Principal: issuer, Action: keystore.ActSignJWT, Outcome: keystore.OutcomeDone, KeySet: "web", Version: 1, JTI: "last-token"})
	enter(keystore.Record{Principal: "dev:spiffe:spiffe://chancery.dev/operator", Action: keystore.ActSuspend, Outcome: keystore.OutcomeDone, KeySet: "web", Version: 1, Reason: "drill"})
	if err != nil {
		return err
	}
	vkey, err := log.VKey(keystore.EdDSA, key.Public())
	if err != nil {
		return err
	}
	log.Close(ctx) // says that the last checkpoint could not be signed
	return os.WriteFile(filepath.Join(dir, "audit.vkey"), []byte("# the log key\n"+vkey+"\n"), 0o600)
}

// monthBegan waits until the lifecycle says that the month of acts began.
func monthBegan(ctx context.Context, dir string) error {
	for ctx.Err() == nil {
		for _, err := range audit.Entries(filepath.Join(dir, "audit"), audit.Filter{Action: keystore.ActAuditShard}) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return ctx.Err()
}

func indexOf(data []byte, text string) int { return bytes.Index(data, []byte(text)) }
