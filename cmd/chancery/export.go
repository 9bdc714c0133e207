package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"chancery/keystore/audit"
	"chancery/signer/api"
)

func (a *app) auditExportCommand() *cobra.Command {
	var f filterFlags
	var format, file string
	c := &cobra.Command{
		Use:   "export --format jsonl|csv [--out FILE] [LOGDIR]",
		Short: "Write entries for other programs",
		Long: "Write entries, both logs in the order of time, for other programs to read.\n\n" +
			"jsonl: a line for each, {\"name\":\"ORIGIN#INDEX\",\"entry\":{...}}, the entry as it stands in\n" +
			"the log and is hashed; `chancery audit list --json` prints entries alone, and `chancery\n" +
			"audit schema` says what is in them.\n\n" +
			"csv: RFC 4180 with a heading, a column for the name and each member, detail as JSON. A\n" +
			"cell that a spreadsheet could take for a formula, beginning with = + - @, a tab or a\n" +
			"carriage return, has an apostrophe before it, and so has one that begins with an\n" +
			"apostrophe.",
		Example: "  chancery --dir dev audit export --format csv --keyset web --since 720h --out web.csv\n" +
			"  chancery audit export --format jsonl /var/lib/chancery/audit | jq .entry.action",
		Args: atMostLogDir,
	}
	f.add(c)
	c.Flags().StringVar(&format, "format", "", "jsonl or csv")
	c.Flags().StringVar(&file, "out", "", "write to this file, which must not be there yet (default: standard output)")
	c.RunE = does(func(ctx context.Context, args []string) error {
		write := map[string]func(io.Writer, iter.Seq2[audit.Located, error]) error{"jsonl": writeJSONLines, "csv": writeCSV}[format]
		if write == nil {
			return usagef("audit export: --format is jsonl or csv")
		}
		dir, err := a.logDir(args)
		if err != nil {
			return err
		}
		entries := audit.EntriesContext(ctx, dir, f.wanted())
		return a.writeOut(file, func(w io.Writer) error { return write(w, entries) })
	})
	return c
}

// writeOut has write write to a new file, or to standard output for "".
func (a *app) writeOut(path string, write func(io.Writer) error) (err error) {
	if path == "" {
		return write(a.out)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if err = errors.Join(write(f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path)) // half of it would pass for all
	}
	return nil
}

func writeJSONLines(w io.Writer, entries iter.Seq2[audit.Located, error]) error {
	out := bufio.NewWriter(w)
	for at, err := range entries {
		if err != nil {
			return errors.Join(fmt.Errorf("reading the log: %w", err), out.Flush())
		}
		line, err := json.Marshal(at.Name())
		if err != nil {
			return err
		}
		line = at.Entry.Append(append(append([]byte(`{"name":`), line...), `,"entry":`...))
		if _, err := out.Write(append(line, "}\n"...)); err != nil {
			return err
		}
	}
	return out.Flush()
}

// csvColumns are the columns of an export, in their order: the name, and an
// entry's members. New members come at the end.
func csvColumns() []string {
	return []string{
		"name", "v", "seq", "time", "id", "principal", "action", "outcome", "keyset", "kid", "version", "use", "state", "rule",
		"policy", "request", "code", "reason", "exp", "jti", "authority", "profile", "serial", "not_after", "count", "detail",
	}
}

func writeCSV(w io.Writer, entries iter.Seq2[audit.Located, error]) error {
	out := csv.NewWriter(w)
	columns := csvColumns()
	if err := out.Write(columns); err != nil {
		return err
	}
	row := make([]string, len(columns))
	for at, err := range entries {
		if err != nil {
			out.Flush()
			return errors.Join(fmt.Errorf("reading the log: %w", err), out.Error())
		}
		clear(row)
		row[0] = harmless(at.Name())
		members, err := membersOf(&at.Entry)
		if err != nil {
			return err
		}
		for _, m := range members {
			row[slices.Index(columns, m.name)] = harmless(m.text)
		}
		if err := out.Write(row); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// harmless keeps a spreadsheet from taking a cell for a formula
// (https://owasp.org/www-community/attacks/CSV_Injection). What was done is to be
// undone: an apostrophe at the beginning always is one too many.
func harmless(cell string) string {
	if cell != "" && strings.ContainsRune("=+-@\t\r'", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}

// eachMember calls each with the members of an entry, in their order.
func eachMember(entry []byte, each func(name string, value json.RawMessage) error) error {
	return api.Object(entry, api.Limits{Bytes: audit.MaxEntry, String: audit.MaxEntry}, func(name, value []byte) error {
		return each(string(name), value)
	})
}
