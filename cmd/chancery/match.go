package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"chancery/keystore/audit"
	"chancery/keystore/audit/review"
)

// largestMatch is the largest file of tokens or certificates that is read, in
// bytes.
const largestMatch = 256 << 20

// matchHint says what can be matched. A signature by itself does not say whose it is.
const matchHint = "it takes tokens, one a line, certificates in PEM, and signatures of digests, each in a line as `chancery sign digest --json` " +
	"prints it; for a signature that is in a file by itself write such a line, " +
	`{"signature":"the file in base64","kid":"KID","algorithm":"ES256"}, with kid and algorithm from ` + "`chancery keys show KEYSET`"

func (a *app) auditMatchCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "match FILE|- [LOGDIR]",
		Short: "Tell which entry made each token, certificate or signature of a file, or none",
		Long: "Tell which entry of the log made each of many tokens, one a line, or certificates, in PEM,\n" +
			"or of signatures of digests, each in a line as `sign digest --json` printed it.\n" +
			"A token is known by its jti, kid and exp, a certificate by its serial number, its end and,\n" +
			"if its issuer's certificate is in the file as well, the issuer's key, a signature by its\n" +
			"hash and kid. It tells them as\n\n" +
			"  made         by that entry\n" +
			"  named        by that entry, if its signature is good: it could not be checked\n" +
			"  unknown      by that entry, perhaps: its outcome is not known, so count it as made\n" +
			"  withdrawn    that entry says that it was not made, or never released\n" +
			"  counterfeit  that entry has the same jti or serial number, of something else, or its\n" +
			"               signature is not by the key of that entry\n" +
			"  not_kept     not known: the month in which it would be is not kept any more\n" +
			"  none         by nothing that is in the log\n\n" +
			"and exits with 1 if any was not made, or if that is not known. With --json each is told\n" +
			"on a line of its own. The log is read once, and not verified: see `chancery audit\n" +
			"verify`. Signatures are, by the keys that the log has.",
		Example: "  chancery --dir dev audit match tokens.txt\n  chancery audit match --json - /var/lib/chancery/audit <certificates.pem",
		Args:    wordAndLogDir("FILE"),
	}
	var nodes []string
	c.Flags().StringArrayVar(&nodes, "node-dir", nil, "audit directory of another node that shares the catalog: LOGDIR")
	c.RunE = does(func(ctx context.Context, args []string) error {
		dir, err := a.logDir(args[1:])
		if err != nil {
			return err
		}
		if err := a.logDirs(nodes); err != nil {
			return err
		}
		dirs := append([]string{dir}, nodes...)
		data, err := a.readAll(ctx, args[0], largestMatch)
		if err != nil {
			return err
		}
		all, err := issuedIn(data)
		if err != nil {
			return hinted{fmt.Errorf("%s: %w", args[0], err), matchHint}
		}
		if len(all) == 0 {
			return hinted{fmt.Errorf("%s: there is neither a token nor a certificate nor the signature of a digest in it", args[0]), matchHint}
		}
		entries, err := entriesOf(ctx, dirs, all)
		if err != nil {
			return err
		}
		lives, err := livesIn(ctx, dirs)
		if err != nil {
			return err
		}
		months, err := removedIn(ctx, dirs)
		if err != nil {
			return err
		}
		return a.printMatches(all, entries, lives, months)
	})
	return c
}

// wordAndLogDir wants one argument, and takes a log directory.
func wordAndLogDir(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 2 {
			return nil
		}
		return exactly(name)(cmd, args)
	}
}

// readAll reads a file, or standard input for "-".
func (a *app) readAll(ctx context.Context, path string, most int64) ([]byte, error) {
	if path == "-" {
		return waiting(ctx, func() ([]byte, error) { return readAtMost(a.in, path, most) })
	}
	return readFile(ctx, path, most)
}

// readFile reads a file of at most so many bytes.
func readFile(ctx context.Context, path string, most int64) ([]byte, error) {
	return waiting(ctx, func() ([]byte, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close() // read only
		return readAtMost(f, path, most)
	})
}

func readAtMost(r io.Reader, path string, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%s is over %d bytes", path, most)
	}
	return data, nil
}

// livesIn returns the lives of keys as each of the logs tells them.
func livesIn(ctx context.Context, dirs []string) (all []*audit.KeyLives, err error) {
	for _, dir := range dirs {
		lives := audit.NewKeyLives()
		if err := lives.Read(ctx, dir); err != nil {
			return nil, err
		}
		all = append(all, lives)
	}
	return all, nil
}

