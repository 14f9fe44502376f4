package server

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/tensorferry/tensorferry/tensor"
)

// batcher decides which rows run together and when. It is a pure state machine:
// time comes in as a value, and what is to be done comes out of step. The runner
// owns it, under its lock.
//
// The rules:
//
//   - Rows share a batch if their key is the same: model, version, row shapes,
//     datatypes and parameters.
//   - If no batch runs, the one that can be made of what is there runs at once.
//     While others run and an instance is free all the same, a batch waits until
//     it is full or its window is over. The window is counted from the arrival of
//     the oldest row that still waits, so that it can only flush the batch it
//     belongs to: one that ran earlier, because it was full, takes its window
//     with it (FLINK-38825).
//   - Of several batches that may run, the one with the oldest row does.
//   - Within a key the callers take turns, a request a turn. A request that fits
//     into a batch is never cut; a larger one runs in pieces.
//   - A batch that fails because of what it holds is halved between its requests,
//     and then inside a request, until the rows that fail alone are known. These
//     runs take turns with the other callers' batches.
type batcher struct {
	maxRows   int           // of a batch
	window    time.Duration // see above
	timeout   time.Duration // the longest wait in the queue
	instances int

	groups    map[string]*group
	suspect   [][]piece // parts of failed batches, each to be run alone
	suspected int       // rows in suspect
	turn      bool      // the last batch was a suspect one: now others have theirs
	running   []*batch

	oldest, newest *request // queued requests in the order of arrival

	effects effects
}

// effects is what a step asks for. The slices are valid until the next step.
type effects struct {
	runs    []*batch   // batches to run, each on an instance of its own
	cancels []*batch   // running batches that nobody waits for any more
	left    []*request // requests that are no longer queued
	answers []*request // requests that have their answer
}

// request is one call of a caller, from its admission to its answer. The batcher
// owns its fields but for those that are marked.
type request struct {
	key    string          // of the group; set by the runner
	caller uint64          // whose turn it is; set by the runner
	rows   int             // set by the runner, at least 1
	due    time.Time       // the caller's deadline, zero for none; set by the runner
	bytes  int64           // set by the runner, for the admission
	inputs []tensor.Tensor // set by the runner
	walk   sync.Once       // of starts, which are gather's
	starts [][]int
	answer chan struct{} // the runner's: closed when done
	traced bool          // set by the service: somebody wants to know the runs
	runs   []run         // of the batches that it was in, if traced; the runner's

	arrived    time.Time
	started    time.Time // when its first rows were taken
	prev, next *request  // in the order of arrival, while queued
	line       *line     // of its caller, while queued
	behind     *request  // the next in that line
	before     *request  // and the one before it
	suspects   int       // pieces of it in suspect
	queued     bool
	taken      int // rows that were taken into a batch
	settled    int // rows whose outcome is known
	done       bool
	err        error     // the answer, if it is a failure of the whole
	bad        []badRow  // rows that failed alone
	answered   []answer  // answers to pieces, in any order
	ended      time.Time // when the last outcome came
}

// badRow is a row of a request that failed alone.
type badRow struct {
	row int
	err error
}

// answer is the answer to the rows [from, to) of a request.
type answer struct {
	from, to int
	outputs  []tensor.Tensor
}

// piece is a part of a request in a batch: its rows [from, to).
type piece struct {
	req      *request
	from, to int
}

// batch is what one instance runs at once.
type batch struct {
	pieces []piece
	rows   int
	at     time.Time // when it was made
	run    run       // the runner's
}

// verdict is how a batch ended.
type verdict struct {
	err error
	// badRows are the rows of the batch that the model refuses by name; with err.
	badRows []int
	// content: the failure is about what the batch holds, so a part of it may
	// succeed. Without it every request of the batch has failed.
	content bool
	// outputs are the answers to the pieces of the batch, if err is nil.
	outputs [][]tensor.Tensor
}

func newBatcher(maxRows, instances int, window, timeout time.Duration) *batcher {
	return &batcher{maxRows: maxRows, window: window, timeout: timeout, instances: instances, groups: map[string]*group{}}
}

// submit queues a request.
func (b *batcher) submit(now time.Time, r *request) {
	r.arrived, r.queued = now, true
	if r.prev = b.newest; r.prev != nil {
		r.prev.next = r
	} else {
		b.oldest = r
	}
	b.newest = r
	g := b.groups[r.key]
	if g == nil {
		g = &group{key: r.key, lines: map[uint64]*line{}}
		b.groups[r.key] = g
	}
	l := g.lines[r.caller]
	if l == nil {
		l = &line{caller: r.caller, group: g}
		g.lines[r.caller] = l
		g.append(l)
	}
	r.line = l
	if r.before = l.last; r.before != nil {
		r.before.behind = r
	} else {
		l.first = r
	}
	l.last = r
	g.rows += r.rows
}

// abandon ends a request whose caller has gone, with the error that nobody may
// see. Rows of it that run are not waited for.
func (b *batcher) abandon(now time.Time, r *request, err error) {
	b.fail(now, r, err)
}

