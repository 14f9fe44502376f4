package stream

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// worked adds up what the subtasks of an operator have done, and have in hand.
func worked(p Progress, operator string) (all SubtaskProgress) {
	for _, w := range p.Worked {
		if w.Name == operator {
			all.In, all.Out, all.Completed, all.Held = all.In+w.In, all.Out+w.Out, all.Completed+w.Completed, all.Held+w.Held
			all.Async = addStats(all.Async, w.Async)
		}
	}
	return all
}

// idleNow says what a run shows as present although nothing of it runs.
func idleNow(p Progress) (wrong []string) {
	if p.InFlight != 0 {
		wrong = append(wrong, fmt.Sprintf("%d records in flight", p.InFlight))
	}
	all := []async.Stats{}
	for _, o := range p.Operators {
		all = append(all, o.Async)
	}
	for _, w := range p.Worked {
		all = append(all, w.Async)
		if w.Held != 0 || w.Open {
			wrong = append(wrong, fmt.Sprintf("%s holds %d records, open %v", w.Name, w.Held, w.Open))
		}
	}
	for _, s := range all {
		if s.Queued+s.InFlight+s.Held+s.Retrying+s.Done != 0 || s.Bytes != 0 || s.Suspended != nil || s.HeldFor != nil {
			wrong = append(wrong, fmt.Sprintf("calls %+v", s))
		}
	}
	return wrong
}

// stuck doubles numbers, and does not answer to one of them for so many calls.
func stuck(value int, calls int64) async.Function[int, int] {
	var n atomic.Int64
	return async.Func(func(ctx context.Context, v int) (int, error) {
		if v == value && n.Add(1) <= calls {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		return 2 * v, nil
	}, 100)
}

// TestNumbersOfAFailure: what ended an attempt is in its numbers, whether or not a restart
// follows; nothing is shown as present while nothing runs; and what was done is kept.
func TestNumbersOfAFailure(t *testing.T) {
	for _, c := range []struct {
		parallelism int
		restarts    int
	}{{1, 0}, {1, 1}, {3, 0}, {3, 1}} {
		t.Run(fmt.Sprintf("parallelism %d, %d restarts", c.parallelism, c.restarts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := Config{Parallelism: c.parallelism}
				if c.restarts > 0 {
					cfg.Restart = restart.Config{Strategy: restart.FixedDelay, Attempts: c.restarts, Delay: time.Minute}
				}
				j := New("timeouts", cfg)
				in := Rebalance(From(j, FromSlice(numbers(30)), Parallel(1)), c.parallelism)
				Collect(OrderedWait(in, stuck(7, 1), async.Config{Timeout: time.Second}, Name("op")))
				r := j.Start(t.Context())
				time.Sleep(30 * time.Second)
				p := r.Progress()
				if op := worked(p, "op"); op.Async.Timeouts != 1 || op.In != 30 || op.Async.Calls != 30 || op.Async.Call.Count() != 30 || op.Completed >= 30 {
					t.Errorf("after the failure: %+v", op)
				}
				if wrong := idleNow(p); wrong != nil {
					t.Errorf("after the failure: %v", wrong)
				}
				if c.restarts > 0 {
					if p.State != StateRestarting || p.Restarts != 1 || !errors.Is(p.LastError, async.ErrTimeout) {
						t.Errorf("%v, %d restarts, %v", p.State, p.Restarts, p.LastError)
					}
				}
				if err := r.Wait(); (err == nil) != (c.restarts > 0) {
					t.Fatal(err)
				}
				p = r.Progress()
				if op := worked(p, "op"); op.Async.Timeouts != 1 || op.In != int64(30*(1+c.restarts)) {
					t.Errorf("at the end: %+v", op)
				}
				if wrong := idleNow(p); wrong != nil {
					t.Errorf("at the end: %v", wrong)
				}
			})
		})
	}
}

// TestNumbersBeforeAnythingRuns: a subtask that is not open has no calls to make.
func TestNumbersBeforeAnythingRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := New("late", Config{})
		door := lateDoor{async.Func(double, 4), time.Minute, nil}
		Collect(OrderedWait(Rebalance(From(j, FromSlice(numbers(3))), 2), async.Function[int, int](door), async.Config{}))
		r := j.Start(t.Context())
		time.Sleep(30 * time.Second)
		if p := r.Progress(); p.State != StateStarting || idleNow(p) != nil {
			t.Errorf("%v: %v", p.State, idleNow(p))
		}
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
	})
}

