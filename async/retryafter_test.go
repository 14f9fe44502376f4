package async_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// busyFor is a server that asks to be called again after a while.
type busyFor time.Duration

func (b busyFor) Error() string { return "busy" }
func (b busyFor) Verdict() async.Verdict {
	return async.Verdict{Class: async.Overload, Hold: true, RetryAfter: time.Duration(b)}
}

// TestRetryAfter: whatever delay the other side asks for, a record waits for it no longer than
// hold, other records do not wait for this record, and calls do not repeat without a pause.
func TestRetryAfter(t *testing.T) {
	for _, after := range []time.Duration{time.Second, 24 * time.Hour, math.MaxInt64} {
		synctest.Test(t, func(t *testing.T) {
			var calls atomic.Int64
			fn := async.Func(func(_ context.Context, v int) (int, error) {
				time.Sleep(time.Millisecond)
				if calls.Add(1) == 1 {
					return 0, busyFor(after)
				}
				return v, nil
			}, 1)
			began, results, held := time.Now(), 0, 0
			cfg := async.Config{Order: async.Unordered, Hold: time.Minute}
			for _, err := range async.Map(t.Context(), async.Values(slices.Values(upTo(5))), fn, cfg) {
				switch {
				case err == nil:
					results++
				case errors.Is(err, async.ErrHold):
					held++
				default:
					t.Fatal(err)
				}
			}
			// With the longer ones the record has failed, and the sequence with it.
			if took := time.Since(began); took > 2*time.Minute || calls.Load() > 6 || after == time.Second && results != 5 || after > time.Second && held != 1 {
				t.Errorf("after %v: %d results, %d held for too long, %d calls in %v", after, results, held, calls.Load(), took)
			}
		})
	}
}

// TestForever: the longest durations do not overflow into short ones.
func TestForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, cfg := range []async.Config{{Hold: math.MaxInt64}, {Timeout: math.MaxInt64}} {
			var calls atomic.Int64
			fn := async.Func(func(_ context.Context, v int) (int, error) {
				time.Sleep(time.Millisecond)
				if calls.Add(1) == 1 {
					return 0, busyFor(time.Second)
				}
				return v, nil
			}, 1)
			time.Sleep(time.Second)
			n := 0
			for _, err := range async.Map(t.Context(), async.Values(slices.Values(upTo(3))), fn, cfg) {
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
			if n != 3 {
				t.Errorf("%d results", n)
			}
		}
	})
}

// TestMapWithinBytes: a record that does not fit into MaxBytes yet waits, and is not lost.
func TestMapWithinBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := func(yield func([]byte, error) bool) {
			for i := range 40 {
				if !yield(append(make([]byte, 59), byte(i)), nil) {
					return
				}
			}
		}
		fn := async.Func(func(_ context.Context, v []byte) (byte, error) {
			time.Sleep(time.Millisecond)
			return v[59], nil
		}, 4)
		for name, results := range map[string]func(yield func(byte, error) bool){
			"ordered":   async.Map(t.Context(), in, fn, async.Config{MaxBytes: 100}),
			"unordered": async.Map(t.Context(), in, fn, async.Config{Order: async.Unordered, MaxBytes: 100}),
		} {
			seen := map[byte]int{}
			for v, err := range results {
				if err != nil {
					t.Fatal(err)
				}
				if name == "ordered" && int(v) != len(seen) {
					t.Errorf("%d where %d should be", v, len(seen))
				}
				seen[v]++
			}
			if len(seen) != 40 {
				t.Errorf("%s: %d of 40 records have a result", name, len(seen))
			}
		}
	})
}
