package stream

import (
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/size"
)

// mark is what follows the records of an element.
type mark uint8

const (
	noMark mark = iota
	markWatermark
	markBarrier
	markEnd
)

// element is what travels through an exchange: records, and then perhaps a mark.
type element[T any] struct {
	recs      []Record[T]
	mark      mark
	watermark async.Watermark
	barrier   int64
}

// link carries elements from one sender to one receiver.
type link[T any] struct {
	port[element[T]]
	recycler[T]
}

// crossing makes the exchange in front of a node. It knows the type of the node's records.
type crossing interface {
	links(senders, receivers int) any
	outlet(env *taskEnv, after string, links any, sender int, x exchange) any
	inlet(env *taskEnv, before string, links any, receiver int, next any) head
}

type edge[T any] struct{}

func (edge[T]) links(senders, receivers int) any {
	all := make([][]*link[T], senders)
	for s := range all {
		for range receivers {
			all[s] = append(all[s], &link[T]{})
		}
	}
	return all
}

func (edge[T]) outlet(env *taskEnv, after string, links any, sender int, x exchange) any {
	o := &outlet[T]{env: env, keyed: x == byKey}
	o.size, _ = size.Of[T]()
	for _, l := range links.([][]*link[T])[sender] {
		l.taken = env.wake
		o.lanes = append(o.lanes, lane[T]{link: l})
	}
	env.add(o, "the exchange after "+after)
	env.task.ends++
	return input[T](o)
}

func (edge[T]) inlet(env *taskEnv, before string, links any, receiver int, next any) head {
	h := &inlet[T]{env: env, before: before, next: next.(input[T])}
	for _, from := range links.([][]*link[T]) {
		l := from[receiver]
		l.put = env.wake
		h.ways = append(h.ways, way[T]{link: l, watermark: async.NoTime})
	}
	h.sent = async.Watermark{Time: async.NoTime}
	return h
}

// outlet is the end of a chain at the sending side of an exchange.
type outlet[T any] struct {
	idle
	env   *taskEnv
	keyed bool
	size  func(*T) int64
	lanes []lane[T]
	turns int
	over  bool
	most  int64 // bytes of the largest record of the last emission; 0 before the first
}

// lane is the way to one receiver.
type lane[T any] struct {
	link *link[T]
	// open is the slice that is being filled. waiting holds the elements for which the port had no
	// room: at most those of one emission, a barrier and the end.
	open    []Record[T]
	bytes   int64 // of open
	waiting []element[T]
}

// room is 0 while any receiver is full. Otherwise the records would pass the barriers of other
// receivers, or pile up here.
func (o *outlet[T]) room() int {
	for i := range o.lanes {
		if len(o.lanes[i].waiting) > 0 {
			return 0
		}
	}
	return fitting(o.most)
}

// fitting returns how many records fill a slice if the largest has so many bytes. Before the first
// records, whose size is not known, it returns 1.
func fitting(bytes int64) int {
	if bytes == 0 {
		return 1
	}
	return int(min(max(sliceBytes/bytes, 1), sliceSize))
}

func (o *outlet[T]) records(recs []Record[T]) error {
	o.most = 1
	for i := range recs {
		k := o.turns
		if o.keyed {
			k = laneOf(recs[i].Key, len(o.lanes))
		} else if o.turns++; o.turns == len(o.lanes) {
			o.turns = 0
		}
		l := &o.lanes[k]
		if l.open == nil {
			l.open = l.link.get()
		}
		bytes := o.size(&recs[i].Value)
		o.most = max(o.most, bytes)
		if len(l.open) > 0 && l.bytes+bytes > sliceBytes {
			l.seal(element[T]{})
			l.open = l.link.get()
		}
		l.bytes += bytes
		if l.open = append(l.open, recs[i]); len(l.open) == sliceSize {
			l.seal(element[T]{})
		}
	}
	return nil
}

// laneOf returns which of n subtasks has a key. It uses FNV-1a, and must be the same in every
// process, since it assigns restored state to subtasks.
func laneOf(key string, n int) int {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	return int((h ^ h>>32) % uint64(n))
}

// seal sends the open slice on, with a mark behind it.
func (l *lane[T]) seal(e element[T]) {
	e.recs, l.open, l.bytes = l.open, nil, 0
	l.waiting = append(l.waiting, e)
	l.send()
}

// send moves what waits into the port, as far as there is room.
func (l *lane[T]) send() (moved bool) {
	k := 0
	for k < len(l.waiting) && l.link.offer(l.waiting[k]) {
		k++
	}
	if k > 0 {
		n := copy(l.waiting, l.waiting[k:])
		clear(l.waiting[n:])
		l.waiting = l.waiting[:n]
	}
	return k > 0
}

func (o *outlet[T]) all(e element[T]) {
	for i := range o.lanes {
		o.lanes[i].seal(e)
	}
}

func (o *outlet[T]) watermark(w async.Watermark) error {
	o.all(element[T]{mark: markWatermark, watermark: w})
	return nil
}

// barrier sends a barrier to every receiver. After the end it sends nothing, since receivers count
// a sender that is at its end as aligned.
func (o *outlet[T]) barrier(b *barrier) error {
	if !o.over {
		o.all(element[T]{mark: markBarrier, barrier: b.id})
	}
	o.env.passed(b)
	return nil
}

func (o *outlet[T]) end() error {
	o.over = true
	o.all(element[T]{mark: markEnd})
	o.env.ended()
	return nil
}

