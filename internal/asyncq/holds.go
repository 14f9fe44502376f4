package asyncq

// patience tracks how long the other side has taken nothing, and bounds the wait (A40). An entry is
// taken when its call ends without a refusal. The queue is stalled from the first refusal, or
// Suspend, until an entry is taken. While the queue is stalled, an entry waits for at most
// Config.Hold, from its admission or from the beginning of the stall, whichever is later. A call
// that is still in progress at that time may turn out to be taken. So no hold ends before the calls
// in progress have ended.
type patience struct {
	stalled bool
	from    Time // when the stall began
	check   Time // when the entries that wait are looked at; never if none can be overdue
	tookAt  Time // when an entry was taken last

	// When the first hold was over, at askedAt, the calls up to number asked were in progress. open
	// is how many of them still are. When open is 0, the holds that were over at askedAt end; ripe
	// is that time.
	asked         uint64
	askedAt, ripe Time
	open          int

	// eldest is the oldest of the entries that were refused and not taken since, as far as the
	// refusals show. eldestFrom is when it was first refused as the oldest. It may be refused while
	// all others are taken. When that has lasted for Config.Hold, it is called alone, up to
	// aloneCalls times. alone is the number of the present call of that kind, or 0.
	eldest     int32
	eldestFrom Time
	alone      int

	// relieved says that the results that kept calls from being made have left. No hold ran while
	// they waited.
	relieved bool

	// delay is how long a refused entry waits, unless the other side says how long. The delay grows
	// if a refusal comes at grows or later, with nothing taken before it.
	delay, grows Time
}

// aloneCalls is how often an entry is called alone before it fails. One call is not enough: a
// server with a limited rate may refuse it because it took another entry just before.
const aloneCalls = 5

// refused holds an entry whose call was refused (A40, A41). The entry's time stands still. It is
// called again when after has passed or, while the queue is suspended, after Resume. refused
// returns false if the entry has waited for as long as it may while others were taken.
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
	// All refused entries share one delay. Otherwise the oldest, which were refused most often,
	// would wait longest.
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
		// A delay that the other side asked for may be longer, but all these calls together must
		// take less than a hold.
		if wished {
			most = q.cfg.Hold / (aloneCalls + 1)
		}
		wakes = min(wakes, q.now+max(most, 1))
	}
	q.setTimer(wake, s, wakes)
	q.expectTaking(s)
	if out == Overloaded && q.running == 0 {
		// The load is not ours, or even one call is too much. The next record would be refused at
		// once, and so on through the whole queue, so all calls pause. The pause ends no later than
		// this record's hold, whatever the other side asks for.
		q.pause = wakes
		if over := q.holdOver(e); over > q.now {
			q.pause = min(q.pause, over)
		}
	}
	return true
}

// GiveBack returns the time d to an entry that waits for its next call and whose time stands still.
// That much of its time passed while the other side could not answer. The entry never has more than
// the timeout.
func (q *Queue) GiveBack(id ID, d Time) {
	s := q.lookup(id)
	if s == none || d <= 0 {
		return
	}
	if e := &q.entries[s]; e.left > 0 {
		e.left += min(d, q.cfg.Timeout-e.left)
	}
}

// callAgain makes an entry ready that was called before. Of these entries the oldest is called
// first.
func (q *Queue) callAgain(s int32) {
	e := &q.entries[s]
	e.state = ready
	q.expectTaking(s)
	q.again = append(q.again, s)
	q.up(len(q.again)-1, s)
}

// Suspend says that no call can be made for now. The entries that wait for a call are held.
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
		// The time of a retry runs while it waits for room to be called.
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

// stall says that the other side has refused an entry, or cannot be called.
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

// leaves says that an entry no longer waits after a refusal.
func (q *Queue) leaves(s int32) {
	if q.patience.eldest == s {
		q.endAlone()
		q.patience.eldest = none
	}
}

// startAlone makes the calls of an entry that is called alone, and reports whether there is one.
func (q *Queue) startAlone() bool {
	p := &q.patience
	// Results leave first, and another entry's call may be needed for that.
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

// endAlone lets others be called again. The stall begins anew, because nothing else could be taken
// while one entry was called alone.
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

// expectTaking makes sure that the entry is looked at when its hold is over.
func (q *Queue) expectTaking(s int32) {
	if p := &q.patience; p.stalled && p.open == 0 {
		p.check = min(p.check, max(q.holdOver(&q.entries[s]), q.now))
	}
}

// holdOver returns when the hold of a waiting entry is over, if nothing is taken until then.
func (q *Queue) holdOver(e *entry) Time { return max(q.patience.from, e.came) + q.cfg.Hold }

// waits reports whether an entry waits for the other side to take it. A retry that waits for room
// to be called does not wait for the other side, since its time runs.
func (q *Queue) waits(e *entry) bool {
	return e.state == held || e.state == ready && (!e.started || e.left > 0 || q.cfg.Timeout == 0)
}

// endHolds ends the waiting of the entries whose hold is over, in the order of their arrival.
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
		// While results are over the bound, only entries that could leave at once are called. The
		// stall of the others begins anew once results have left.
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
