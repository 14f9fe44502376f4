package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	guards "github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/internal/size"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// ReadError is the failure of a source to open or read a split.
type ReadError struct {
	Operator string
	Split    int
	// Position is the position at which the failed read began.
	Position int64
	Err      error
}

func (e *ReadError) Error() string {
	return fmt.Sprintf("%s: cannot read split %d from position %d: %v", e.Operator, e.Split, e.Position, e.Err)
}

func (e *ReadError) Unwrap() error { return e.Err }

// batch is what a reader passes to its task: records of one split, and the position behind them.
type batch[T any] struct {
	split int
	recs  []Record[T]
	next  int64
	data  []byte // Split.Data from next on; nil: unchanged
	end   bool   // of the split
	err   error
}

// splitState is how far a split has been read.
type splitState struct {
	index int
	split connector.Split
	next  int64
	done  bool
	own   bool // split.Data belongs to this attempt alone
}

// reader reads the splits of one subtask, one after another. fetch is called from a goroutine of
// its own, since it blocks. Everything reaches the task through the port.
type reader[T any] struct {
	port[batch[T]]
	recycler[T]
	operator string
	src      connector.Source[T]
	todo     []splitState
	open     connector.Reader[T]
	live     connector.Unbounded[T] // nil: splits end, and are read one after another
	all      connector.UnboundedReader[T]

	size func(*T) int64
	// largest is the bytes of the largest record of the last Read that returned records. It is 0
	// before that.
	largest int64
}

// fetch reads once and puts the result into the port, which has room. It returns false when nothing
// is left to read, or when reading failed; the failure reaches the task through the port too.
func (r *reader[T]) fetch(ctx context.Context) bool {
	if len(r.todo) == 0 {
		return false
	}
	if r.live != nil {
		return r.fetchUnbounded(ctx)
	}
	s := &r.todo[0]
	b := batch[T]{split: s.index, next: s.next}
	b.end, b.err = r.read(ctx, s, &b)
	b.end = b.end && b.err == nil
	if b.err == nil && len(b.recs) == 0 && !b.end {
		b.err = errors.New("the reader returned no records, no io.EOF and no error")
	}
	for i := range b.recs {
		b.recs[i].Split = s.index
	}
	r.weigh(b.recs)
	if b.err == nil && b.end {
		if b.err = r.shut(); b.err != nil {
			b.end = false
		}
	}
	if b.err != nil {
		b.err = &ReadError{Operator: r.operator, Split: s.index, Position: s.next, Err: b.err}
	}
	s.next = b.next
	if b.end {
		r.todo = r.todo[1:]
	}
	r.offer(b)
	return b.err == nil && len(r.todo) > 0
}

// fetchUnbounded is fetch for splits without an end.
func (r *reader[T]) fetchUnbounded(ctx context.Context) bool {
	b := batch[T]{split: r.todo[0].index, next: r.todo[0].next}
	err := guards.Call("Read of "+r.operator, func() (err error) {
		if r.all == nil {
			splits := make([]connector.AssignedSplit, len(r.todo))
			for i, s := range r.todo {
				splits[i] = connector.AssignedSplit{Index: s.index, Split: s.split, Position: s.next}
			}
			if r.all, err = r.live.OpenAll(ctx, splits); err != nil {
				return err
			}
			if r.all == nil {
				return errors.New("the source's OpenAll returned neither a reader nor an error")
			}
		}
		if b.split, b.recs, b.next, err = r.all.Read(ctx, r.get(), r.most()); err == io.EOF {
			err = fmt.Errorf("the reader returned io.EOF, but the splits of an unbounded source have no end: %w", err)
		}
		return err
	})
	if err == nil {
		switch i := slices.IndexFunc(r.todo, func(s splitState) bool { return s.index == b.split }); {
		case i < 0:
			err = fmt.Errorf("the reader returned records of split %d, which does not belong to this subtask", b.split)
		case len(b.recs) == 0 && b.next <= r.todo[i].next:
			err = errors.New("the reader returned no records, no greater position and no error")
		default:
			r.todo[i].next = b.next
		}
	}
	if err != nil {
		b.err = &ReadError{Operator: r.operator, Split: b.split, Position: b.next, Err: err}
	}
	for i := range b.recs {
		b.recs[i].Split = b.split
	}
	r.weigh(b.recs)
	r.offer(b)
	return b.err == nil
}

