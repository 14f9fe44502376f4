package asyncq

// timerKind is the kind of an entry's timer. Each entry has at most one timer of each kind: its
// deadline, if its time runs after it stood still (limit), and the end of its wait for a retry or
// of its hold (wake).
type timerKind uint8

const (
	limit timerKind = iota
	wake
)

type timer struct {
	at   Time
	slot int32
	kind timerKind
}

// timers is a binary heap. Only entries that were held or wait for a retry are in it. The deadlines
// of all others are in a plain list, which costs less.
type timers struct{ heap []timer }

// before orders timers by time. At the same time a limit comes first, so that no attempt starts at
// or after a deadline (A24). Timers of the same kind are ordered by slot, so that the order never
// depends on the heap's history.
func (a timer) before(b timer) bool {
	if a.at != b.at {
		return a.at < b.at
	}
	if a.kind != b.kind {
		return a.kind < b.kind
	}
	return a.slot < b.slot
}

func (q *Queue) setTimer(k timerKind, s int32, at Time) {
	h := &q.timers
	h.heap = append(h.heap, timer{at, s, k})
	q.siftUp(len(h.heap) - 1)
}

// stopTimer removes a timer if it is set.
func (q *Queue) stopTimer(k timerKind, s int32) {
	i := int(q.entries[s].heap[k])
	if i < 0 {
		return
	}
	h := &q.timers
	q.entries[s].heap[k] = none
	last := len(h.heap) - 1
	moved := h.heap[last]
	h.heap = h.heap[:last]
	if i == last {
		return
	}
	h.heap[i] = moved
	q.entries[moved.slot].heap[moved.kind] = int32(i)
	q.siftUp(q.siftDown(i))
}

func (q *Queue) place(i int, t timer) {
	q.timers.heap[i] = t
	q.entries[t.slot].heap[t.kind] = int32(i)
}

func (q *Queue) siftUp(i int) {
	h := q.timers.heap
	t := h[i]
	for i > 0 {
		p := (i - 1) / 2
		if !t.before(h[p]) {
			break
		}
		q.place(i, h[p])
		i = p
	}
	q.place(i, t)
}

func (q *Queue) siftDown(i int) int {
	h := q.timers.heap
	t := h[i]
	for {
		c := 2*i + 1
		if c >= len(h) {
			break
		}
		if c+1 < len(h) && h[c+1].before(h[c]) {
			c++
		}
		if !h[c].before(t) {
			break
		}
		q.place(i, h[c])
		i = c
	}
	q.place(i, t)
	return i
}

// Next returns when Tick has something to do, and false if no timer is set.
func (q *Queue) Next() (Time, bool) {
	at := never
	if s := q.deadlines.head; s != none {
		at = q.entries[s].deadline
	}
	if h := q.timers.heap; len(h) > 0 && h[0].at < at {
		at = h[0].at
	}
	if q.live > q.marks+q.doneCount { // otherwise no entry waits
		at = min(at, q.patience.check)
	}
	if q.pause > q.now && q.pause < at && (len(q.again) > 0 || q.fresh.head != none) {
		at = q.pause
	}
	return at, at != never
}

// runTimer starts or resumes an entry's time at a call (A7, A20).
func (q *Queue) runTimer(s int32) {
	e := &q.entries[s]
	switch {
	case q.cfg.Timeout == 0:
		e.started, e.deadline = true, never
	case !e.started:
		e.started, e.deadline = true, q.now+q.cfg.Timeout
		q.deadlinePush(s)
	case e.left > 0: // it stood still
		e.deadline, e.left = q.now+e.left, 0
		q.setTimer(limit, s, e.deadline)
	}
}

// haltTimer makes an entry's time stand still. It returns false if no time is left.
func (q *Queue) haltTimer(s int32) bool {
	e := &q.entries[s]
	if q.cfg.Timeout == 0 || !e.started {
		return true
	}
	if e.deadline <= q.now {
		return false
	}
	e.left = e.deadline - q.now
	q.dropDeadline(s)
	return true
}

// dropDeadline removes an entry's running time, wherever it is kept.
func (q *Queue) dropDeadline(s int32) {
	if q.entries[s].inList {
		q.deadlineRemove(s)
	}
	q.stopTimer(limit, s)
}
