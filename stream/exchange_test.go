package stream

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// recorder is the end of a chain that writes down what arrives.
type recorder struct {
	idle
	env   *taskEnv
	log   []string
	space int
}

func (r *recorder) room() int { return r.space }

func (r *recorder) records(recs []Record[int]) error {
	for _, rec := range recs {
		r.log = append(r.log, fmt.Sprint(rec.Value))
	}
	r.space -= len(recs)
	return nil
}

func (r *recorder) watermark(w async.Watermark) error {
	switch {
	case w.Idle:
		r.log = append(r.log, "idle")
	case w.Time == async.NoTime:
		r.log = append(r.log, "active")
	case w.Time == async.EndOfTime:
		r.log = append(r.log, "W(end)")
	default:
		r.log = append(r.log, fmt.Sprintf("W(%d)", w.Time))
	}
	return nil
}

func (r *recorder) barrier(b *barrier) error {
	r.log = append(r.log, fmt.Sprintf("B%d", b.id))
	return nil
}

func (r *recorder) end() error {
	r.log = append(r.log, "end")
	return nil
}

// inletRig is an inlet with hand-fed senders.
type inletRig struct {
	t   *testing.T
	in  *inlet[int]
	rec *recorder
	to  []*link[int]
}

func newInletRig(t *testing.T, senders int) *inletRig {
	env := &taskEnv{wake: func() {}, parallelism: 1}
	newTask(env)
	links := edge[int]{}.links(senders, 1)
	rec := &recorder{space: 1 << 20}
	r := &inletRig{t: t, rec: rec, in: edge[int]{}.inlet(env, "op", links, 0, input[int](rec)).(*inlet[int])}
	for _, l := range links.([][]*link[int]) {
		l[0].taken = func() {}
		r.to = append(r.to, l[0])
	}
	return r
}

// send gives a sender's element: numbers, then perhaps a mark: "1 2 B1", "3 W5", "idle", "end".
func (r *inletRig) send(sender int, what string) {
	var e element[int]
	for _, w := range strings.Fields(what) {
		var n int
		switch {
		case w == "end":
			e.mark = markEnd
		case w == "idle":
			e.mark, e.watermark = markWatermark, async.Watermark{Idle: true}
		case w[0] == 'B':
			fmt.Sscan(w[1:], &n)
			e.mark, e.barrier = markBarrier, int64(n)
		case w[0] == 'W':
			fmt.Sscan(w[1:], &n)
			e.mark, e.watermark = markWatermark, async.Watermark{Time: EventTime(n)}
		default:
			fmt.Sscan(w, &n)
			e.recs = append(e.recs, Record[int]{Value: n})
		}
	}
	if !r.to[sender].offer(e) {
		r.t.Fatalf("the port of sender %d is full", sender)
	}
}

// arrives lets everything in and compares what arrived.
func (r *inletRig) arrives(want string) {
	r.t.Helper()
	for {
		moved, err := r.in.pull(time.Time{})
		if err != nil {
			r.t.Fatal(err)
		}
		if !moved {
			break
		}
	}
	if got := strings.Join(r.rec.log, " "); got != want {
		r.t.Errorf("arrived: %q; want %q", got, want)
	}
	r.rec.log = nil
}

// TestAlignment: an input that delivered barrier n is not read until all have (A49).
func TestAlignment(t *testing.T) {
	r := newInletRig(t, 2)
	r.send(0, "1 B1")
	r.send(0, "2 3")
	r.arrives("1")
	r.send(1, "4")
	r.arrives("4")
	r.send(1, "5 B1")
	r.arrives("5 B1 2 3")

	// The end counts as aligned; the coordinator's word is needed when all are there.
	r.send(0, "6 B2")
	r.send(1, "end")
	r.arrives("6 B2")
	r.send(0, "end")
	r.arrives("end")
	if err := r.in.trigger(3, false); err != nil {
		t.Fatal(err)
	}
	r.arrives("B3")
	if err := r.in.trigger(3, false); err != nil {
		t.Fatal(err)
	}
	r.arrives("")
}

