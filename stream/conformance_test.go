package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// TestRow11: ordered(6, double), map(+v, v set when opened), unordered(3, double).
func TestRow11(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := New("chain", Config{})
		first := OrderedWait(From(j, FromSlice([]int{5, 6, 7, 8, 9})), async.Func(double, 0), async.Config{Capacity: 6})
		second := Map(first, func(v int) (int, error) { return v + 1, nil })
		out := Collect(UnorderedWait(second, async.Func(double, 0), async.Config{Capacity: 3}))
		if err := j.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := out.Results()
		slices.Sort(got)
		if want := []int{22, 26, 30, 34, 38}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// TestRow41: capacity 1 in every mode, with checkpoints all the time (row 45).
func TestRow41(t *testing.T) {
	for _, order := range []async.Order{async.Ordered, async.Unordered} {
		for _, policy := range []async.BarrierPolicy{async.Drain, async.Snapshot} {
			synctest.Test(t, func(t *testing.T) {
				var w watched
				d := newDisk()
				j := New("one", Config{Observer: &w, Checkpoint: CheckpointConfig{Interval: time.Millisecond, Store: d}})
				wait := OrderedWait[int, int]
				if order == async.Unordered {
					wait = UnorderedWait[int, int]
				}
				in := From(j, FromSlice(numbers(50)), Monotonous())
				To(wait(wait(in, shuffled(1), async.Config{Capacity: 1, Barrier: policy}),
					async.Func(double, 0), async.Config{Capacity: 1, Barrier: policy}), diskSink{d})
				if err := j.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				got := d.values()
				want := numbers(50)
				for i := range want {
					want[i] *= 4
				}
				// Over 50 calls of some ms each the barriers follow back to back.
				if !slices.Equal(got, want) || count[CheckpointCompleted](&w) < 40 {
					t.Errorf("%v, %v: %d checkpoints, %v", order, policy, count[CheckpointCompleted](&w), got)
				}
			})
		}
	}
}

// TestRow42: a stream of watermarks alone at a full queue moves on, and so does a barrier.
func TestRow42(t *testing.T) {
	for _, policy := range []async.BarrierPolicy{async.Drain, async.Snapshot} {
		synctest.Test(t, func(t *testing.T) {
			var w watched
			slow := async.Func(func(ctx context.Context, v int) (int, error) {
				time.Sleep(time.Second)
				return v, nil
			}, 1)
			j := New("marks", Config{Observer: &w, Checkpoint: CheckpointConfig{Interval: 100 * time.Millisecond}})
			one := Filter(From(j, paced{200, time.Millisecond}, Monotonous()), func(v int) bool { return v == 0 })
			out := Collect(OrderedWait(one, slow, async.Config{Capacity: 1, Barrier: policy}))
			r := j.Start(t.Context())
			time.Sleep(900 * time.Millisecond)
			if n := count[CheckpointCompleted](&w); (n > 0) != (policy == async.Snapshot) {
				t.Errorf("%v: %d checkpoints while the call was in flight", policy, n)
			}
			if err := r.Wait(); err != nil || !slices.Equal(out.Results(), []int{0}) {
				t.Errorf("%v: %v, %v", policy, err, out.Results())
			}
		})
	}
}

// TestRow43: a drain that outlasts the checkpoint's timeout gives the checkpoint
// up, admission resumes, and the next one is complete (A32).
func TestRow43(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w watched
		began := time.Now()
		var called [20]time.Duration
		fn := async.Func(func(ctx context.Context, v int) (int, error) {
			called[v] = time.Since(began)
			if v == 0 {
				time.Sleep(20 * time.Second)
			}
			return 2 * v, nil
		}, 20)
		// One record a second. The first barrier comes at 2.5 s and is given up at 4.5 s; the
		// next comes 10 s later and is given up too; the final one passes.
		j := New("drain", Config{Observer: &w, Checkpoint: CheckpointConfig{
			Interval: 2500 * time.Millisecond, Timeout: 2 * time.Second, MinPause: 10 * time.Second, TolerableFailures: 2,
		}})
		out := Collect(OrderedWait(From(j, paced{20, time.Second}), fn, async.Config{Timeout: time.Minute}))
		if err := j.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !isDoubled(out.Results(), 20) || count[CheckpointFailed](&w) != 2 || count[CheckpointCompleted](&w) != 1 {
			t.Errorf("%v, %d checkpoints given up, %d complete", out.Results(), count[CheckpointFailed](&w), count[CheckpointCompleted](&w))
		}
		if called[1] != 2*time.Second || called[2] != 4500*time.Millisecond || called[5] != 6*time.Second {
			t.Errorf("called at %v; want nothing from 2.5 s to 4.5 s, and at once after that", called)
		}
	})
}

// TestRow43Head: a drain whose head waits for a retry, times out, or fails.
func TestRow43Head(t *testing.T) {
	for name, c := range map[string]struct {
		fn   func(attempt int64) error
		fail error
	}{
		"waiting for a retry": {func(n int64) error {
			if n < 3 {
				return simFailure{async.Verdict{Retry: true}}
			}
			return nil
		}, nil},
		"timing out": {func(int64) error { time.Sleep(time.Hour); return nil }, async.ErrTimeout},
		"failing":    {func(int64) error { time.Sleep(time.Second); return errBroken }, errBroken},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var w watched
				var n atomic.Int64
				fn := async.Func(func(ctx context.Context, v int) (int, error) {
					if v == 0 {
						return 0, c.fn(n.Add(1))
					}
					return 2 * v, nil
				}, 10)
				j := New("head", Config{Observer: &w, Restart: restart.Config{Strategy: restart.None}, Checkpoint: CheckpointConfig{Interval: 10 * time.Millisecond}})
				out := Collect(OrderedWait(From(j, FromSlice(numbers(100))), fn, async.Config{Capacity: 10, Timeout: 2 * time.Second}))
				err := j.Run(t.Context())
				if c.fail != nil {
					if !errors.Is(err, c.fail) || len(out.Results()) > 0 || count[CheckpointFailed](&w) != 1 {
						t.Errorf("%v, results %v, %d checkpoints declined", err, out.Results(), count[CheckpointFailed](&w))
					}
				} else if err != nil || !isDoubled(out.Results(), 100) || count[CheckpointCompleted](&w) < 2 {
					t.Errorf("%v, %d results, %d checkpoints", err, len(out.Results()), count[CheckpointCompleted](&w))
				}
			})
		})
	}
}

