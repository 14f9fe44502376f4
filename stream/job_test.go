package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
)

func numbers(n int) []int {
	vs := make([]int, n)
	for i := range vs {
		vs[i] = i
	}
	return vs
}

func double(_ context.Context, v int) (int, error) { return 2 * v, nil }

// shuffled answers with twice the value after a while that differs from record to record.
func shuffled(seed uint64) async.Function[int, int] {
	return async.Func(func(ctx context.Context, v int) (int, error) {
		d := rand.New(rand.NewPCG(seed, uint64(v))).IntN(20)
		select {
		case <-time.After(time.Duration(d) * time.Millisecond):
			return 2 * v, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}, 64)
}

// watched counts what an Observer is told.
type watched struct {
	mu     sync.Mutex
	events []Event
	on     func(Event)
}

func (w *watched) Observe(e Event) {
	w.mu.Lock()
	w.events = append(w.events, e)
	w.mu.Unlock()
	if w.on != nil {
		w.on(e)
	}
}

func count[E Event](w *watched) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if _, ok := e.(E); ok {
			n++
		}
	}
	return n
}

// TestOrderedOutputIsTheInput: whatever the parallelism and the latencies, the
// committed output is in the order of the input, and counts balance (row 55).
func TestOrderedOutputIsTheInput(t *testing.T) {
	in := numbers(5000)
	for _, p := range []int{1, 2, 4} {
		for seed := range uint64(5) {
			synctest.Test(t, func(t *testing.T) {
				var w watched
				j := New("ordered", Config{Parallelism: p, Observer: &w, Checkpoint: CheckpointConfig{Interval: 30 * time.Millisecond}})
				plus := Map(From(j, FromSlice(in)), func(v int) (int, error) { return v + 1, nil })
				even := Filter(OrderedWait(plus, shuffled(seed), async.Config{Capacity: 100}), func(v int) bool { return v%3 != 0 })
				out := Collect(even)
				r := j.Start(t.Context())
				if err := r.Wait(); err != nil {
					t.Fatal(err)
				}
				var want []int
				for _, v := range in {
					if w := 2 * (v + 1); w%3 != 0 {
						want = append(want, w)
					}
				}
				if got := out.Results(); !slices.Equal(got, want) {
					t.Errorf("parallelism %d, seed %d: %d results differ from the %d wanted", p, seed, len(got), len(want))
				}
				got := r.Progress()
				if got.State != StateFinished || got.Read != 5000 || got.Completed != 5000 || got.Emitted != int64(len(want)) ||
					got.Committed != got.Emitted || got.InFlight != 0 || count[CheckpointCompleted](&w) < 3 {
					t.Errorf("progress at the end: %+v", got)
				}
			})
		}
	}
}

// TestUnorderedOutputIsTheSameSet: unordered, through exchanges, every record comes out once.
func TestUnorderedOutputIsTheSameSet(t *testing.T) {
	in := numbers(3000)
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			j := New("unordered", Config{Parallelism: 3, Checkpoint: CheckpointConfig{Interval: 20 * time.Millisecond}})
			out := Collect(Rebalance(UnorderedWait(Rebalance(From(j, FromSlice(in)), 2), shuffled(seed), async.Config{Capacity: 50}), 4))
			if err := j.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := out.Results()
			slices.Sort(got)
			if len(got) != len(in) || got[0] != 0 || got[len(got)-1] != 2*(len(in)-1) || len(slices.Compact(got)) != len(in) {
				t.Errorf("seed %d: %d results", seed, len(got))
			}
		})
	}
}

// TestKeyBy: records of one key stay in their order and meet in one subtask.
func TestKeyBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := New("keyed", Config{})
		keyed := KeyBy(From(j, FromSlice(numbers(1000))), func(v int) string { return fmt.Sprint(v % 10) }, Parallel(3))
		out := Collect(OrderedWait(keyed, shuffled(1), async.Config{}))
		if err := j.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		last := map[string]int{}
		for _, r := range out.Records() {
			if r.Key != fmt.Sprint(r.Value/2%10) {
				t.Fatalf("value %d has the key %q", r.Value, r.Key)
			}
			if r.Value < last[r.Key] {
				t.Fatalf("key %s: %d after %d", r.Key, r.Value, last[r.Key])
			}
			last[r.Key] = r.Value
		}
		if len(out.Results()) != 1000 || len(last) != 10 {
			t.Errorf("%d results with %d keys", len(out.Results()), len(last))
		}
	})
}

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
	acfg.Retry.Max = async.NoRetry
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

