package queue

import (
	"container/heap"
	"time"
)

// What holds where Limits does not say.
const (
	// DefaultWindow is for a keystore with two workers: see WindowPerWorker.
	DefaultWindow = 2 * WindowPerWorker
	// WindowPerWorker is as many as one worker of a keystore has at hand: half of them
	// in hand, half on their way. With more, those inside only wait for each other, in
	// a line that knows no shares; with fewer a worker now and then has nothing to do.
	WindowPerWorker = 16
	// DefaultWaiting is how many requests wait before a keystore in all.
	DefaultWaiting = 2048
	// DefaultEach is how many of them may be one principal's: what a keystore that
	// makes a hundred signatures a second makes within half a request's ten seconds.
	DefaultEach = 512
	// MaxWeight is the largest weight of a principal.
	MaxWeight = 1000
)

// Limits bound a queue. The zero value of a member means its default.
type Limits struct {
	Window  int // room inside, for so many signatures by themselves; one request may pass it
	Waiting int // requests that wait, of all principals
	Each    int // requests that wait, of one principal
	Portion int // cost of a batch that comes at a time; 0: all of it, as one request
}

// A work is what a request comes for.
type work struct {
	cost int // to its principal
	room int // of the window
}

// single is work whose signature comes by itself.
func single(cost int) work { return work{cost, cost} }

// portion is work whose signatures come and go together: a worker has nothing to do
// for longer while they are verified, and so twice as many are let in.
func portion(cost int) work { return work{cost, (cost + 1) / 2} }

func (l Limits) withDefaults() Limits {
	if l.Window == 0 {
		l.Window = DefaultWindow
	}
	if l.Waiting == 0 {
		l.Waiting = DefaultWaiting
	}
	if l.Each == 0 {
		l.Each = DefaultEach
	}
	return l
}

// unit is what a request of cost 1 moves a line of weight 1 on in virtual time: so
// much that a weight of MaxWeight still moves.
const unit = 1 << 16

// A schedule decides whose turn it is. It has neither clock nor goroutine, and is
// guarded by whoever has it.
type schedule[K comparable] struct {
	Limits
	weight func(K) int

	now     uint64 // virtual time
	latest  uint64 // the latest start time of any line
	inside  int    // room
	waiting int    // requests
	calls   uint64 // how often a line got a start time: of equal ones the first goes first
	lines   map[K]*line[K]
	called  lines[K] // those in which somebody waits, the next one first
	sweepAt int      // how many lines there are when those nobody needs are thrown away
}

func newSchedule[K comparable](l Limits, weight func(K) int) schedule[K] {
	return schedule[K]{Limits: l.withDefaults(), weight: weight, lines: make(map[K]*line[K]), sweepAt: minSweep}
}

// minSweep is how many principals are remembered at least.
const minSweep = 256

// A line is what is known of one principal.
type line[K comparable] struct {
	key         K
	weight      uint64
	start       uint64 // of the next request, if it does not come later than that
	order       uint64
	at          int // in called
	inside      int // requests
	waiting     int
	first, last *request[K]
	lately      time.Duration // how long the last to be called had waited
}

// A request waits, and is in its line until it is called, withdrawn or pushed out.
type request[K comparable] struct {
	of         *line[K]
	work       work
	in         bool // its line
	prev, next *request[K]
	told       chan error // nil: your turn
	since      time.Time
}

func (s *schedule[K]) line(k K) *line[K] {
	l, ok := s.lines[k]
	if ok {
		return l
	}
	if len(s.lines) >= s.sweepAt {
		s.sweep()
	}
	l = &line[K]{key: k, weight: s.weightOf(k)}
	s.lines[k] = l
	return l
}

func (s *schedule[K]) weightOf(k K) uint64 { return uint64(min(max(s.weight(k), 1), MaxWeight)) }

// sweep forgets the principals who are not here and have nothing to wait for.
func (s *schedule[K]) sweep() {
	for k, l := range s.lines {
		if l.inside == 0 && l.waiting == 0 && l.start <= s.now {
			delete(s.lines, k)
		}
	}
	s.sweepAt = max(minSweep, 2*len(s.lines))
}

