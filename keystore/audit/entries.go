package audit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"

	"chancery/keystore"
)

// A Located is an entry and the log it stands in.
type Located struct {
	Origin string
	Entry  Entry
}

// Name returns the entry's name, origin#index, as a Receipt has it.
func (l Located) Name() string { return entryName(l.Origin, l.Entry.Sequence) }

// A Filter says which entries are wanted; zero members want all.
type Filter struct {
	Log       string    // "lifecycle", "acts" or "acts/YYYY-MM"
	From      int64     // the index of the first, which each log counts for itself: to go on in one Log
	Since     time.Time // not before
	Until     time.Time // before
	Principal string
	Action    keystore.Action
	Outcome   keystore.Outcome
	KeySet    string
	KID       keystore.KID
	ID        string
	JTI       string
	Serial    string
	Rule      string
	Code      string
}

func (f *Filter) wantsLog(name string) bool {
	if f.Log != "" && f.Log != name && !(f.Log == actsName && name != lifecycleName) {
		return false
	}
	if month, err := time.Parse(actsName+"/"+monthLayout, name); err == nil {
		return (f.Until.IsZero() || month.Before(f.Until)) && month.AddDate(0, 1, 0).After(f.Since)
	}
	return true
}

func (f *Filter) wants(e *Entry) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	return e.Sequence >= f.From && !e.Time.Before(f.Since) && (f.Until.IsZero() || e.Time.Before(f.Until)) &&
		is(f.Principal, e.Principal) && is(string(f.Action), string(e.Action)) &&
		is(string(f.Outcome), string(e.Outcome)) && is(f.KeySet, e.KeySet) &&
		is(string(f.KID), string(e.KID)) && is(f.ID, e.ID) && is(f.JTI, e.JTI) && is(f.Serial, e.Serial) &&
		is(f.Rule, e.Rule) && is(f.Code, e.Code)
}

// needle is something every entry the filter wants contains, so that the others
// need not be parsed.
func (f *Filter) needle() []byte {
	for _, m := range []struct {
		name, value string
		limit       int
	}{
		{`"jti":"`, f.JTI, limitText}, {`"serial":"`, f.Serial, limitName}, {`"id":"`, f.ID, limitName},
		{`"kid":"`, string(f.KID), limitName}, {`"code":"`, f.Code, limitName}, {`"rule":"`, f.Rule, limitText}, {`"keyset":"`, f.KeySet, limitText},
		{`"principal":"`, f.Principal, limitPrincipal}, {`"action":"`, string(f.Action), limitName},
	} {
		if m.value != "" {
			return appendText(nil, m.name, m.value, m.limit)
		}
	}
	return nil
}

// Entries is EntriesContext for as long as it takes.
func Entries(dir string, f Filter) iter.Seq2[Located, error] {
	return EntriesContext(context.Background(), dir, f)
}

// EntriesContext yields the entries under dir, an audit directory, that f wants,
// of both logs in the order of their times. It takes no lock and is right beside
// a running daemon, whose unacknowledged entries it may yield; it verifies
// checksums and sequence but no signature: see Verify. Of what f.From leaves out
// it opens no journal but the one where f.From stands, and parses nothing. It
// ends after the first error, which is ctx's cause when ctx ends.
func EntriesContext(ctx context.Context, dir string, f Filter) iter.Seq2[Located, error] {
	return entriesAfter(ctx, dir, f, map[string]int64{})
}

// entriesAfter is EntriesContext for what is at or behind next, by log, and
// keeps next at what was not yielded and is to be.
func entriesAfter(ctx context.Context, dir string, f Filter, next map[string]int64) iter.Seq2[Located, error] {
	return func(yield func(Located, error) bool) {
		months, err := listMonths(dir)
		if err != nil {
			yield(Located{}, err)
			return
		}
		var acts []string
		for _, m := range months {
			acts = append(acts, actsName+"/"+m)
		}
		merge(wanted(ctx, dir, []string{lifecycleName}, f, next), wanted(ctx, dir, acts, f, next), yield)
	}
}

// merge yields from both in the order of their times.
func merge(a, b iter.Seq2[Located, error], yield func(Located, error) bool) {
	next, stop := iter.Pull2(b)
	defer stop()
	y, errB, more := next()
	for x, err := range a {
		for more && err == nil && y.Entry.Time.Before(x.Entry.Time) {
			if !yield(y, errB) || errB != nil {
				return
			}
			y, errB, more = next()
		}
		if !yield(x, err) || err != nil {
			return
		}
	}
	for more {
		if !yield(y, errB) || errB != nil {
			return
		}
		y, errB, more = next()
	}
}

func wanted(ctx context.Context, dir string, names []string, f Filter, next map[string]int64) iter.Seq2[Located, error] {
	return func(yield func(Located, error) bool) {
		needle := f.needle()
		for _, name := range names {
			if !f.wantsLog(name) {
				continue
			}
			from := max(f.From, next[name])
			for at, err := range entries(filepath.Join(dir, filepath.FromSlash(name)), from) {
				if err == nil && ctx.Err() != nil {
					err = fmt.Errorf("%s: %w", entryName(at.origin, at.index), context.Cause(ctx))
				}
				if err != nil {
					yield(Located{}, err)
					return
				}
				if at.index < from {
					continue
				}
				if needle == nil || bytes.Contains(at.entry, needle) {
					e, err := ParseEntry(at.entry)
					if err != nil {
						yield(Located{}, fmt.Errorf("%s: %w", entryName(at.origin, at.index), err))
						return
					}
					if f.wants(&e) && !yield(Located{at.origin, e}, nil) {
						return
					}
				}
				next[name] = at.index + 1
			}
		}
	}
}

