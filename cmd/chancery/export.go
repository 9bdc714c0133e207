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
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

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
			"csv: RFC 4180 with a heading, a column for the name and each member, detail as JSON, for\n" +
			"spreadsheets and terminals. Callers choose some of what is in it, so control and formatting\n" +
			"characters (newline, escape, NUL, those that turn the direction of writing) are written as\n" +
			"JSON does, \\u001b, and a backslash as two, but for detail, where JSON has done so. A cell that\n" +
			"a spreadsheet could take for a formula, beginning with = + - @ or one of their full-width\n" +
			"forms, has an apostrophe before it, and so has one that begins with an apostrophe. What is\n" +
			"to be compared or verified is jsonl.",
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
		if a.json && format != "jsonl" {
			return usagef("audit export: --json, or --format %s, not both", format)
		}
		dir, err := a.logDir(args)
		if err != nil {
			return err
		}
		filter, err := f.wanted(dir)
		if err != nil {
			return err
		}
		if err := a.tellRemoved(ctx, dir, filter); err != nil {
			return err
		}
		entries := f.counted(a.err, audit.EntriesContext(ctx, dir, filter))
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
		row[0] = harmless(printable(at.Name(), false))
		members, err := membersOf(&at.Entry)
		if err != nil {
			return err
		}
		for _, m := range members {
			row[slices.Index(columns, m.name)] = harmless(printable(m.text, m.name == "detail"))
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
	first, _ := utf8.DecodeRuneInString(cell)
	if cell != "" && strings.ContainsRune("=+-@＝＋－＠'", first) {
		return "'" + cell
	}
	return cell
}

// printable writes what a terminal or spreadsheet could obey as a string of JSON has
// it (RFC 8259 Section 7), and a backslash as two, so that it can be undone. Text that
// is JSON already stays the same JSON.
func printable(text string, isJSON bool) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\\' && !isJSON:
			b.WriteString(`\\`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			for _, unit := range utf16.AppendRune(nil, r) {
				fmt.Fprintf(&b, `\u%04x`, unit)
			}
		}
	}
	return b.String()
}

// eachMember calls each with the members of an entry, in their order.
func eachMember(entry []byte, each func(name string, value json.RawMessage) error) error {
	return api.Object(entry, api.Limits{Bytes: audit.MaxEntry, String: audit.MaxEntry}, func(name, value []byte) error {
		return each(string(name), value)
	})
}
