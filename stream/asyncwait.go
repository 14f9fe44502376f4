package stream

import (
	"context"
	"time"

	"github.com/tensorferry/tensorferry/async"
	guards "github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// asyncWait puts an async.Operator into a chain. In front of the operator is a queue for what comes
// when it has no room: further records that one record became, the end, and a barrier that must
// stay behind them. The head lets nothing in while the queue holds anything, so the queue is at
// most as long as the fan-out of one slice.
type asyncWait[IN, OUT any] struct {
	env        *taskEnv
	counts     *counts
	keyed      bool
	op         *async.Operator[IN, OUT]
	drain      bool // checkpoints hold nothing of this operator
	serializer Serializer[IN]
	next       input[OUT]
	side       input[async.Failed[IN]] // nil if the operator has no dead letters
	letters    []Record[async.Failed[IN]]

	queue   []waiting[IN]
	first   int
	behind  int // records in queue
	scratch []Record[IN]
	passing *barrier // op has it, and it has not passed yet
	settled int64    // the newest checkpoint that was given up
	told    bool     // op knows of the end
	over    bool     // the end has been passed on

	// While op steps:
	moved bool
	err   error
}

// waiting is a record, a watermark, a barrier or the end.
type waiting[IN any] struct {
	mark      mark
	rec       Record[IN]
	watermark async.Watermark
	barrier   *barrier
}

func newAsyncWait[IN, OUT any](env *taskEnv, n *node, fn async.Function[IN, OUT], cfg async.Config, s Serializer[IN], next input[OUT]) *asyncWait[IN, OUT] {
	w := &asyncWait[IN, OUT]{env: env, keyed: n.keyed, serializer: s, next: next}
	w.counts = env.count(n.name)
	env.add(w, n.name)
	if cfg.Tracer == nil {
		cfg.Tracer = env.tracer
	}
	op, err := async.NewOperator(fn, cfg, async.Subtask{
		Job: env.job, Operator: n.name, Index: env.index, Parallelism: env.parallelism, Run: env.run, Attempt: env.attempt, Logger: env.logger,
	}, env.wake)
	w.op, w.err = op, err
	if err == nil {
		w.drain = !keeps(op.Config())
	}
	return w
}

// takeLetters sets where the records go that failed with the action DeadLetter.
func (w *asyncWait[IN, OUT]) takeLetters(side input[async.Failed[IN]]) {
	w.side = side
	if w.op == nil {
		return // a faulty configuration, which open reports
	}
	w.op.DeadLetters(func(failed []async.Failed[IN]) {
		w.moved = true
		for i := range failed {
			w.letters = append(w.letters, async.With(failed[i].Record, failed[i]))
		}
		if w.err == nil {
			w.err = side.records(w.letters)
		}
		clear(w.letters)
		w.letters = w.letters[:0]
	})
}

// The three marks that go down both streams.

func (w *asyncWait[IN, OUT]) passMark(m async.Watermark) error {
	w.counts.reached(m)
	err := w.next.watermark(m)
	if err == nil && w.side != nil {
		err = w.side.watermark(m)
	}
	return err
}

func (w *asyncWait[IN, OUT]) passBarrier(b *barrier) error {
	err := w.next.barrier(b)
	if err == nil && w.side != nil {
		err = w.side.barrier(b)
	}
	return err
}

func (w *asyncWait[IN, OUT]) passEnd() error {
	err := w.next.end()
	if err == nil && w.side != nil {
		err = w.side.end()
	}
	return err
}

// keeps reports whether checkpoints of an operator can hold records.
func keeps(cfg async.Config) bool { return cfg.Barrier == async.Snapshot || cfg.DrainLimit > 0 }

func (w *asyncWait[IN, OUT]) open(ctx context.Context) error {
	if w.err != nil {
		return w.err
	}
	recs, marks, err := restoreEntries(w.env, w.counts.operator, w.keyed, w.serializer)
	if err != nil {
		return err
	}
	w.op.Restore(recs, marks)
	w.counts.held.Store(int64(len(recs)))
	return w.op.Open(ctx)
}

func (w *asyncWait[IN, OUT]) empty() bool { return w.first == len(w.queue) }

func (w *asyncWait[IN, OUT]) room() int {
	if !w.empty() || w.passing != nil || w.told {
		return 0
	}
	return w.op.Room()
}

func (w *asyncWait[IN, OUT]) records(recs []Record[IN]) error {
	w.counts.in.Add(int64(len(recs)))
	w.moved = true
	if w.empty() && w.passing == nil {
		recs = recs[w.admitted(recs):]
	}
	w.behind += len(recs)
	for i := range recs {
		w.queue = append(w.queue, waiting[IN]{rec: recs[i]})
	}
	return nil
}

// admitted calls Admit of op. If a function of the operator ends the goroutine there, the failure
// names the operator, and not the head, whose turn it is.
func (w *asyncWait[IN, OUT]) admitted(recs []Record[IN]) int {
	returned := false
	defer func() {
		if !returned {
			w.env.task.lost = guards.Exited("a function of " + w.counts.operator)
		}
	}()
	n := w.op.Admit(recs)
	returned = true
	return n
}

func (w *asyncWait[IN, OUT]) watermark(m async.Watermark) error {
	w.moved = true
	if !w.empty() || w.passing != nil || !w.op.Watermark(m) {
		w.queue = append(w.queue, waiting[IN]{mark: markWatermark, watermark: m})
	}
	return nil
}

// barrier passes the queue if checkpoints hold records, because what is in the queue goes into the
// checkpoint. Otherwise it waits behind the queue.
func (w *asyncWait[IN, OUT]) barrier(b *barrier) error {
	w.moved = true
	if w.drain && !w.empty() {
		w.queue = append(w.queue, waiting[IN]{mark: markBarrier, barrier: b})
		return nil
	}
	if w.over {
		b.ack.counts = append(b.ack.counts, w.measure())
		return w.passBarrier(b)
	}
	w.passing = b
	w.op.Barrier(b.id)
	return nil
}

func (w *asyncWait[IN, OUT]) end() error {
	w.moved = true
	if !w.empty() || w.passing != nil {
		w.queue = append(w.queue, waiting[IN]{mark: markEnd})
		return nil
	}
	w.told = true
	w.op.End()
	return nil
}

// admit moves the queue into the operator, as far as there is room.
func (w *asyncWait[IN, OUT]) admit() {
	for !w.empty() && w.passing == nil {
		e := &w.queue[w.first]
		switch e.mark {
		case noMark:
			n := min(w.op.Room(), sliceSize)
			if n == 0 {
				return
			}
			for i := w.first; i < len(w.queue) && w.queue[i].mark == noMark && len(w.scratch) < n; i++ {
				w.scratch = append(w.scratch, w.queue[i].rec)
			}
			taken := w.op.Admit(w.scratch)
			clear(w.scratch)
			w.scratch = w.scratch[:0]
			if taken == 0 {
				return // the bytes of the next one are too many for now
			}
			w.behind -= taken
			w.skip(taken)
			continue
		case markWatermark:
			if !w.op.Watermark(e.watermark) {
				return
			}
		case markBarrier:
			if e.barrier.id > w.settled {
				w.passing = e.barrier
				w.op.Barrier(e.barrier.id)
			}
		case markEnd:
			w.told = true
			w.op.End()
		}
		w.skip(1)
	}
}

// skip removes the first n elements from the queue, which have moved on.
func (w *asyncWait[IN, OUT]) skip(n int) {
	w.moved = true
	clear(w.queue[w.first : w.first+n])
	if w.first += n; w.first == len(w.queue) {
		w.queue, w.first = w.queue[:0], 0
		if cap(w.queue) > 4*sliceSize {
			w.queue = nil // a burst is over
		}
	}
}

func (w *asyncWait[IN, OUT]) turn(time.Time) (moved bool, next time.Time, err error) {
	w.admit()
	room := w.next.room()
	if w.side != nil {
		room = min(room, w.side.room())
	}
	// The operators behind this one may have taken a while since the step began.
	st, err := w.op.Step(time.Now(), room, w)
	// Step may have admitted restored records, freed room for the queue, or failed. The counts must
	// show that.
	w.measure()
	if err == nil {
		err = w.err
	}
	if err != nil {
		w.counts.open.Store(false)
		return false, time.Time{}, err
	}
	if !w.counts.open.Load() {
		w.counts.open.Store(true)
	}
	if b := w.passing; b != nil && st.Barrier == b.id {
		w.passing, w.moved = nil, true
		if err := w.snapshot(b, &st); err != nil {
			return false, time.Time{}, err
		}
		if err := w.passBarrier(b); err != nil {
			return false, time.Time{}, err
		}
	}
	if w.told && st.Ended && !w.over {
		w.over, w.moved = true, true
		if err := w.passEnd(); err != nil {
			return false, time.Time{}, err
		}
	}
	w.admit()
	moved, w.moved = w.moved || (st.More && room > 0), false
	return moved, st.Next, nil
}

// measure brings the counts up to date with the operator's own.
func (w *asyncWait[IN, OUT]) measure() opCounts {
	s := w.op.Stats()
	w.counts.setStats(&s)
	w.counts.done.Store(s.Completed)
	w.counts.dropped.Store(s.Dropped)
	w.counts.lettered.Store(s.DeadLettered)
	w.counts.held.Store(int64(s.Queued + w.behind))
	return w.counts.now()
}

// snapshot puts the records that have not been emitted into the checkpoint (A34), by split, with
// numbers that keep their order.
func (w *asyncWait[IN, OUT]) snapshot(b *barrier, st *async.Status[IN]) error {
	entries, marks := st.Entries, st.Watermarks
	if !w.drain {
		for i := w.first; i < len(w.queue); i++ {
			switch e := &w.queue[i]; e.mark {
			case noMark:
				entries = append(entries, e.rec)
			case markWatermark:
				marks = append(marks, async.QueuedWatermark{Before: len(entries), Mark: e.watermark})
			}
		}
	}
	c := w.measure()
	c.held = int64(len(entries))
	b.ack.counts = append(b.ack.counts, c)
	add := func(split int, name string, data []byte) {
		b.ack.parts = append(b.ack.parts, opPart{w.counts.operator, checkpoint.KindAsync,
			checkpoint.Part{Split: split, Subtask: w.env.index, Name: name, Data: data}})
	}
	bySplit := map[int][]byte{}
	var splits []int
	var scratch []byte
	for i := range entries {
		r := &entries[i]
		data, seen := bySplit[r.Split]
		if !seen {
			splits = append(splits, r.Split)
		}
		err := w.env.guard("the serializer's Append", func() (err error) {
			data, err = appendEntry(data, i, r, w.serializer, &scratch)
			return err
		})
		if err != nil {
			return &async.RecordError{Operator: w.counts.operator, Subtask: w.env.index, Split: r.Split,
				Position: r.Position, Class: async.BadRecord, Err: err}
		}
		bySplit[r.Split] = data
	}
	for _, s := range splits {
		add(s, checkpoint.PartEntries, bySplit[s])
	}
	if len(splits) > 0 {
		form := formLayout
		if ownSerializer(w.serializer) {
			form = formOwn
		}
		add(-1, partForm, []byte(form))
	}
	if len(marks) > 0 {
		add(-1, partMarks, appendMarks(nil, marks))
	}
	return nil
}

// Emit and Watermark take what leaves the operator while it steps.
func (w *asyncWait[IN, OUT]) Emit(recs []Record[OUT]) {
	w.moved = true
	w.counts.out.Add(int64(len(recs)))
	if w.err == nil {
		w.err = w.next.records(recs)
	}
}

// Watermark forwards a watermark that has its turn.
func (w *asyncWait[IN, OUT]) Watermark(m async.Watermark) {
	w.moved = true
	if w.err == nil {
		w.err = w.passMark(m)
	}
}

func (w *asyncWait[IN, OUT]) abort(id int64) {
	w.settled = max(w.settled, id)
	if w.passing != nil && w.passing.id <= id {
		w.op.AbortBarrier(w.passing.id)
		w.passing = nil
	}
}

func (w *asyncWait[IN, OUT]) complete(int64) {}

func (w *asyncWait[IN, OUT]) close() error {
	if w.op == nil {
		return nil
	}
	w.counts.open.Store(false)
	w.measure() // closing may take a while
	defer func() {
		w.measure()
		w.counts.gone()
	}()
	return w.op.Close()
}
