package audit

import (
	"errors"
	"io/fs"
)

// entries reads the log's journals or, where there is one, its pack: also where
// it takes the journals' place meanwhile.
func (c *check) entries() error {
	if !hasPack(c.dir) {
		err := c.journals()
		if !hasPack(c.dir) || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return c.pack()
}

// pack reads the log's pack from entry next on.
func (c *check) pack() error {
	p, err := openPack(packPath(c.dir))
	if err != nil {
		return err
	}
	defer p.close()
	c.packHeader(p)
	if err := p.seek(max(c.next, c.before)); err != nil {
		return err
	}
	c.next = max(c.next, min(p.next, c.before))
	whole, told := p.next == 0 && p.damaged == nil, int64(0)
	for {
		if p.off != told {
			if err := c.progress(p.off - told); err != nil {
				return err
			}
			told = p.off
		}
		r, err := p.read()
		if err == errEnd {
			if err := p.indexFits(); err != nil && whole && !c.broken {
				c.problem(-1, "%s: %v", packPath(c.dir), err)
			}
			return c.progress(p.size - told)
		}
		l, isLost := errors.AsType[lost](err)
		switch {
		case isLost:
			c.lose(l)
		case err != nil:
			return err
		case r.index >= c.next:
			c.record(r)
		}
	}
}

func (c *check) packHeader(p *pack) {
	switch {
	case p.damaged != nil:
		c.problem(-1, "%s: %v", packPath(c.dir), p.damaged)
		return
	case c.rep.Origin == "":
		c.rep.Origin = p.origin
	}
	if p.origin != c.rep.Origin {
		c.problem(c.next, "%s belongs to %s", packPath(c.dir), p.origin)
		c.broken = true
	}
}

// lose tells which entries of a pack cannot be read, and goes on behind them.
func (c *check) lose(l lost) {
	switch {
	case l.to < l.from:
		c.problem(l.from, "what stands before its frame is none: %v", l.why)
	case l.to == l.from:
		c.problem(l.from, "it cannot be read: %v", l.why)
	default:
		c.problem(l.from, "neither it nor any up to entry %d can be read: %v", l.to, l.why)
	}
	c.broken = c.broken || l.to >= l.from
	c.next = max(c.next, l.to+1)
}
