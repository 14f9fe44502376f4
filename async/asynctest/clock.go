package asynctest

import "time"

// patience is the virtual time without any event after which a waiting method fails the test.
const patience = 24 * time.Hour

// Advance lets the virtual time d pass. The operator steps whenever an answer comes or one of its
// timers is due, not only at the end. A negative d fails the test.
func (h *Harness[IN, OUT]) Advance(d time.Duration) {
	h.t.Helper()
	if d < 0 {
		h.t.Fatalf("asynctest: Advance by %v; time does not run backwards", d)
	}
	for end := time.Now().Add(d); ; {
		h.settle()
		if !time.Now().Before(end) {
			return
		}
		h.pause(end)
	}
}

// Until lets time pass until cond returns true. It calls cond after each event. It fails the test
// if the operator fails first, or if nothing happens for 24 hours of virtual time and no timer of
// the operator is due.
func (h *Harness[IN, OUT]) Until(cond func() bool) {
	h.t.Helper()
	h.alive("Until")
	met := false
	h.pass("Until", func() bool { met = cond(); return met })
	if !met {
		h.alive("Until")
	}
}

// Finish ends the input, unless the test called End, and lets time pass until everything has left
// or the operator has failed (see Err). It fails the test if nothing happens for 24 hours of
// virtual time and no timer of the operator is due.
func (h *Harness[IN, OUT]) Finish() {
	h.t.Helper()
	h.settle()
	if h.err != nil && !h.closed {
		return
	}
	if h.alive("Finish"); !h.told {
		h.End()
	}
	h.pass("Finish", func() bool { return h.ended })
}

// pass lets time pass until done returns true, or the operator fails.
func (h *Harness[IN, OUT]) pass(what string, done func() bool) {
	h.t.Helper()
	for {
		h.settle()
		if h.err != nil || h.closed || done() || h.err != nil {
			return
		}
		until := time.Now().Add(patience)
		if next := h.status.Next; next.After(until) {
			until = next // a timer gets its time, however late that is
		}
		if !h.pause(until) {
			h.t.Fatalf("asynctest: %s hangs: nothing has happened for %v and no timer of the operator is due; %s", what, patience, h.describe())
		}
	}
}

// pause lets time pass until a report comes in or a timer of the operator is due, and returns true,
// or until the time until, and returns false.
func (h *Harness[IN, OUT]) pause(until time.Time) bool {
	due := false
	if next := h.status.Next; h.err == nil && !h.closed && !next.IsZero() && !next.After(until) {
		until, due = next, true
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-h.woken:
		return true
	case <-timer.C:
		return due
	}
}
