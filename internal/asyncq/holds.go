package asyncq

// patience is how long the other side has taken nothing, and what follows (A40). An entry is taken
// when its call ends otherwise than in a refusal. The queue is stalled from the first refusal, or
// Suspend, until an entry is taken. While it is stalled an entry waits for at most Config.Hold,
// from its admission or from the beginning of the stall, whichever is later. A call that is still
// in progress then may be one that was taken, so nobody's hold is over before its end.
type patience struct {
	stalled bool
	from    Time // when the stall began
	check   Time // when the entries that wait are looked at; never if none can be overdue
	tookAt  Time // when an entry was taken last

	// Calls up to number asked were in progress at time askedAt, when the first hold was over, and
	// so many of them still are. When none is, the holds that were over by then, at ripe, end.
	asked         uint64
	askedAt, ripe Time
	open          int

	// eldest is the oldest of the entries that were refused and not taken since, as far as the
	// refusals told, and eldestFrom when it was refused first as such. It may be one that is
	// refused while all others are taken. When it has been refused for Config.Hold, with others
	// taken, it is called alone: alone is the number of that call, 0 for none.
	eldest     int32
	eldestFrom Time
	alone      int

	// relieved says that results have left which kept calls from being made. Nobody's hold ran
	// meanwhile.
	relieved bool

	// delay is what those who are refused wait, unless the other side says how long, and grows when
	// it has passed with nothing taken, at grows.
	delay, grows Time
}

// aloneCalls is how often an entry is called alone before it has failed. A server that takes so
// many entries a second may refuse the first of them for having taken another just before.
const aloneCalls = 5

// refused puts an entry aside whose call was (A40, A41); its time stands still. It is called again
// when after has passed, or, while the queue is suspended, after Resume. False says that it has
// waited for as long as it may while others were taken.
func (q *Queue) refused(s int32, out Outcome, after Time) bool {
	e, p := &q.entries[s], &q.patience
	switch {
	case p.eldest == none || e.seq < q.entries[p.eldest].seq:
		q.endAlone()
		p.eldest, p.eldestFrom = s, q.now
	case p.eldest == s && p.alone == aloneCalls:
		return false
	case p.eldest == s && q.now-p.eldestFrom >= q.cfg.Hold && p.tookAt >= p.eldestFrom:
		p.alone++
	}
	q.holds++
	if q.suspended {
		q.callAgain(s)
		return true
	}
	e.state = held
	q.heldCount++
	// All wait alike, so that those who were refused most often, the oldest, do not wait longest.
	if q.now >= p.grows {
		p.delay = max(q.cfg.HoldDelay, min(2*p.delay, q.cfg.MaxHoldDelay))
		p.grows = q.now + p.delay
	}
	wished := after > 0
	if !wished {
		after = p.delay
	}
	wakes := q.now + min(after, q.cfg.Hold)
	if p.alone > 0 && p.eldest == s { // all others wait for it
		most := q.cfg.Hold / (4 * aloneCalls)
		// what was asked for is kept to, as far as all these calls take less than a hold
		if wished {
			most = q.cfg.Hold / (aloneCalls + 1)
		}
		wakes = min(wakes, q.now+max(most, 1))
	}
	q.setTimer(wake, s, wakes)
	q.expectTaking(s)
	if out == Overloaded && q.running == 0 {
		// The load is not ours, or even one call is too much: the next record
		// would be refused at once, and so on through the whole queue.
		// It is not kept longer than that record, whatever the other side asks for.
		q.pause = wakes
		if over := q.holdOver(e); over > q.now {
			q.pause = min(q.pause, over)
		}
	}
	return true
}

// GiveBack returns time to an entry that waits for its next call and whose time stands still: so
// much of it passed while nobody was there to answer. It never has more than the timeout.
func (q *Queue) GiveBack(id ID, d Time) {
	s := q.lookup(id)
	if s == none || d <= 0 {
		return
	}
	if e := &q.entries[s]; e.left > 0 {
		e.left += min(d, q.cfg.Timeout-e.left)
	}
}

// callAgain makes an entry ready that was called before. The oldest is called first.
func (q *Queue) callAgain(s int32) {
	e := &q.entries[s]
	e.state = ready
	q.expectTaking(s)
	q.again = append(q.again, s)
	q.up(len(q.again)-1, s)
}