// read reads once, into b. end says that this was the last time.
func (r *reader[T]) read(ctx context.Context, s *splitState, b *batch[T]) (end bool, err error) {
	defer caught("Read of ", r.operator, &err)
	if r.open == nil {
		if r.open, err = r.src.Open(ctx, s.split, s.next); err != nil {
			return false, err
		}
		if r.open == nil {
			return false, errors.New("the source's Open returned neither a reader nor an error")
		}
	}
	b.recs, b.next, err = r.open.Read(ctx, r.get(), r.most())
	// An error that wraps io.EOF does not say that the split has ended.
	if end = err == io.EOF; end {
		err = nil
	}
	if d, ok := r.open.(connector.Describer); ok && err == nil {
		b.data = d.Describe(r.text())
	}
	return end, err
}

// most returns how many records the next Read is asked for: as many as fill a slice if none is
// larger than those of the last Read.
func (r *reader[T]) most() int { return fitting(r.largest) }

// weigh remembers the size of the largest record of a Read.
func (r *reader[T]) weigh(recs []Record[T]) {
	if len(recs) == 0 {
		return
	}
	r.largest = 1
	for i := range recs {
		r.largest = max(r.largest, r.size(&recs[i].Value))
	}
}

func (r *reader[T]) shut() error {
	open := r.open
	r.open = nil
	if all := r.all; all != nil {
		r.all = nil
		return guards.Call("Close of "+r.operator, all.Close)
	}
	if open == nil {
		return nil
	}
	return guards.Call("Close of "+r.operator, open.Close)
}

// broke reports that a fetch did not return, because a function of the source has ended the
// goroutine. It is called in a deferred function of that goroutine.
func (r *reader[T]) broke() {
	err := guards.Exited("Read of " + r.operator)
	s := &r.todo[0]
	r.offer(batch[T]{split: s.index, next: s.next, err: &ReadError{Operator: r.operator, Split: s.index, Position: s.next, Err: err}})
}

// fetcher is a reader without its type.
type fetcher interface {
	fetch(ctx context.Context) bool
	broke()
	full() bool
	shut() error
	onRoom(func())
}

func (r *reader[T]) full() bool      { return r.port.len() == portSize }
func (r *reader[T]) onRoom(f func()) { r.port.taken = f }

// sourceHead is the head of a source's chain. The position of each split in a checkpoint is that of
// the first record that has not entered the chain.
type sourceHead[T any] struct {
	idle
	env    *taskEnv
	counts *counts
	reader *reader[T]
	next   input[T]
	splits []splitState // of this subtask
	now    batch[T]
	off    int
	has    bool
	undone int
	stop   bool // a stop's barrier has passed: nothing may follow it
	over   bool

	marks  *watermarks
	top    async.EventTime // the greatest event time so far
	sent   async.EventTime
	quiet  bool      // declared idle
	active time.Time // when something was last let in
}

func newSourceHead[T any](env *taskEnv, name string, src connector.Source[T], marks *watermarks, next input[T]) head {
	h := &sourceHead[T]{env: env, next: next, marks: marks, top: async.NoTime, sent: async.NoTime}
	h.counts = env.count(name)
	h.reader = &reader[T]{operator: name, src: src}
	h.reader.size, _ = size.Of[T]()
	h.reader.live, _ = src.(connector.Unbounded[T])
	h.reader.put = env.wake
	h.reader.taken = func() {}
	env.task.reader = h.reader
	for _, s := range env.splits[name] {
		if s.index%env.parallelism != env.index {
			continue
		}
		h.splits = append(h.splits, s)
		if !s.done {
			h.reader.todo = append(h.reader.todo, s)
			h.undone++
		}
	}
	return h
}

