package async_test

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// figures are fields of async.Stats by their names. A histogram is how many it counted, and how
// long they took together.
type figures map[string]any

type timed struct {
	count int64
	sum   time.Duration
}

const ms = time.Millisecond

var errGone = errors.New("gone")

// statsCases make every number of async.Stats move by a known amount, the failure of the operator
// included.
var statsCases = []struct {
	name string
	cfg  async.Config
	do   func(r *rig)
	want figures
}{
	{"at rest", async.Config{Capacity: 8, MaxCalls: 4}, func(*rig) {}, figures{"Limit": 4, "MaxCalls": 4}},
	{"in progress", async.Config{MaxCalls: 2}, func(r *rig) {
		r.admit(1, 2, 3)
		r.step()
	}, figures{"Admitted": int64(3), "Queued": 3, "InFlight": 2, "Calls": int64(2), "Bytes": int64(24), "Limit": 2, "MaxCalls": 2}},
	{"behind the head", async.Config{}, func(r *rig) {
		r.admit(1, 2)
		r.step()
		time.Sleep(10 * ms)
		r.double(2)
		r.step()
	}, figures{"Queued": 2, "InFlight": 1, "Done": 1, "Calls": int64(2), "Call": timed{1, 10 * ms}}},
	{"left", async.Config{}, func(r *rig) {
		r.admit(1, 2)
		r.step()
		time.Sleep(10 * ms)
		r.double(2)
		time.Sleep(20 * ms)
		r.double(1)
		r.step()
	}, figures{"Completed": int64(2), "Call": timed{2, 40 * ms}, "HeadOfLine": timed{2, 20 * ms}, "Latency": timed{2, 60 * ms}}},
	{"dropped", async.Config{OnError: async.OnError{Backend: async.Drop}}, func(r *rig) {
		r.admit(1, 2)
		r.step().complete(1, async.Outputs[int]{}, classed{async.Backend})
		r.step()
	}, figures{"Dropped": int64(1), "Queued": 1, "Latency": timed{1, 0}}},
	{"dead-lettered", async.Config{OnError: async.OnError{Backend: async.DeadLetter}}, func(r *rig) {
		r.admit(1, 2)
		r.step().complete(1, async.Outputs[int]{}, classed{async.Backend})
		r.step()
	}, figures{"DeadLettered": int64(1), "Queued": 1}},
	{"fallback", async.Config{OnError: async.OnError{Backend: async.Fallback}}, func(r *rig) {
		r.admit(1)
		r.step().complete(1, async.Outputs[int]{}, classed{async.Backend})
		r.step()
	}, figures{"Fallbacks": int64(1), "Completed": int64(1)}},
	{"waiting for a retry", async.Config{Retry: async.Retry{Max: 2, Delay: 100 * ms, Jitter: async.Off}}, func(r *rig) {
		r.admit(1)
		r.step().complete(1, async.Outputs[int]{}, flaky{})
		r.step()
	}, figures{"Retrying": 1, "Retries": int64(0), "Calls": int64(1)}},
	{"retried", async.Config{Retry: async.Retry{Max: 2, Delay: 100 * ms, Jitter: async.Off}}, func(r *rig) {
		r.admit(1)
		r.step().complete(1, async.Outputs[int]{}, flaky{})
		r.run(func() bool { return len(r.calls[1]) == 2 })
	}, figures{"Retrying": 0, "Retries": int64(1), "Calls": int64(2)}},
	// A retry that is held meanwhile still counts as a retry.
	{"a retry that was held", async.Config{Retry: async.Retry{Max: 2, Delay: 100 * ms, Jitter: async.Off}}, func(r *rig) {
		r.admit(1)
		r.step().complete(1, async.Outputs[int]{}, flaky{})
		r.run(func() bool { return len(r.calls[1]) == 2 })
		r.complete(1, async.Outputs[int]{}, away{50 * ms})
		r.run(func() bool { return len(r.calls[1]) == 3 })
	}, figures{"Retries": int64(1), "Calls": int64(3), "Holds": int64(1), "Held": 0, "HeldFor": nil}},
	{"held by an overload", async.Config{MaxCalls: 4}, func(r *rig) {
		r.admit(1, 2)
		r.step().complete(1, async.Outputs[int]{}, away{time.Minute / 2})
		r.step()
	}, figures{"Held": 1, "Holds": int64(1), "HeldFor": away{time.Minute / 2}, "Limit": 2, "InFlight": 1}},
	// A record that has not been called yet is held as well.
	{"held by a loss", async.Config{}, func(r *rig) {
		r.done.Suspend(errGone)
		r.step().admit(1, 2, 3)
		r.step()
	}, figures{"Held": 3, "Holds": int64(3), "HeldFor": errGone, "Suspended": errGone, "Calls": int64(0)}},
	{"a loss that is over", async.Config{}, func(r *rig) {
		r.done.Suspend(errGone)
		r.step().admit(1)
		r.step()
		r.done.Resume()
		r.step()
	}, figures{"Held": 0, "Holds": int64(1), "HeldFor": nil, "Suspended": nil, "Calls": int64(1)}},
	{"timeouts that are dropped", async.Config{Timeout: time.Second, OnError: async.OnError{Timeout: async.Drop}}, func(r *rig) {
		r.admit(1, 2, 3)
		r.op.End()
		r.run(nil)
	}, figures{"Timeouts": int64(3), "Dropped": int64(3), "Call": timed{3, 3 * time.Second}}},
	{"timeouts that end the operator", async.Config{Timeout: time.Second}, func(r *rig) {
		r.admit(1, 2, 3)
		r.run(nil)
	}, figures{"Timeouts": int64(3), "Dropped": int64(0), "Queued": 3, "InFlight": 0, "Call": timed{3, 3 * time.Second}}},
	{"a timeout of the other side that ends the operator", async.Config{}, func(r *rig) {
		r.admit(1, 2)
		r.step()
		time.Sleep(10 * ms)
		r.complete(2, async.Outputs[int]{}, classed{async.Timeout})
		r.step()
	}, figures{"Timeouts": int64(1), "Call": timed{1, 10 * ms}, "InFlight": 1}},
	{"a hold that ends the operator", async.Config{Hold: time.Second}, func(r *rig) {
		r.admit(1)
		r.step().complete(1, async.Outputs[int]{}, away{time.Minute})
		r.run(nil)
	}, figures{"Holds": int64(1), "Timeouts": int64(0)}},
	{"closed with calls in progress", async.Config{}, func(r *rig) {
		r.admit(1, 2)
		r.step()
		time.Sleep(10 * ms)
		r.op.Close()
	}, figures{"Calls": int64(2), "InFlight": 0, "Call": timed{2, 20 * ms}}},
	{"drained", async.Config{}, func(r *rig) {
		r.admit(1, 2)
		r.step().op.Barrier(1)
		time.Sleep(10 * ms)
		r.double(1, 2)
		r.step()
	}, figures{"Drained": int64(2), "Drain": timed{1, 10 * ms}, "Snapshotted": int64(0)}},
	{"a drain that was given up", async.Config{}, func(r *rig) {
		r.admit(1, 2)
		r.step().op.Barrier(1)
		time.Sleep(10 * ms)
		r.double(1)
		r.step().op.AbortBarrier(1)
	}, figures{"Drained": int64(1), "Drain": timed{1, 10 * ms}}},
	{"a drain that the operator's end cut short", async.Config{Timeout: time.Second}, func(r *rig) {
		r.admit(1)
		r.step().op.Barrier(1)
		r.run(nil)
		r.op.Close()
	}, figures{"Drained": int64(0), "Drain": timed{1, time.Second}, "Timeouts": int64(1)}},
	{"snapshotted", async.Config{Barrier: async.Snapshot}, func(r *rig) {
		r.admit(1, 2)
		r.step().op.Barrier(1)
		r.step()
	}, figures{"Snapshotted": int64(2), "Drain": timed{}, "Drained": int64(0)}},
	{"restored", async.Config{}, func(r *rig) {
		r.op.Restore([]async.Record[int]{{Value: 1}, {Value: 2}}, nil)
		r.step().double(1)
		r.step()
	}, figures{"Admitted": int64(2), "Completed": int64(1), "Queued": 1}},
}

