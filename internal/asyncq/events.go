package asyncq

import "slices"

// Admit takes a record in. bytes is its size. key is the hash of its key if the queue is Keyed;
// keys with the same hash are kept in one order. The driver has checked that the record Fits and,
// if it comes from the input, that there is Room.
func (q *Queue) Admit(now Time, bytes int64, key uint64) ID {
	q.advance(now)
	s := q.alloc()
	e := &q.entries[s]
	e.came = q.now
	e.bytes = bytes
	q.bytes += bytes
	if q.cfg.Order == Ordered {
		q.order.push(s)
	} else {
		e.seg = q.segs.to - 1
		q.segs.last().pending++
		if q.cfg.Order == Keyed {
			e.key = key
			q.enqueueKey(s)
		}
	}
	e.state = ready
	q.pushBack(&q.fresh, s)
	if q.suspended {
		q.holds++
	}
	q.expectTaking(s)
	return ID{uint32(s), e.gen}
}

// AdmitMark takes a watermark or a status in (A2, A18).
func (q *Queue) AdmitMark(now Time) ID {
	q.advance(now)
	s := q.alloc()
	q.entries[s].state = mark
	q.marks++
	if q.cfg.Order == Ordered {
		q.order.push(s)
	} else {
		q.segs.last().mark = s
		q.segs.push(segment{list: emptyList, mark: none})
	}
	return ID{uint32(s), q.entries[s].gen}
}

func (q *Queue) alloc() int32 {
	if q.Free() < 1 {
		panic("asyncq: admitted beyond the capacity")
	}
	var s int32
	if n := len(q.freed); n > 0 {
		s = q.freed[n-1]
		q.freed = q.freed[:n-1]
	} else {
		s = int32(len(q.entries))
		q.entries = append(q.entries, entry{dprev: none, dnext: none, heap: [2]int32{none, none}})
	}
	q.live++
	q.seq++
	// Each field that is not set here was left clean when the slot became free, or is set before it
	// is read.
	e := &q.entries[s]
	e.gen++
	e.seq = q.seq
	e.started, e.behind, e.starved, e.retry = false, false, false, false
	e.attempt, e.tries, e.ends = 0, 0, 0
	e.link, e.knext, e.bnext = none, none, none
	e.left, e.bytes = 0, 0
	return s
}

// Start makes calls for ready entries while there is room for calls (A5, A7).
func (q *Queue) Start(now Time) {
	q.advance(now)
	if q.patience.relieved {
		q.relieve()
	}
	if q.now < q.pause || q.suspended || q.failed || q.startAlone() {
		return
	}
	for q.running < q.limit.now() && q.bearable() {
		var s int32
		switch {
		case len(q.again) > 0:
			s = q.again[0]
			q.takeOut(s)
		case q.fresh.head != none:
			s = q.popFront(&q.fresh)
		default:
			return
		}
		q.call(s)
	}
}

// bearable reports whether the bytes of the results allow another call. If the entries are over the
// bound (heavy), only a call that all others wait for is allowed: nothing can leave, no other call
// is in progress, and the results of this one can leave at once.
func (q *Queue) bearable() bool {
	if !q.heavy() {
		return true
	}
	if q.running > 0 || q.CanPop() {
		return false
	}
	next := q.upNext()
	return next == none || q.awaited(next)
}

// awaited reports whether the results of an entry that is not done can leave at once, as far as
// order goes.
func (q *Queue) awaited(s int32) bool {
	if q.cfg.Order == Ordered {
		return s == q.order.front()
	}
	e := &q.entries[s]
	return e.seg == q.segs.from && !e.behind
}

// upNext returns the entry that is called next, or none if no entry is ready.
func (q *Queue) upNext() int32 {
	if len(q.again) > 0 {
		return q.again[0]
	}
	return q.fresh.head
}

// heavy reports whether results have taken the entries beyond MaxBytes.
func (q *Queue) heavy() bool { return q.cfg.MaxBytes > 0 && q.bytes > q.cfg.MaxBytes }

func (q *Queue) call(s int32) {
	q.runTimer(s)
	e := &q.entries[s]
	e.state = calling
	e.attempt++
	e.call = q.limit.started()
	if e.retry {
		e.retry = false
		q.retries++
	}
	q.running++
	q.effect(Call, s)
}

// Awaits reports whether the outcome of an attempt is still expected. If not, the outcome is late,
// a duplicate, or unknown (A11).
func (q *Queue) Awaits(id ID, attempt uint32) bool {
	s := q.lookup(id)
	return s != none && !q.failed && q.entries[s].state == calling && q.entries[s].attempt == attempt
}

