package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"chancery/keystore/audit"
)

type checkProofFlags struct {
	keys, witnesses    []string
	token, cert, entry string
}

func (a *app) auditCheckProofCommand() *cobra.Command {
	var f checkProofFlags
	c := &cobra.Command{
		Use:   "check-proof FILE|- --key VKEY [--token TOKEN|@FILE|- | --cert FILE]",
		Short: "Check a proof that an entry is in the log, offline",
		Long: "Check a proof (C2SP tlog-proof) as `chancery audit prove` writes it: that the entry in it is\n" +
			"in the tree of the checkpoint in it, and that the log key signed that checkpoint. With a\n" +
			"token or a certificate it tells as well whether this entry made it. It exits with 1 if\n" +
			"anything does not fit, if no key that was given signed, or if witnesses are given and too\n" +
			"few of them cosigned.\n\n" +
			"What is proven is that the log had committed to the entry. That it shows the same log to\n" +
			"everybody is what witnesses are for.",
		Example: "  chancery audit check-proof token.tlog-proof --key @audit.vkey --token \"$TOKEN\"",
		Args:    exactly("FILE"),
	}
	addLogKey(c, &f.keys)
	c.Flags().StringArrayVar(&f.witnesses, "witness", nil, "a witness (verifier key), all of which are wanted, or @FILE or FILE with them or with a policy (C2SP tlog-policy)")
	c.Flags().StringVar(&f.token, "token", "", "a JWT, or @FILE or - with it: did this entry make it?")
	c.Flags().StringVar(&f.cert, "cert", "", "a certificate in a PEM file, its issuer's after it if at hand: did this entry make it?")
	c.Flags().StringVar(&f.entry, "entry", "", "file with the entry, for a proof without it")
	c.RunE = does(func(_ context.Context, args []string) error { return a.checkProof(args[0], f) })
	return c
}

func (a *app) checkProof(file string, f checkProofFlags) error {
	if f.token != "" && f.cert != "" {
		return usagef("audit check-proof: --token or --cert, not both")
	}
	if file == "-" && f.token == "-" {
		return usagef("audit check-proof: both FILE and --token from standard input")
	}
	data, err := a.readAll(file, audit.MaxProof)
	if err != nil {
		return err
	}
	p, err := audit.ParseProof(data)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	entry, err := a.entryBeside(f.entry)
	if err != nil {
		return err
	}
	vkeys, err := a.logKeys(f.keys)
	if err != nil {
		return err
	}
	keys, err := verifiersOf(vkeys)
	if err != nil {
		return err
	}
	quorum, err := a.quorum(f.witnesses)
	if err != nil {
		return err
	}
	proven, err := audit.Check(p, entry, keys, witnessesOf(quorum))
	if err != nil {
		return fmt.Errorf("%s proves nothing: %w", file, err)
	}
	i, err := a.issuedOf(f)
	if err != nil {
		return err
	}
	return a.printProven(&proven, i, len(keys) > 0, quorum)
}

// witnessesOf returns the witnesses that a quorum is of.
func witnessesOf(q audit.Quorum) (all []note.Verifier) {
	if q == nil {
		return nil
	}
	for _, k := range q.Witnesses() {
		all = append(all, k)
	}
	return all
}

// isWitnessed reports whether enough witnesses have cosigned what p proves.
func isWitnessed(p *audit.Proven, q audit.Quorum) bool {
	return q != nil && q.Met(func(k audit.WitnessKey) bool { return slices.Contains(p.Cosigned, k.String()) })
}

// entryBeside reads an entry that travelled beside its proof.
func (a *app) entryBeside(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	data, err := a.readAll(path, audit.MaxEntry+2)
	return []byte(strings.TrimRight(string(data), "\r\n")), err
}

// issuedOf reads the token or certificate the flags name, or returns nil.
func (a *app) issuedOf(f checkProofFlags) (*issued, error) {
	switch {
	case f.token != "":
		text, err := a.input(f.token)
		if err != nil {
			return nil, err
		}
		return issuedToken(strings.TrimSpace(string(text)))
	case f.cert != "":
		data, err := a.readAll(f.cert, largestMatch)
		if err != nil {
			return nil, err
		}
		all, err := certificatesIn(data)
		if err == nil && len(all) == 0 {
			err = errors.New("there is no certificate in it")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.cert, err)
		}
		return all[0], nil
	}
	return nil, nil
}

// A checkedProof is what --json prints.
type checkedProof struct {
	shownEntry
	Origin     string     `json:"origin"`
	Size       int64      `json:"size"` // of the checkpoint
	Root       string     `json:"root"`
	SignedBy   []string   `json:"signed_by"`
	CosignedBy []string   `json:"cosigned_by"`
	Others     []string   `json:"others"` // unverified
	Proven     bool       `json:"proven"`
	Witnessed  bool       `json:"witnessed"` // by enough of the witnesses given
	Match      *matchLine `json:"match,omitempty"`
}

func (a *app) printProven(proven *audit.Proven, i *issued, keyed bool, q audit.Quorum) error {
	c := proven.Checkpoint
	signed := len(proven.Signed) > 0
	witnessed := isWitnessed(proven, q)
	sound := signed && (q == nil || witnessed)
	var m *matched
	if i != nil {
		judged := matched{match: matchNone, why: "the entry is of something else"}
		if i.is(&proven.Entry) {
			judged = i.signed(judge(i, []audit.Located{proven.Located}), nil)
		}
		m = &judged
		sound = sound && m.match.sound()
	}
	if a.json {
		out := checkedProof{
			shownEntry: shownAs(proven.Located), Origin: c.Origin, Size: c.Size, Root: c.Root.String(), Proven: signed, Witnessed: witnessed,
			SignedBy: append([]string{}, proven.Signed...), CosignedBy: append([]string{}, proven.Cosigned...), Others: append([]string{}, proven.Others...),
		}
		if m != nil {
			line := lineOf(i, *m)
			out.Match, line.Record = &line, nil
		}
		if err := json.NewEncoder(a.out).Encode(out); err != nil {
			return err
		}
	} else {
		a.sayProven(proven, keyed)
		a.sayWitnessed(proven, q)
		if m != nil {
			a.printf("%s\n", strings.TrimSuffix(fmt.Sprintf("%s: %s: %s", i.what(), m.match, m.why), ": "))
		}
	}
	if !keyed {
		fmt.Fprintln(a.err, "hint: give the log key, kept outside the log's machine, with --key")
	}
	if !sound {
		return errFound
	}
	return nil
}

func (a *app) sayProven(proven *audit.Proven, keyed bool) {
	c := proven.Checkpoint
	a.printf("%s\n%s\n", proven.Name(), string(proven.Entry.Append(nil)))
	under := fmt.Sprintf("under the checkpoint of %d entries, root %s", c.Size, c.Root)
	switch {
	case len(proven.Signed) > 0:
		a.printf("proven: %s, signed by %s\n", under, listed(proven.Signed))
	case keyed:
		a.printf("not proven: %s, signed by %s, none of the keys given\n", under, listed(proven.Others))
	default:
		a.printf("log key: unverified\nconsistent: %s, which claims to be by %s\n", under, listed(proven.Others))
	}
}

func (a *app) sayWitnessed(proven *audit.Proven, q audit.Quorum) {
	switch {
	case isWitnessed(proven, q):
		a.printf("witnessed: cosigned by %s\n", listed(proven.Cosigned))
	case q == nil:
		a.printf("unwitnessed: no witness is given\n")
	default:
		a.printf("unwitnessed: cosigned by %s, no quorum of the witnesses given\n", listed(proven.Cosigned))
	}
}
