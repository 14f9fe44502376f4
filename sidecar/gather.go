package sidecar

import (
	"cmp"
	"slices"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// gather decides which records go into which request, and when (A8, A42). It is a
// pure state machine: no goroutine, lock, clock or I/O. The channel calls it under
// its lock and does what it says.
//
// Records wait in pending until next takes them into a group, which is then one
// request in flight. A group that failed over its content comes back as parts, whose
// records never mix with others again.
type gather[IN any] struct {
	rows   int // most rows of a request
	window int // most requests in flight

	pending fifo[async.Call[IN]]
	parts   fifo[*group[IN]]
	flight  []*group[IN]
	spare   []*group[IN]
	ids     []async.CallID // of cancel, sorted
}

// group is the records of one request.
type group[IN any] struct {
	calls []async.Call[IN]
	fates []fate
	live  int       // calls that still want an answer
	part  bool      // of a request that failed
	alone bool      // it is sent when nothing else is in flight, and nothing else while it is
	plain bool      // without shared memory
	trial bool      // it is a half of one that may have been too large (A75)
	sent  time.Time // when the request left; zero: it has not
	// abort ends the request in flight; nil while there is none.
	abort func()
}

// fate is what has become of a call of a group.
type fate uint8

const (
	wanted fate = iota // its row is in the request, or will be
	gone               // has its outcome: cancelled, timed out or completed
	later              // does not fit in with the others; goes in another request
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

// next takes the records of the next request, or nil if there is none to send or no place
// in the window. What failed before goes first: it has waited longest.
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

// encoded says what became of each call when the request was built: the fates that
// the caller has set. Those marked later wait again, at the front; the others that
// are not wanted have their outcome. The group's calls are then the request's rows, in
// order. Calls that were cancelled meanwhile and have a row keep it, as gone.
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

// answered frees the place of a group. It is the caller's until recycle.
func (g *gather[IN]) answered(r *group[IN]) {
	if i := slices.Index(g.flight, r); i >= 0 {
		g.flight = slices.Delete(g.flight, i, i+1)
	}
	r.abort, r.sent = nil, time.Time{}
}

// oldest is when the oldest request in flight left; zero: there is none.
func (g *gather[IN]) oldest() (at time.Time) {
	for _, r := range g.flight {
		if !r.sent.IsZero() && (at.IsZero() || r.sent.Before(at)) {
			at = r.sent
		}
	}
	return at
}

// again makes a part of the calls of r in [from, to) that are still wanted, to be sent
// alone or beside others.
func (g *gather[IN]) again(r *group[IN], from, to int, alone bool) {
	if p := g.partOf(r, from, to, alone); p != nil {
		g.parts.push(p)
	}
}

// partOf returns a part of the calls of r in [from, to) that are still wanted; nil: there are none.
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

// halves makes two parts of a group that failed, of equally many wanted calls.
func (g *gather[IN]) halves(r *group[IN], alone bool) {
	mid := r.middle()
	g.again(r, 0, mid, alone)
	g.again(r, mid, len(r.calls), alone)
}

// middle is where the wanted calls of a group are half over.
func (r *group[IN]) middle() (mid int) {
	for n := 0; n < r.live/2; mid++ {
		if r.fates[mid] == wanted {
			n++
		}
	}
	return mid
}

// try makes halves of a group that may have been too large, to be sent before everything else and
// one at a time: the first that passes tells.
func (g *gather[IN]) try(r *group[IN]) {
	mid := r.middle()
	for _, span := range [][2]int{{mid, len(r.calls)}, {0, mid}} {
		if p := g.partOf(r, span[0], span[1], true); p != nil {
			p.trial = true
			g.parts.pushFront(p)
		}
	}
}

// tried ends such a trial: one has passed, and the others go beside each other again.
func (g *gather[IN]) tried() {
	for _, p := range g.parts.items() {
		if p.trial {
			p.trial, p.alone = false, false
		}
	}
}

// giveUp ends a trial in vain, and appends the calls that waited for it to dst.
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

// cancel forgets calls that have their outcome. A request of which no row is wanted any
// more is aborted.
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

// surplus takes away what waits and has not been in a request, and appends it to dst. One call is
// kept if no other is in progress: it may be the one that all others wait for.
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

// flush empties what waits, and appends it to dst.
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

// recycle takes a group back that nobody uses any more.
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
