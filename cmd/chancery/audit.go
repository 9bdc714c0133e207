package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"chancery/keystore/audit"
)

func (a *app) auditCommand() *cobra.Command {
	c := group("audit", "Read and verify the log",
		a.auditListCommand(),
		a.auditShowCommand(),
		a.auditVerifyCommand(),
		a.auditReportCommand(),
		a.auditImpactCommand(),
		a.auditMatchCommand(),
		a.auditProveCommand(),
		a.auditCheckProofCommand(),
		a.auditExportCommand(),
		a.auditSchemaCommand(),
		a.auditWitnessCommand(),
	)
	c.Long = "Read and verify the log, straight from its directory or a copy of it.\n\n" +
		"With --json, list and match print JSON lines: one object a line, for each entry, token or\n" +
		"certificate. So does export with --format jsonl. Every other command prints one document:\n" +
		"verify, report, show, impact, check-proof, witness and schema."
	for _, sub := range c.Commands() {
		sub.RunE = withWords(withReadHint(sub.RunE))
	}
	return c
}

func (a *app) auditVerifyCommand() *cobra.Command {
	var keys, checkpoints, witnesses, peers []string
	var resumed resumption
	c := &cobra.Command{
		Use:   "verify [LOGDIR|URL]",
		Short: "Check that no entry was changed, lost, added or moved",
		Long: "Check the whole log: every entry, their order, and that the signed checkpoints are those\n" +
			"of exactly these entries. It needs no daemon and is right beside a running one. Entries\n" +
			"behind the last checkpoint are in order but not proven yet: the next one, within\n" +
			"seconds, covers them. Without a log key from outside nothing is proven, and what no\n" +
			"witness has cosigned could be another log than the one shown to others.\n\n" +
			"Of a URL, such as https://keys.example/audit/NODE, it checks what is published: that the\n" +
			"tiles are the tree that the checkpoints sign. Entries are not published, so what they say\n" +
			"is not looked at: announced keys, closed months, witnesses that contradict the log.\n\n" +
			"With --resume FILE a review goes on from what FILE says was verified, by the last review\n" +
			"or one that was stopped (Ctrl-C), and keeps there how far it came, now and then and at\n" +
			"the end: entries under a checkpoint, as long as nothing is wrong. What was verified\n" +
			"before is not read again, and has a line of its own. The log has to be a continuation of it: one\n" +
			"that was rewritten, cut or signed by another key does not pass. But an entry changed\n" +
			"on disk since then is not noticed where nothing else is read from its file; a review\n" +
			"without --resume finds it, and so does the proof of the entry. FILE is believed: keep\n" +
			"it where the operator of the log cannot write. Without FILE in place it begins anew.",
		Example: "  chancery --dir dev audit verify\n  chancery audit verify --key @audit.vkey --resume october.state /mnt/audit\n  chancery audit verify --key @audit.vkey --checkpoint kept.checkpoint /var/lib/chancery/audit",
		Args:    atMostLogDir,
	}
	c.Flags().StringArrayVar(&keys, "key", nil, "log key (signed-note verifier key), or @FILE or FILE with them (default: DIR/audit.vkey)")
	c.Flags().StringArrayVar(&checkpoints, "checkpoint", nil, "a checkpoint kept from before, which the log has to fit still: FILE")
	c.Flags().StringArrayVar(&witnesses, "witness", nil, "a witness (verifier key), all of which are wanted, or @FILE or FILE with them or with a policy (C2SP tlog-policy)")
	c.Flags().StringArrayVar(&peers, "peer", nil, "the audit directory of another node, to be compared with what each log says of the other: LOGDIR")
	c.Flags().StringVar(&resumed.path, "resume", "", "go on from what this file says was verified, and keep there how far it is: FILE, made if it is not there")
	c.RunE = does(func(ctx context.Context, args []string) error {
		base, published := urlOf(args)
		if err := entriesOnly(c, published, "resume", "peer"); err != nil {
			return err
		}
		vkeys, err := a.logKeys(ctx, keys)
		if err != nil {
			return err
		}
		kept, err := keptCheckpoints(ctx, checkpoints)
		if err != nil {
			return err
		}
		var cosigned [][]byte
		for _, k := range kept {
			cosigned = append(cosigned, k.signed)
		}
		quorum, err := a.quorum(ctx, witnesses)
		if err != nil {
			return err
		}
		if published {
			return a.verifyPublished(ctx, base, audit.Options{Keys: vkeys, Witnesses: quorum, Cosigned: cosigned}, kept)
		}
		dir, err := a.logDir(args)
		if err != nil {
			return err
		}
		if err := a.logDirs(peers); err != nil {
			return err
		}
		for _, peer := range peers {
			if sameFile(dir, peer) {
				return usagef("audit verify: --peer %s is the log itself", peer)
			}
		}
		line := &progressLine{w: a.err, live: isTerminal(a.err)}
		opt := audit.Options{
			Keys: vkeys, Progress: verifyProgress(line), Witnesses: quorum, Cosigned: cosigned, Peers: peers,
		}
		if err := resumed.resume(&opt); err != nil {
			return err
		}
		report, err := verifyKept(ctx, dir, opt, kept, &resumed)
		line.wipe()
		if err != nil {
			return resumed.stopped(ctx, err)
		}
		resumed.hintAtProblems(a.err, report)
		if report.OK() && resumed.path == "" { // what the file has says more than a checkpoint
			a.hintToKeep(len(kept), "cp "+filepath.Join(dir, "lifecycle", "checkpoint")+" DIR")
		}
		against, err := contradictions(ctx, dir)
		if err != nil {
			return err
		}
		return a.printReport(verifiedLog{report, against}, len(vkeys) > 0, quorum != nil)
	})
	return c
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	other, errOther := os.Stat(b)
	return err == nil && errOther == nil && os.SameFile(one, other)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// barWidth is how many columns a progress bar has.
const barWidth = 30

// verifyProgress draws a bar on a terminal.
func verifyProgress(line *progressLine) func(done, total int64) {
	if !line.live {
		return nil
	}
	return func(done, total int64) {
		if total <= 0 {
			return
		}
		full := int(min(done, total) * barWidth / total)
		line.say(fmt.Sprintf("verifying [%s%s] %d %%", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), min(done, total)*100/total))
	}
}