// TestAlignmentGivenUp: after an abort the inputs are read again, and barriers
// that come late are passed over.
func TestAlignmentGivenUp(t *testing.T) {
	r := newInletRig(t, 2)
	r.send(0, "1 B1")
	r.send(0, "2")
	r.arrives("1")
	r.in.abort(1)
	r.arrives("2")
	r.send(1, "3 B1")
	r.send(0, "4 B2")
	r.arrives("4 3")
	r.in.trigger(1, false)
	r.send(1, "5 B2")
	r.arrives("5 B2")
	// The word of a checkpoint whose inputs all end meanwhile is kept.
	r.in.trigger(3, false)
	r.arrives("")
	r.send(0, "end")
	r.send(1, "end")
	r.arrives("B3 end")
}

// TestWatermarks: the least over inputs neither idle nor at their end, never falling, idle when
// all are (A49).
func TestWatermarks(t *testing.T) {
	r := newInletRig(t, 3)
	r.send(0, "W5")
	r.send(1, "W7")
	r.arrives("")
	r.send(2, "W3")
	r.arrives("W(3)")
	r.send(2, "idle")
	r.arrives("W(5)")
	r.send(0, "idle")
	r.arrives("W(7)")
	r.send(1, "idle")
	r.arrives("idle")
	r.send(2, "W4") // active again, behind the others: the watermark does not fall
	r.arrives("W(7)")
	r.send(2, "W9")
	r.arrives("W(9)")
	r.send(1, "W8")
	r.arrives("")
	r.send(2, "end")
	r.arrives("")
	r.send(1, "W10")
	r.arrives("W(10)")
	r.send(1, fmt.Sprintf("W%d", int64(async.EndOfTime)))
	r.send(1, "end")
	r.arrives("idle") // sender 0 may still come back
	r.send(0, "W11")
	r.arrives("W(11)")
	r.send(0, "end")
	r.arrives("W(end) end")
}

