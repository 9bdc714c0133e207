package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// rotateLog writes a log into DIR/audit whose key was compromised and replaced, the
// verifier keys of both into DIR/old.vkey and DIR/next.vkey, and that of a third into
// DIR/other.vkey.
func rotateLog(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(writeRotatedLog(context.Background(), ts.MkAbs(args[0])))
}

func writeRotatedLog(ctx context.Context, dir string) error {
	var keys [3]fileKey
	for i := range keys {
		_, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return err
		}
		keys[i] = fileKey{private}
	}
	var active atomic.Int32
	log, err := audit.Open(ctx, audit.Config{
		Dir: filepath.Join(dir, "audit"), Host: "localhost:8443", Node: "dev", Interval: time.Hour, JournalSize: 64 << 10,
		Keys: func(context.Context) (audit.Keys, error) { return audit.Keys{Active: keys[active.Load()]}, nil },
	})
	if err != nil {
		return err
	}
	spki, err := keystore.MarshalPublic(keys[1].Public())
	if err != nil {
		return err
	}
	old, err := keystore.Thumbprint(keys[0].Public())
	if err != nil {
		return err
	}
	next, err := keystore.Thumbprint(keys[1].Public())
	if err != nil {
		return err
	}
	announcement := audit.Announcement(keystore.PurposeAudit, &keystore.Version{Algorithm: keystore.EdDSA, SPKI: spki})
	for _, rec := range []keystore.Record{
		{Action: keystore.ActKeyPublish, Outcome: keystore.OutcomeDone, KeySet: "audit", Version: 2, KID: next, Detail: announcement},
		{Action: keystore.ActCompromise, Outcome: keystore.OutcomeDone, KeySet: "audit", Version: 1, KID: old},
	} {
		if _, err := log.Lifecycle(ctx, rec); err != nil {
			return err
		}
		if err := log.Checkpoint(ctx); err != nil {
			return err
		}
	}
	active.Store(1)
	if err := log.Close(ctx); err != nil {
		return err
	}
	for i, name := range []string{"old.vkey", "next.vkey", "other.vkey"} {
		vkey, err2 := log.VKey(keystore.EdDSA, keys[i].Public())
		err = errors.Join(err, err2, os.WriteFile(filepath.Join(dir, name), []byte(vkey+"\n"), 0o600))
	}
	return err
}