// Complete takes the outcome of one attempt and judges it (A11, A44). after is how long the other
// side asked to wait before the next call. It is used with Unavailable and Overloaded; 0 means that
// the other side did not ask.
func (q *Queue) Complete(now Time, id ID, attempt uint32, out Outcome, after Time) Judgment {
	q.advance(now)
	if !q.Awaits(id, attempt) {
		return Ignored
	}
	s := int32(id.Slot)
	e := &q.entries[s]
	q.callEnded(e)
	switch out {
	case Unmade:
		if q.haltTimer(s) {
			q.callAgain(s)
			return Waiting
		}
		q.dropDeadline(s)
		e.state = judged
		return Expired
	case Unavailable, Overloaded:
		if out == Overloaded {
			q.limit.overloaded(e.call)
		}
		q.stall()
		verdict := Expired
		if q.haltTimer(s) {
			if q.refused(s, out, after) {
				return Waiting
			}
			verdict = HeldOut
		}
		q.leaves(s)
		q.dropDeadline(s)
		e.state = judged
		return verdict
	}
	q.taken(s)
	switch out {
	case Transient:
		e.ends++
		delay := q.retryDelay(e)
		if int(e.tries) < q.cfg.Retries && (q.cfg.Timeout == 0 || q.now+delay < e.deadline) {
			if q.spend() {
				e.tries++
				e.state, e.retry = retrying, true
				q.retryCount++
				q.setTimer(wake, s, q.now+delay)
				return Waiting
			}
			e.starved = true
		}
	case Final:
		q.limit.succeeded()
		q.budget = min(q.budget+q.cfg.Refill, q.cfg.Budget)
		e.ends++
	default:
		e.ends++
	}
	verdict := Decide
	if out != Final && q.cfg.Timeout > 0 && e.deadline <= q.now {
		verdict = Expired
	}
	q.dropDeadline(s)
	e.state = judged
	return verdict
}

func (q *Queue) retryDelay(e *entry) Time {
	d, bound := float64(q.cfg.RetryDelay), float64(never/4)
	if q.cfg.MaxDelay > 0 {
		bound = float64(q.cfg.MaxDelay)
	}
	for range e.tries {
		if d *= q.cfg.Multiplier; d > bound {
			break
		}
	}
	d = min(d, bound)
	if q.cfg.Jitter > 0 {
		d *= 1 + q.cfg.Jitter*(2*q.draw()-1)
	}
	return Time(d)
}

// spend takes a retry out of the budget. It returns false if the budget is empty.
func (q *Queue) spend() bool {
	if q.cfg.Budget == 0 {
		return true
	}
	if q.budget < 1 {
		return false
	}
	q.budget--
	return true
}

// draw returns a random number in [0, 1). It uses splitmix64, so that a seed gives the same history
// everywhere.
func (q *Queue) draw() float64 {
	q.random += 0x9e3779b97f4a7c15
	z := q.random
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11) / (1 << 53)
}

func (q *Queue) sortByArrival(slots []int32) {
	slices.SortFunc(slots, func(a, b int32) int {
		if q.entries[a].seq < q.entries[b].seq {
			return -1
		}
		return 1
	})
}

// Tick fires every timer that is due at or before now, in the order of time. Completions that came
// in before now must have been passed to Complete first (A15).
func (q *Queue) Tick(now Time) {
	for !q.failed {
		at, ok := q.Next()
		if !ok || at > max(now, q.now) {
			break
		}
		// Each timer fires at its own time, however late it is noticed.
		q.advance(at)
		if q.pause != 0 && at == q.pause {
			q.pause = 0 // Start goes on
			continue
		}
		if s := q.deadlines.head; s != none && q.entries[s].deadline == at {
			q.expire(s, Timeout)
			continue
		}
		if q.patience.check == at {
			q.endHolds()
			continue
		}
		t := q.timers.heap[0]
		if t.kind == limit {
			q.expire(t.slot, Timeout)
			continue
		}
		q.stopTimer(wake, t.slot)
		if q.entries[t.slot].state == held {
			q.heldCount--
		} else {
			q.retryCount--
			if q.suspended {
				q.holds++
			}
			if q.suspended || q.heavy() { // now it does not wait for the other side's answer
				q.haltTimer(t.slot) // its deadline is later; otherwise it would have fired first
			}
		}
		q.callAgain(t.slot)
	}
	q.advance(now)
}