// reweigh has the weights that are in force now count from here on.
func (s *schedule[K]) reweigh() {
	for k, l := range s.lines {
		l.weight = s.weightOf(k)
	}
}

// An arrival is what became of a request that came.
type arrival uint8

const (
	entered  arrival = iota + 1
	waits            // r is in its line
	lineFull         // its principal has as many waiting as it may
	allFull          // so have all, and none has more than its principal
)

// arrive lets a request in if there is room and nobody waits, and otherwise has r,
// which make returns, wait. Another that had to give way for it is out, and not in
// its line any more.
func (s *schedule[K]) arrive(l *line[K], w work, make func() *request[K]) (how arrival, r, out *request[K]) {
	if s.waiting == 0 && s.inside < s.Window {
		s.admit(l, w)
		return entered, nil, nil
	}
	if l.waiting >= s.Each {
		return lineFull, nil, nil
	}
	if s.waiting >= s.Waiting {
		longest := s.longest()
		if longest == l || uint64(longest.waiting)*l.weight <= uint64(l.waiting+1)*longest.weight {
			return allFull, nil, nil
		}
		out = longest.last
		s.withdraw(out)
	}
	r = make()
	r.of, r.work = l, w
	s.append(r)
	return waits, r, out
}

// admit lets a request in and moves its line and virtual time on.
func (s *schedule[K]) admit(l *line[K], w work) {
	s.now = max(s.now, l.start)
	l.start = s.now + uint64(w.cost)*unit/l.weight
	s.latest = max(s.latest, l.start)
	l.inside++
	s.inside += w.room
}

func (s *schedule[K]) append(r *request[K]) {
	l := r.of
	r.in = true
	if l.last == nil {
		l.first = r
	} else {
		r.prev, l.last.next = l.last, r
	}
	l.last = r
	l.waiting++
	s.waiting++
	if l.waiting == 1 {
		l.start = max(l.start, s.now)
		s.order(l)
		heap.Push(&s.called, l)
	}
}

// order sets a line behind those that have the same start time.
func (s *schedule[K]) order(l *line[K]) {
	s.calls++
	l.order = s.calls
}

// withdraw takes a request out of its line.
func (s *schedule[K]) withdraw(r *request[K]) {
	l := r.of
	if r.prev == nil {
		l.first = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		l.last = r.prev
	} else {
		r.next.prev = r.prev
	}
	r.prev, r.next, r.in = nil, nil, false
	l.waiting--
	s.waiting--
	if l.waiting == 0 {
		heap.Remove(&s.called, l.at)
	}
}

// next calls the next request in, or returns nil if nobody waits or there is no
// room.
func (s *schedule[K]) next() *request[K] {
	if s.waiting == 0 || s.inside >= s.Window {
		return nil
	}
	l := s.called[0]
	r := l.first
	s.withdraw(r)
	s.admit(l, r.work)
	if l.waiting > 0 {
		s.order(l)
		heap.Fix(&s.called, l.at)
	}
	return r
}

// leave gives the room of a request back. When nobody is left, nobody has had more
// than others.
func (s *schedule[K]) leave(l *line[K], w work) {
	l.inside--
	s.inside -= w.room
	if s.inside == 0 && s.waiting == 0 {
		s.now = s.latest
	}
}

// longest returns the line in which most wait, by weight.
func (s *schedule[K]) longest() *line[K] {
	longest := s.called[0]
	for _, l := range s.called[1:] {
		if uint64(l.waiting)*longest.weight > uint64(longest.waiting)*l.weight {
			longest = l
		}
	}
	return longest
}

// lines is a heap by start time, and among equals by who came first.
type lines[K comparable] []*line[K]

func (h lines[K]) Len() int { return len(h) }
func (h lines[K]) Less(i, j int) bool {
	return h[i].start < h[j].start || h[i].start == h[j].start && h[i].order < h[j].order
}
func (h lines[K]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push implements heap.Interface.
func (h *lines[K]) Push(x any) {
	l := x.(*line[K])
	l.at = len(*h)
	*h = append(*h, l)
}

// Pop implements heap.Interface.
func (h *lines[K]) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return l
}
