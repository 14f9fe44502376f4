package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
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

// watched counts the events that an Observer gets.
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

// paced gives n values, one every so often.
type paced struct {
	n     int
	every time.Duration
}

func (p paced) Splits(context.Context) ([]connector.Split, error)        { return []connector.Split{{}}, nil }
func (p paced) Verify(context.Context, []connector.Split, []int64) error { return nil }
func (p paced) Open(_ context.Context, _ connector.Split, at int64) (connector.Reader[int], error) {
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

// stalling is a sink. One of its writes takes longer than any call may.
type stalling struct{ connector.Sink[int] }

type stallingWriter struct {
	connector.Writer[int]
	n int
}

func (s stalling) Open(ctx context.Context, c async.Subtask) (connector.Writer[int], error) {
	w, err := s.Sink.Open(ctx, c)
	return &stallingWriter{w, 0}, err
}

func (w *stallingWriter) Write(recs []Record[int]) error {
	if w.n++; w.n == 3 {
		time.Sleep(time.Minute)
	}
	return w.Writer.Write(recs)
}

// TestStallingSink: the time that a slow sink takes does not count against records whose answers
// come at once (A7, A15).
func TestStallingSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := New("stall", Config{})
		out := &Collected[int]{pending: map[int64][]Record[int]{}}
		To(OrderedWait(From(j, FromSlice(numbers(2000)), Parallel(1)), shuffled(1), async.Config{}), connector.Sink[int](stalling{out}))
		if err := j.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := out.Results(); !isDoubled(got, 2000) {
			t.Errorf("%d results", len(got))
		}
	})
}

// leaver is a source that looks for changes of its splits in a goroutine that it ends.
type leaver struct{ *slowSource }

func (leaver) Changed(ctx context.Context) error { return exits(ctx) }

func exits(context.Context) error {
	runtime.Goexit()
	return nil
}

// leavingObserver ends the goroutine that tells it of the job's start.
type leavingObserver struct{}

func (leavingObserver) Observe(e Event) {
	if _, ok := e.(Started); ok {
		runtime.Goexit()
	}
}

// TestObserverThatEndsItsGoroutine: the run is over when its tasks are.
func TestObserverThatEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := New("exit", Config{Observer: leavingObserver{}})
		var working atomic.Int64
		fn := async.Func(func(ctx context.Context, v int) (int, error) {
			working.Add(1)
			defer working.Add(-1)
			<-ctx.Done()
			return 0, ctx.Err()
		}, 4)
		Collect(OrderedWait(From(j, FromSlice(numbers(100))), fn, async.Config{}))
		if err := j.Run(t.Context()); !errors.Is(err, errNotReturned) || working.Load() > 0 {
			t.Errorf("%v, and %d calls are being worked on", err, working.Load())
		}
	})
}

// TestFunctionsThatEndTheirGoroutine: a function of the user's that calls runtime.Goexit fails the
// job instead of hanging it.
func TestFunctionsThatEndTheirGoroutine(t *testing.T) {
	for where, build := range map[string]func(*Job){
		"map: record at split 0, position 0 failed": func(j *Job) {
			Collect(Map(From(j, FromSlice(numbers(3))), func(v int) (int, error) {
				runtime.Goexit()
				return v, nil
			}))
		},
		"source: cannot read split 0 from position 0": func(j *Job) {
			Collect(From(j, FromSeq(func(func(int, error) bool) { runtime.Goexit() }, true)))
		},
		"source: cannot cut the input into splits: Splits of source did not return": func(j *Job) {
			Collect(From(j, &slowSource{Source: FromSlice(numbers(3)), splits: exits}))
		},
		"source: Changed of source did not return": func(j *Job) {
			Collect(From[int](j, leaver{&slowSource{Source: paced{10, time.Hour}}}))
		},
		"checkpoint 1": func(j *Job) {
			d := newDisk()
			d.point = func(what string) {
				if strings.HasPrefix(what, "before commit") {
					runtime.Goexit()
				}
			}
			To(From(j, FromSlice(numbers(3))), diskSink{d})
		},
	} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				j := New("exit", Config{Parallelism: 1})
				build(j)
				if err := j.Run(ctx); !errors.Is(err, errNotReturned) || !strings.Contains(err.Error(), where) {
					t.Errorf("the job ended with %v; want %q", err, where)
				}
			})
		})
	}
}