// expire ends an entry's waiting. The driver decides what becomes of the entry (A21, A24). No entry
// expires while it waits for its retry: an entry waits only for a retry that comes before the
// deadline, and timers fire in order of time.
func (q *Queue) expire(s int32, k Kind) {
	e := &q.entries[s]
	switch e.state {
	case calling:
		q.callEnded(e)
		q.taken(s) // it was not refused
		e.ends++
		q.effect(Cancel, s)
	case held:
		q.heldCount--
		q.stopTimer(wake, s)
	case ready:
		if e.attempt == 0 {
			q.unlink(&q.fresh, s)
		} else {
			q.takeOut(s)
		}
	}
	q.leaves(s)
	q.dropDeadline(s)
	e.state = judged
	q.effect(k, s)
}

// Finish says that a judged entry has its results. bytes is their size, which counts until they
// leave.
func (q *Queue) Finish(id ID, bytes int64) {
	s := q.lookup(id)
	if s == none || q.entries[s].state != judged {
		panic("asyncq: finished an entry that was not judged")
	}
	q.entries[s].state = done
	q.entries[s].bytes += bytes
	light := !q.heavy()
	if q.bytes += bytes; light && q.heavy() {
		// An entry that waits for its next call now waits for results to leave, not for the other
		// side, so its time stands still.
		for _, s := range q.again {
			if e := &q.entries[s]; e.started && e.left == 0 {
				q.haltTimer(s)
			}
		}
	}
	q.doneCount++
	switch q.cfg.Order {
	case Unordered:
		q.pushBack(&q.segs.at(q.entries[s].seg).list, s)
	case Keyed:
		if !q.entries[s].behind {
			q.releaseKey(s)
		}
	}
}

// Fail says that the operator has failed. From then on the queue emits nothing, calls nothing,
// admits nothing and lets no barrier pass (A13).
func (q *Queue) Fail() { q.failed = true }

// Pop lets up to n entries leave, in order (A14, A16, A17), and reports how many did.
func (q *Queue) Pop(n int) int {
	popped, heavy := 0, q.heavy()
	for ; popped < n && !q.failed; popped++ {
		s := q.next()
		if s == none {
			break
		}
		if q.entries[s].state == mark {
			q.effect(EmitMark, s)
			q.marks--
		} else {
			q.effect(Emit, s)
			q.doneCount--
		}
		q.entries[s].state = free
		q.bytes -= q.entries[s].bytes
		q.freed = append(q.freed, s)
		q.live--
	}
	if heavy && !q.heavy() {
		q.patience.relieved, q.patience.check = true, never
	}
	return popped
}

// CanPop reports whether Pop would let an entry leave.
func (q *Queue) CanPop() bool {
	if q.failed {
		return false
	}
	if q.cfg.Order == Ordered {
		return q.order.len() > 0 && q.entries[q.order.front()].state >= done
	}
	g := q.segs.head()
	return g.list.head != none || (g.pending == 0 && g.mark != none)
}

// next takes the entry that leaves next out of its order, or returns none.
func (q *Queue) next() int32 {
	if !q.CanPop() {
		return none
	}
	if q.cfg.Order == Ordered {
		s := q.order.front()
		q.order.from++
		return s
	}
	g := q.segs.head()
	if g.list.head != none {
		g.pending--
		return q.popFront(&g.list)
	}
	s := g.mark
	q.segs.from++
	return s
}

// Drain stops the admission of input until Undrain (A32).
func (q *Queue) Drain() { q.draining = true }

// Undrain lets input in again, after the barrier has passed or was given up.
func (q *Queue) Undrain() { q.draining = false }

// Empty reports whether everything has left.
func (q *Queue) Empty() bool { return q.live == 0 && !q.failed }

// End says that no more input will come.
func (q *Queue) End() { q.ended = true }

// Entries appends the slots of everything not yet popped, marks included, in order of arrival. A
// snapshot must hold these (A34).
func (q *Queue) Entries(dst []uint32) []uint32 {
	q.scratch = q.scratch[:0]
	for s := range q.entries {
		if q.entries[s].state != free {
			q.scratch = append(q.scratch, int32(s))
		}
	}
	q.sortByArrival(q.scratch)
	for _, s := range q.scratch {
		dst = append(dst, uint32(s))
	}
	return dst
}

// InCall calls f for each call in progress, so that the driver can cancel them when it closes.
func (q *Queue) InCall(f func(ID, uint32)) {
	for s := range q.entries {
		if e := &q.entries[s]; e.state == calling {
			f(ID{uint32(s), e.gen}, e.attempt)
		}
	}
}
