package stream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// TestRow50: a job cancelled while its records wait for something that is an hour away ends at
// once, publishes nothing more, and leaves no goroutine and no timer: the bubble and
// goleak see to that.
func TestRow50(t *testing.T) {
	cause := errors.New("enough")
	for _, c := range []struct {
		name string
		fn   async.Function[int, int]
	}{
		{"for a retry", async.Func(func(_ context.Context, v int) (int, error) {
			if v < 3 {
				return v, nil
			}
			return 0, simFailure{async.Verdict{Retry: true}}
		}, 4)},
		{"for an overloaded server", async.Func(func(_ context.Context, v int) (int, error) {
			if v < 3 {
				return v, nil
			}
			return 0, simFailure{async.Verdict{Class: async.Overload, Hold: true, RetryAfter: time.Hour}}
		}, 4)},
		{"for a connection", unreachable{}},
	} {
		for _, policy := range []async.BarrierPolicy{async.Drain, async.Snapshot} {
			t.Run(c.name+"/"+policy.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancelCause(t.Context())
					j := New("waiting", Config{Checkpoint: CheckpointConfig{Interval: 300 * time.Millisecond}})
					cfg := async.Config{
						Capacity: 8, Timeout: 3 * time.Hour, Hold: 2 * time.Hour, Barrier: policy,
						Retry: async.Retry{Max: 1, Delay: time.Hour},
					}
					out := Collect(OrderedWait(From(j, FromSlice(numbers(100))), c.fn, cfg))
					r := j.Start(ctx)
					time.Sleep(time.Second)
					before, at := len(out.Results()), time.Now()
					cancel(cause)
					if err := r.Wait(); !errors.Is(err, cause) {
						t.Errorf("the job ended with %v", err)
					}
					if took := time.Since(at); took != 0 || len(out.Results()) != before {
						t.Errorf("it took %v, and %d results came after", took, len(out.Results())-before)
					}
				})
			})
		}
	}
}

// unreachable is out of reach for ever.
type unreachable struct{}

func (unreachable) Open(_ context.Context, _ async.Subtask, done async.Completer[int]) (async.Caller[int, int], error) {
	done.Suspend(errBroken)
	return &instant{done: done}, nil
}