// entriesOf reads the logs once and returns the entries with the jti or serial of
// each.
func entriesOf(ctx context.Context, dirs []string, all []*issued) (map[*issued][]audit.Located, error) {
	wanted := map[string][]*issued{}
	for _, i := range all {
		if i.alien != nil {
			continue
		}
		wanted[i.what()] = append(wanted[i.what()], i)
	}
	found := map[*issued][]audit.Located{}
	for _, dir := range dirs {
		if err := matchIn(ctx, dir, wanted, found); err != nil {
			return nil, fmt.Errorf("reading the log: %w", err)
		}
	}
	return found, nil
}

// matchIn adds to found the entries of one log that are wanted.
func matchIn(ctx context.Context, dir string, wanted map[string][]*issued, found map[*issued][]audit.Located) error {
	for at, err := range audit.EntriesContext(ctx, dir, audit.Filter{}) {
		if err != nil {
			return err
		}
		for _, of := range []issued{{token: true, jti: at.Entry.JTI}, {serial: at.Entry.Serial}, {digest: signatureIn(&at.Entry)}} {
			if of.jti == "" && of.serial == "" && of.digest == "" {
				continue
			}
			for _, i := range wanted[of.what()] {
				found[i] = append(found[i], at)
			}
		}
	}
	return nil
}

// A matchLine is what --json prints for each.
type matchLine struct {
	Place    string          `json:"place"` // line of a token, number of a certificate
	Kind     string          `json:"kind"`  // "token", "certificate" or "signature"
	JTI      string          `json:"jti,omitempty"`
	Serial   string          `json:"serial,omitempty"`
	Hash     string          `json:"signature,omitempty"` // SHA-256, as the entry has it
	KID      string          `json:"kid,omitempty"`
	Exp      int64           `json:"exp,omitempty"`
	NotAfter int64           `json:"not_after,omitempty"`
	Match    match           `json:"match"`
	Entry    string          `json:"entry,omitempty"` // the name of the one that decided
	Why      string          `json:"why,omitempty"`
	Record   json.RawMessage `json:"record,omitempty"` // that entry
}

func lineOf(i *issued, m matched) matchLine {
	l := matchLine{Place: i.place, Kind: "certificate", Serial: i.serial, KID: string(i.kid), NotAfter: i.ends, Match: m.match, Why: m.why}
	if i.token {
		l.Kind, l.JTI, l.Exp, l.NotAfter = "token", i.jti, i.ends, 0
	}
	if i.digest != "" {
		l.Kind, l.Hash = "signature", i.digest
	}
	if m.entry != nil {
		l.Entry, l.Record = m.entry.Name(), m.entry.Entry.Append(nil)
	}
	return l
}

func (a *app) printMatches(all []*issued, entries map[*issued][]audit.Located, lives []*audit.KeyLives, months []review.Removed) error {
	out := bufio.NewWriter(a.out)
	encoder := json.NewEncoder(out)
	counts := map[match]int64{}
	unsound := int64(0)
	var rows [][]string
	for _, i := range all {
		m := i.signed(i.kept(judge(i, entries[i]), months, lives), lives)
		counts[m.match]++
		if !m.match.sound() {
			unsound++
		}
		if a.json {
			if err := encoder.Encode(lineOf(i, m)); err != nil {
				return err
			}
			continue
		}
		entry, by := "-", "-"
		if m.entry != nil {
			entry, by = shortName(m.entry), m.entry.Entry.Principal
		}
		rows = append(rows, []string{i.place, i.what(), string(m.match), entry, by, m.why})
	}
	if a.json {
		if err := out.Flush(); err != nil {
			return err
		}
	} else {
		a.printWrapped([]string{"#", "of", "match", "entry", "principal", "why"}, rows, map[int]int{5: 40, 6: 48})
		rest := ""
		if n := counts[matchNotKept]; n > 0 {
			rest = fmt.Sprintf(", %d not kept", n)
		}
		if n := counts[matchNamed]; n > 0 {
			rest += fmt.Sprintf(", %d named only", n)
		}
		a.printf("%d: %d made, %d unknown, %d withdrawn, %d counterfeit, %d none%s\n", len(all),
			counts[matchMade], counts[matchUnknown], counts[matchWithdrawn], counts[matchCounterfeit], counts[matchNone], rest)
	}
	if counts[matchNamed] > 0 {
		fmt.Fprintln(a.err, "hint: the logs that were given do not have every key: give the log of the node that made it with --node-dir, or certificates with that of their issuer")
	}
	if unsound > 0 {
		return errFound
	}
	return nil
}