// TestStats: each number says what happened, up to the event that ended the operator. Some case
// moves each number.
func TestStats(t *testing.T) {
	moved := map[string]bool{}
	for _, c := range statsCases {
		for field, v := range c.want {
			if v != nil && !reflect.ValueOf(v).IsZero() {
				moved[field] = true
			}
		}
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, async.Ordered, c.cfg, func(r *rig) async.Function[int, int] { return fallingBack{r, nil} })
				if c.cfg.OnError.Uses(async.DeadLetter) {
					r.op.DeadLetters(func([]async.Failed[int]) {})
					if err := r.op.Open(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				c.do(r)
				stats := r.op.Stats()
				for field, want := range c.want {
					got := reflect.ValueOf(stats).FieldByName(field).Interface()
					if h, ok := got.(async.Histogram); ok {
						got = timed{h.Count(), h.Sum}
					}
					if got != want {
						t.Errorf("%s is %v, want %v", field, got, want)
					}
				}
				// Every call is in progress or was timed, every record is queued or has its
				// outcome.
				if stats.Call.Count()+int64(stats.InFlight) != stats.Calls || stats.Admitted != stats.Completed+stats.Dropped+stats.DeadLettered+int64(stats.Queued) {
					t.Errorf("it does not add up: %+v", stats)
				}
			})
		})
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[async.Stats]()) {
		if !moved[f.Name] {
			t.Errorf("no case moves Stats.%s", f.Name)
		}
	}
}

// TestUnmadeCallsAreNotTimed: a call that was returned before it began does not show how long calls
// take.
func TestUnmadeCallsAreNotTimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, async.Ordered, async.Config{}, nil)
		r.admit(1)
		r.step()
		for range 3 {
			time.Sleep(10 * ms)
			r.complete(1, async.Outputs[int]{}, async.ErrUnmade)
			r.step()
		}
		time.Sleep(time.Second)
		r.double(1)
		r.step()
		st := r.op.Stats()
		if got := (timed{st.Call.Count(), st.Call.Sum}); got != (timed{1, time.Second}) || st.Calls != 4 {
			t.Errorf("%d calls were made, and timed were %+v", st.Calls, got)
		}
	})
}

// TestTimeoutOfTheOtherSide: a timeout of the other side is reported in its own words, since our
// own timeout was not over. It counts as a timeout all the same.
func TestTimeoutOfTheOtherSide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, async.Ordered, async.Config{Timeout: time.Hour}, nil)
		r.admit(1)
		r.step().complete(1, async.Outputs[int]{}, classed{async.Timeout})
		r.step()
		re, ok := errors.AsType[*async.RecordError](r.err)
		if !ok || fmt.Sprint(re.Err) != "class timeout" || re.Class != async.Timeout || !errors.Is(r.err, async.ErrTimeout) || !errors.Is(r.err, classed{async.Timeout}) {
			t.Errorf("%v", r.err)
		}
	})
}
