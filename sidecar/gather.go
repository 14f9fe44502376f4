package sidecar

import (
	"cmp"
	"slices"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// gather decides which records go into which request, and when (A8, A42). It is a pure state
// machine: it has no goroutine, lock, clock or I/O. The channel calls it under its lock and does
// what it returns.
//
// Records wait in pending until next takes them into a group, which becomes one request in flight.
// A group that failed because of its content comes back as parts. The records of a part never mix
// with other records again.
type gather[IN any] struct {
	rows   int // the largest number of rows in a request
	window int // the largest number of requests in flight

	pending fifo[async.Call[IN]]
	parts   fifo[*group[IN]]
	flight  []*group[IN]
	spare   []*group[IN]
	ids     []async.CallID // buffer of cancel, sorted
}

// group is the records of one request.
type group[IN any] struct {
	calls []async.Call[IN]
	fates []fate
	live  int       // calls that still want an answer
	part  bool      // its calls come from a request that failed
	alone bool      // while it is in flight, no other request is
	plain bool      // without shared memory
	trial bool      // it is a half of a request that may have been too large (A75)
	sent  time.Time // when the request was sent; zero: not yet
	// abort ends the request in flight; nil: it is not in flight.
	abort func()
}

// fate says what became of a call of a group.
type fate uint8

const (
	wanted fate = iota // its row is in the request, or will be
	gone               // it has its outcome: cancelled, timed out or completed
	later              // it does not fit in with the other rows; it goes into another request
)

// add takes calls to gather. They wait until next takes them.
func (g *gather[IN]) add(calls []async.Call[IN]) { g.pending.push(calls...) }

// due returns how many requests could be sent now.
func (g *gather[IN]) due() int {
	if len(g.flight) > 0 && (g.flight[0].alone || g.parts.len() > 0 && g.parts.items()[0].alone) {
		return 0
	}
	if g.parts.len() > 0 && g.parts.items()[0].alone {
		return 1
	}
	waiting := g.parts.len() + (g.pending.len()+g.rows-1)/g.rows
	return max(0, min(waiting, g.window-len(g.flight)))
}

// next takes the records of the next request. It returns nil if no records wait or the window is
// full. Parts of failed requests go first: their records have waited longest.
func (g *gather[IN]) next() *group[IN] {
	if g.due() == 0 {
		return nil
	}
	var r *group[IN]
	if g.parts.len() > 0 {
		r = g.parts.items()[0]
		g.parts.drop(1)
	} else {
		n := min(g.pending.len(), g.rows)
		r = g.group(g.pending.items()[:n])
		g.pending.drop(n)
	}
	g.flight = append(g.flight, r)
	return r
}

// encoded updates a group after its request was built; the caller has set fates. Calls marked later
// wait again, at the front. Calls marked gone have their outcome. The group's calls are then the
// request's rows, in order. A call that was cancelled meanwhile and has a row keeps the row, as
// gone.
func (g *gather[IN]) encoded(r *group[IN], fates []fate) {
	var rest []async.Call[IN]
	n := 0
	for i, c := range r.calls {
		switch {
		case fates[i] == wanted:
			r.calls[n], r.fates[n] = c, r.fates[i]
			n++
			continue
		case fates[i] == later && r.fates[i] == wanted:
			rest = append(rest, c)
		}
		if r.fates[i] == wanted {
			r.live--
		}
	}
	clear(r.calls[n:])
	r.calls, r.fates = r.calls[:n], r.fates[:n]
	switch {
	case len(rest) == 0:
	case r.part:
		p := g.group(rest)
		p.part, p.alone, p.plain, p.trial = true, r.alone, r.plain, r.trial
		g.parts.pushFront(p)
	default:
		g.pending.pushFront(rest...)
	}
}

// answered frees a group's place in the window. The caller owns the group until recycle.
func (g *gather[IN]) answered(r *group[IN]) {
	if i := slices.Index(g.flight, r); i >= 0 {
		g.flight = slices.Delete(g.flight, i, i+1)
	}
	r.abort, r.sent = nil, time.Time{}
}

// oldest returns when the oldest request in flight was sent. Zero: none is in flight.
func (g *gather[IN]) oldest() (at time.Time) {
	for _, r := range g.flight {
		if !r.sent.IsZero() && (at.IsZero() || r.sent.Before(at)) {
			at = r.sent
		}
	}
	return at
}

// again queues a part with those calls of r in [from, to) that are still wanted. alone says whether
// it is sent alone.
func (g *gather[IN]) again(r *group[IN], from, to int, alone bool) {
	if p := g.partOf(r, from, to, alone); p != nil {
		g.parts.push(p)
	}
}

// partOf returns a part with those calls of r in [from, to) that are still wanted. Nil: all have
// their outcome.
func (g *gather[IN]) partOf(r *group[IN], from, to int, alone bool) *group[IN] {
	p := g.group(r.calls[from:to])
	copy(p.fates, r.fates[from:to])
	p.compact()
	if p.part, p.alone, p.plain = true, alone, r.plain; p.live == 0 {
		g.recycle(p)
		return nil
	}
	return p
}

// halves queues two parts of a group that failed, with equally many wanted calls.
func (g *gather[IN]) halves(r *group[IN], alone bool) {
	mid := r.middle()
	g.again(r, 0, mid, alone)
	g.again(r, mid, len(r.calls), alone)
}

// middle returns the index before which half of the wanted calls lie.
func (r *group[IN]) middle() (mid int) {
	for n := 0; n < r.live/2; mid++ {
		if r.fates[mid] == wanted {
			n++
		}
	}
	return mid
}

// try queues halves of a group that may have been too large, to be sent before everything else and
// one at a time. If one passes, the group was too large.
func (g *gather[IN]) try(r *group[IN]) {
	mid := r.middle()
	for _, span := range [][2]int{{mid, len(r.calls)}, {0, mid}} {
		if p := g.partOf(r, span[0], span[1], true); p != nil {
			p.trial = true
			g.parts.pushFront(p)
		}
	}
}

// tried ends a trial after a half has passed. The other halves need no longer be sent alone.
func (g *gather[IN]) tried() {
	for _, p := range g.parts.items() {
		if p.trial {
			p.trial, p.alone = false, false
		}
	}
}

// giveUp ends a trial in which no half has passed, and appends the trial's waiting calls to dst.
func (g *gather[IN]) giveUp(dst []async.CallID) []async.CallID {
	g.parts.filter(func(p **group[IN]) bool {
		r := *p
		if !r.trial {
			return true
		}
		for i := range r.calls {
			dst = append(dst, r.calls[i].ID)
		}
		g.recycle(r)
		return false
	})
	return dst
}

// cancel forgets calls that have their outcome. A request without any wanted row left is aborted.
func (g *gather[IN]) cancel(ids []async.CallID) {
	g.ids = append(g.ids[:0], ids...)
	slices.SortFunc(g.ids, compareIDs)
	named := func(c *async.Call[IN]) bool {
		_, ok := slices.BinarySearchFunc(g.ids, c.ID, compareIDs)
		return ok
	}
	g.pending.filter(func(c *async.Call[IN]) bool { return !named(c) })
	mark := func(r *group[IN]) {
		for i := range r.calls {
			if r.fates[i] == wanted && named(&r.calls[i]) {
				r.fates[i] = gone
				r.live--
			}
		}
	}
	g.parts.filter(func(p **group[IN]) bool {
		r := *p
		mark(r)
		r.compact()
		if r.live == 0 {
			g.recycle(r)
		}
		return r.live > 0
	})
	for _, r := range g.flight {
		before := r.live
		mark(r)
		if r.live == 0 && before > 0 && r.abort != nil {
			r.abort()
		}
	}
}

// surplus removes the calls that wait and were never in a request, and appends them to dst. If no
// other call is in progress, it keeps one: all others may be waiting for that one.
func (g *gather[IN]) surplus(dst []async.CallID) []async.CallID {
	keep := 1
	if g.parts.len() > 0 || slices.ContainsFunc(g.flight, func(r *group[IN]) bool { return r.live > 0 }) {
		keep = 0
	}
	items := g.pending.items()
	if len(items) <= keep {
		return dst
	}
	for _, c := range items[keep:] {
		dst = append(dst, c.ID)
	}
	oldest := slices.Clone(items[:keep])
	g.pending.drop(g.pending.len())
	g.pending.push(oldest...)
	return dst
}

// flush removes all waiting calls and appends them to dst.
func (g *gather[IN]) flush(dst []async.CallID) []async.CallID {
	for _, c := range g.pending.items() {
		dst = append(dst, c.ID)
	}
	g.pending.drop(g.pending.len())
	for _, r := range g.parts.items() {
		for i := range r.calls {
			dst = append(dst, r.calls[i].ID)
		}
		g.recycle(r)
	}
	g.parts.drop(g.parts.len())
	return dst
}

// compact removes the calls that are not wanted.
func (r *group[IN]) compact() {
	n := 0
	for i := range r.calls {
		if r.fates[i] == wanted {
			r.calls[n], r.fates[n] = r.calls[i], wanted
			n++
		}
	}
	clear(r.calls[n:])
	r.calls, r.fates, r.live = r.calls[:n], r.fates[:n], n
}

// group returns a group of these calls.
func (g *gather[IN]) group(calls []async.Call[IN]) *group[IN] {
	r := &group[IN]{}
	if n := len(g.spare); n > 0 {
		r, g.spare = g.spare[n-1], g.spare[:n-1]
	}
	r.calls = append(r.calls[:0], calls...)
	r.fates = append(r.fates[:0], make([]fate, len(calls))...)
	r.live, r.part, r.alone, r.plain, r.trial = len(calls), false, false, false, false
	return r
}

// recycle takes back a group that is no longer used.
func (g *gather[IN]) recycle(r *group[IN]) {
	clear(r.calls) // records must not be kept alive
	r.calls, r.fates = r.calls[:0], r.fates[:0]
	if len(g.spare) < 2*g.window {
		g.spare = append(g.spare, r)
	}
}

func compareIDs(a, b async.CallID) int {
	return cmp.Or(cmp.Compare(a.Entry, b.Entry), cmp.Compare(a.Attempt, b.Attempt))
}
