package stream

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// flaky fails at some values, so many times each, with an error of a class.
type flaky struct {
	mu    sync.Mutex
	left  map[int]int
	class async.Class
	calls atomic.Int64
}

func (f *flaky) call(ctx context.Context, v int) (int, error) {
	f.calls.Add(1)
	select {
	case <-time.After(5 * time.Millisecond):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left[v] > 0 {
		f.left[v]--
		return 0, simFailure{async.Verdict{Class: f.class}}
	}
	return 2 * v, nil
}

// restartJob is a job over 200 values whose function fails as f says.
func restartJob(f *flaky, cfg Config, acfg async.Config) (*Job, *Collected[int]) {
	j := New("restarts", cfg)
	acfg.Retry.Max = async.Off
	return j, Collect(OrderedWait(From(j, FromSlice(numbers(200))), async.Func(f.call, 4), acfg))
}

func isDoubled(got []int, n int) bool {
	for i, v := range got {
		if v != 2*i {
			return false
		}
	}
	return len(got) == n
}

// TestRestartStrategies: each strategy allows its restarts and no more, the output
// is that of an undisturbed run, and what lies before a checkpoint is not called again.
func TestRestartStrategies(t *testing.T) {
	every := CheckpointConfig{Interval: 10 * time.Millisecond}
	for _, c := range []struct {
		name     string
		cfg      Config
		failures map[int]int
		restarts int
		fails    bool
	}{
		{"none", Config{}, map[int]int{50: 1}, 0, true},
		{"default with checkpoints", Config{Checkpoint: every}, map[int]int{50: 1, 100: 1, 150: 2}, 4, false},
		{"fixed, enough", Config{Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 2}}, map[int]int{20: 1, 100: 1}, 2, false},
		{"fixed, too few", Config{Restart: restart.Config{Strategy: restart.FixedDelay}, Checkpoint: every}, map[int]int{20: 1, 100: 1}, 1, true},
		{"rate, rare enough", Config{Restart: restart.Config{Strategy: restart.FailureRate, Interval: time.Second, Delay: 2 * time.Second}}, map[int]int{20: 1, 100: 2}, 3, false},
		{"rate, too often", Config{Restart: restart.Config{Strategy: restart.FailureRate}}, map[int]int{20: 1, 100: 2}, 1, true},
		{"exponential", Config{Restart: restart.Config{Strategy: restart.ExponentialDelay, Attempts: 3}}, map[int]int{20: 1, 30: 1, 40: 1, 50: 1}, 3, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var w watched
				c.cfg.Observer = &w
				f := &flaky{left: c.failures}
				j, out := restartJob(f, c.cfg, async.Config{Capacity: 8})
				r := j.Start(t.Context())
				err := r.Wait()
				if (err != nil) != c.fails {
					t.Fatalf("the job ended with %v", err)
				}
				if p := r.Progress(); count[Restarting](&w) != c.restarts || p.Restarts != c.restarts || p.Attempt != c.restarts {
					t.Errorf("%d restarts, progress %+v; want %d", count[Restarting](&w), p, c.restarts)
				}
				if !c.fails && !isDoubled(out.Results(), 200) {
					t.Errorf("the output is %v", out.Results())
				}
				if re, ok := errors.AsType[*async.RecordError](err); c.fails && (!ok || re.Operator != "async") {
					t.Errorf("the error does not say which record failed: %v", err)
				}
			})
		})
	}
}

// TestFinalFailures: some failures no restart can mend (A43).
func TestFinalFailures(t *testing.T) {
	for _, c := range []struct {
		class    async.Class
		failures int
		restarts int
		is       error
	}{
		{async.Permanent, 1, 0, nil},
		{async.BadRecord, 1, 0, nil},
		{async.Backend, 100, 3, ErrNoProgress},
	} {
		t.Run(c.class.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &flaky{left: map[int]int{100: c.failures}, class: c.class}
				j, out := restartJob(f, Config{Checkpoint: CheckpointConfig{Interval: 10 * time.Millisecond}}, async.Config{Capacity: 8})
				r := j.Start(t.Context())
				err := r.Wait()
				re, ok := errors.AsType[*async.RecordError](err)
				if !ok || re.Position != 100 || re.Split != 0 || re.Class != c.class || r.Progress().Restarts != c.restarts {
					t.Errorf("after %d restarts the job ended with %v", r.Progress().Restarts, err)
				}
				if c.is != nil && !errors.Is(err, c.is) {
					t.Errorf("%v is not %v", err, c.is)
				}
				if got := out.Results(); len(got) == 0 || len(got) > 100 || !isDoubled(got, len(got)) {
					t.Errorf("published before the failure: %v", got)
				}
			})
		})
	}
}

