package stream

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// TestStopAndResume: a stopped run goes on where it was, under both policies, from a drained
// or a full operator into a smaller one, and at another parallelism (rows 46, 47, A36, A48).
func TestStopAndResume(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after async.BarrierPolicy
		capacity      int
		parallelism   int
	}{
		{"drain", async.Drain, async.Drain, 10, 2},
		{"snapshot", async.Snapshot, async.Snapshot, 10, 2},
		{"snapshot into a smaller capacity", async.Snapshot, async.Snapshot, 9, 2},
		{"snapshot into capacity 1", async.Snapshot, async.Snapshot, 1, 2},
		{"snapshot into drain, capacity 1", async.Snapshot, async.Drain, 1, 2},
		{"snapshot, fewer subtasks", async.Snapshot, async.Drain, 4, 1},
		{"snapshot, more subtasks", async.Snapshot, async.Snapshot, 3, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDisk()
				job := func(policy async.BarrierPolicy, capacity, parallelism int, resume *checkpoint.Snapshot) *Job {
					j := New("stop", Config{Parallelism: parallelism, Checkpoint: CheckpointConfig{Store: d}, Resume: resume})
					To(OrderedWait(From(j, FromSlice(numbers(6000))), shuffled(3), async.Config{Capacity: capacity, Barrier: policy}), diskSink{d})
					return j
				}
				r := job(c.before, 10, 2, nil).Start(t.Context())
				time.Sleep(500 * time.Millisecond)
				r.Stop()
				if err := r.Wait(); err != ErrStopped {
					t.Fatalf("the stopped run ended with %v", err)
				}
				snap, err := d.Newest(t.Context())
				if err != nil || snap.Finished {
					t.Fatalf("checkpoint %+v, %v", snap, err)
				}
				published, kept := len(d.values()), 0
				for _, sec := range snap.Sections {
					for _, p := range sec.Parts {
						if sec.Kind == checkpoint.KindAsync && p.Name == checkpoint.PartEntries {
							all, err := decodeEntries(p.Data, p.Split, testSerializer)
							if err != nil {
								t.Fatal(err)
							}
							kept += len(all)
						}
					}
				}
				if read := r.Progress().Read; published == 0 || (kept > 0) != (c.before == async.Snapshot) || kept > 20 || int(read) < published+kept {
					t.Errorf("%d published, %d kept, %d read", published, kept, read)
				}
				if p := r.Progress(); p.Read != snap.Counters[0].Value || p.Committed != int64(published) {
					t.Errorf("more was read behind the last checkpoint: %+v, %v", p, snap.Counters)
				}
				resumed := job(c.after, c.capacity, c.parallelism, snap).Start(t.Context())
				if err := resumed.Wait(); err != nil {
					t.Fatal(err)
				}
				if p := resumed.Progress(); !isDoubled(d.values(), 6000) || p.Read != 6000 || p.Committed != 6000 || p.Attempt != 1 {
					t.Errorf("%d results, %+v", len(d.values()), p)
				}
				// A finished run is only published again.
				last, err := d.Newest(t.Context())
				if err != nil || !last.Finished {
					t.Fatalf("the last checkpoint: %+v, %v", last, err)
				}
				if err := job(c.after, 1, 3, last).Run(t.Context()); err != nil || !isDoubled(d.values(), 6000) {
					t.Errorf("again: %v, %d results", err, len(d.values()))
				}
			})
		})
	}
}

// TestResumeRefuses what is not the same job.
func TestResumeRefuses(t *testing.T) {
	d := newDisk()
	job := func(name, sink, identity string, resume *checkpoint.Snapshot) *Job {
		j := New(name, Config{Checkpoint: CheckpointConfig{Store: d}, Resume: resume, Identity: []checkpoint.Property{{Name: "model", Value: identity}}})
		To(From(j, FromSlice(numbers(10))), diskSink{d}, Name(sink))
		return j
	}
	if err := job("a", "out", "m1", nil).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	snap, err := d.Newest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for want, j := range map[string]*Job{
		`job "b" failed: checkpoint 1 is of the job "a"`: job("b", "out", "m1", snap),
		`job "a" failed: cannot go on from checkpoint 1: the job is not the one that wrote the checkpoint: model was "m1" and is now "m2"`:                           job("a", "out", "m2", snap),
		"job \"a\" failed: checkpoint 1 does not fit this job: it holds the state of sink \"out\", which the job does not have\nit holds no state of sink \"other\"": job("a", "other", "m1", snap),
	} {
		if err := j.Run(t.Context()); err == nil || err.Error() != want {
			t.Errorf("the error is\n%v; want\n%s", err, want)
		}
	}
}

