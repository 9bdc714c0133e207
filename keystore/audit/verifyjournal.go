package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// A running daemon writes a group at once, but a reader may see its beginning
// missing for a moment. What looks torn is looked at again before it is called so.
const (
	tornLooks       = 5
	checkpointLooks = 150
	tornPause       = 10 * time.Millisecond
)

// journals reads the log's journals one after the other.
func (c *check) journals() error {
	numbers, err := listJournals(c.dir)
	if err != nil {
		return fmt.Errorf("listing the journals: %w", err)
	}
	last := 0
	for _, n := range numbers {
		for last++; last < n; last++ {
			c.problem(-1, "journal-%d is missing", last)
			c.broken = true
		}
	}
	if len(numbers) == 0 {
		return nil
	}
	// What is signed now stands in journals beyond the last only if it was written
	// meanwhile, and whoever follows a writer that is faster never ends.
	for n := c.firstJournal(); ; n++ {
		path := journalPath(c.dir, n)
		if n > last && (c.next >= c.signed.Size || !exists(path)) {
			return nil
		}
		if !exists(path) {
			continue
		}
		if err := c.journal(path, journalPath(c.dir, n+1)); err != nil {
			return err
		}
	}
}

// progress tells how far it is, and whether to stop.
func (c *check) progress(bytes int64) error {
	c.v.done += bytes
	if c.v.opt.Progress != nil {
		c.v.total = max(c.v.total, c.v.done)
		c.v.opt.Progress(c.v.done, c.v.total)
	}
	return cmp.Or(c.v.resumption.failed, context.Cause(c.v.ctx))
}

// journal reads one journal. It is complete if following exists.
func (c *check) journal(path, following string) error {
	f, err := openPlain(path)
	if err != nil {
		return err
	}
	defer f.Close() // read only
	if !c.header(f, path) {
		return nil
	}
	const chunk = 4 << 20
	sc := newScanner(f, headerSize)
	told, looks, complete := int64(0), 0, false
	for {
		if sc.off-told > chunk {
			if err := c.progress(sc.off - told); err != nil {
				return err
			}
			told = sc.off
		}
		r, err := sc.next()
		if err == nil {
			c.record(r)
			looks = 0
			continue
		}
		_, damaged := errors.AsType[damage](err)
		if err != errEnd && !damaged {
			return fmt.Errorf("%s: %w", path, err)
		}
		if !complete && exists(following) {
			complete = true // it may have grown before the next was born
			sc.again()
			continue
		}
		clean, err2 := c.clean(sc, err)
		if err2 != nil {
			return err2
		}
		if clean {
			info, err := f.Stat()
			if err != nil {
				return err
			}
			return c.progress(info.Size() - told)
		}
		if looks++; !complete && looks < tornLooks {
			if err := pause(c.v.ctx, c.v.pause); err != nil {
				return err
			}
			sc.again()
			continue
		}
		if more, err2 := c.skip(sc, err); err2 != nil || !more {
			return err2
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *check) clean(sc *scanner, err error) (bool, error) {
	if err != errEnd {
		return false, nil
	}
	return sc.restIsZero()
}

// header checks the beginning of a journal, and reports whether to read on.
func (c *check) header(f *os.File, path string) bool {
	b := make([]byte, headerSize)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		c.problem(-1, "%s: %v", path, err)
		return false
	}
	h, err := parseHeader(b)
	if err != nil {
		c.problem(c.next, "%s: %v", path, err)
		c.broken = true
		return true // its records may still be read
	}
	if c.rep.Origin == "" {
		c.rep.Origin = h.origin
	}
	if h.origin != c.rep.Origin {
		c.problem(c.next, "%s belongs to %s", path, h.origin)
		c.broken = true
	}
	if info, err := f.Stat(); err == nil && info.Size() != h.size {
		c.problem(-1, "%s has %d bytes, was made with %d", path, info.Size(), h.size)
	}
	if h.first != c.next && !c.broken {
		c.problem(c.next, "%s begins with entry %d", path, h.first)
	}
	return true
}

// record checks where a record stands, and then its entry.
func (c *check) record(r record) {
	switch {
	case r.index > c.next:
		c.problem(c.next, "missing up to entry %d", r.index-1)
		c.broken = true
	case r.index < c.next:
		c.problem(r.index, "it stands where entry %d has to", c.next)
		c.broken = true
		return
	}
	if r.durable < c.durable {
		c.problem(r.index, "its record was written before the one before it")
	}
	c.durable = r.durable
	if r.index >= c.before {
		c.entry(r)
	}
	c.next = r.index + 1
}

// skip tells that no record stands where sc is, and goes on to the next that
// can be read, if there is one.
func (c *check) skip(sc *scanner, why error) (more bool, err error) {
	if why == errEnd {
		why = errors.New("zeros where its record has to be")
	}
	at := sc.off
	r, err := sc.resync(c.next)
	if err == errEnd {
		c.problem(c.next, "what follows the last entry is no entry (%v): a torn write, or a change", why)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	c.broken = true
	if r.index == c.next {
		c.problem(c.next, "%d bytes before it are no entry: %v", sc.off-at, why)
	} else {
		c.problem(c.next, "it cannot be read: %v", why)
		c.next++
	}
	return true, nil
}