// slowToClose takes a minute to close its caller.
type slowToClose struct{ async.Function[int, int] }

func (s slowToClose) Open(ctx context.Context, sub async.Subtask, done async.Completer[int]) (async.Caller[int, int], error) {
	c, err := s.Function.Open(ctx, sub, done)
	return slowCaller{c}, err
}

type slowCaller struct{ async.Caller[int, int] }

func (s slowCaller) Close() error {
	time.Sleep(time.Minute)
	return s.Caller.Close()
}

// TestStateOfAFailure: a job that has failed does not run any more, however long its closing takes.
func TestStateOfAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := New("slow", Config{})
		Collect(OrderedWait(From(j, FromSlice(numbers(10))), async.Function[int, int](slowToClose{stuck(7, 1)}), async.Config{Timeout: time.Second}, Name("op")))
		r := j.Start(t.Context())
		time.Sleep(500 * time.Millisecond)
		if p := r.Progress(); p.State != StateRunning || !p.Worked[1].Open || p.Worked[0].Open {
			t.Errorf("before the failure it is %v, %+v", p.State, p.Worked)
		}
		time.Sleep(time.Second)
		if p := r.Progress(); p.State != StateFailing || p.Worked[1].Open || !errors.Is(p.LastError, async.ErrTimeout) || worked(p, "op").Async.Timeouts != 1 {
			t.Errorf("while it closes it is %v (%v), %+v", p.State, p.LastError, worked(p, "op"))
		}
		if err := r.Wait(); err == nil || r.Progress().State != StateFailed {
			t.Errorf("%v, %v", r.Progress().State, err)
		}
	})
}

// TestNumbersOfAResumption: the numbers of earlier processes are separate from those of this one,
// also after a restart to the checkpoint where this one began.
func TestNumbersOfAResumption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		job := func(resume *checkpoint.Snapshot, fn async.Function[int, int]) *Job {
			j := New("resumed", Config{Checkpoint: CheckpointConfig{Store: d}, Resume: resume,
				Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 1, Delay: time.Minute}})
			To(OrderedWait(From(j, paced{100, 100 * time.Millisecond}), fn, async.Config{Timeout: time.Second}, Name("op")), diskSink{d})
			return j
		}
		first := job(nil, stuck(-1, 0)).Start(t.Context())
		time.Sleep(4050 * time.Millisecond)
		first.Stop()
		if err := first.Wait(); err != ErrStopped {
			t.Fatal(err)
		}
		if p := first.Progress(); p.Before != (Totals{}) || p.Read != 40 {
			t.Fatalf("before a first process there was %+v, and it has read %d", p.Before, p.Read)
		}
		snap, err := d.Newest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		second := job(snap, stuck(60, 1)).Start(t.Context())
		began := time.Now()
		look := func(when string, read, did int64) {
			t.Helper()
			p := second.Progress()
			if want := (Totals{Read: 40, Completed: 40, Emitted: 40}); p.Before != want || p.Before.Settled() != 40 {
				t.Errorf("%s: before this process was %+v, want %+v", when, p.Before, want)
			}
			if p.Read != read || worked(p, "source").Out != did {
				t.Errorf("%s: %d were read in all, %d by this process; want %d, %d", when, p.Read, worked(p, "source").Out, read, did)
			}
		}
		time.Sleep(1050 * time.Millisecond)
		look("on the way", 50, 10)
		time.Sleep(30 * time.Second) // failed at 60, a second later
		look("before the restart", 70, 30)
		time.Sleep(time.Until(began.Add(63*time.Second + 150*time.Millisecond)))
		if p := second.Progress(); p.State != StateRunning {
			t.Fatal(p.State)
		}
		if p := second.Progress(); p.Read >= 70 || worked(p, "source").Out != 30+p.Read-40 {
			t.Errorf("after the restart %d were read in all, %d by this process", p.Read, worked(p, "source").Out)
		}
		if err := second.Wait(); err != nil {
			t.Fatal(err)
		}
		look("at the end", 100, 30+60)
	})
}