// TestCancel: whatever the job is doing, cancelling it leaves nothing behind (the bubble and
// goleak see to that), publishes nothing more, and keeps the cause (row 50).
func TestCancel(t *testing.T) {
	cause := errors.New("enough")
	never := func(ctx context.Context, v int) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	first := func(ctx context.Context, v int) (int, error) {
		if v < 3 {
			return v, nil
		}
		return never(ctx, v)
	}
	for _, c := range []struct {
		name string
		fn   func(context.Context, int) (int, error)
		cfg  Config
		acfg async.Config
		src  connector.Source[int]
	}{
		{"at a full queue", never, Config{}, async.Config{Capacity: 2}, FromSlice(numbers(100))},
		{"at a full exchange", never, Config{Parallelism: 3}, async.Config{Capacity: 1}, FromSlice(numbers(20_000))},
		{"during a drain", first, Config{Checkpoint: CheckpointConfig{Interval: time.Millisecond}}, async.Config{Timeout: time.Hour}, FromSlice(numbers(100))},
		{"between restarts", func(context.Context, int) (int, error) { return 0, errors.New("no") },
			Config{Restart: restart.Config{Strategy: restart.FixedDelay, Delay: time.Hour}}, async.Config{}, FromSlice(numbers(100))},
		{"while reading", first, Config{}, async.Config{}, paced{10, time.Hour}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				c.acfg.Timeout = time.Hour
				j := New("cancelled", c.cfg)
				out := Collect(OrderedWait(Rebalance(From(j, c.src), 2), async.Func(c.fn, 10), c.acfg))
				r := j.Start(ctx)
				time.Sleep(time.Second)
				before := len(out.Results())
				cancel(cause)
				if err := r.Wait(); !errors.Is(err, cause) {
					t.Errorf("the job ended with %v", err)
				}
				if p := r.Progress(); p.State != StateFailed || len(out.Results()) != before {
					t.Errorf("%v, %d results more", p.State, len(out.Results())-before)
				}
			})
		})
	}
}

// TestStopBeforeAnythingIsOpen returns at once, whatever is being waited for.
func TestStopBeforeAnythingIsOpen(t *testing.T) {
	wait := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	never := async.Func(func(_ context.Context, v int) (int, error) { return v, nil }, 1)
	for name, c := range map[string]struct {
		src connector.Source[int]
		fn  async.Function[int, int]
	}{
		"the model is not there": {FromSlice(numbers(10)), lateDoor{never, time.Hour, nil}},
		"splits are not there":   {&slowSource{Source: FromSlice(numbers(10)), splits: wait}, never},
		"nothing is assigned":    {&slowSource{Source: FromSlice(numbers(10)), assign: wait}, never},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := New("early", Config{})
				out := Collect(OrderedWait(Rebalance(From(j, c.src), 2), c.fn, async.Config{}))
				r := j.Start(t.Context())
				time.Sleep(time.Second)
				began := time.Now()
				r.Stop()
				if err := r.Wait(); !errors.Is(err, ErrStopped) || r.Progress().State != StateStopped || time.Since(began) > 0 || len(out.Results()) > 0 {
					t.Errorf("after %v, %v: %v", time.Since(began), r.Progress().State, err)
				}
			})
		})
	}
}

// slowSource is a source that takes its time.
type slowSource struct {
	connector.Source[int]
	splits, assign func(context.Context) error
}

func (w *slowSource) Splits(ctx context.Context) ([]connector.Split, error) {
	if w.splits != nil {
		if err := w.splits(ctx); err != nil {
			return nil, err
		}
	}
	return w.Source.Splits(ctx)
}

func (w *slowSource) Assign(ctx context.Context, splits []connector.Split, next []int64) ([]connector.Split, []int64, error) {
	if w.assign != nil {
		if err := w.assign(ctx); err != nil {
			return nil, nil, err
		}
	}
	return splits, next, nil
}