func (h *sourceHead[T]) trigger(id int64, stop bool) error {
	h.stop = h.stop || stop
	b := h.env.begin(id)
	for i := range h.splits {
		s := h.splits[i]
		if h.has && h.now.split == s.index {
			s.next = h.position()
		}
		b.ack.parts = append(b.ack.parts, opPart{h.counts.operator, checkpoint.KindSource, checkpoint.Part{
			Split: s.index, Subtask: h.env.index, Name: checkpoint.PartSplit, Data: s.position().Append(nil),
		}})
	}
	b.ack.counts = append(b.ack.counts, h.counts.now())
	return h.next.barrier(b)
}

// position returns the position of the first record of the present batch that has not been let in.
func (h *sourceHead[T]) position() int64 {
	if h.off < len(h.now.recs) {
		return h.now.recs[h.off].Position
	}
	return h.now.next
}

func (h *sourceHead[T]) pull(now time.Time) (moved bool, err error) {
	if h.stop || h.over {
		return false, nil
	}
	if h.undone == 0 && h.reader.live == nil {
		h.over = true
		if err := h.mark(async.Watermark{Time: async.EndOfTime}); err != nil {
			return true, err
		}
		return true, h.next.end()
	}
	if h.active.IsZero() {
		h.active = now
	}
	if !h.has {
		if h.now, h.has = h.reader.take(); !h.has {
			return false, h.rest(now)
		}
		h.off = 0
		if h.now.err != nil {
			return false, h.now.err
		}
	}
	if k := min(len(h.now.recs)-h.off, h.next.room()); k > 0 {
		if err := h.let(now, h.now.recs[h.off:h.off+k]); err != nil {
			return false, err
		}
		moved = true
	}
	if h.off == len(h.now.recs) {
		s := &h.splits[h.now.split/h.env.parallelism]
		s.next = h.now.next
		if h.now.data != nil {
			if s.own {
				h.reader.giveText(s.split.Data)
			}
			s.split.Data, s.own = h.now.data, true
		}
		if h.now.end {
			s.done = true
			h.undone--
		}
		h.reader.give(h.now.recs)
		h.now, h.has, moved = batch[T]{}, false, true
	}
	return moved, nil
}

// let lets records into the chain, and a watermark behind them.
func (h *sourceHead[T]) let(now time.Time, recs []Record[T]) error {
	h.active = now
	if h.quiet {
		h.quiet = false
		if err := h.mark(async.Watermark{Time: h.sent}); err != nil {
			return err
		}
	}
	for i := range recs {
		if t := recs[i].Time; !t.Valid() && t != async.NoTime {
			h.env.untimely(h.counts.operator, recs[i].Split, recs[i].Position, t)
			recs[i].Time = async.NoTime
		}
	}
	h.off += len(recs)
	h.counts.in.Add(int64(len(recs)))
	h.counts.done.Add(int64(len(recs)))
	h.counts.out.Add(int64(len(recs)))
	if h.marks == nil {
		return h.next.records(recs)
	}
	for i := range recs {
		h.top = max(h.top, recs[i].Time)
	}
	if err := h.next.records(recs); err != nil {
		return err
	}
	// No record at or before the watermark may follow. A record at top - lag still may, so the
	// watermark is 1 less.
	if w := h.top - async.EventTime(h.marks.lag.Milliseconds()) - 1; h.top != async.NoTime && w > h.sent && w < h.top {
		h.sent = w
		return h.mark(async.Watermark{Time: w})
	}
	return nil
}

// mark passes a watermark on.
func (h *sourceHead[T]) mark(w async.Watermark) error {
	h.counts.reached(w)
	return h.next.watermark(w)
}

// rest declares the source idle when it has let nothing in for long enough.
func (h *sourceHead[T]) rest(now time.Time) error {
	if h.marks == nil || h.marks.idle == 0 || h.quiet || now.Sub(h.active) < h.marks.idle {
		return nil
	}
	h.quiet = true
	return h.mark(async.Watermark{Time: h.sent, Idle: true})
}

func (h *sourceHead[T]) turn(time.Time) (bool, time.Time, error) {
	if h.marks == nil || h.marks.idle == 0 || h.quiet || h.has || h.stop || h.over || h.active.IsZero() {
		return false, time.Time{}, nil
	}
	return false, h.active.Add(h.marks.idle), nil
}