// TestNumbersOfCheckpoints: each that was begun is completed or given up, also where the job
// failed in the middle of it.
func TestNumbersOfCheckpoints(t *testing.T) {
	every := CheckpointConfig{Interval: time.Second}
	run := func(t *testing.T, cfg Config, d *disk, n int, fn async.Function[int, int], acfg async.Config) *Run {
		j := New("checkpoints", cfg)
		acfg.Timeout = time.Hour
		To(OrderedWait(From(j, paced{n, 100 * time.Millisecond}), fn, acfg), diskSink{d})
		return j.Start(t.Context())
	}
	want := func(t *testing.T, r *Run, completed, failed, last int64) {
		t.Helper()
		if p := r.Progress(); p.CheckpointsCompleted != completed || p.CheckpointsFailed != failed || p.LastCheckpoint != last {
			t.Errorf("%d completed, %d given up, %d the last; want %d, %d, %d", p.CheckpointsCompleted, p.CheckpointsFailed, p.LastCheckpoint, completed, failed, last)
		}
	}
	t.Run("kept, and not published", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDisk()
			commits := 0
			d.fault = func(what string) error {
				if what == "commit" {
					if commits++; commits == 2 {
						return errBroken
					}
				}
				return nil
			}
			r := run(t, Config{Checkpoint: every, Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 1, Delay: time.Minute}}, d, 25, stuck(-1, 0), async.Config{})
			time.Sleep(2500 * time.Millisecond)
			want(t, r, 1, 0, 1) // the second may still be published
			if err := r.Wait(); err != nil {
				t.Fatal(err)
			}
			p := r.Progress()
			// 2 was published by the restart; the end of the input is behind 5 more records.
			want(t, r, 3, 0, 3)
			if p.LastCheckpointAt.IsZero() || p.Committed != 25 {
				t.Errorf("%+v", p)
			}
		})
	})
	t.Run("published by the restart", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDisk()
			commits := 0
			d.fault = func(what string) error {
				if what == "commit" {
					if commits++; commits == 2 {
						return errBroken
					}
				}
				return nil
			}
			r := run(t, Config{Checkpoint: every, Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 1, Delay: time.Minute}}, d, 1000, stuck(-1, 0), async.Config{})
			time.Sleep(62500 * time.Millisecond)
			want(t, r, 2, 0, 2)
			if p := r.Progress(); p.LastCheckpointTook != 0 {
				t.Errorf("checkpoint 2 took %v, although it was not measured", p.LastCheckpointTook)
			}
			r.Stop()
			if err := r.Wait(); err != ErrStopped {
				t.Fatal(err)
			}
		})
	})
	t.Run("given up by a failure", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fn := async.Func(func(_ context.Context, v int) (int, error) {
				if v == 8 {
					time.Sleep(time.Second)
					return 0, errBroken
				}
				return v, nil
			}, 100)
			r := run(t, Config{Checkpoint: every, Restart: restart.Config{Strategy: restart.None}}, newDisk(), 25, fn, async.Config{})
			if err := r.Wait(); !errors.Is(err, errBroken) {
				t.Fatal(err)
			}
			want(t, r, 0, 1, 0)
		})
	})
	t.Run("given up by its timeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cfg := Config{Checkpoint: CheckpointConfig{Interval: time.Second, Timeout: 10 * time.Second, TolerableFailures: 10}}
			r := run(t, cfg, newDisk(), 25, stuck(8, 1), async.Config{})
			time.Sleep(15 * time.Second)
			want(t, r, 0, 1, 0)
			// How long the barrier waited in vain is not left out.
			if s := worked(r.Progress(), "async").Async; s.Drain.Count() != 1 || s.Drain.Sum != 10*time.Second {
				t.Errorf("drains: %v, %v", s.Drain, s.Drain.Sum)
			}
			r.Stop()
			r.Wait()
		})
	})
	t.Run("given up by the cancellation", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			j := New("checkpoints", Config{Checkpoint: every})
			To(OrderedWait(From(j, paced{25, 100 * time.Millisecond}), stuck(8, 1), async.Config{Timeout: time.Hour}), diskSink{newDisk()})
			r := j.Start(ctx)
			time.Sleep(1500 * time.Millisecond)
			cancel(errBroken)
			if err := r.Wait(); !errors.Is(err, errBroken) {
				t.Fatal(err)
			}
			want(t, r, 0, 1, 0)
		})
	})
}
