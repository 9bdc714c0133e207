package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"chancery/keystore/audit"
)

func (a *app) auditProveCommand() *cobra.Command {
	var log, file string
	c := &cobra.Command{
		Use:   "prove INDEX|SERIAL|JTI|ENTRY [LOGDIR]",
		Short: "Write a proof that an entry is in the log, for somebody who has not the log",
		Long: "Write a proof (C2SP tlog-proof) that an entry is in the log: the entry itself, where it\n" +
			"stands, the hashes that lead from it to the root, and the checkpoint the log signed. Who\n" +
			"has the log key checks it with `chancery audit check-proof`, offline and without the log.\n" +
			"Of several entries of a token or certificate it is the first that tells that it was made.",
		Example: "  chancery --dir dev audit prove NC2NjldZsQmRu3KG8o19fA --out token.tlog-proof\n" +
			"  chancery audit prove 17 --log acts/2026-11 /var/lib/chancery/audit >17.tlog-proof",
		Args: wordAndLogDir("ENTRY"),
	}
	c.SetFlagErrorFunc(belowZero)
	c.Flags().StringVar(&log, "log", "lifecycle", "the log of an INDEX: lifecycle or acts/YYYY-MM")
	c.Flags().StringVar(&file, "out", "", "write to this file, which must not be there yet (default: standard output)")
	c.RunE = does(func(ctx context.Context, args []string) error {
		if a.json {
			return hinted{usagef("audit prove: a proof is a text of its own (C2SP tlog-proof), not JSON"), "`chancery audit check-proof --json` tells of a proof in JSON"}
		}
		dir, err := a.logDir(args[1:])
		if err != nil {
			return err
		}
		if err := isLogName(dir, log); err != nil {
			return err
		}
		all, err := find(ctx, dir, args[0], log)
		if err != nil {
			return err
		}
		at := mainOf(all)
		p, err := audit.Prove(ctx, dir, at.Log(), at.Entry.Sequence)
		if err != nil {
			return err
		}
		err = a.writeOut(file, func(w io.Writer) error {
			_, err := w.Write(p.Append(nil))
			return err
		})
		if err == nil && file != "" {
			a.printf("proof of %s written to %s\n", at.Name(), file)
		}
		return err
	})
	return c
}
