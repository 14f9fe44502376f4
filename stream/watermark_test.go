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
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

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

// TestQueuedWatermarksComeBack from a checkpoint in their place, at the same parallelism (A34).
func TestQueuedWatermarksComeBack(t *testing.T) {
	var acks []*ack
	chain := func(from *restored, parallelism int) (*asyncWait[int, int], *recorder, *held) {
		env := &taskEnv{wake: func() {}, parallelism: parallelism, restore: from, report: func(r report) { acks = append(acks, r.ack) }}
		newTask(env)
		fn := &held{}
		rec := &recorder{space: 100, env: env}
		w := newAsyncWait(env, &node{name: "op"}, async.Function[int, int](fn),
			async.Config{Order: async.Unordered, Capacity: 3}, testSerializer, input[int](rec))
		if err := w.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		return w, rec, fn
	}
	turn := func(w *asyncWait[int, int]) {
		for moved := true; moved; {
			var err error
			if moved, _, err = w.turn(time.Now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	w, _, _ := chain(nil, 1)
	defer w.close()
	// The first watermark finds a place in the operator, the second one waits before it.
	w.records([]Record[int]{{Value: 1}, {Value: 2, Split: 1}})
	w.watermark(async.Watermark{Time: 5})
	w.records([]Record[int]{{Value: 3}})
	w.watermark(async.Watermark{Time: 6})
	b := w.env.begin(1)
	w.barrier(b)
	turn(w)
	if n := w.counts.held.Load(); n != 3 {
		t.Errorf("%d records are held; want 3, and watermarks are none", n)
	}
	sec := checkpoint.Section{Operator: "op", Kind: checkpoint.KindAsync, Parallelism: 1}
	for _, p := range b.ack.parts {
		sec.Parts = append(sec.Parts, p.part)
	}
	for parallelism, want := range map[int]string{1: "1 2 W(5) 3 W(6)", 2: "1 3"} {
		w, rec, fn := chain(&restored{async: map[string]checkpoint.Section{"op": sec}}, parallelism)
		defer w.close()
		if turn(w); w.counts.held.Load() != int64(strings.Count(want, " ")+1-strings.Count(want, "W")) {
			t.Errorf("parallelism %d: %d records are held, of %q", parallelism, w.counts.held.Load(), want)
		}
		for range 5 {
			turn(w)
			fn.answer()
		}
		if got := strings.Join(rec.log, " "); got != want {
			t.Errorf("at parallelism %d: %q; want %q", parallelism, got, want)
		}
	}
}

// held answers when the test says so.
type held struct {
	done  async.Completer[int]
	calls []async.Call[int]
}

func (h *held) Open(_ context.Context, _ async.Subtask, done async.Completer[int]) (async.Caller[int, int], error) {
	h.done = done
	return h, nil
}
func (h *held) Call(batch []async.Call[int]) { h.calls = append(h.calls, batch...) }
func (h *held) Cancel([]async.CallID)        {}
func (h *held) Close() error                 { return nil }

func (h *held) answer() {
	for _, c := range h.calls {
		h.done.Complete([]async.Completion[int]{{ID: c.ID, Outputs: async.One(c.Record.Value)}})
	}
	h.calls = nil
}

// TestSourceWatermarks: behind the records, by the bound, idle after a while, and the end of
// time at the end.
func TestSourceWatermarks(t *testing.T) {
	times := []EventTime{10, 12, 11, 20, async.NoTime, 15}
	src := timed(times)
	env := &taskEnv{wake: func() {}, parallelism: 1, splits: map[string][]splitState{"source": {{}}}}
	newTask(env)
	rec := &recorder{space: 100}
	h := newSourceHead(env, "source", connector.Source[int](src), &watermarks{lag: 3 * time.Millisecond, idle: time.Second}, input[int](rec)).(*sourceHead[int])
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

// TestTimesOutOfRange: what is no time is none, in a record of any source and in a checkpoint of an
// earlier version, and no watermark follows it (A61).
func TestTimesOutOfRange(t *testing.T) {
	const far = 1_700_000_000_000_000 // microseconds, taken for milliseconds
	times := []EventTime{10, far, 20, async.BadTime, -far, async.EndOfTime, async.MaxTime + 1, async.MinTime, async.NoTime, 30}
	j := New("times", Config{})
	out := Collect(From[int](j, timed(times), BoundedOutOfOrderness(time.Hour*24*365*290)))
	r := j.Start(t.Context())
	if err := r.Wait(); err != nil {
		t.Fatal(err)
	}
	var got []EventTime
	for _, rec := range out.Records() {
		got = append(got, rec.Time)
	}
	want := []EventTime{10, async.NoTime, 20, async.NoTime, async.NoTime, async.NoTime, async.NoTime, async.MinTime, async.NoTime, 30}
	if !slices.Equal(got, want) || r.Progress().Untimed != 5 {
		t.Errorf("the times are %v, %d are counted; want %v and 5", got, r.Progress().Untimed, want)
	}

	env := &taskEnv{wake: func() {}, parallelism: 1, splits: map[string][]splitState{"source": {{}}}, untimely: func(string, int, int64, EventTime) {}}
	newTask(env)
	rec := &recorder{space: 100}
	h := newSourceHead(env, "source", connector.Source[int](timed(times)), &watermarks{}, input[int](rec)).(*sourceHead[int])
	for range times {
		h.reader.fetch(t.Context())
		for moved := true; moved; {
			var err error
			if moved, err = h.pull(time.Now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, want := strings.Join(rec.log, " "), "0 W(9) 1 2 W(19) 3 4 5 6 7 8 9 W(29)"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}

	marks := []async.QueuedWatermark{
		{Before: 1, Mark: async.Watermark{Time: 5}}, {Before: 2, Mark: async.Watermark{Time: far}}, {Before: 3, Mark: async.Watermark{Time: far, Idle: true}},
	}
	back, err := decodeMarks(appendMarks(nil, marks))
	if err != nil || len(back) != 2 || back[0].Mark.Time != 5 || back[1].Mark.Time != async.NoTime || !back[1].Mark.Idle {
		t.Errorf("watermarks come back as %v, %v", back, err)
	}
	var scratch []byte
	data, err := appendEntry(nil, 0, &Record[int]{Time: far}, Serializer[int](jsonSerializer[int]{}), &scratch)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := decodeEntries(data, 0, Serializer[int](jsonSerializer[int]{})); err != nil || all[0].rec.Time != async.NoTime {
		t.Errorf("a record comes back as %+v, %v", all, err)
	}
}

// timed gives one record of each time, one a read.
type timed []EventTime

func (s timed) Splits(context.Context) ([]connector.Split, error)        { return []connector.Split{{}}, nil }
func (s timed) Verify(context.Context, []connector.Split, []int64) error { return nil }
func (s timed) Open(context.Context, connector.Split, int64) (connector.Reader[int], error) {
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
