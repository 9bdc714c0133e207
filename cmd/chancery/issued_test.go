package main

import (
	"bytes"
	"encoding/csv"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

func TestWhichEntryMadeIt(t *testing.T) {
	const (
		done, refused   = keystore.OutcomeDone, keystore.OutcomeRefused
		failed, unknown = keystore.OutcomeFailed, keystore.OutcomeUnknown
		intent          = keystore.OutcomeIntent
	)
	token := issued{token: true, jti: "j", kid: "k", ends: 100}
	cert := issued{serial: "aa", ends: 100}
	signed := issued{serial: "aa", kid: "k", ends: 100}
	type of struct {
		outcome keystore.Outcome
		kid     keystore.KID
		ends    int64
	}
	mine := func(o keystore.Outcome) of { return of{o, "k", 100} }
	for name, c := range map[string]struct {
		of      issued
		entries []of
		want    match
		decides int // index of the entry; -1: none
	}{
		"no entry":                          {token, nil, matchNone, -1},
		"a token that was made":             {token, []of{mine(done)}, matchMade, 0},
		"asked again, and refused":          {token, []of{mine(refused), mine(done)}, matchMade, 1},
		"made, and not released":            {token, []of{mine(done), mine(refused)}, matchWithdrawn, 0},
		"entered, and then not made":        {token, []of{mine(done), mine(failed)}, matchWithdrawn, 0},
		"entered, and then not known":       {token, []of{mine(done), mine(unknown)}, matchWithdrawn, 0},
		"a signature that failed":           {token, []of{mine(failed)}, matchWithdrawn, 0},
		"refused":                           {token, []of{mine(refused)}, matchWithdrawn, 0},
		"unknown":                           {token, []of{mine(unknown)}, matchUnknown, 0},
		"unknown, then refused":             {token, []of{mine(unknown), mine(refused)}, matchUnknown, 0},
		"another key":                       {token, []of{{done, "x", 100}}, matchCounterfeit, 0},
		"an entry without a key":            {token, []of{{refused, "", 100}}, matchCounterfeit, 0},
		"another end":                       {token, []of{{done, "k", 101}}, matchCounterfeit, 0},
		"another's, and its own":            {token, []of{{done, "x", 100}, mine(done)}, matchMade, 1},
		"a certificate that was made":       {cert, []of{mine(intent), mine(done)}, matchMade, 1},
		"and asked for again":               {cert, []of{mine(intent), mine(done), mine(done)}, matchMade, 1},
		"and refused when asked for again":  {cert, []of{mine(intent), mine(done), mine(refused)}, matchMade, 1},
		"a certificate that may be made":    {cert, []of{mine(intent)}, matchUnknown, 0},
		"a certificate that is unknown":     {cert, []of{mine(intent), mine(unknown)}, matchUnknown, 1},
		"a certificate that was not made":   {cert, []of{mine(intent), mine(failed)}, matchWithdrawn, 1},
		"a certificate of another end":      {cert, []of{{done, "k", 99}}, matchCounterfeit, 0},
		"a certificate of another issuer":   {signed, []of{{done, "x", 100}}, matchCounterfeit, 0},
		"a certificate of an unknown key":   {cert, []of{{done, "x", 100}}, matchMade, 0},
		"a certificate of its issuer's key": {signed, []of{mine(done)}, matchMade, 0},
	} {
		var entries []audit.Located
		for n, e := range c.entries {
			rec := keystore.Record{Outcome: e.outcome, KID: e.kid, Serial: c.of.serial, NotAfter: e.ends}
			if c.of.token {
				rec.JTI, rec.Exp, rec.NotAfter = c.of.jti, e.ends, 0
			}
			entries = append(entries, audit.Located{Origin: "o", Entry: audit.Entry{Sequence: int64(n), Record: rec}})
		}
		got := judge(&c.of, entries)
		decides := -1
		if got.entry != nil {
			decides = int(got.entry.Entry.Sequence)
		}
		if got.match != c.want || decides != c.decides {
			t.Errorf("%s: %s by entry %d, want %s by %d", name, got.match, decides, c.want, c.decides)
		}
		if (got.why == "") != (got.match == matchMade) {
			t.Errorf("%s: why: %q", name, got.why)
		}
	}
}

// one yields a single entry.
func one(e audit.Entry) iter.Seq2[audit.Located, error] {
	return func(yield func(audit.Located, error) bool) { yield(audit.Located{Origin: "-o", Entry: e}, nil) }
}

func TestACellIsNoFormula(t *testing.T) {
	e := audit.Entry{Sequence: 7, Time: time.Unix(0, 0), Record: keystore.Record{
		Principal: "@SUM(A1)", Action: "=cmd|'/C calc'!A0", Outcome: "+1", KID: "-kid", Reason: "\t=1", Code: "\r=1", Rule: "'quoted",
		Exp: -5, Detail: map[string]string{"=": "=1"},
	}}
	var out bytes.Buffer
	if err := writeCSV(&out, one(e)); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&out).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || !slices.Equal(rows[0], csvColumns()) {
		t.Fatalf("%q", rows)
	}
	got := map[string]string{}
	for i, cell := range rows[1] {
		got[rows[0][i]] = cell
		if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
			t.Errorf("%s is a formula: %q", rows[0][i], cell)
		}
	}
	for column, want := range map[string]string{
		"name": "'-o#7", "principal": "'@SUM(A1)", "kid": "'-kid", "rule": "''quoted", "exp": "'-5", "seq": "7", "detail": `{"=":"=1"}`, "jti": "",
	} {
		if got[column] != want {
			t.Errorf("%s: %q, want %q", column, got[column], want)
		}
	}
}