// TestProgressElsewhereIsProgress: failures at one record are only counted in a row.
func TestProgressElsewhereIsProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{left: map[int]int{20: 3, 21: 3, 22: 3}}
		j, out := restartJob(f, Config{Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 100}}, async.Config{Capacity: 1})
		if err := j.Run(t.Context()); err != nil || !isDoubled(out.Results(), 200) {
			t.Errorf("%v, %d results", err, len(out.Results()))
		}
	})
}

// TestBarrierBehindAFailingRecord: the checkpoint is declined and the restore
// replays the record, under both policies (row 56).
func TestBarrierBehindAFailingRecord(t *testing.T) {
	for _, policy := range []async.Policy{async.Drain, async.Snapshot} {
		synctest.Test(t, func(t *testing.T) {
			d := newDisk()
			f := &flaky{left: map[int]int{7: 1}}
			// The barrier comes at 32 ms; record 7 is called at 30 ms and fails at 35 ms.
			j := New("barrier", Config{Restart: restart.Config{Strategy: restart.FixedDelay}, Checkpoint: CheckpointConfig{Interval: 32 * time.Millisecond, Store: d}})
			ones := From(j, paced{20, 4 * time.Millisecond})
			To(OrderedWait(ones, async.Func(f.call, 4), async.Config{Checkpoint: policy, Retry: async.Retry{Max: async.NoRetry}}), diskSink{d})
			r := j.Start(t.Context())
			if err := r.Wait(); err != nil {
				t.Fatal(err)
			}
			if p := r.Progress(); p.Restarts != 1 || !isDoubled(d.values(), 20) || p.Read != 20 || p.Completed != 20 {
				t.Errorf("%v: %+v, output %v", policy, p, d.values())
			}
		})
	}
}

// paced gives n values, one every so often.
type paced struct {
	n     int
	every time.Duration
}

func (p paced) Splits(context.Context) ([]Split, error)        { return []Split{{}}, nil }
func (p paced) Verify(context.Context, []Split, []int64) error { return nil }
func (p paced) Open(_ context.Context, _ Split, at int64) (Reader[int], error) {
	return &pacedReader{p, int(at)}, nil
}

type pacedReader struct {
	paced
	at int
}

func (r *pacedReader) Read(ctx context.Context, dst []Record[int], _ int) ([]Record[int], int64, error) {
	if r.at == r.n {
		return dst, int64(r.at), io.EOF
	}
	select {
	case <-time.After(r.every):
	case <-ctx.Done():
		return dst, int64(r.at), ctx.Err()
	}
	dst = append(dst, Record[int]{Value: r.at, Time: EventTime(r.at), Position: int64(r.at)})
	r.at++
	return dst, int64(r.at), nil
}

func (r *pacedReader) Close() error { return nil }

// TestStopAndResume: a stopped run goes on where it was, under both policies, from a drained
// or a full operator into a smaller one, and at another parallelism (rows 46, 47, A36, A48).
func TestStopAndResume(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after async.Policy
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
				job := func(policy async.Policy, capacity, parallelism int, resume *checkpoint.Snapshot) *Job {
					j := New("stop", Config{Parallelism: parallelism, Checkpoint: CheckpointConfig{Store: d}, Resume: resume})
					To(OrderedWait(From(j, FromSlice(numbers(6000))), shuffled(3), async.Config{Capacity: capacity, Checkpoint: policy}), diskSink{d})
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
						if sec.Kind == kindAsync {
							all, err := decodeEntries(p.Data, p.Split, jsonSerializer[int]{})
							if err != nil {
								t.Fatal(err)
							}
							kept += len(all)
						}
					}
				}
				if read := r.Progress().Read; published == 0 || kept != map[async.Policy]int{async.Drain: 0, async.Snapshot: 20}[c.before] || int(read) < published+kept {
					t.Errorf("%d published, %d kept, %d read", published, kept, read)
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
		src  Source[int]
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
		r.Stop()
		err := r.Wait()
		if _, ok := errors.AsType[*async.RecordError](err); !ok || !errors.Is(err, ErrStopped) {
			t.Errorf("the job ended with %v", err)
		}
	})
}
