package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"chancery/keystore/audit"
)

// A keyKind is what a flag wants verifier keys of.
type keyKind struct {
	name string
	hint string // where such a key is to be had
	is   func(vkey string) error
}

func logKeyKind() keyKind {
	return keyKind{
		"log key", "a log key is a line NAME+ID+KEY, as in the daemon's audit.vkey: give it or a file with it; a witness's key goes with --witness",
		func(vkey string) error { _, err := audit.ParseVKey(vkey); return err },
	}
}

func witnessKeyKind() keyKind {
	return keyKind{
		"witness key", "`chancery audit witness` prints its key, a line NAME+ID+KEY: give it, a file with some, or a witness policy; a log key goes with --key",
		func(vkey string) error { _, err := audit.ParseWitnessKey(vkey); return err },
	}
}

// logKeys returns the verifier keys that args name. With none, those of --dir.
func (a *app) logKeys(ctx context.Context, args []string) ([]string, error) {
	if len(args) > 0 {
		return logKeyKind().from(ctx, args)
	}
	if a.dir == "" {
		return nil, nil
	}
	keys, err := logKeyKind().in(ctx, filepath.Join(a.dir, "audit.vkey"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return keys, err
}

// from returns the keys that args name, each a key itself, @FILE, or a file. They
// are of that kind.
func (k keyKind) from(ctx context.Context, args []string) (all []string, err error) {
	for _, arg := range args {
		path, isFile := strings.CutPrefix(arg, "@")
		keys := []string{arg}
		if !isFile && strings.Count(arg, "+") >= 2 && !exists(arg) {
			err = k.check("", arg)
		} else {
			keys, err = k.in(ctx, path)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, keys...)
	}
	return all, nil
}

// in reads a file of keys, one a line.
func (k keyKind) in(ctx context.Context, path string) ([]string, error) {
	data, err := readFile(ctx, path, largestPublished)
	if err != nil {
		return nil, k.unreadable(err)
	}
	if err := k.notPEM(path, string(data)); err != nil {
		return nil, err
	}
	var keys []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := k.check(path+": ", line); err != nil {
			return nil, err
		}
		keys = append(keys, line)
	}
	if len(keys) == 0 {
		return nil, k.wrong("there is no %s in %s", k.name, path)
	}
	return keys, nil
}

func (k keyKind) unreadable(err error) error {
	err = fmt.Errorf("reading the %s: %w", k.name, err)
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	return hinted{err, k.hint}
}

// wrong is an error for what is nothing of that kind.
func (k keyKind) wrong(format string, args ...any) error {
	return hinted{usagef(format, args...), k.hint}
}

// notPEM returns an error if text is PEM, as private keys and certificates are.
func (k keyKind) notPEM(path, text string) error {
	_, rest, found := strings.Cut(text, "-----BEGIN ")
	if label, _, ended := strings.Cut(rest, "-----"); found && ended {
		return k.wrong("%s holds a %s in PEM and no %s", path, label, k.name)
	}
	return nil
}

// check returns an error unless vkey, which stands in where, is of that kind. What
// is none may be somebody's private key and is not repeated.
func (k keyKind) check(where, vkey string) error {
	err := k.is(vkey)
	if err == nil {
		return nil
	}
	if strings.HasPrefix(vkey, "PRIVATE+KEY+") {
		return k.wrong("%sa private key, and no %s", where, k.name)
	}
	name := "that is none"
	if parts := strings.SplitN(vkey, "+", 3); len(parts) == 3 {
		name = parts[0] + "+" + parts[1]
	}
	for _, other := range []keyKind{logKeyKind(), witnessKeyKind()} {
		if other.is(vkey) == nil {
			return k.wrong("%s%s is a %s, and no %s", where, name, other.name, k.name)
		}
	}
	return k.wrong("%s%s %s: %v", where, k.name, name, err)
}

// verifiersOf reads log keys.
func verifiersOf(vkeys []string) (verifiers []note.Verifier, err error) {
	for _, k := range vkeys {
		v, err := audit.ParseVKey(k)
		if err != nil {
			return nil, usagef("%v", err)
		}
		verifiers = append(verifiers, v)
	}
	return verifiers, nil
}
