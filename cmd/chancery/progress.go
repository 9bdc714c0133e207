package main

import (
	"fmt"
	"io"
)

// A progressLine says how far something is. On a terminal (live) it is one line
// that is rewritten; elsewhere each new thing is a line, and the same thing said
// twice is said once.
type progressLine struct {
	w    io.Writer
	live bool
	last string
}

func (p *progressLine) say(words string) {
	words = clean(words)
	if words == p.last {
		return
	}
	p.last = words
	if p.live {
		fmt.Fprintf(p.w, "\r\x1b[K%s", words)
		return
	}
	fmt.Fprintln(p.w, words)
}

// end leaves the line.
func (p *progressLine) end() {
	if p.live && p.last != "" {
		fmt.Fprintln(p.w)
	}
}

// wipe takes the line away, for what was only of interest while it lasted.
func (p *progressLine) wipe() {
	if p.live && p.last != "" {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
