package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream/restart"
)

var errOdd = errors.New("divisible by seven")

// choosy doubles after a random time, fails what seven divides, and, once each, the calls
// whose number is in breaks, in a way that no policy catches.
func choosy(seed uint64, breaks ...int64) async.Function[int, int] {
	var calls atomic.Int64
	return async.Func(func(ctx context.Context, v int) (int, error) {
		n := calls.Add(1)
		time.Sleep(time.Duration(rand.New(rand.NewPCG(seed, uint64(v))).IntN(20)) * time.Millisecond)
		switch {
		case slices.Contains(breaks, n):
			return 0, broken{}
		case v%7 == 0:
			return 0, errOdd
		}
		return 2 * v, nil
	}, 0)
}

// broken is a failure of class Transport that is not held: the policies below do not catch it.
type broken struct{}

func (broken) Error() string          { return "broken" }
func (broken) Verdict() async.Verdict { return async.Verdict{Class: async.Transport} }

func TestSplit(t *testing.T) {
	const n = 6000
	for _, policy := range []async.BarrierPolicy{async.Drain, async.Snapshot} {
		for _, order := range []async.Order{async.Ordered, async.Unordered, async.Keyed} {
			for _, parallelism := range []int{1, 3} {
				t.Run(fmt.Sprintf("%v/%v/%d", policy, order, parallelism), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						j := New("split", Config{
							Parallelism: parallelism, Checkpoint: CheckpointConfig{Interval: 30 * time.Millisecond},
							Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 10},
						})
						in := From(j, FromSlice(numbers(n)))
						cfg := async.Config{Order: order, Capacity: 50, Barrier: policy, Retry: async.Retry{Max: async.Off}}
						fn := choosy(1, 700, 2500)
						if order == async.Keyed {
							in = KeyBy(in, func(v int) string { return fmt.Sprint(v % 10) })
						}
						results, failed := AsyncWithDeadLetters(in, fn, cfg)
						good := Collect(results, Name("good"))
						// The letters cross an exchange of their own.
						bad := Collect(Map(Rebalance(failed, 2), func(f async.Failed[int]) (int, error) {
							if !errors.Is(f.Err, errOdd) || f.Attempts != 1 || f.Class != async.Backend {
								return 0, fmt.Errorf("letter %+v", f)
							}
							return f.Record.Value, nil
						}), Name("bad"))
						run := j.Start(t.Context())
						if err := run.Wait(); err != nil {
							t.Fatal(err)
						}
						var want, letters []int
						for v := range n {
							if v%7 == 0 {
								letters = append(letters, v)
							} else {
								want = append(want, 2*v)
							}
						}
						got, lost := good.Results(), bad.Results()
						if order != async.Ordered {
							slices.Sort(got)
						}
						slices.Sort(lost)
						if !slices.Equal(got, want) || !slices.Equal(lost, letters) {
							t.Fatalf("%d results, %d letters; want %d and %d", len(got), len(lost), len(want), len(letters))
						}
						// Row 55.
						p := run.Progress()
						if p.Read != n || p.Completed+p.Dropped+p.DeadLettered != n || p.DeadLettered != int64(len(letters)) || p.Emitted != int64(len(want)) {
							t.Errorf("%+v", p.Totals)
						}
						if p.Restarts != 2 {
							t.Errorf("%d restarts, want 2", p.Restarts)
						}
					})
				})
			}
		}
	}
}

// Records of one key and split leave in the order of the input, whatever their calls take.
func TestKeyedWait(t *testing.T) {
	for seed := range uint64(5) {
		for _, policy := range []async.BarrierPolicy{async.Drain, async.Snapshot} {
			synctest.Test(t, func(t *testing.T) {
				const n = 5000
				j := New("keyed", Config{
					Parallelism: 2, Checkpoint: CheckpointConfig{Interval: 20 * time.Millisecond},
					Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 10},
				})
				in := From(j, FromSlice(numbers(n)))
				fn := async.Func(func(ctx context.Context, v int) (int, error) {
					time.Sleep(time.Duration(rand.New(rand.NewPCG(seed, uint64(v))).IntN(30)) * time.Millisecond)
					return v, nil
				}, 0)
				out := Collect(KeyedWait(in, func(v int) string { return fmt.Sprint(v % 17) }, fn, async.Config{Capacity: 40, Barrier: policy}, Parallel(3)))
				if err := j.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				last := map[[2]int]int{}
				recs := out.Records()
				passed := 0
				newest := map[int]int{}
				for _, r := range recs {
					at := [2]int{r.Value % 17, r.Split}
					if before, ok := last[at]; ok && before > r.Value {
						t.Fatalf("seed %d: key %d of split %d: %d after %d", seed, at[0], r.Split, r.Value, before)
					}
					last[at] = r.Value
					if newest[r.Split] > r.Value {
						passed++
					}
					newest[r.Split] = max(newest[r.Split], r.Value)
				}
				if len(recs) != n || passed == 0 {
					t.Fatalf("%d results, %d passed another key's; want %d and some", len(recs), passed, n)
				}
			})
		}
	}
}

func TestSplitBuildMistakes(t *testing.T) {
	fn := choosy(1)
	for what, build := range map[string]func(*Job, *Stream[int]){
		"no operator takes the stream of the records that fail": func(_ *Job, s *Stream[int]) {
			good, _ := AsyncWithDeadLetters(s, fn, async.Config{})
			Collect(good)
		},
		"use stream.AsyncWithDeadLetters": func(_ *Job, s *Stream[int]) {
			Collect(OrderedWait(s, fn, async.Config{OnError: async.OnError{Timeout: async.DeadLetter}}))
		},
		"no failure has the action dead letter": func(_ *Job, s *Stream[int]) {
			good, bad := AsyncWithDeadLetters(s, fn, async.Config{OnError: async.OnError{Timeout: async.Drop}})
			Collect(good)
			Collect(bad, Name("bad"))
		},
		"implement async.FallbackMaker": func(_ *Job, s *Stream[int]) {
			Collect(OrderedWait(s, fn, async.Config{OnError: async.OnError{Timeout: async.Fallback}}))
		},
		"only one operator can take a stream": func(_ *Job, s *Stream[int]) {
			good, bad := AsyncWithDeadLetters(s, fn, async.Config{})
			Collect(good)
			Collect(bad, Name("bad"))
			Collect(bad, Name("again"))
		},
	} {
		j := New("mistake", Config{})
		build(j, From(j, FromSlice(numbers(3))))
		if err := j.Run(t.Context()); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("want %q, got %v", what, err)
		}
	}
}
