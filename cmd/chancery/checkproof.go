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
	jwks, issuer       string // the keys to check token and cert by
}

func (a *app) auditCheckProofCommand() *cobra.Command {
	var f checkProofFlags
	c := &cobra.Command{
		Use:   "check-proof FILE|- --key VKEY [--token TOKEN|@FILE|- --jwks FILE|URL | --cert FILE]",
		Short: "Check a proof that an entry is in the log, offline",
		Long: "Check a proof (C2SP tlog-proof) as `chancery audit prove` writes it: that the entry in it is\n" +
			"in the tree of the checkpoint in it, and that the log key signed that checkpoint. With a\n" +
			"token or a certificate it tells as well whether this entry made it. For that it needs the\n" +
			"public key of the entry, which is not in the proof: a key set with it (--jwks), or the\n" +
			"certificate of the issuer, behind the other or in a file of its own (--issuer). Whoever\n" +
			"gives it, a key whose thumbprint is the kid of the entry is that key. Without it the\n" +
			"token is \"named\" by the entry and nothing is proven of it: a forged one can have the\n" +
			"same jti, kid and exp. It exits with 1 if anything does not fit, if a signature was not\n" +
			"checked, if no key that was given signed, or if witnesses are given and too few of them\n" +
			"cosigned.\n\n" +
			"What is proven is that the log had committed to the entry. That it shows the same log to\n" +
			"everybody is what witnesses are for.",
		Example: "  chancery audit check-proof token.tlog-proof --key @audit.vkey --token \"$TOKEN\" --jwks https://keys.example/issuers/web/jwks.json",
		Args:    exactly("FILE"),
	}
	addLogKey(c, &f.keys)
	c.Flags().StringArrayVar(&f.witnesses, "witness", nil, "a witness (verifier key), all of which are wanted, or @FILE or FILE with them or with a policy (C2SP tlog-policy)")
	c.Flags().StringVar(&f.token, "token", "", "a JWT, or @FILE or - with it: did this entry make it?")
	c.Flags().StringVar(&f.cert, "cert", "", "a certificate in a PEM file, its issuer's after it if at hand: did this entry make it?")
	c.Flags().StringVar(&f.jwks, "jwks", "", "with --token: key set with the public key of the entry, FILE or URL")
	c.Flags().StringVar(&f.issuer, "issuer", "", "with --cert: the issuer's certificate in a PEM file")
	c.Flags().StringVar(&f.entry, "entry", "", "file with the entry, for a proof without it")
	c.RunE = does(func(ctx context.Context, args []string) error { return a.checkProof(ctx, args[0], f) })
	return c
}

func (a *app) checkProof(ctx context.Context, file string, f checkProofFlags) error {
	if f.token != "" && f.cert != "" {
		return usagef("audit check-proof: --token or --cert, not both")
	}
	if file == "-" && f.token == "-" {
		return usagef("audit check-proof: both FILE and --token from standard input")
	}
	if f.jwks != "" && f.token == "" || f.issuer != "" && f.cert == "" {
		return usagef("audit check-proof: --jwks is for --token, and --issuer for --cert")
	}
	data, err := a.readAll(ctx, file, audit.MaxProof)
	if err != nil {
		return err
	}
	p, err := audit.ParseProof(data)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	entry, err := a.entryBeside(ctx, f.entry)
	if err != nil {
		return err
	}
	vkeys, err := a.logKeys(ctx, f.keys)
	if err != nil {
		return err
	}
	keys, err := verifiersOf(vkeys)
	if err != nil {
		return err
	}
	quorum, err := a.quorum(ctx, f.witnesses)
	if err != nil {
		return err
	}
	proven, err := audit.Check(p, entry, keys, witnessesOf(quorum))
	if err != nil {
		return fmt.Errorf("%s proves nothing: %w", file, err)
	}
	i, err := a.issuedOf(ctx, f)
	if err != nil {
		return err
	}
	var m *matched
	if i != nil {
		of, err := a.keysOfProof(ctx, f.jwks)
		if err != nil {
			return err
		}
		judged := i.provenMatch(proven.Located, of)
		m = &judged
	}
	return a.printProven(&proven, i, m, len(keys) > 0, quorum)
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
func (a *app) entryBeside(ctx context.Context, path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	data, err := a.readAll(ctx, path, audit.MaxEntry+2)
	return []byte(strings.TrimRight(string(data), "\r\n")), err
}

// issuedOf reads the token or certificate the flags name, or returns nil.
func (a *app) issuedOf(ctx context.Context, f checkProofFlags) (*issued, error) {
	switch {
	case f.token != "":
		text, err := a.input(ctx, f.token)
		if err != nil {
			return nil, err
		}
		return issuedToken(strings.TrimSpace(string(text)))
	case f.cert != "":
		data, err := a.readAll(ctx, f.cert, largestMatch)
		if err != nil {
			return nil, err
		}
		if data, err = a.withIssuer(ctx, data, f.issuer); err != nil {
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

func (a *app) printProven(proven *audit.Proven, i *issued, m *matched, keyed bool, q audit.Quorum) error {
	c := proven.Checkpoint
	signed := len(proven.Signed) > 0
	witnessed := isWitnessed(proven, q)
	sound := signed && (q == nil || witnessed) && (m == nil || m.match.sound())
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
			a.printf("%s\n", strings.TrimSuffix(fmt.Sprintf("%s: %s: %s", i.what(), m.match.words(), m.why), ": "))
		}
	}
	if !keyed {
		fmt.Fprintln(a.err, "hint: give the log key, kept outside the log's machine, with --key")
	}
	if m != nil && m.match == matchNamed {
		fmt.Fprintln(a.err, "hint:", i.howToCheck())
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
