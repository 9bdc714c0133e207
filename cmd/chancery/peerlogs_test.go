package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// makePeers writes the logs of two nodes into DIR/a/audit and DIR/b/audit, with
// audit.vkey beside them: b, whose log has some entries, was seen by a, which has
// signed. With a third log in DIR/other/audit, b's is another.
func makePeers(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	seen := map[string]audit.Head{}
	ts.Check(writePeer(dir, "b", 4, nil, func(l *audit.Log) error {
		origin, head := l.Head()
		seen[origin] = head
		return nil
	}))
	ts.Check(writePeer(dir, "a", 1, seen, func(l *audit.Log) error {
		use, err := l.Take("k")
		if err != nil {
			return err
		}
		rec := keystore.Record{Action: keystore.ActSignJWT, Outcome: keystore.OutcomeDone, KeySet: "web", KID: "k", Use: use}
		_, err = l.Act(context.Background(), rec)
		return err
	}))
	ts.Check(os.Rename(filepath.Join(dir, "b"), filepath.Join(dir, "kept")))
	ts.Check(writePeer(dir, "b", 2, nil, func(*audit.Log) error { return nil }))
	ts.Check(os.Rename(filepath.Join(dir, "b"), filepath.Join(dir, "other")))
	ts.Check(os.Rename(filepath.Join(dir, "kept"), filepath.Join(dir, "b")))
}

func writePeer(dir, node string, entries int, peers map[string]audit.Head, do func(*audit.Log) error) error {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	key := fileKey{private}
	ctx := context.Background()
	log, err := audit.Open(ctx, audit.Config{
		Dir: filepath.Join(dir, node, "audit"), Host: "localhost:8443", Node: node, Interval: time.Millisecond, JournalSize: 64 << 10,
		Keys:  func(context.Context) (audit.Keys, error) { return audit.Keys{Active: key}, nil },
		Peers: func(context.Context) (map[string]audit.Head, error) { return peers, nil },
	})
	if err != nil {
		return err
	}
	for range entries {
		if _, lerr := log.Lifecycle(ctx, keystore.Record{Action: keystore.ActStart, Outcome: keystore.OutcomeDone}); lerr != nil {
			return lerr
		}
	}
	for end := time.Now().Add(10 * time.Second); peers != nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
		if seen(filepath.Join(dir, node, "audit")) {
			break
		}
	}
	vkey, verr := log.VKey(keystore.EdDSA, key.Public())
	return errors.Join(do(log), verr, log.Close(ctx), os.WriteFile(filepath.Join(dir, node, "audit.vkey"), []byte(vkey+"\n"), 0o600))
}

// seen reports whether the log in dir tells of another node's.
func seen(dir string) bool {
	for _, err := range audit.Entries(dir, audit.Filter{Action: keystore.ActAuditPeer}) {
		return err == nil
	}
	return false
}