func (w *slowSource) Changed(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestStopBetweenRestarts returns at once: there is nothing to take a checkpoint of.
func TestStopBetweenRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{left: map[int]int{3: 1}}
		j, _ := restartJob(f, Config{Restart: restart.Config{Strategy: restart.FixedDelay, Delay: time.Hour}}, async.Config{})
		r := j.Start(t.Context())
		time.Sleep(time.Second)
		r.Stop()
		r.Stop()
		if err := r.Wait(); !errors.Is(err, ErrStopped) || r.Progress().State != StateStopped {
			t.Errorf("the job ended with %v", err)
		}
	})
}

// TestStopThatFails: a failure before the last checkpoint is complete ends the run, resumable.
func TestStopThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{left: map[int]int{3: 1}}
		j, _ := restartJob(f, Config{Restart: restart.Config{Strategy: restart.FixedDelay}}, async.Config{})
		r := j.Start(t.Context())
		time.Sleep(4 * time.Millisecond) // record 3 was called and fails at 5 ms
		r.Stop()
		err := r.Wait()
		if _, ok := errors.AsType[*async.RecordError](err); !ok || !errors.Is(err, ErrStopped) {
			t.Errorf("the job ended with %v", err)
		}
	})
}

// TestDrainLimit: what a drain does not finish in time goes into the checkpoint, with what waits
// before the operator, and is called again after the restore (A35).
func TestDrainLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		job := func(hang bool, resume *checkpoint.Snapshot) *Job {
			fn := async.Func(func(ctx context.Context, v int) (int, error) {
				if hang && v >= 8 {
					<-ctx.Done()
				}
				return v, ctx.Err()
			}, 0)
			j := New("limit", Config{Checkpoint: CheckpointConfig{Store: d}, Resume: resume})
			three := FlatMap(From(j, FromSlice(numbers(20))), func(v int, emit func(int)) error {
				for range 3 {
					emit(v)
				}
				return nil
			})
			To(OrderedWait(three, fn, async.Config{Capacity: 4, DrainLimit: time.Second, Timeout: async.Off}), diskSink{d})
			return j
		}
		r := job(true, nil).Start(t.Context())
		time.Sleep(time.Second)
		r.Stop()
		if err := r.Wait(); err != ErrStopped {
			t.Fatalf("the stopped run ended with %v", err)
		}
		if p := r.Progress(); p.LastCheckpointTook != time.Second || len(d.values()) != 24 {
			t.Errorf("%+v, %d published", p, len(d.values()))
		}
		snap, err := d.Newest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := job(false, snap).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, v := range d.values() {
			if v != i/3 {
				t.Fatalf("the output is %v", d.values())
			}
		}
		if len(d.values()) != 60 {
			t.Errorf("%d results", len(d.values()))
		}
	})
}

// TestLiveSourcesNeedAnInterval: a job that does not end by itself would publish nothing, and keep
// nothing, before it is stopped.
func TestLiveSourcesNeedAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, interval := range []time.Duration{0, time.Second} {
			for name, src := range map[string]connector.Source[int]{"live": steady{}, "copied": Copying[int](steady{}, func(v int) int { return v })} {
				j := New("endless", Config{Checkpoint: CheckpointConfig{Interval: interval}})
				Collect(From(j, src))
				r := j.Start(t.Context())
				time.Sleep(time.Minute)
				r.Stop()
				err := r.Wait()
				if refused := err != nil && strings.Contains(err.Error(), "cannot start: source: the source has no end"); refused != (interval == 0) {
					t.Errorf("%s, interval %v: %v", name, interval, err)
				}
			}
		}
	})
}

// steady is a live source of two records, and nothing more.
type steady struct{ endings }

func (steady) OpenAll(context.Context, []connector.AssignedSplit) (connector.UnboundedReader[int], error) {
	return &steadyReader{}, nil
}

type steadyReader struct{ liveEndingsReader }

func (r *steadyReader) Read(ctx context.Context, dst []Record[int], max int) (int, []Record[int], int64, error) {
	if r.read {
		<-ctx.Done()
		return 0, dst, 2, ctx.Err()
	}
	return r.liveEndingsReader.Read(ctx, dst, max)
}
