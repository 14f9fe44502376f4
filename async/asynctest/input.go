package asynctest

import (
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// Records makes records of values as Push does. They have no time and no key, are in split 0, and
// their positions continue after those of the records taken so far. A test may change them before
// it pushes them.
func (h *Harness[IN, OUT]) Records(values ...IN) []async.Record[IN] {
	recs := make([]async.Record[IN], len(values))
	for i, v := range values {
		recs[i] = async.Record[IN]{Value: v, Time: async.NoTime, Position: h.next + int64(i)}
	}
	return recs
}

// Push passes values to the operator, as records that Records makes. It fails the test unless the
// operator takes them all.
func (h *Harness[IN, OUT]) Push(values ...IN) {
	h.t.Helper()
	h.PushRecords(h.Records(values...)...)
}

// PushRecords passes records to the operator. It fails the test unless the operator takes them all.
// A test of records that do not fit uses Offer, and a test with more records than fit uses Feed.
func (h *Harness[IN, OUT]) PushRecords(recs ...async.Record[IN]) {
	h.t.Helper()
	if n := h.Offer(recs...); n < len(recs) {
		h.alive("Push")
		h.t.Fatalf("asynctest: only %d of %d records were taken; %s", n, len(recs), h.describe())
	}
}

// Offer passes as many of the records to the operator as there is room for, and returns how many
// were taken. Room may grow meanwhile, if the function answers at once.
func (h *Harness[IN, OUT]) Offer(recs ...async.Record[IN]) int {
	h.t.Helper()
	h.open("Offer")
	taken := 0
	for h.err == nil && taken < len(recs) {
		n := h.op.Admit(recs[taken:])
		if n == 0 {
			break
		}
		for _, r := range recs[taken : taken+n] {
			if r.Split == 0 {
				h.next = max(h.next, r.Position+1)
			}
		}
		taken += n
		h.settle()
	}
	return taken
}

// Feed passes all records to the operator, and lets time pass while there is no room. It stops
// early if the operator fails. It fails the test if nothing happens for 24 hours of virtual time
// and no timer of the operator is due.
func (h *Harness[IN, OUT]) Feed(recs ...async.Record[IN]) {
	h.t.Helper()
	h.open("Feed")
	h.pass("Feed", func() bool {
		recs = recs[h.Offer(recs...):]
		return len(recs) == 0
	})
}

// Room returns how many small records, or watermarks, the operator takes now. It returns 0 after
// End, after Close and after a failure.
func (h *Harness[IN, OUT]) Room() int {
	h.t.Helper()
	h.settle()
	if h.err != nil || h.closed || h.told {
		return 0
	}
	return h.op.Room()
}

// Watermark says that no record with an event time up to t follows. It fails the test if there
// is no Room for it.
func (h *Harness[IN, OUT]) Watermark(t async.EventTime) {
	h.t.Helper()
	h.watermark(async.Watermark{Time: t})
}

// Idle says that the input has gone idle. It fails the test if there is no Room for that.
func (h *Harness[IN, OUT]) Idle() {
	h.t.Helper()
	h.watermark(async.Watermark{Idle: true})
}

func (h *Harness[IN, OUT]) watermark(w async.Watermark) {
	h.t.Helper()
	h.open("Watermark")
	if !h.op.Watermark(w) {
		h.t.Fatalf("asynctest: there is no room for the watermark; %s", h.describe())
	}
	h.settle()
}

// Barrier sends the barrier of checkpoint id, which must be larger than the ids before. Under the
// snapshot policy the barrier passes at once. Under the drain policy it passes when all records
// before it have left, and until then no record is taken. When it passes it is an Element of
// Output, and State returns the state of its checkpoint.
func (h *Harness[IN, OUT]) Barrier(id int64) {
	h.t.Helper()
	h.alive("Barrier")
	switch {
	case h.barrier != 0:
		h.t.Fatalf("asynctest: barrier %d while barrier %d is still on its way; let it pass, or give it up with AbortBarrier", id, h.barrier)
	case id <= h.last:
		h.t.Fatalf("asynctest: barrier %d is not larger than the one before, %d (the first may be 1)", id, h.last)
	}
	h.barrier, h.last = id, id
	h.op.Barrier(id)
	h.settle()
}

// AbortBarrier gives up the barrier that is on its way, as a job does when a checkpoint takes too
// long. It fails the test if no barrier is on its way.
func (h *Harness[IN, OUT]) AbortBarrier() {
	h.t.Helper()
	h.alive("AbortBarrier")
	if h.barrier == 0 {
		h.t.Fatalf("asynctest: no barrier is on its way; %s", h.describe())
	}
	h.op.AbortBarrier(h.barrier)
	h.barrier = 0
	h.settle()
}

// End says that no more input comes. When everything has left, an Element of Kind End leaves too.
func (h *Harness[IN, OUT]) End() {
	h.t.Helper()
	h.open("End")
	h.told = true
	h.op.End()
	h.settle()
}

// alive fails the test if the operator is closed or has failed.
func (h *Harness[IN, OUT]) alive(what string) {
	h.t.Helper()
	h.settle()
	switch {
	case h.closed:
		h.t.Fatalf("asynctest: %s after Close", what)
	case h.err != nil:
		h.seen = true
		h.t.Fatalf("asynctest: %s after the operator failed: %v", what, h.err)
	}
}

// open fails the test if the operator is closed, has failed, or takes no more input after End.
func (h *Harness[IN, OUT]) open(what string) {
	h.t.Helper()
	h.alive(what)
	if h.told {
		h.t.Fatalf("asynctest: %s after End", what)
	}
}

// describe returns the state of the operator in words, for a message.
func (h *Harness[IN, OUT]) describe() string {
	st, cfg := h.op.Stats(), h.op.Config()
	s := fmt.Sprintf("%d record(s) in a queue of %d (%d bytes): %d calls in progress, %d held, %d wait for a retry, %d done",
		st.Queued, cfg.Capacity, st.Bytes, st.InFlight, st.Held, st.Retrying, st.Done)
	if h.barrier != 0 {
		s += fmt.Sprintf("; barrier %d is on its way, and nothing is taken before it has passed", h.barrier)
	}
	if st.Suspended != nil {
		s += fmt.Sprintf("; calls are suspended: %v", st.Suspended)
	}
	if !h.status.Next.IsZero() {
		s += fmt.Sprintf("; the next timer is due in %v", time.Until(h.status.Next))
	}
	return s
}