// A verifiedLog is what --json prints.
type verifiedLog struct {
	*audit.Report
	Contradicted []contradiction `json:"contradicted,omitempty"` // by witnesses, says the log itself
}

// printReport prints a report, and returns errFound unless all is well: also where
// witnesses were named and there is no quorum of them, and where the log itself says
// that a witness contradicts it.
func (a *app) printReport(v verifiedLog, keyed, witnesses bool) error {
	r := v.Report
	if a.json {
		if err := json.NewEncoder(a.out).Encode(v); err != nil {
			return err
		}
	} else {
		a.printLogs(r)
		a.printBefore(r)
		a.printLogKeys(r)
		a.printUses(r)
		a.printPeers(r)
		a.printWitnessed(r, witnesses)
		a.printContradictions(v.Contradicted)
		for _, p := range r.Pruned {
			a.printf("removed: %s, %s, as the policy says (%s; entry %s)\n", p.Origin, count(p.Entries, "entry", "entries"), p.Policy, p.Entry)
		}
		a.printProblems(r)
		if !keyed {
			a.printf("log key: unverified\n")
		}
		a.printf("%s\n", verdict(r, keyed))
	}
	if r.OK() && len(v.Contradicted) == 0 && (!witnesses || len(r.Unwitnessed) == 0) {
		return nil
	}
	if !keyed && len(r.Problems) == 0 {
		fmt.Fprintln(a.err, "hint: give the log key, kept outside the log's machine, with --key")
	}
	return errFound
}

// verdict tells in a line what a report comes to. Only what a given key signed
// is proven.
func verdict(r *audit.Report, keyed bool) string {
	var proven, others, unsigned, apart int64
	for _, l := range r.Logs {
		if l.Verified {
			proven += l.Proven
		} else {
			others += l.Proven
		}
		if l.Key != "" && l.Proven == 0 {
			apart += l.Entries
		} else {
			unsigned += l.Unsigned
		}
	}
	entries := count(proven, "entry", "entries") + " proven"
	switch {
	case !keyed:
		entries = count(others, "entry", "entries") + " consistent"
	case others > 0:
		entries += fmt.Sprintf(", %d signed by none of the keys given", others)
	}
	if apart > 0 {
		entries += fmt.Sprintf(", %d that their checkpoint does not prove", apart)
	}
	problems := count(int64(len(r.Changed())), "problem", "problems")
	if n := len(r.Unjudged()); n > 0 {
		problems += fmt.Sprintf(", %d that cannot be judged", n)
	}
	return fmt.Sprintf("%s, %d behind no checkpoint yet, %s", entries, unsigned, problems)
}

// problemLine tells a problem, and whether it says that the log was changed.
func problemLine(p audit.Problem) string {
	if p.Judged() {
		return "problem: " + p.String()
	}
	return "cannot be judged: " + p.String()
}

func (a *app) printProblems(r *audit.Report) {
	for _, p := range r.Problems {
		a.printf("%s\n", problemLine(p))
	}
}

// count tells how many of something there are.
func count(n int64, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

func (a *app) printLogs(r *audit.Report) {
	var rows [][]string
	for _, l := range r.Logs {
		key, verified := l.Key, "unverified"
		if l.Verified {
			verified = "verified"
		}
		if key == "" {
			key = "-"
		}
		name := l.Origin
		if name == "" { // nothing in it tells
			name = l.Name
			if l.Entries == 0 {
				name += " (empty)"
			}
		}
		rows = append(rows, []string{
			name, strconv.FormatInt(l.Entries, 10), strconv.FormatInt(l.Proven, 10), strconv.FormatInt(l.Unsigned, 10),
			when(l.ProvenUntil), key, verified,
		})
	}
	a.printTable([]string{"log", "entries", "signed", "unsigned", "signed until (UTC)", "log key", "signature"}, rows)
}

// printLogKeys tells why a key is trusted that was not given, and of a compromise.
func (a *app) printLogKeys(r *audit.Report) {
	for _, k := range r.LogKeys {
		if k.Announced != "" {
			a.printf("log key %s: announced by %s, under %s\n", k.Key, k.Announced, k.By)
		}
		if k.Compromised != "" {
			a.printf("log key %s: compromised, says %s\n", k.Key, k.Compromised)
		}
	}
	for _, l := range r.Logs {
		if l.Compromised != "" {
			a.printf("note: %s is signed by no key that was not compromised by then\n", l.Origin)
		}
	}
}
