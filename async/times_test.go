package async_test

import (
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// TestTimes: how long calls, waits for a record's turn, and whole stays take.
func TestTimes(t *testing.T) {
	inEveryOrder(t, "A38 times", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{
			Timeout: time.Second, Retry: async.Retry{Max: 1, Delay: 100 * time.Millisecond, Jitter: async.Off},
			OnError: async.OnError{Timeout: async.Drop},
		}, nil)
		r.admit(1, 2, 3, 4)
		r.step()
		time.Sleep(10 * time.Millisecond)
		r.double(2)
		r.step()
		time.Sleep(30 * time.Millisecond)
		r.double(1)
		r.complete(3, async.Outputs[int]{}, flaky{})
		r.run(func() bool { return len(r.calls[3]) == 2 })
		time.Sleep(10 * time.Millisecond)
		r.double(3)
		if st := r.step().op.Stats(); st.InFlight != 1 || st.Call.Count() != st.Calls-1 {
			t.Errorf("%d of %d calls have ended, with one in flight", st.Call.Count(), st.Calls)
		}
		r.op.End()
		r.run(nil) // 4 is out of time
		// Records of one key, as here, leave in their order too.
		waited, stayed := 30*time.Millisecond, 1230*time.Millisecond
		if order == async.Unordered {
			waited, stayed = 0, 1200*time.Millisecond
		}
		st := r.op.Stats()
		for _, h := range []struct {
			name  string
			got   async.Histogram
			count int64
			sum   time.Duration
		}{
			// 10, 40, 40 and 10 ms, and the one that was cancelled
			{"calls", st.Call, 5, 1100 * time.Millisecond},
			{"waits for the head of the line", st.HeadOfLine, 4, waited},
			{"stays", st.Latency, 4, stayed},
			{"drains", st.Drain, 0, 0},
		} {
			if h.got.Count() != h.count || h.got.Sum != h.sum {
				t.Errorf("%s: %d, %v together; want %d, %v", h.name, h.got.Count(), h.got.Sum, h.count, h.sum)
			}
		}
		if st.Calls != 5 || st.Dropped != 1 {
			t.Errorf("%+v", st)
		}
	})
}
