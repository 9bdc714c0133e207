package audit

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A span is numbers that follow each other, both ends included.
type span struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
	At   place `json:"at"`
}

// A place is where in the logs something was met first.
type place struct {
	Log   string    `json:"log"`
	Index int64     `json:"index"`
	Time  time.Time `json:"time"`
}

// spans are numbers from 1, as spans that ascend and do not touch. However many
// numbers there are, it is as large as there are gaps between them.
type spans []span

// maxUse is beyond every number, with room to count on.
const maxUse = 1 << 62

// add adds the numbers from to to, which were met at a place, and reports false,
// and adds nothing, if one of them is there already. A span is where its lowest
// number was met, at the time when the first number above the gap below it was.
func (s *spans) add(from, to int64, at place) bool {
	all := *s
	i := len(all)
	if i > 0 && from <= all[i-1].To {
		i, _ = slices.BinarySearchFunc(all, from, func(x span, n int64) int { return cmp.Compare(x.To, n) })
	}
	// All below i end before from.
	if i < len(all) && all[i].From <= to {
		return false
	}
	left := i > 0 && all[i-1].To == from-1
	right := i < len(all) && all[i].From == to+1
	if i < len(all) && all[i].At.Time.Before(at.Time) {
		at.Time = all[i].At.Time
	}
	switch {
	case left && right:
		all[i-1].To = all[i].To
		*s = slices.Delete(all, i, i+1)
	case left:
		all[i-1].To = to
	case right:
		all[i].From, all[i].At = from, at
	default:
		*s = slices.Insert(all, i, span{from, to, at})
	}
	return true
}

// has reports whether n is among the numbers.
func (s spans) has(n int64) bool {
	i, _ := slices.BinarySearchFunc(s, n, func(x span, n int64) int { return cmp.Compare(x.To, n) })
	return i < len(s) && s[i].From <= n
}

// last returns the highest number; 0 if there is none.
func (s spans) last() int64 {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1].To
}

// count returns how many numbers there are.
func (s spans) count() (n int64) {
	for _, x := range s {
		n += x.To - x.From + 1
	}
	return n
}

// missing returns the numbers from first to last that are not there.
func (s spans) missing(first, last int64) (gaps spans) {
	for _, x := range s {
		if x.To < first {
			continue
		}
		if x.From > last {
			break
		}
		if x.From > first {
			gaps = append(gaps, span{From: first, To: x.From - 1})
		}
		first = x.To + 1
	}
	if first <= last {
		gaps = append(gaps, span{From: first, To: last})
	}
	return gaps
}

// appendText appends the span as text: "17", or "17-19".
func (x span) appendText(b []byte) []byte {
	b = strconv.AppendInt(b, x.From, 10)
	if x.To > x.From {
		b = strconv.AppendInt(append(b, '-'), x.To, 10)
	}
	return b
}

func (x span) String() string { return string(x.appendText(nil)) }

// String returns the numbers as text: "17-19,23".
func (s spans) String() string {
	var b []byte
	for i, x := range s {
		if i > 0 {
			b = append(b, ',')
		}
		b = x.appendText(b)
	}
	return string(b)
}

// cut returns what of s makes a text of at most limit bytes, and the rest.
func (s spans) cut(limit int) (fits, rest spans) {
	n := 0
	for i, x := range s {
		if n += len(x.appendText(nil)) + 1; n > limit+1 && i > 0 {
			return s[:i], s[i:]
		}
	}
	return s, nil
}

// parseSpans reads what String wrote, and nothing else.
func parseSpans(text string) (spans, error) {
	var s spans
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(part, "-")
		if !ranged {
			to = from
		}
		x := span{}
		var errFrom, errTo error
		x.From, errFrom = strconv.ParseInt(from, 10, 64)
		x.To, errTo = strconv.ParseInt(to, 10, 64)
		if errFrom != nil || errTo != nil || x.From <= s.last() || x.To < x.From || x.To >= maxUse {
			return nil, errors.New("no ascending ranges of numbers")
		}
		s = append(s, x)
	}
	for i, x := range s { // what touches is one
		if i > 0 && s[i-1].To+1 == x.From {
			return nil, errors.New("no ascending ranges of numbers")
		}
	}
	if s.String() != text {
		return nil, errors.New("no ascending ranges of numbers")
	}
	return s, nil
}
