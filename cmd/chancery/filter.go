package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// filterFlags say which entries are wanted.
type filterFlags struct {
	filter               audit.Filter
	kid, action, outcome string
	said                 *pflag.FlagSet
}

func (f *filterFlags) add(c *cobra.Command) {
	f.said = pflag.NewFlagSet("filter", pflag.ContinueOnError)
	s := f.said
	s.StringVar(&f.filter.Log, "log", "", "only this log: lifecycle, acts or acts/YYYY-MM")
	s.StringVar(&f.filter.KeySet, "keyset", "", "only of this key set")
	s.StringVar(&f.kid, "kid", "", "only of this key")
	s.StringVar(&f.filter.Principal, "principal", "", "only by this principal")
	s.StringVar(&f.action, "action", "", "only this action, such as jwt.sign or key.activate")
	s.StringVar(&f.outcome, "outcome", "", "only with this outcome: intent, done, refused, failed or unknown")
	s.StringVar(&f.filter.Rule, "rule", "", "only what this rule decided, such as rotation/1")
	s.StringVar(&f.filter.Code, "code", "", "only refused with this code, such as forbidden")
	s.StringVar(&f.filter.JTI, "jti", "", "only of the token with this jti")
	s.StringVar(&f.filter.Serial, "serial", "", "only of the certificate with this serial number, in hexadecimal")
	s.Var(moment{&f.filter.Since}, "since", "not before this time, or this long ago")
	s.Var(moment{&f.filter.Until}, "until", "before this time, or this long ago")
	c.Flags().AddFlagSet(s)
}

// wanted returns what the flags say of the log in dir. A word that no entry can have
// is an error, and so is a log that is not there: nothing found would mean nothing.
func (f *filterFlags) wanted(dir string) (audit.Filter, error) {
	f.filter.KID, f.filter.Action = keystore.KID(f.kid), keystore.Action(f.action)
	f.filter.Outcome = keystore.Outcome(f.outcome)
	if f.filter.Serial != "" {
		if f.filter.Serial = plainSerial(f.filter.Serial); !isSerial(f.filter.Serial) {
			return f.filter, hinted{
				usagef("--serial is a serial number in hexadecimal, of at most 20 bytes"),
				"as `openssl x509 -noout -serial` prints it; capitals, colons and spaces do not matter",
			}
		}
	}
	g, err := audit.ReadGlossary()
	if err != nil {
		return f.filter, err
	}
	if err := known("outcome", f.filter.Outcome, g.Outcomes); err != nil {
		return f.filter, err
	}
	if err := known("action", f.filter.Action, g.Actions); err != nil {
		return f.filter, err
	}
	codes := api.Codes()
	codes[audit.OtherRefusals] = 0
	if err := known("code", api.Code(f.filter.Code), codes); err != nil {
		return f.filter, err
	}
	if !f.filter.Until.IsZero() && !f.filter.Since.Before(f.filter.Until) {
		return f.filter, usagef("--since is not before --until")
	}
	return f.filter, isLogName(dir, f.filter.Log)
}

// known returns an error unless word is empty or one of those that this version
// knows.
func known[W ~string, M any](flag string, word W, words map[W]M) error {
	if _, ok := words[word]; ok || word == "" {
		return nil
	}
	var all []string
	for _, w := range slices.Sorted(maps.Keys(words)) {
		all = append(all, string(w))
	}
	return hinted{usagef("--%s %s: no entry has that", flag, word), "there are " + strings.Join(all, ", ")}
}

// words returns the flags as they were given.
func (f *filterFlags) words() string {
	var words []string
	f.said.VisitAll(func(g *pflag.Flag) {
		if g.Changed {
			words = append(words, "--"+g.Name+" "+g.Value.String())
		}
	})
	return strings.Join(words, " ")
}

// counted yields what there is and tells at the end, if it is reached, that there
// was nothing: an empty table may be a slip of the pen.
func (f *filterFlags) counted(w io.Writer, entries iter.Seq2[audit.Located, error]) iter.Seq2[audit.Located, error] {
	return func(yield func(audit.Located, error) bool) {
		some := false
		for at, err := range entries {
			some = true
			if !yield(at, err) {
				return
			}
		}
		if !some {
			f.none(w)
		}
	}
}

func (f *filterFlags) none(w io.Writer) {
	fmt.Fprintln(w, clean(strings.TrimSuffix("no entry matches "+f.words(), " ")))
}

// plainSerial is a serial number as the log spells it, the bytes of the number in
// lower-case hexadecimal: people copy it with colons or spaces, capitals and
// zeros in it, and with what `openssl x509 -serial` prints before it.
func plainSerial(s string) string {
	s = strings.ToLower(strings.ReplaceAll(strings.Join(strings.Fields(s), ""), ":", ""))
	s = strings.TrimPrefix(strings.TrimPrefix(s, "serial="), "0x")
	if s = strings.TrimLeft(s, "0"); len(s)%2 == 1 {
		s = "0" + s
	}
	return s
}

// isSerial reports whether s, in the log's spelling, can be that of a certificate
// (RFC 5280 Section 4.1.2.2).
func isSerial(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) > 0 && len(b) <= 20
}
