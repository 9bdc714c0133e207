package main

import (
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/note"

	"chancery/keystore/audit"
)

// A keptCheckpoint is a signed checkpoint from a file.
type keptCheckpoint struct {
	path   string
	signed []byte
	text   audit.Checkpoint
}

const checkpointHint = "a checkpoint is the file of that name in lifecycle or acts/YYYY-MM of a log, or what a witness cosigned of it; give each with a --checkpoint of its own"

// keptCheckpoints reads signed checkpoints from files.
func keptCheckpoints(ctx context.Context, files []string) ([]keptCheckpoint, error) {
	var kept []keptCheckpoint
	for _, path := range files {
		signed, err := readFile(ctx, path, largestPublished)
		if err != nil {
			return nil, hinted{fmt.Errorf("reading a kept checkpoint: %w", err), checkpointHint}
		}
		c, _, err := audit.OpenCheckpoint(signed, nil)
		if err != nil {
			return nil, hinted{fmt.Errorf("%s: %w", path, err), checkpointHint}
		}
		kept = append(kept, keptCheckpoint{path, signed, c})
	}
	return kept, nil
}

func texts(kept []keptCheckpoint) []audit.Checkpoint {
	var all []audit.Checkpoint
	for _, k := range kept {
		all = append(all, k.text)
	}
	return all
}

// verifyKept verifies a log against kept checkpoints. Which of them count, only
// the log itself can tell, as it announces keys: one by another key anybody can have
// made, to accuse the log with, so that it is then verified again without.
func verifyKept(ctx context.Context, dir string, opt audit.Options, kept []keptCheckpoint, resumed *resumption) (*audit.Report, error) {
	opt.Kept = texts(kept)
	report, err := audit.Verify(ctx, dir, opt)
	if err != nil {
		return nil, err
	}
	ours, foreign, err := signedByTrusted(kept, report.LogKeys)
	if err != nil || len(foreign) == 0 {
		return report, err
	}
	opt.Kept = texts(ours)
	if err := resumed.resume(&opt); err != nil { // the file may say more now
		return nil, err
	}
	if report, err = audit.Verify(ctx, dir, opt); err != nil {
		return nil, err
	}
	report.Problems = append(report.Problems, foreign...)
	return report, nil
}

// signedByTrusted returns the kept checkpoints that one of keys signed, those given
// or announced under them, and of each other one that it counts for nothing.
func signedByTrusted(kept []keptCheckpoint, keys []audit.LogKey) (ours []keptCheckpoint, foreign []audit.Problem, err error) {
	var verifiers []note.Verifier
	for _, k := range keys {
		v, err := audit.ParseVKey(k.VKey)
		if err != nil {
			return nil, nil, fmt.Errorf("log key: %w", err)
		}
		verifiers = append(verifiers, v)
	}
	for _, k := range kept {
		_, sig, err := audit.OpenCheckpoint(k.signed, verifiers)
		switch {
		case err != nil:
			return nil, nil, fmt.Errorf("%s: %w", k.path, err)
		case sig.Verified:
			ours = append(ours, k)
		default:
			foreign = append(foreign, audit.Problem{
				Log: audit.NameOf(k.text.Origin), Index: -1, Kind: audit.KeyUnknown,
				What: fmt.Sprintf("the checkpoint in %s is not signed by a log key that was given, or announced under one: it is signed by %s, and counts for nothing "+
					"(hint: give that key if you know it, or leave the checkpoint away; if it was in force when you kept that, and the log does not know it, this is another log)",
					clean(k.path), sig.Key),
			})
		}
	}
	return ours, foreign, nil
}

// given returns log keys that were given as those that are trusted.
func given(vkeys []string) (keys []audit.LogKey) {
	for _, vkey := range vkeys {
		keys = append(keys, audit.LogKey{VKey: vkey})
	}
	return keys
}