// expire ends a request that has only waited when its time is over.
func (b *batcher) expire(now time.Time, r *request) {
	if r.queued && r.taken == 0 {
		b.fail(now, r, errCallerLate)
	}
}

// abandonAll ends every request: with untaken those of which no row has gone to the model, as
// interrupted the others.
func (b *batcher) abandonAll(now time.Time, untaken error) {
	for b.oldest != nil {
		err := untaken
		// it is larger than a batch: some of its rows wait, and others do not
		if b.oldest.taken > 0 {
			err = errInterrupted
		}
		b.fail(now, b.oldest, err)
	}
	for len(b.suspect) > 0 {
		b.fail(now, b.suspect[0][0].req, errInterrupted) // which takes it out
	}
	for _, x := range b.running {
		for _, p := range x.pieces {
			b.fail(now, p.req, errInterrupted)
		}
	}
}

// finish takes the outcome of a batch.
func (b *batcher) finish(now time.Time, x *batch, v verdict) {
	if i := slices.Index(b.running, x); i >= 0 {
		b.running = slices.Delete(b.running, i, i+1)
	}
	// Rows that a backend made up name nobody.
	v.badRows = slices.DeleteFunc(v.badRows, func(row int) bool { return row < 0 || row >= x.rows })
	slices.Sort(v.badRows)
	v.badRows = slices.Compact(v.badRows)
	switch {
	case v.err == nil:
		for i, p := range x.pieces {
			if !p.req.done {
				p.req.answered = append(p.req.answered, answer{p.from, p.to, v.outputs[i]})
			}
			b.settle(now, p)
		}
	case len(v.badRows) > 0:
		b.refuse(now, x, v)
	case !v.content:
		for _, p := range x.pieces {
			b.fail(now, p.req, v.err)
		}
	case x.rows == 1:
		p := x.pieces[0]
		p.req.fault(p.from, v.err)
		b.settle(now, p)
	default:
		left, right := halve(x.pieces)
		b.doubt(left)
		b.doubt(right)
	}
}

// doubt notes a part of a failed batch, to be run alone, but for what nobody waits for any more.
func (b *batcher) doubt(pieces []piece) {
	pieces = slices.DeleteFunc(pieces, func(p piece) bool { return p.req.done })
	if len(pieces) == 0 {
		return
	}
	for _, p := range pieces {
		b.suspected += p.to - p.from
		p.req.suspects++
	}
	b.suspect = append(b.suspect, pieces)
}

// trust takes the next part of a failed batch out.
func (b *batcher) trust() []piece {
	pieces := b.suspect[0]
	b.suspect[0] = nil // the slice goes on, and would keep their tensors
	b.suspect = b.suspect[1:]
	for _, p := range pieces {
		b.suspected -= p.to - p.from
		p.req.suspects--
	}
	return pieces
}

// forget takes what is in doubt of a request out, which is done.
func (b *batcher) forget(r *request) {
	for i := 0; r.suspects > 0 && i < len(b.suspect); i++ {
		b.suspect[i] = slices.DeleteFunc(b.suspect[i], func(p piece) bool {
			if p.req != r {
				return false
			}
			b.suspected -= p.to - p.from
			r.suspects--
			return true
		})
	}
	b.suspect = slices.DeleteFunc(b.suspect, func(pieces []piece) bool { return len(pieces) == 0 })
}

// refuse takes the outcome of a batch some rows of which the model named. The
// other rows of the same requests are good, or the model would have named them,
// and their answers are of no use; other requests run again.
func (b *batcher) refuse(now time.Time, x *batch, v verdict) {
	var again []piece
	at, rows := 0, v.badRows
	for _, p := range x.pieces {
		end, named := at+p.to-p.from, false
		for len(rows) > 0 && rows[0] < end {
			named = true
			p.req.fault(p.from+rows[0]-at, v.err)
			rows = rows[1:]
		}
		at = end
		if named {
			b.settle(now, p)
		} else {
			again = append(again, p)
		}
	}
	b.doubt(again)
}

// fault notes a row that failed alone. A request that is done belongs to whoever
// waited for it.
func (r *request) fault(row int, err error) {
	if !r.done {
		r.bad = append(r.bad, badRow{row, err})
	}
}

// settle counts the rows of a piece as known, and ends its request with the last.
func (b *batcher) settle(now time.Time, p piece) {
	r := p.req
	if r.done {
		return
	}
	if r.settled += p.to - p.from; r.settled == r.rows {
		r.done, r.ended = true, now
		b.effects.answers = append(b.effects.answers, r)
	}
}

// fail ends a request as a whole, and the batches that run for nobody else.
func (b *batcher) fail(now time.Time, r *request, err error) {
	if r.done {
		return
	}
	b.dequeue(r)
	r.done, r.err, r.ended = true, err, now
	b.effects.answers = append(b.effects.answers, r)
	if r.taken == 0 {
		return
	}
	if r.suspects > 0 {
		b.forget(r)
	}
	for _, x := range b.running {
		wanted := func(p piece) bool { return !p.req.done }
		if !slices.ContainsFunc(x.pieces, wanted) && !slices.Contains(b.effects.cancels, x) {
			b.effects.cancels = append(b.effects.cancels, x)
		}
	}
}

