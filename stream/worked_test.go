package stream

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// TestWorked: what each subtask has done never goes down, over a restart too.
func TestWorked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		fn := async.Func(func(_ context.Context, v int) (int, error) {
			time.Sleep(10 * time.Millisecond)
			if calls.Add(1) == 1500 {
				return 0, errors.New("broken")
			}
			return v, nil
		}, 10)
		j := New("worked", Config{
			Parallelism: 2, Checkpoint: CheckpointConfig{Interval: 100 * time.Millisecond},
			Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 1, Delay: time.Second},
		})
		// Two splits, one for each subtask.
		Collect(OrderedWait(From(j, FromSlice(numbers(2*sliceSplit))), fn, async.Config{Capacity: 20}, Name("op")), Name("out"))
		r := j.Start(t.Context())
		before := map[place]SubtaskProgress{}
		look := func() (called int64) {
			for _, w := range r.Progress().Worked {
				at := place{w.Name, w.Subtask}
				was := before[at]
				if w.In < was.In || w.Out < was.Out || w.Async.Calls < was.Async.Calls || w.Async.Latency.Count() < was.Async.Latency.Count() {
					t.Errorf("%v went down from %+v to %+v", at, was, w)
				}
				before[at] = w
				called += w.Async.Calls
			}
			return called
		}
		for over := false; !over; {
			select {
			case <-r.Done():
				over = true
			case <-time.After(7 * time.Millisecond):
			}
			look()
		}
		if err := r.Wait(); err != nil || r.Progress().Restarts != 1 {
			t.Fatalf("%v, %d restarts", err, r.Progress().Restarts)
		}
		// Calls that a failing attempt had made and not begun were not counted by the function.
		if n := look(); n < calls.Load() || calls.Load() <= 2*sliceSplit {
			t.Errorf("%d calls are counted, %d were made; want more than there are records", n, calls.Load())
		}
		if len(before) != 6 {
			t.Errorf("%d subtasks; want two each of source, op and out", len(before))
		}
		for at, w := range before {
			if w.In < sliceSplit || w.Held != 0 || w.Async.Queued != 0 || w.Watermark != async.EndOfTime {
				t.Errorf("%v: %+v", at, w)
			}
		}
	})
}

// TestWorkedWatermark: each operator has the watermark that it passed on; behind a slow one it is
// older.
func TestWorkedWatermark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn := async.Func(func(_ context.Context, v int) (int, error) {
			if v == 2 {
				time.Sleep(time.Hour)
			}
			return v, nil
		}, 10)
		j := New("marks", Config{})
		in := Map(From(j, timed{10, 20, 30, 40}, Monotonous()), func(v int) (int, error) { return v, nil })
		Collect(OrderedWait(in, fn, async.Config{Timeout: 2 * time.Hour}))
		r := j.Start(t.Context())
		time.Sleep(time.Minute)
		want := func(marks ...EventTime) {
			t.Helper()
			all := r.Progress().Worked
			for i, m := range marks {
				if len(all) != len(marks) || all[i].Watermark != m {
					t.Errorf("%+v; want the watermarks %v", all, marks)
					return
				}
			}
		}
		want(async.EndOfTime, async.EndOfTime, 19, 19)
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		want(async.EndOfTime, async.EndOfTime, async.EndOfTime, async.EndOfTime)
	})
	c := &counts{}
	c.reached(async.Watermark{Time: 7})
	c.reached(async.Watermark{Time: 7, Idle: true})
	if w := async.EventTime(c.mark.Load()); w != async.NoTime {
		t.Errorf("an idle subtask holds the watermark %d", w)
	}
}