var errBroken = errors.New("broken")

// TestRow44: a drain while the connection is lost passes when it is back.
func TestRow44(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w watched
		j := New("lost", Config{Observer: &w, Checkpoint: CheckpointConfig{Interval: 100 * time.Millisecond}})
		out := Collect(OrderedWait(From(j, FromSlice(numbers(50))), suspended{}, async.Config{Capacity: 10, Timeout: time.Millisecond}))
		r := j.Start(t.Context())
		time.Sleep(900 * time.Millisecond)
		if p := r.Progress(); p.Emitted != 0 || p.InFlight != 10 || p.CheckpointsCompleted != 0 {
			t.Errorf("while suspended: %+v", p)
		}
		if err := r.Wait(); err != nil || !isDoubled(out.Results(), 50) || count[CheckpointCompleted](&w) < 2 {
			t.Errorf("%v, %v, %d checkpoints", err, out.Results(), count[CheckpointCompleted](&w))
		}
	})
}

// suspended is out of reach for the first second.
type suspended struct{}

func (suspended) Open(_ context.Context, _ async.Subtask, done async.Completer[int]) (async.Caller[int, int], error) {
	done.Suspend(errBroken)
	return &instant{done: done, timer: time.AfterFunc(time.Second, done.Resume)}, nil
}

// instant answers within Call.
type instant struct {
	done    async.Completer[int]
	timer   *time.Timer
	answers []async.Completion[int]
}

func (c *instant) Call(batch []async.Call[int]) {
	for i := range batch {
		c.answers = append(c.answers, async.Completion[int]{ID: batch[i].ID, Outputs: async.One(2 * batch[i].Record.Value)})
	}
	c.done.Complete(c.answers)
	c.answers = c.answers[:0]
}

func (c *instant) Cancel([]async.CallID) {}

func (c *instant) Close() error {
	if c.timer != nil {
		c.timer.Stop()
	}
	return nil
}

// cutCheck holds, whenever a checkpoint is complete, that exactly the records before its positions
// are published: no record has overtaken a barrier, and no barrier has overtaken a record.
type cutCheck struct {
	*disk
	faults []string
	partly int // checkpoints in the middle of the input
	total  int
}

func (c *cutCheck) check(e Event) {
	if _, ok := e.(CheckpointCompleted); !ok {
		return
	}
	snap, err := c.Newest(context.Background())
	if err != nil {
		c.faults = append(c.faults, err.Error())
		return
	}
	from, err := readSplits(snap.Sections[slices.IndexFunc(snap.Sections, func(s checkpoint.Section) bool { return s.Kind == checkpoint.KindSource })])
	if err != nil {
		c.faults = append(c.faults, err.Error())
		return
	}
	before := 0
	for _, s := range from {
		before += int(s.next - s.split.Start)
	}
	out := c.output()
	for _, r := range out {
		if r.Position >= from[r.Split].next {
			c.faults = append(c.faults, fmt.Sprintf("checkpoint %d, split %d up to %d: position %d is published", snap.ID, r.Split, from[r.Split].next, r.Position))
		}
	}
	if len(out) != before {
		c.faults = append(c.faults, fmt.Sprintf("checkpoint %d: %d records are published, %d were read", snap.ID, len(out), before))
	}
	if before > 0 && before < c.total {
		c.partly++
	}
}

// slowSink writes slowly in subtask 0, so that the ports before it fill up.
type slowSink struct{ diskSink }

func (s slowSink) Open(ctx context.Context, sub async.Subtask) (connector.Writer[int], error) {
	w, err := s.diskSink.Open(ctx, sub)
	if sub.Index == 0 {
		return slowWriter{w}, err
	}
	return w, err
}

type slowWriter struct{ connector.Writer[int] }

func (w slowWriter) Write(recs []Record[int]) error {
	time.Sleep(time.Duration(len(recs)) * 300 * time.Microsecond)
	return w.Writer.Write(recs)
}

// TestRow57: 4, then 2, then 3 subtasks with one slow channel: no record overtakes a barrier.
func TestRow57(t *testing.T) {
	const n = 60_000
	synctest.Test(t, func(t *testing.T) {
		c := &cutCheck{disk: newDisk(), total: n}
		j := New("topology", Config{
			Parallelism: 4, Observer: &watched{on: c.check},
			Checkpoint: CheckpointConfig{Interval: 200 * time.Millisecond, Store: c},
		})
		two := UnorderedWait(Rebalance(From(j, FromSlice(numbers(n))), 2), shuffled(7), async.Config{Barrier: async.Drain})
		three := KeyBy(two, func(v int) string { return fmt.Sprint(v) }, Parallel(3))
		To(three, slowSink{diskSink{c.disk}})
		if err := j.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, f := range c.faults {
			t.Error(f)
		}
		if got := c.values(); len(got) != n || c.partly < 5 {
			t.Errorf("%d results, %d checkpoints in the middle", len(got), c.partly)
		}
	})
}