// turn sends what waits, and slices that are not full to receivers that have nothing to do.
func (o *outlet[T]) turn(time.Time) (moved bool, next time.Time, err error) {
	for i := range o.lanes {
		l := &o.lanes[i]
		if l.send() {
			moved = true
		}
		if len(l.open) > 0 && len(l.waiting) == 0 && l.link.len() == 0 {
			l.seal(element[T]{})
		}
	}
	return moved, time.Time{}, nil
}

// inlet is the head of a chain at the receiving side of an exchange. It aligns barriers and
// watermarks.
type inlet[T any] struct {
	idle
	env    *taskEnv
	before string
	next   input[T]
	ways   []way[T]
	turns  int

	told     int64 // the newest checkpoint that the coordinator has spoken of
	aligning int64 // the checkpoint whose barriers are being awaited, or 0
	settled  int64 // the newest checkpoint whose barrier has passed or was given up
	sent     async.Watermark
	over     bool
}

// way is the way from one sender.
type way[T any] struct {
	link      *link[T]
	now       element[T] // the element that is being let in, from record off on
	off       int
	has       bool
	aligned   bool // has delivered the awaited barrier; not read until all have
	over      bool
	watermark async.EventTime
	idle      bool
}

func (h *inlet[T]) trigger(id int64, _ bool) error {
	h.told = max(h.told, id)
	if id <= h.settled {
		return nil
	}
	h.aligning = id
	return h.align()
}

func (h *inlet[T]) abort(id int64) {
	h.settled = max(h.settled, id)
	if h.aligning != 0 && h.aligning <= h.settled {
		h.release()
	}
}

func (h *inlet[T]) release() {
	h.aligning = 0
	for i := range h.ways {
		h.ways[i].aligned = false
	}
}

// align lets the barrier pass when every sender has delivered it or is at its end.
func (h *inlet[T]) align() error {
	if h.aligning == 0 {
		return nil
	}
	for i := range h.ways {
		if w := &h.ways[i]; !w.aligned && !w.over {
			return nil
		}
	}
	id := h.aligning
	h.settled = id
	h.release()
	return h.next.barrier(h.env.begin(id))
}

// pull takes at most one element from each sender. It begins with the sender after the last one.
func (h *inlet[T]) pull(time.Time) (moved bool, err error) {
	for range h.ways {
		w := &h.ways[h.turns]
		if h.turns++; h.turns == len(h.ways) {
			h.turns = 0
		}
		m, err := h.let(w)
		if err != nil {
			return false, err
		}
		moved = moved || m
	}
	return moved, nil
}

// let passes on the next records of a sender, and then their mark.
func (h *inlet[T]) let(w *way[T]) (moved bool, err error) {
	if w.over || w.aligned {
		return false, nil
	}
	if !w.has {
		if w.now, w.has = w.link.take(); !w.has {
			return false, nil
		}
		w.off = 0
	}
	if k := len(w.now.recs) - w.off; k > 0 {
		k = min(k, h.next.room())
		if k == 0 {
			return false, nil
		}
		w.off += k
		if err := h.next.records(w.now.recs[w.off-k : w.off]); err != nil {
			return false, err
		}
		if w.off < len(w.now.recs) {
			return true, nil
		}
	}
	if w.now.recs != nil {
		w.link.give(w.now.recs)
		w.now.recs, w.off = nil, 0
	}
	if w.now.mark == markWatermark && h.next.room() == 0 {
		return false, nil
	}
	if w.now.mark == markBarrier && w.now.barrier > h.told {
		// The barrier came before the coordinator's message about it. That message follows the one
		// that the checkpoint before has ended. Without that one, a sink would offer results again
		// that are already published.
		return false, nil
	}
	e := w.now
	w.now, w.has = element[T]{}, false
	switch e.mark {
	case markWatermark:
		w.idle = e.watermark.Idle
		if !w.idle {
			w.watermark = max(w.watermark, e.watermark.Time)
		}
		return true, h.advance()
	case markBarrier:
		if e.barrier <= h.settled {
			return true, nil // given up before it came
		}
		if h.aligning != 0 && h.aligning != e.barrier {
			return false, fmt.Errorf("%s: barrier %d came while barrier %d is being aligned", h.before, e.barrier, h.aligning)
		}
		h.aligning, w.aligned = e.barrier, true
		return true, h.align()
	case markEnd:
		w.over = true
		if err := h.align(); err != nil {
			return true, err
		}
		return true, h.advance()
	}
	return true, nil
}

// advance forwards the least watermark over the senders that are neither idle nor at their end
// (A49), and the end of the input when all senders are at their end. A sender whose watermark is
// the end of time counts as at its end. Otherwise records that other senders send later would be
// late.
func (h *inlet[T]) advance() error {
	live, past, over := 0, 0, 0
	least, last := async.EndOfTime, async.NoTime
	for i := range h.ways {
		w := &h.ways[i]
		if w.over {
			over++
		}
		switch {
		case w.over || w.watermark == async.EndOfTime:
			past++
			last = max(last, w.watermark)
		case !w.idle:
			live++
			least = min(least, w.watermark)
		}
	}
	switch {
	case past == len(h.ways):
		if last > h.sent.Time {
			h.sent = async.Watermark{Time: last}
			if err := h.next.watermark(h.sent); err != nil {
				return err
			}
		}
		if over == len(h.ways) && !h.over {
			h.over = true
			return h.next.end()
		}
	case live == 0:
		if h.sent.Idle {
			return nil
		}
		h.sent.Idle = true
		return h.next.watermark(h.sent)
	case least > h.sent.Time || h.sent.Idle:
		h.sent = async.Watermark{Time: max(least, h.sent.Time)}
		return h.next.watermark(h.sent)
	}
	return nil
}
