package server

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/tensorferry/tensorferry/tensor"
)

// batcher decides which rows run together and when. It is a pure state machine: it gets the time as
// a value, and step returns what is to be done. The runner owns it, under its lock.
//
// The rules:
//
//   - Rows share a batch if their key is the same: model, version, row shapes, datatypes and
//     parameters.
//   - If no batch is running, a batch of the rows that wait runs at once. If batches are running
//     and an instance is free, a batch waits until it is full or its window is over. The window
//     begins when the oldest row that still waits arrived. So it can flush only the batch that it
//     belongs to: a batch that ran earlier, because it was full, takes its window with it
//     (FLINK-38825).
//   - If several batches may run, the one with the oldest row runs first.
//   - Within a key the callers take turns, with one request a turn. A request that fits into a
//     batch is never cut; a larger one runs in pieces.
//   - A batch that fails because of its content is halved, first between its requests and then
//     inside a request, until the rows that fail alone are known. These runs take turns with the
//     batches of requests that wait.
type batcher struct {
	maxRows   int           // of a batch
	window    time.Duration // see above
	timeout   time.Duration // the longest wait in the queue
	instances int

	groups    map[string]*group
	suspect   [][]piece // parts of failed batches, each to be run alone
	suspected int       // rows in suspect
	turn      bool      // the last batch was a suspect one, so the next is not
	running   []*batch

	oldest, newest *request // queued requests in the order of arrival

	effects effects
}

// effects is what a step asks for. The slices are valid until the next step.
type effects struct {
	runs    []*batch   // batches to run, each on an instance of its own
	cancels []*batch   // running batches whose requests are all done
	left    []*request // requests that are no longer queued
	answers []*request // requests that have their answer
}

// request is one call of a caller, from its admission to its answer. The batcher owns all fields
// that are not marked.
type request struct {
	key    string          // of the group; set by parse
	caller uint64          // the connection, for the turns; set by the service
	rows   int             // at least 1; set by parse
	due    time.Time       // the caller's deadline, zero for none; set by the service
	bytes  int64           // for the admission; set by parse
	inputs []tensor.Tensor // set by parse
	walk   sync.Once       // guards starts
	starts [][]int         // see rowStarts
	answer chan struct{}   // the runner's: closed when done
	traced bool            // set by the service: the call has a span, so runs are kept
	runs   []run           // of the batches that it was in, if traced; the runner's

	arrived    time.Time
	started    time.Time // when its first rows were taken into a batch
	prev, next *request  // in the order of arrival, while queued
	line       *line     // of its caller, while queued
	behind     *request  // the request behind it in that line
	before     *request  // the request before it in that line
	suspects   int       // pieces of it in suspect
	queued     bool
	taken      int // rows that were taken into a batch
	settled    int // rows whose outcome is known
	done       bool
	err        error     // the failure of the whole request; nil: none
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
	// badRows are the rows of the batch that the model's error names; with err.
	badRows []int
	// content: the failure is about the content of the batch, so a part of it may succeed.
	// Otherwise every request of the batch has failed.
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

// abandon ends a request whose caller has gone. The caller may never see err. Rows of the request
// that are running are not waited for.
func (b *batcher) abandon(now time.Time, r *request, err error) {
	b.fail(now, r, err)
}

// expire ends a request whose time is over, if no rows of it were taken into a batch.
func (b *batcher) expire(now time.Time, r *request) {
	if r.queued && r.taken == 0 {
		b.fail(now, r, errCallerLate)
	}
}

// abandonAll ends every request. One whose rows were never sent to the model fails with untaken.
// Any other fails with errInterrupted.
func (b *batcher) abandonAll(now time.Time, untaken error) {
	for b.oldest != nil {
		err := untaken
		// The request is larger than a batch: the model has had some of its rows.
		if b.oldest.taken > 0 {
			err = errInterrupted
		}
		b.fail(now, b.oldest, err)
	}
	for len(b.suspect) > 0 {
		b.fail(now, b.suspect[0][0].req, errInterrupted) // this removes it from suspect
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
	// A backend may name rows that do not exist.
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

// doubt notes a part of a failed batch, which is to be run alone. It leaves out requests that are
// done.
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

// trust removes the next part of a failed batch from suspect and returns it.
func (b *batcher) trust() []piece {
	pieces := b.suspect[0]
	b.suspect[0] = nil // the array remains, and would keep their tensors in memory
	b.suspect = b.suspect[1:]
	for _, p := range pieces {
		b.suspected -= p.to - p.from
		p.req.suspects--
	}
	return pieces
}

// forget removes the pieces of a request that is done from suspect.
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

// refuse takes the outcome of a batch in which the model named bad rows. Requests without such a
// row run again. The other rows of a request with one do not: they are good, since the model would
// have named them otherwise, and the request has failed, so their answers are of no use.
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

// fault notes a row that failed alone. A request that is done is left alone: it belongs to its
// caller again.
func (r *request) fault(row int, err error) {
	if !r.done {
		r.bad = append(r.bad, badRow{row, err})
	}
}

// settle counts the rows of a piece as settled. The last row of a request ends the request.
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

// fail ends a request as a whole, and cancels the running batches of which it was the last request.
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

// dequeue removes a request from the order of arrival and from its line.
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

// step returns what is to be done now.
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

// take takes at most maxRows rows out of a group, from its callers in turn. It takes none only if
// every request that it looked at was late. The group is then smaller, or gone.
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
				l = next // the request does not fit, and keeps its turn
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
			b.dequeue(r) // before taken changes: dequeue subtracts the untaken rows
			r.taken += n
		} else {
			r.taken += n
			g.rows -= n
		}
		if l.first != nil {
			g.cut(l)
			g.append(l)
			if next == nil {
				next = l // it was the last line, and is the last again
			}
		}
		l = next
	}
	return pieces
}

// head returns the first request of a line that is not late. If it returns nil, the line is gone.
func (b *batcher) head(now time.Time, l *line) *request {
	for l.first != nil && expired(now, l.first) {
		b.late(now, l.first)
	}
	return l.first
}

// halve cuts a batch of more than one row in two: between requests if it can, and as evenly as it
// can.
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