// dequeue takes a request out of the order of arrival and out of its line.
func (b *batcher) dequeue(r *request) {
	if !r.queued {
		return
	}
	r.queued = false
	b.effects.left = append(b.effects.left, r)
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		b.oldest = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		b.newest = r.prev
	}
	r.prev, r.next = nil, nil
	g := r.line.group
	r.leave()
	if g.rows -= r.rows - r.taken; g.rows == 0 {
		delete(b.groups, r.key)
	}
}

// step says what is to be done now.
func (b *batcher) step(now time.Time) effects {
	for b.oldest != nil && !now.Before(b.oldest.arrived.Add(b.timeout)) {
		b.fail(now, b.oldest, errQueueTimeout)
	}
	for len(b.running) < b.instances {
		x := b.pick(now)
		if x == nil {
			break
		}
		b.running = append(b.running, x)
		b.effects.runs = append(b.effects.runs, x)
	}
	e := b.effects
	b.effects = effects{}
	return e
}

// wake returns when step is to be called again if nothing else happens.
func (b *batcher) wake(now time.Time) (time.Time, bool) {
	var at time.Time
	if b.oldest != nil {
		at = b.oldest.arrived.Add(b.timeout)
	}
	if len(b.running) > 0 && len(b.running) < b.instances {
		for _, g := range b.groups {
			if flush := g.oldest().Add(b.window); at.IsZero() || flush.Before(at) {
				at = flush
			}
		}
	}
	return at, !at.IsZero()
}

// pick makes the batch that runs next, or returns nil if none may.
func (b *batcher) pick(now time.Time) *batch {
	for {
		var best *group
		var since time.Time
		for _, g := range b.groups {
			oldest := g.oldest()
			if len(b.running) > 0 && g.rows < b.maxRows && now.Before(oldest.Add(b.window)) {
				continue
			}
			if best == nil || cmp.Or(oldest.Compare(since), cmp.Compare(g.key, best.key)) < 0 {
				best, since = g, oldest
			}
		}
		if len(b.suspect) > 0 && (best == nil || !b.turn || b.suspected >= b.maxRows) {
			pieces := slices.DeleteFunc(b.trust(), func(p piece) bool { return p.req.done || expired(now, p.req) && b.late(now, p.req) })
			if len(pieces) == 0 {
				continue
			}
			b.turn = true
			return newBatch(now, pieces)
		}
		if best == nil {
			return nil
		}
		if pieces := b.take(now, best); len(pieces) > 0 {
			b.turn = false
			return newBatch(now, pieces)
		}
	}
}

func newBatch(now time.Time, pieces []piece) *batch {
	x := &batch{pieces: pieces, at: now}
	for _, p := range pieces {
		x.rows += p.to - p.from
	}
	return x
}

func expired(now time.Time, r *request) bool { return !r.due.IsZero() && !now.Before(r.due) }

// late fails a request whose deadline has passed.
func (b *batcher) late(now time.Time, r *request) bool {
	b.fail(now, r, errCallerLate)
	return true
}

// take takes at most maxRows rows out of a group, its callers in turn. It takes
// none only if all that it looked at was late, and then the group is gone or
// smaller.
func (b *batcher) take(now time.Time, g *group) []piece {
	var pieces []piece
	room := b.maxRows
	for l := g.first; l != nil && room > 0; {
		next := l.next
		r := b.head(now, l)
		if r == nil {
			l = next
			continue
		}
		n := r.rows - r.taken
		if n > room {
			if r.rows <= b.maxRows && len(pieces) > 0 {
				l = next // it does not fit into what is left, and keeps its turn
				continue
			}
			n = room
		}
		if r.taken == 0 {
			r.started = now
		}
		pieces = append(pieces, piece{r, r.taken, r.taken + n})
		room -= n
		if r.taken+n == r.rows {
			b.dequeue(r) // before its rows are counted as taken: the group loses them here
			r.taken += n
		} else {
			r.taken += n
			g.rows -= n
		}
		if l.first != nil {
			g.cut(l)
			g.append(l)
			if next == nil {
				next = l // it was the last, and is again
			}
		}
		l = next
	}
	return pieces
}

// head returns the first request of a line that is in time, or nil, and then the line is gone.
func (b *batcher) head(now time.Time, l *line) *request {
	for l.first != nil && expired(now, l.first) {
		b.late(now, l.first)
	}
	return l.first
}

// halve cuts a batch of more than one row in two, between requests where it can
// and as evenly as it can.
func halve(pieces []piece) (left, right []piece) {
	if len(pieces) == 1 {
		p := pieces[0]
		mid := (p.from + p.to) / 2
		return []piece{{p.req, p.from, mid}}, []piece{{p.req, mid, p.to}}
	}
	total, seen, cut := 0, 0, 1
	for _, p := range pieces {
		total += p.to - p.from
	}
	for i, p := range pieces[:len(pieces)-1] {
		seen += p.to - p.from
		cut = i + 1
		if 2*seen >= total {
			break
		}
	}
	return slices.Clone(pieces[:cut]), slices.Clone(pieces[cut:])
}