// TestWatermarkOrder: whatever the senders do, watermarks rise, and no record arrives
// behind a watermark that was not late at its sender.
func TestWatermarkOrder(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := newInletRig(t, 3)
		next := [3]int{}
		for range 100 {
			s := rng.IntN(3)
			if r.to[s].len() < portSize {
				what := ""
				for range rng.IntN(4) {
					next[s] += 1 + rng.IntN(3)
					what += fmt.Sprintf("%d ", next[s])
				}
				if rng.IntN(2) == 0 {
					what += fmt.Sprintf("W%d", next[s])
				}
				r.send(s, what)
			}
			if _, err := r.in.pull(time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		mark := -1
		for _, w := range r.rec.log {
			var n int
			if _, err := fmt.Sscanf(w, "W(%d)", &n); err == nil {
				if n <= mark {
					t.Fatalf("seed %d: watermark %d after %d", seed, n, mark)
				}
				mark = n
			} else if fmt.Sscan(w, &n); n <= mark {
				t.Fatalf("seed %d: record %d after watermark %d", seed, n, mark)
			}
		}
		if mark < 0 {
			t.Fatalf("seed %d: no watermark arrived", seed)
		}
	}
}

// TestOutlet: a slice goes when it is full or its receiver idle, and always before a mark; a
// full receiver stops the sender, but not a barrier.
func TestOutlet(t *testing.T) {
	var reports []report
	env := &taskEnv{wake: func() {}, parallelism: 1, report: func(r report) { reports = append(reports, r) }}
	newTask(env)
	links := edge[int]{}.links(1, 1)
	o := edge[int]{}.outlet(env, "op", links, 0, inTurn).(*outlet[int])
	l := links.([][]*link[int])[0][0]
	l.put = func() {}
	give := func(n int) {
		t.Helper()
		if err := o.records(make([]Record[int], n)); err != nil {
			t.Fatal(err)
		}
		o.turn(time.Time{})
	}
	give(3) // the receiver is idle
	if l.len() != 1 {
		t.Fatalf("%d elements wait; want the slice of 3", l.len())
	}
	give(5) // it is not: these wait to become more
	if l.len() != 1 || o.room() == 0 {
		t.Fatalf("%d elements wait, room for %d", l.len(), o.room())
	}
	o.watermark(async.Watermark{Time: 1})
	give(sliceSize)
	if l.len() != portSize || o.room() != 0 {
		t.Fatalf("%d elements wait, room for %d; want %d and none", l.len(), o.room(), portSize)
	}
	o.barrier(env.begin(1))
	o.end()
	o.barrier(env.begin(2)) // after the end it stays here
	var got []string
	for o.turn(time.Time{}); l.len() > 0; o.turn(time.Time{}) {
		e, _ := l.take()
		got = append(got, fmt.Sprintf("%d/%d", len(e.recs), e.mark))
	}
	if want := "[3/0 5/1 256/0 0/2 0/3]"; fmt.Sprint(got) != want {
		t.Errorf("sent %v; want %v", got, want)
	}
	if len(reports) != 3 || reports[0].ack.id != 1 || reports[1].kind != taskEnded || reports[2].ack.id != 2 {
		t.Errorf("reports %+v", reports)
	}
}

// TestLaneOf: a key's subtask must not change between versions: state is dealt out by it.
func TestLaneOf(t *testing.T) {
	var got []int
	for _, key := range []string{"", "a", "b", "key", "Schlüssel", "42"} {
		got = append(got, laneOf(key, 7))
	}
	if want := []int{6, 1, 5, 5, 1, 5}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestSourceWatermarks: behind the records, by the bound, idle after a while, and the end of
// time at the end.
func TestSourceWatermarks(t *testing.T) {
	times := []EventTime{10, 12, 11, 20, async.NoTime, 15}
	src := timed(times)
	env := &taskEnv{wake: func() {}, parallelism: 1, splits: map[string][]splitState{"source": {{}}}}
	newTask(env)
	rec := &recorder{space: 100}
	h := newSourceHead(env, "source", Source[int](src), &watermarks{lag: 3 * time.Millisecond, idle: time.Second}, input[int](rec)).(*sourceHead[int])
	now := time.Now()
	pull := func() {
		for {
			if moved, err := h.pull(now); err != nil {
				t.Fatal(err)
			} else if !moved {
				return
			}
		}
	}
	for i := range times {
		h.reader.fetch(t.Context())
		if i == 3 {
			if _, next, _ := h.turn(now); !next.Equal(now.Add(time.Second)) {
				t.Errorf("due at %v", next)
			}
			now = now.Add(time.Second)
			h.reader.take()
			pull() // nothing is there: idle
			h.reader.offer(batch[int]{recs: []Record[int]{{Value: 3, Time: 20}}, next: 4})
		}
		pull()
	}
	h.reader.fetch(t.Context())
	pull()
	if got, want := strings.Join(rec.log, " "), "0 W(6) 1 W(8) 2 idle W(8) 3 W(16) 4 5 W(end) end"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
}

// timed gives one record of each time, one a read.
type timed []EventTime

func (s timed) Splits(context.Context) ([]Split, error)        { return []Split{{}}, nil }
func (s timed) Verify(context.Context, []Split, []int64) error { return nil }
func (s timed) Open(context.Context, Split, int64) (Reader[int], error) {
	return &timedReader{times: s}, nil
}

type timedReader struct {
	sliceReader[int]
	times []EventTime
}

func (r *timedReader) Read(_ context.Context, dst []Record[int], _ int) ([]Record[int], int64, error) {
	if r.at == int64(len(r.times)) {
		return dst, r.at, io.EOF
	}
	dst = append(dst, Record[int]{Value: int(r.at), Time: r.times[r.at], Position: r.at})
	r.at++
	return dst, r.at, nil
}
