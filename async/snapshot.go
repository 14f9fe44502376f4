package async

import (
	"time"

	"github.com/tensorferry/tensorferry/internal/asyncq"
)

// QueuedWatermark is a watermark of a snapshot. Its place is before Entries[Before].
type QueuedWatermark struct {
	Before int
	Mark   Watermark
}

// entry is one element of a restored snapshot.
type entry[IN any] struct {
	rec    Record[IN]
	mark   Watermark
	isMark bool
}

// Barrier says that checkpoint barrier id, which is not 0, has arrived behind everything that was
// admitted so far. Under the Snapshot policy it passes with the next Step. Under Drain it passes
// when everything has left, or when Config.DrainLimit is over. Status.Barrier reports that. Until
// then no record is admitted.
func (o *Operator[IN, OUT]) Barrier(id int64) {
	o.barrier = id
	if o.cfg.Barrier == Drain {
		o.queue.Drain()
		o.drainFrom, o.drainStart = time.Now(), o.left()
	}
}

// AbortBarrier gives up a barrier that has not passed. Records are then admitted again.
func (o *Operator[IN, OUT]) AbortBarrier(id int64) {
	if o.barrier == id {
		o.drained(time.Now())
		o.barrier = 0
		o.queue.Undrain()
	}
}

// mayPass reports whether the present barrier may pass.
func (o *Operator[IN, OUT]) mayPass(now time.Time) bool {
	if o.cfg.Barrier == Snapshot {
		return true
	}
	over := o.cfg.DrainLimit > 0 && now.Sub(o.drainFrom) >= o.cfg.DrainLimit
	if !over && (len(o.backlog) > 0 || !o.queue.Empty()) {
		return false
	}
	o.drained(now)
	return true
}

// drained measures how long the present barrier has waited, whether it passes now or is given up.
func (o *Operator[IN, OUT]) drained(now time.Time) {
	if o.barrier != 0 && o.cfg.Barrier == Drain {
		o.stats.Drain.Add(now.Sub(o.drainFrom))
		o.stats.Drained += o.left() - o.drainStart
	}
}

// snapshot copies the entries that have not left yet (A34).
func (o *Operator[IN, OUT]) snapshot() ([]Record[IN], []QueuedWatermark) {
	if o.queue.Len()+len(o.backlog) == 0 {
		return nil, nil
	}
	recs := make([]Record[IN], 0, o.queue.Len()+len(o.backlog))
	var marks []QueuedWatermark
	add := func(rec Record[IN], mark Watermark, isMark bool) {
		if isMark {
			marks = append(marks, QueuedWatermark{Before: len(recs), Mark: mark})
		} else {
			recs = append(recs, rec)
		}
	}
	for _, n := range o.queue.Entries(nil) {
		add(o.slots[n].rec, o.slots[n].mark, o.slots[n].isMark)
	}
	for _, b := range o.backlog {
		add(b.rec, b.mark, b.isMark)
	}
	o.stats.Snapshotted += int64(len(recs))
	return recs, marks
}

// Restore passes the entries of a snapshot to the operator. It must be called before any Admit. The
// entries are admitted before all input, as there is room, with any capacity. Records start at
// attempt 1 with a full timeout (A29, A34, A36). The operator keeps the elements of the slices, not
// the slices.
func (o *Operator[IN, OUT]) Restore(recs []Record[IN], marks []QueuedWatermark) {
	o.stats.Admitted += int64(len(recs))
	for i := 0; i <= len(recs); i++ {
		for len(marks) > 0 && marks[0].Before <= i {
			o.backlog = append(o.backlog, entry[IN]{mark: marks[0].Mark, isMark: true})
			marks = marks[1:]
		}
		if i < len(recs) {
			o.backlog = append(o.backlog, entry[IN]{rec: recs[i]})
		}
	}
}

func (o *Operator[IN, OUT]) admitBacklog(now asyncq.Time) {
	if len(o.backlog) == 0 {
		return
	}
	defer o.failOnPanic("RecordBytes")
	n := 0
	for ; n < len(o.backlog) && o.queue.Free() > 0; n++ {
		if b := &o.backlog[n]; b.isMark {
			s := o.slot(o.queue.AdmitMark(now))
			s.mark, s.isMark = b.mark, true
		} else if !o.admit(now, &b.rec) {
			break
		}
	}
	clear(o.backlog[:n])
	if o.backlog = o.backlog[n:]; len(o.backlog) == 0 {
		o.backlog = nil
	}
}