// Suspend says that no call can be made for now. What waits for one is held.
func (q *Queue) Suspend(now Time) {
	q.advance(now)
	if q.suspended {
		return
	}
	q.suspended = true
	q.stall()
	q.holds += int64(q.waiting())
	q.scratch = append(q.scratch[:0], q.again...)
	q.sortByArrival(q.scratch)
	for _, s := range q.scratch {
		e := &q.entries[s]
		// A retry that waits for room to be called has its time running.
		if e.started && e.left == 0 && !q.haltTimer(s) {
			q.holds--
			q.expire(s, Timeout)
		} else {
			q.expectTaking(s)
		}
	}
}

// Resume says that calls can be made again.
func (q *Queue) Resume(now Time) {
	q.advance(now)
	q.suspended = false
}

// stall says that the other side has not taken what it might have.
func (q *Queue) stall() {
	if p := &q.patience; !p.stalled {
		p.stalled, p.from = true, q.now
		p.check = q.now + q.cfg.Hold // of all that wait by now
	}
}

// taken says that the other side has taken an entry.
func (q *Queue) taken(s int32) {
	p := &q.patience
	p.tookAt, p.delay, p.grows = q.now, 0, q.now
	if p.stalled {
		p.stalled, p.check, p.open = false, never, 0
		if q.suspended {
			q.stall() // anew
		}
	}
	q.leaves(s)
}

// leaves says that an entry is no longer one that was refused and waits.
func (q *Queue) leaves(s int32) {
	if q.patience.eldest == s {
		q.endAlone()
		q.patience.eldest = none
	}
}

// startAlone makes the calls of an entry that is called alone, and reports whether there is one.
func (q *Queue) startAlone() bool {
	p := &q.patience
	// results leave first, for which another call may have to be made
	if p.alone == 0 || q.heavy() {
		return false
	}
	// Calls without a timeout may never end.
	if q.entries[p.eldest].state == ready && (q.running == 0 || q.cfg.Timeout == 0) {
		q.takeOut(p.eldest)
		q.call(p.eldest)
	}
	return true
}

// endAlone lets others be called again. That nothing was taken meanwhile says nothing.
func (q *Queue) endAlone() {
	p := &q.patience
	if p.alone == 0 {
		return
	}
	p.alone = 0
	if p.stalled {
		p.stalled = false
		q.stall()
	}
}

// relieve begins the stall anew once calls can be made again.
func (q *Queue) relieve() {
	p := &q.patience
	if p.relieved = false; p.stalled {
		p.stalled = false
		q.stall()
	}
}

// callEnded counts a call that is over.
func (q *Queue) callEnded(e *entry) {
	q.running--
	p := &q.patience
	if p.open == 0 || e.call > p.asked {
		return
	}
	if p.open--; p.open == 0 {
		p.ripe, p.check = p.askedAt, q.now
	}
}

// expectTaking sees to it that the entry is looked at when its hold is over.
func (q *Queue) expectTaking(s int32) {
	if p := &q.patience; p.stalled && p.open == 0 {
		p.check = min(p.check, max(q.holdOver(&q.entries[s]), q.now))
	}
}

// holdOver is when the hold of an entry is over that waits, if nothing is taken until then.
func (q *Queue) holdOver(e *entry) Time { return max(q.patience.from, e.came) + q.cfg.Hold }

// waits reports whether an entry waits for the other side to take it. A retry that waits for room
// to be called does not: its time runs.
func (q *Queue) waits(e *entry) bool {
	return e.state == held || e.state == ready && (!e.started || e.left > 0 || q.cfg.Timeout == 0)
}

// endHolds ends the waiting of those whose hold is over, in the order of their arrival.
func (q *Queue) endHolds() {
	p := &q.patience
	if p.alone > 0 {
		p.check = never // endAlone sets it anew
		return
	}
	if q.heavy() && q.CanPop() { // the other side is not asked until results have left
		p.check = never // Start sets it anew
		return
	}
	by := p.ripe
	if q.running == 0 {
		by = q.now
	}
	next := never
	over := q.scratch[:0]
	for s := range q.entries {
		e := &q.entries[s]
		// While results are too many the other side is asked for those alone that could leave at
		// once. The stall of the others begins anew once results have left.
		if !q.waits(e) || q.heavy() && !q.awaited(int32(s)) {
			continue
		}
		if at := q.holdOver(e); at > by {
			next = min(next, at)
		} else {
			over = append(over, int32(s))
		}
	}
	p.check = next
	if next <= q.now {
		p.asked, p.askedAt, p.open, p.check = q.limit.calls, q.now, q.running, never
	}
	q.scratch = over
	q.sortByArrival(over)
	for _, s := range over {
		q.expire(s, HoldOver)
	}
}