// A located is a record and the origin of its log. Its entry is good until the
// next is read.
type located struct {
	origin string
	record
}

// entries yields the records of the log in dir, beginning with the first of the
// journal, or of the frame of its pack, in which the record with index from
// stands, or will stand. It ends where the last journal has no whole record any
// more: behind the checkpoint, since what is under that was durable before it.
// Otherwise the last error wraps ErrDamaged.
func entries(dir string, from int64) iter.Seq2[located, error] {
	if hasPack(dir) {
		return packRecords(dir, from)
	}
	return func(yield func(located, error) bool) {
		next, signed := from, signedSize(dir)
		for at, err := range journalRecords(dir, from) {
			if errors.Is(err, fs.ErrNotExist) && hasPack(dir) {
				break
			}
			if !yield(at, err) || err != nil {
				return
			}
			next = at.index + 1
		}
		if !hasPack(dir) {
			if next < signed && exists(dir) {
				yield(located{}, fmt.Errorf("%s: %w: entry %d cannot be read, and its checkpoint is of %d", dir, ErrDamaged, next, signed))
			}
			return
		}
		for at, err := range packRecords(dir, next) { // which has taken the journals' place meanwhile
			if (err != nil || at.index >= next) && !yield(at, err) {
				return
			}
		}
	}
}

// ErrDamaged is what the error wraps of reading a log whose entries end, or cannot be
// read, before others that it had.
var ErrDamaged = errors.New("the log is damaged, or not all there")

// signedSize returns how many entries the checkpoint of the log in dir is of, whoever
// signed it; 0 if there is none that can be read.
func signedSize(dir string) int64 {
	b, err := readPlain(filepath.Join(dir, checkpointFile))
	if err != nil {
		return 0
	}
	c, _, err := OpenSignatures(b, nil)
	if err != nil {
		return 0
	}
	return c.Size
}

// journalRecords is entries for a log that is not packed.
func journalRecords(dir string, from int64) iter.Seq2[located, error] {
	return func(yield func(located, error) bool) {
		n, next, err := journalOf(dir, from)
		if err != nil {
			yield(located{}, err)
			return
		}
		for ; ; n++ {
			more, err := journalEntries(dir, n, &next, yield)
			if err != nil {
				yield(located{}, fmt.Errorf("%s: %w", journalPath(dir, n), err))
			}
			if err != nil || !more {
				return
			}
		}
	}
}

// journalOf returns the number of the journal in which the record with index
// from stands, or will stand, and the index of its first, by what the headers
// say.
func journalOf(dir string, from int64) (n int, first int64, err error) {
	if from <= 0 {
		return 1, 0, nil
	}
	numbers, err := listJournals(dir)
	if err != nil {
		return 0, 0, err
	}
	begins := func(n int) int64 {
		h, failed := readHeader(journalPath(dir, n))
		if failed != nil && err == nil {
			err = fmt.Errorf("%s: %w", journalPath(dir, n), failed)
		}
		return h.first
	}
	i, exact := slices.BinarySearchFunc(numbers, from, func(n int, from int64) int { return cmp.Compare(begins(n), from) })
	if !exact {
		i--
	}
	if i < 0 || err != nil {
		return 1, 0, err // without a journal there is nothing to begin after
	}
	first = begins(numbers[i])
	return numbers[i], first, err
}

// journalEntries yields the records of one journal, the first of which has to
// be next, and reports whether there is another journal.
func journalEntries(dir string, n int, next *int64, yield func(located, error) bool) (more bool, err error) {
	f, err := openPlain(journalPath(dir, n))
	if errors.Is(err, fs.ErrNotExist) && n > 1 {
		return false, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		_, err = os.Stat(dir)
		return false, err // a log without a journal yet
	}
	if err != nil {
		return false, err
	}
	defer f.Close() // read only
	b := make([]byte, headerSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		return false, err
	}
	h, err := parseHeader(b)
	if err != nil {
		return false, err
	}
	sc := newScanner(f, headerSize)
	followed := false // there is a later journal, so that this one is complete
	for {
		r, err := sc.next()
		if _, damaged := errors.AsType[damage](err); err == errEnd || damaged {
			if followed && err == errEnd {
				return true, nil
			}
			if followed {
				return false, fmt.Errorf("%w: entry %d: %w", ErrDamaged, *next, err)
			}
			if followed = exists(journalPath(dir, n+1)); !followed {
				return false, nil
			}
			sc.again() // it may have grown between our last look and the next journal's birth
			continue
		}
		if err != nil {
			return false, err
		}
		if r.index != *next {
			return false, fmt.Errorf("%w: entry %d stands where %d has to", ErrDamaged, r.index, *next)
		}
		*next++
		if !yield(located{h.origin, r}, nil) {
			return false, nil
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