// TestBarrierBehindAFailingRecord: the checkpoint is declined and the restore
// replays the record, under both policies (row 56).
func TestBarrierBehindAFailingRecord(t *testing.T) {
	for _, policy := range []async.BarrierPolicy{async.Drain, async.Snapshot} {
		synctest.Test(t, func(t *testing.T) {
			d := newDisk()
			f := &flaky{left: map[int]int{7: 1}}
			// Record 7 is called at 32 ms and fails at 37 ms; the barrier comes at 34 ms.
			j := New("barrier", Config{Restart: restart.Config{Strategy: restart.FixedDelay}, Checkpoint: CheckpointConfig{Interval: 34 * time.Millisecond, Store: d}})
			ones := From(j, paced{20, 4 * time.Millisecond})
			To(OrderedWait(ones, async.Func(f.call, 4), async.Config{Barrier: policy, Retry: async.Retry{Max: async.Off}}), diskSink{d})
			r := j.Start(t.Context())
			if err := r.Wait(); err != nil {
				t.Fatal(err)
			}
			if p := r.Progress(); p.Restarts != 1 || !isDoubled(d.values(), 20) || p.Read != 20 || p.Completed != 20 {
				t.Errorf("%v: %+v, output %v", policy, p, d.values())
			}
			// Checkpoint 1 was declined; its number is not used again.
			if ids := slices.Sorted(maps.Keys(d.snaps)); policy == async.Drain && !slices.Equal(ids[:2], []int64{0, 2}) {
				t.Errorf("the checkpoints are %v", ids)
			}
		})
	}
}

// TestDroppedRecordsAreCounted: read = completed + dropped, also over a restart (row 55).
func TestDroppedRecordsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{left: map[int]int{10: 9, 20: 9, 30: 9, 150: 9}}
		broken := make(chan struct{}, 1)
		broken <- struct{}{}
		j := New("dropped", Config{Checkpoint: CheckpointConfig{Interval: 10 * time.Millisecond}})
		s := OrderedWait(From(j, FromSlice(numbers(200))), async.Func(f.call, 4), async.Config{Capacity: 8, OnError: async.OnError{Backend: async.Drop}})
		out := Collect(Map(s, func(v int) (int, error) {
			if v == 2*100 {
				select {
				case <-broken:
					return 0, errBroken
				default:
				}
			}
			return v, nil
		}))
		r := j.Start(t.Context())
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		if p := r.Progress(); p.Restarts != 1 || p.Read != 200 || p.Completed != 196 || p.Dropped != 4 || p.Emitted != 196 || len(out.Results()) != 196 {
			t.Errorf("%+v, %d results", p, len(out.Results()))
		}
	})
}

// closedDoor cannot be opened.
type closedDoor struct{ opened *int }

func (c closedDoor) Open(context.Context, async.Subtask, async.Completer[int]) (async.Caller[int, int], error) {
	*c.opened++
	return nil, errors.New("no server")
}

func TestAJobThatNeverRanDoesNotRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := 0
		j := New("closed", Config{Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 5}})
		Collect(OrderedWait(From(j, FromSlice(numbers(3))), async.Function[int, int](closedDoor{&opened}), async.Config{}))
		if err := j.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no server") || opened != 1 {
			t.Fatalf("opened %d times: %v", opened, err)
		}
	})
}

// lateDoor opens at once in the first subtask, and after a while in the others, if at all.
type lateDoor struct {
	async.Function[int, int]
	after time.Duration
	err   error
}

func (l lateDoor) Open(ctx context.Context, sub async.Subtask, done async.Completer[int]) (async.Caller[int, int], error) {
	if sub.Index > 0 {
		select {
		case <-time.After(l.after):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if l.err != nil {
			return nil, l.err
		}
	}
	return l.Function.Open(ctx, sub, done)
}

// TestNothingRunsBeforeEverythingIsOpen: a record that fails while another subtask still opens
// would be taken for a job that never ran, and a job that cannot be opened would call the model.
func TestNothingRunsBeforeEverythingIsOpen(t *testing.T) {
	for _, c := range []struct {
		err      error
		atLeast  int64 // calls
		restarts int
	}{{nil, 200 + 1, 1}, {errors.New("no server"), 0, 0}} {
		synctest.Test(t, func(t *testing.T) {
			f := &flaky{left: map[int]int{0: 1}}
			j := New("late", Config{Restart: restart.Config{Strategy: restart.FixedDelay}})
			door := lateDoor{async.Func(f.call, 4), time.Second, c.err}
			Collect(OrderedWait(Rebalance(From(j, FromSlice(numbers(200))), 2), async.Function[int, int](door), async.Config{Retry: async.Retry{Max: async.Off}}))
			r := j.Start(t.Context())
			if err := r.Wait(); !errors.Is(err, c.err) {
				t.Errorf("the job ended with %v", err)
			}
			calls, p := f.calls.Load(), r.Progress()
			if calls < c.atLeast || c.atLeast == 0 && calls > 0 || p.Restarts != c.restarts {
				t.Errorf("%d calls, %d restarts; want at least %d calls, %d restarts", calls, p.Restarts, c.atLeast, c.restarts)
			}
		})
	}
}