// Every member has a column, and a new one is not forgotten.
func TestEveryMemberHasAColumn(t *testing.T) {
	g, err := audit.ReadGlossary()
	if err != nil {
		t.Fatal(err)
	}
	columns := csvColumns()
	for m := range g.Members {
		if !slices.Contains(columns, m) {
			t.Errorf("%s has no column", m)
		}
	}
	if len(columns) != len(g.Members)+1 {
		t.Errorf("%d columns for %d members and the name", len(columns), len(g.Members))
	}
}

func FuzzIssued(f *testing.F) {
	ca := newAuthority()
	f.Add([]byte(tokenBy(ca.key, "s", "a", "k", 100) + "\n# a comment\n\n" + tokenBy(ca.key, "s", "b", "k", 200)))
	f.Add(pemsOf(ca.issue(), ca.cert))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := issuedIn(data)
		if err != nil && all != nil {
			t.Error("both an error and a result")
		}
		for _, i := range all {
			if i.place == "" || i.token && i.jti == "" && i.alien == nil || i.token && i.serial != "" || !i.token && i.jti != "" {
				t.Errorf("%+v", i)
			}
			if m := judge(i, nil); m.match != matchNone {
				t.Errorf("%+v was %s by nothing", i, m.match)
			}
		}
	})
}

// A token that named an entry was called made by a log that has no key to check its
// signature with: another node had made the key.
func TestWhatNobodyCheckedIsOnlyNamed(t *testing.T) {
	i := &issued{token: true, jti: "made", kid: "k", ends: 1}
	entry := audit.Located{Entry: audit.Entry{Record: keystore.Record{Outcome: keystore.OutcomeDone, JTI: "made", KID: "k", Exp: 1}}}
	for _, found := range []match{matchMade, matchUnknown} {
		m := i.signed(matched{match: found, entry: &entry}, []*audit.KeyLives{audit.NewKeyLives()})
		if m.match != matchNamed || m.match.sound() || m.why != "its signature was not checked" {
			t.Errorf("%s: %+v", found, m)
		}
	}
}
