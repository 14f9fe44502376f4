package async_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// rig drives one operator of int to int as a host does, in virtual time, with
// calls that the test completes, or that answer does.
type rig struct {
	t    *testing.T
	op   *async.Operator[int, int]
	done async.Completer[int]
	// answer, if set, is run on a goroutine for every call.
	answer func(r *rig, c async.Call[int])

	mu        sync.Mutex
	calls     map[int][]async.CallID // attempts by the record's value
	deadlines map[int]time.Time
	cancelled map[async.CallID]bool
	closed    bool

	woken  chan struct{}
	start  time.Time
	out    []string // what left: values, "W5", "|7" for barrier 7
	status async.Status[int]
	err    error
	next   int64
}

func newRig(t *testing.T, order async.Order, cfg async.Config, fn func(*rig) async.Function[int, int]) *rig {
	t.Helper()
	cfg.Order = order
	r := &rig{t: t, calls: map[int][]async.CallID{}, deadlines: map[int]time.Time{}, cancelled: map[async.CallID]bool{}, woken: make(chan struct{}, 1), start: time.Now()}
	var f async.Function[int, int] = r
	if fn != nil {
		f = fn(r)
	}
	var err error
	r.op, err = async.NewOperator(f, cfg, async.Subtask{Operator: "op"}, func() {
		select {
		case r.woken <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !cfg.OnError.Uses(async.DeadLetter) { // otherwise the test opens it
		if err := r.op.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := r.op.Close(); err != nil || !r.closed {
			t.Errorf("Close: %v, caller closed %v", err, r.closed)
		}
	})
	return r
}

// The rig is its own function and caller.

func (r *rig) Open(_ context.Context, _ async.Subtask, done async.Completer[int]) (async.Caller[int, int], error) {
	r.done = done
	return r, nil
}

func (r *rig) Call(batch []async.Call[int]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range batch {
		v := c.Record.Value
		r.calls[v] = append(r.calls[v], c.ID)
		r.deadlines[v] = c.Deadline
		if r.answer != nil {
			go r.answer(r, c)
		}
	}
}

func (r *rig) Cancel(ids []async.CallID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		r.cancelled[id] = true
	}
}

func (r *rig) Close() error { r.closed = true; return nil }

// complete ends the newest call of a record.
func (r *rig) complete(v int, outs async.Outputs[int], err error) { r.completeAttempt(v, 0, outs, err) }

func (r *rig) completeAttempt(v, attempt int, outs async.Outputs[int], err error) {
	r.mu.Lock()
	ids := r.calls[v]
	r.mu.Unlock()
	if len(ids) == 0 {
		r.t.Fatalf("%d was never called", v)
	}
	id := ids[len(ids)-1]
	if attempt > 0 {
		id = ids[attempt-1]
	}
	r.done.Complete([]async.Completion[int]{{ID: id, Outputs: outs, Err: err}})
}

func (r *rig) double(vs ...int) {
	for _, v := range vs {
		r.complete(v, async.One(2*v), nil)
	}
}

// admit feeds records whose event time is their value. It returns false if the queue is full.
func (r *rig) admit(vs ...int) bool {
	for _, v := range vs {
		if r.op.Admit([]async.Record[int]{{Value: v, Time: async.EventTime(v), Position: r.next}}) == 0 {
			return false
		}
		r.next++
	}
	return true
}

func (r *rig) step() *rig {
	r.status, r.err = r.op.Step(time.Now(), 1000, r)
	if r.status.Barrier != 0 {
		r.out = append(r.out, fmt.Sprintf("|%d", r.status.Barrier))
	}
	return r
}

// run steps as a host does until stop says so, the operator ends or fails, or
// nothing is timed and nothing comes in for a virtual hour.
func (r *rig) run(stop func() bool) *rig {
	spins := 0
	for end := time.Now().Add(time.Hour); ; {
		if spins++; spins > 1e6 {
			r.t.Fatalf("there is always more to do, and none of it gets done; out %v, stats %+v", r.out, r.op.Stats())
		}
		r.step()
		if r.err != nil || r.status.Ended || (stop != nil && stop()) {
			return r
		}
		if r.status.More {
			continue
		}
		spins = 0
		wait := time.Until(end)
		if !r.status.Next.IsZero() {
			wait = time.Until(r.status.Next)
		}
		select {
		case <-r.woken:
		case <-time.After(wait):
			if !time.Now().Before(end) {
				r.t.Fatalf("hangs; out %v, stats %+v", r.out, r.op.Stats())
			}
		}
	}
}

func (r *rig) Emit(recs []async.Record[int]) {
	for _, rec := range recs {
		r.out = append(r.out, fmt.Sprintf("%d@%d", rec.Value, rec.Time))
	}
}

func (r *rig) Watermark(w async.Watermark) { r.out = append(r.out, fmt.Sprintf("W%d", w.Time)) }

// want compares what left so far. "4" stands for "4@2": doubled, its time kept.
func (r *rig) want(out string) {
	r.t.Helper()
	if got := strings.Join(r.out, " "); got != out {
		r.t.Fatalf("got  %q\nwant %q (failure: %v)", got, out, r.err)
	}
}

func (r *rig) now() time.Duration { return time.Since(r.start) }

// handled gives a function a timeout handler, predicated retries of empty results.
type handled struct {
	async.Function[int, int]
	calls   int
	handler func(async.Call[int]) (async.Outputs[int], error)
}

func (h *handled) OnTimeout(c async.Call[int]) (async.Outputs[int], error) {
	h.calls++
	return h.handler(c)
}

type retryEmpty struct{ async.Function[int, int] }

func (retryEmpty) RetryResult(o async.Outputs[int]) bool { return o.Len() == 0 }
func (retryEmpty) RetryError(error) bool                 { return true }

// flaky is a transient failure.
type flaky struct{}

func (flaky) Error() string          { return "flaky" }
func (flaky) Verdict() async.Verdict { return async.Verdict{Class: async.Backend, Retry: true} }

// away is an answer that does not count as an attempt.
type away struct{ after time.Duration }

func (away) Error() string { return "queue full" }
func (a away) Verdict() async.Verdict {
	return async.Verdict{Class: async.Overload, Hold: true, RetryAfter: a.after}
}
