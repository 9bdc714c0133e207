package catalog

import (
	"bytes"
	"database/sql"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"reflect"
	"strings"
	"time"

	"chancery/keystore"
)

// How the words of the chancery stand in columns: one function each way, and a
// checksum over what is written, which is checked over what is read. It finds
// a flipped bit, not a forger: a row is a claim in any case.

// micros returns t as a column.
func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

func timeOf(n sql.NullInt64) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return time.UnixMicro(n.Int64).UTC()
}

// cut returns t as it will be read back.
func cut(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.UnixMicro(t.UnixMicro()).UTC()
}

// roundUp is cut for a time that must not come out earlier.
func roundUp(t time.Time) time.Time {
	c := cut(t)
	if c.Before(t) {
		c = c.Add(time.Microsecond)
	}
	return c
}

// cutFact makes f as it will be read back. PostgreSQL keeps no text with a zero
// byte or of another encoding.
func cutFact(f *keystore.Fact) {
	if f != nil {
		f.At, f.By, f.Reason = cut(f.At), plain(f.By), plain(f.Reason)
	}
}

func plain(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// cutSet makes every time of ks as it will be read back.
func cutSet(ks *keystore.KeySet) {
	ks.CreatedAt, ks.ServedAt = cut(ks.CreatedAt), cut(ks.ServedAt)
	cutFact(ks.RotateBy)
	for i := range ks.Promises {
		ks.Promises[i].At = cut(ks.Promises[i].At)
	}
	for i := range ks.Versions {
		v := &ks.Versions[i]
		for _, t := range []*time.Time{&v.CreatedAt, &v.PublishedAt, &v.ServedAt, &v.ActivatedAt, &v.StoppedAt, &v.RetiredAt, &v.DestroyedAt} {
			*t = cut(*t)
		}
		v.ExpHorizon = roundUp(v.ExpHorizon)
		cutFact(v.Suspended)
		cutFact(v.Compromised)
	}
}

func factColumns(f *keystore.Fact) []any {
	if f == nil {
		return []any{nil, nil, nil}
	}
	return []any{micros(f.At), f.By, f.Reason}
}

func nullable(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}

// The columns of a row in the order of its table, without the checksum.

func keySetRow(ks *keystore.KeySet) []any {
	row := []any{ks.Name, string(ks.Purpose), string(ks.Algorithm), ks.Keystore, ks.Revision, micros(ks.CreatedAt), micros(ks.ServedAt)}
	row = append(row, factColumns(ks.RotateBy)...)
	return append(row, int64(len(ks.Versions)), int64(len(ks.Promises)))
}

// sealedSet returns every column of a key set's row. What it has announced came
// later, stands behind the checksum, and counts in it only if there is any.
func sealedSet(ks *keystore.KeySet) []any {
	row := keySetRow(ks)
	return append(row, setSum(row, ks), joined(ks.Announced))
}

func setSum(row []any, ks *keystore.KeySet) int64 {
	if len(ks.Announced) > 0 {
		row = append(row[:len(row):len(row)], joined(ks.Announced))
	}
	return sum(row)
}

// joined returns algorithms as a column: their names with spaces between.
func joined(algs []keystore.Algorithm) string {
	names := make([]string, len(algs))
	for i, a := range algs {
		names[i] = string(a)
	}
	return strings.Join(names, " ")
}

func algorithmsOf(column string) []keystore.Algorithm {
	var algs []keystore.Algorithm
	for name := range strings.FieldsSeq(column) {
		algs = append(algs, keystore.Algorithm(name))
	}
	return algs
}

func promiseRow(keyset string, position int, p keystore.Promise) []any {
	return []any{keyset, int64(position), micros(p.At), int64(p.MaxAge), int64(p.CacheFor), int64(p.MaxLifetime)}
}

func versionRow(keyset string, v *keystore.Version) []any {
	row := []any{keyset, int64(v.Number), string(v.Algorithm), v.Keystore, v.KeyID[:]}
	if v.KID == "" {
		row = append(row, nil, nil, nil)
	} else {
		hash := keystore.HashSPKI(v.SPKI)
		row = append(row, string(v.KID), nullable(v.SPKI), hash[:])
	}
	row = append(row, v.State.String(), micros(v.CreatedAt), micros(v.PublishedAt), micros(v.ServedAt), micros(v.ActivatedAt),
		micros(v.StoppedAt), micros(v.RetiredAt), micros(v.DestroyedAt), micros(v.ExpHorizon), int64(v.MaxLifetime))
	row = append(row, factColumns(v.Suspended)...)
	return append(row, factColumns(v.Compromised)...)
}

// sealedVersion returns every column of a version's row. Its maker came later and
// counts like what a set has announced.
func sealedVersion(keyset string, v *keystore.Version) []any {
	row := versionRow(keyset, v)
	return append(row, versionSum(row, v), v.Maker)
}

func versionSum(row []any, v *keystore.Version) int64 {
	return sum(withNode(row, v.Maker))
}

// withNode returns the columns that count in a sum: the node too, if there is
// one.
func withNode(row []any, node string) []any {
	if node == "" {
		return row
	}
	return append(row[:len(row):len(row)], node)
}

func ackRow(keyset string, a keystore.Ack) []any {
	return []any{a.Node, keyset, int64(a.Version), micros(a.At)}
}

// sum returns the checksum of a row: CRC-32C over its columns, each with its
// type and length.
func sum(row []any) int64 {
	crc := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	var head [9]byte
	put := func(kind byte, n uint64, b []byte) {
		head[0] = kind
		binary.BigEndian.PutUint64(head[1:], n)
		crc.Write(head[:])
		crc.Write(b)
	}
	for _, column := range row {
		switch c := column.(type) {
		case nil:
			put('n', 0, nil)
		case int64:
			put('i', uint64(c), nil)
		case string:
			put('t', uint64(len(c)), []byte(c))
		case []byte:
			put('b', uint64(len(c)), c)
		default:
			panic(fmt.Sprintf("catalog: no column holds a %T", column))
		}
	}
	return int64(crc.Sum32())
}

func sealed(row []any) []any { return append(row, sum(row)) }

func sameRow(a, b []any) bool { return reflect.DeepEqual(a, b) }

// A scanner is a *sql.Row or *sql.Rows.
type scanner interface{ Scan(...any) error }

type nullFact struct {
	at         sql.NullInt64
	by, reason sql.NullString
}

func (n *nullFact) targets() []any { return []any{&n.at, &n.by, &n.reason} }

func (n *nullFact) fact() *keystore.Fact {
	if !n.at.Valid {
		return nil
	}
	return &keystore.Fact{At: timeOf(n.at), By: n.by.String, Reason: n.reason.String}
}

// scanKeySet reads a row of keyset: the set, and how many versions and promises
// belong to it.
func scanKeySet(s scanner) (ks *keystore.KeySet, versions, promises int, err error) {
	ks = &keystore.KeySet{}
	var created, served sql.NullInt64
	var rotate nullFact
	var want int64
	var announced string
	targets := append([]any{&ks.Name, &ks.Purpose, &ks.Algorithm, &ks.Keystore, &ks.Revision, &created, &served}, rotate.targets()...)
	if err := s.Scan(append(targets, &versions, &promises, &want, &announced)...); err != nil {
		return nil, 0, 0, err
	}
	ks.Announced = algorithmsOf(announced)
	ks.CreatedAt, ks.ServedAt, ks.RotateBy = timeOf(created), timeOf(served), rotate.fact()
	row := keySetRow(ks)
	row[len(row)-2], row[len(row)-1] = int64(versions), int64(promises)
	if setSum(row, ks) != want {
		return nil, 0, 0, damaged("the row of key set %q does not fit its checksum", ks.Name)
	}
	return ks, versions, promises, nil
}

func scanPromise(s scanner) (keyset string, position int, p keystore.Promise, err error) {
	var at sql.NullInt64
	var want int64
	if err := s.Scan(&keyset, &position, &at, &p.MaxAge, &p.CacheFor, &p.MaxLifetime, &want); err != nil {
		return "", 0, p, err
	}
	p.At = timeOf(at)
	if sum(promiseRow(keyset, position, p)) != want {
		return "", 0, p, damaged("a promise of key set %q does not fit its checksum", keyset)
	}
	return keyset, position, p, nil
}

func scanVersion(s scanner) (keyset string, v keystore.Version, err error) {
	var keyID, spki, hash []byte
	var kid sql.NullString
	var state string
	var created, published, served, activated, stopped, retired, destroyed, horizon sql.NullInt64
	var suspended, compromised nullFact
	var want int64
	targets := []any{&keyset, &v.Number, &v.Algorithm, &v.Keystore, &keyID, &kid, &spki, &hash, &state,
		&created, &published, &served, &activated, &stopped, &retired, &destroyed, &horizon, &v.MaxLifetime}
	targets = append(targets, suspended.targets()...)
	targets = append(targets, compromised.targets()...)
	if err := s.Scan(append(targets, &want, &v.Maker)...); err != nil {
		return "", v, err
	}
	whole := copy(v.KeyID[:], keyID) == len(keyID) && len(keyID) == len(v.KeyID)
	if spki != nil {
		h := keystore.HashSPKI(spki)
		whole = whole && bytes.Equal(h[:], hash)
	}
	v.KID, v.SPKI = keystore.KID(kid.String), spki
	v.State, err = keystore.ParseState(state)
	v.CreatedAt, v.PublishedAt, v.ServedAt, v.ActivatedAt = timeOf(created), timeOf(published), timeOf(served), timeOf(activated)
	v.StoppedAt, v.RetiredAt, v.DestroyedAt, v.ExpHorizon = timeOf(stopped), timeOf(retired), timeOf(destroyed), timeOf(horizon)
	v.Suspended, v.Compromised = suspended.fact(), compromised.fact()
	if err != nil || !whole || versionSum(versionRow(keyset, &v), &v) != want {
		return "", v, damaged("the row of key set %q version %d does not fit its checksum", keyset, v.Number)
	}
	return keyset, v, nil
}

func scanAck(s scanner) (keyset string, a keystore.Ack, err error) {
	var at, want int64
	if err := s.Scan(&a.Node, &keyset, &a.Version, &at, &want); err != nil {
		return "", a, err
	}
	a.At = time.UnixMicro(at).UTC()
	if sum(ackRow(keyset, a)) != want {
		return "", a, damaged("an acknowledgement of key set %q does not fit its checksum", keyset)
	}
	return keyset, a, nil
}
