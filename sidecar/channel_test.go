package sidecar

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// Requests carry as many rows as the window and the batch size allow, and each record gets its own
// answer.
func TestMicroBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.infer = func(context.Context, *oip.ModelInferRequest, [][]float32) error {
			time.Sleep(10 * time.Millisecond)
			return nil
		}
		r := newRecorder(t)
		cfg := p.config()
		cfg.Window, cfg.MaxBatch = 2, 8
		r.open(cfg)
		for _, v := range ramp(3) { // the third gathers
			r.call(v)
			synctest.Wait()
		}
		r.call(ramp(20)[3:]...)
		r.await()
		r.check()
		if got, want := p.sizes(), []int{1, 1, 8, 8, 2}; !slices.Equal(got, want) {
			t.Errorf("requests of %v rows, want %v", got, want)
		}
	})
}

// A request holds at most an equal share of the capacity, and at most what the model takes.
func TestMaxRows(t *testing.T) {
	batched := &tensor.Signature{Batched: true}
	for _, c := range []struct {
		cfg  Config
		sig  *tensor.Signature
		op   async.Config
		want int
	}{
		{Config{MaxBatch: 256, Window: 4}, batched, async.Config{}, 250},
		{Config{MaxBatch: 256, Window: 4}, batched, async.Config{Capacity: 10}, 3},
		{Config{MaxBatch: 256, Window: 4}, batched, async.Config{Capacity: 1}, 1},
		{Config{MaxBatch: 256, Window: 1}, batched, async.Config{Capacity: 1 << 20}, 256},
		{Config{MaxBatch: 256, Window: 4}, batched, async.Config{Capacity: 1000, MaxCalls: 100}, 25},
		{Config{MaxBatch: 256, Window: 4}, &tensor.Signature{Batched: true, MaxBatch: 16}, async.Config{}, 16},
		{Config{MaxBatch: 256, Window: 4}, &tensor.Signature{}, async.Config{}, 1},
	} {
		if got := maxRows(&c.cfg, c.sig, c.op); got != c.want {
			t.Errorf("%+v, capacity %d: %d rows, want %d", c.cfg, c.op.Capacity, got, c.want)
		}
	}
}

// Rows of several shapes share requests with rows of the same shape, and no row is lost.
func TestRaggedRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, tensor.Dynamic)
		r := newRecorder(t)
		cfg := p.config()
		cfg.Window = 1
		r.open(cfg)
		var records []numbers
		for i := range 60 {
			records = append(records, append(make(numbers, 0, 3), []float32{float32(i), 0, 0}[:1+i%3]...))
		}
		r.call(records...)
		r.await()
		r.check()
		if n := len(p.sizes()); n != 3 {
			t.Errorf("%d requests for 3 shapes: %v", n, p.sizes())
		}
		// If all shapes differ, each row goes alone, and the work stays bounded.
		p.forget()
		var lengths []numbers
		for i := range 50 {
			lengths = append(lengths, make(numbers, 1+i))
			lengths[i][0] = float32(i)
		}
		r.call(lengths...)
		r.await()
		r.check()
		if n := len(p.sizes()); n != 50 {
			t.Errorf("%d requests for 50 shapes", n)
		}
	})
}

func TestByteLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, tensor.Dynamic)
		r := newRecorder(t)
		cfg := p.config()
		cfg.Window, cfg.MaxBytes = 1, 1000
		r.open(cfg)
		var records []numbers
		for i := range 12 {
			n := 60 // 240 bytes
			if i == 5 {
				n = 400 // alone
			}
			records = append(records, make(numbers, n))
			records[i][0] = float32(i)
		}
		r.call(records...)
		r.await()
		r.check()
		for i, rows := range p.log {
			if bytes := len(rows) * len(rows[0]) * 4; bytes > 1000 && len(rows) > 1 {
				t.Errorf("request %d: %d rows, %d bytes", i, len(rows), bytes)
			}
		}
		if n := len(p.log); n != 4 {
			t.Errorf("requests of %v rows; 11 rows of 240 bytes and one of 1600 need 4 requests", p.sizes())
		}
	})
}

// 53. One poison record among 64 fails alone, whether the server names it or not, and
// whatever the code.
func TestPoison(t *testing.T) {
	for _, c := range []struct {
		name  string
		fail  func(rows []int) error
		most  int // requests
		class async.Class
		retry bool
	}{
		{"named", func(rows []int) error {
			return oip.Error(codes.InvalidArgument, oip.ReasonBadTensor, "NaN", oip.WithBadRows("x", "NaN", rows...))
		}, 2, async.BadRecord, false},
		{"unnamed", func([]int) error { return oip.Error(codes.InvalidArgument, oip.ReasonBadTensor, "NaN") }, 1 + 2*6, async.BadRecord, false},
		{"out of range", func([]int) error {
			return oip.Error(codes.InvalidArgument, oip.ReasonBadTensor, "NaN", oip.WithBadRows("x", "NaN", 64, 1<<30))
		}, 1 + 2*6, async.BadRecord, false},
		{"internal", func([]int) error { return oip.Error(codes.Internal, oip.ReasonBackendError, "device assert") }, 1 + 2*6, async.Backend, true},
		{"unknown", func([]int) error { return errors.New("exception calling application") }, 1 + 2*6, async.Backend, true},
		{"data loss", func([]int) error { return oip.Error(codes.DataLoss, oip.ReasonBadOutput, "63 rows") }, 1 + 2*6, async.Backend, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				p.infer = func(_ context.Context, _ *oip.ModelInferRequest, rows [][]float32) error {
					var bad []int
					for i := range rows {
						if rows[i][0] == 17 {
							bad = append(bad, i)
						}
					}
					if bad != nil {
						return c.fail(bad)
					}
					return nil
				}
				r := newRecorder(t)
				cfg := p.config()
				cfg.Window = 1
				r.open(cfg)
				r.call(ramp(64)...)
				r.await()
				r.check(17)
				if n := len(p.log); n > c.most || len(p.log[0]) != 64 {
					t.Errorf("%d requests, at most %d: %v; %d held, %v", n, c.most, p.sizes(), r.held, r.events)
				}
				err := r.outcome[17].Err
				e, ok := errors.AsType[*Error](err)
				if v := async.VerdictOf(err); !ok || v != (async.Verdict{Class: c.class, Retry: c.retry}) {
					t.Errorf("%v: %+v", err, v)
				}
				if ok && (e.RequestID == "" || e.Model != "double" || e.Endpoint != "memory") {
					t.Errorf("%#v", e)
				}
			})
		})
	}
}

// A server that returns other tensors than it promised fails the record, but not the process, and
// not the neighbours whose answers are right.
func TestWrongAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, tensor.Dynamic)
		p.infer = func(_ context.Context, req *oip.ModelInferRequest, rows [][]float32) error {
			if slices.ContainsFunc(rows, func(r []float32) bool { return r[0] == 2 }) {
				req.Inputs[0].Shape[0]++ // the answer shares this slice
			}
			return nil
		}
		r := newRecorder(t)
		r.open(p.config())
		r.call(ramp(4)...)
		r.await()
		r.check(2)
		if err := r.outcome[2].Err; !errors.Is(err, ErrBadOutput) {
			t.Error(err)
		}
	})
}

// A request that is too large is sent in halves, and the channel learns from that. A record that is
// too large alone is bad.
func TestTooLarge(t *testing.T) {
	for _, side := range []string{"server", "request", "answer"} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, tensor.Dynamic)
				cfg := p.config()
				switch side {
				case "server":
					p.kill()
					p.limit = 4096
					p.start()
				case "request":
					cfg.MaxMessageSize = 4096
				case "answer": // 20 rows fit, but not with the name of the output
					cfg.MaxMessageSize, cfg.MaxBatch = 4096, 20
					p.sig.Outputs[0].Name = strings.Repeat("y", 300)
				}
				cfg.Window = 1
				r := newRecorder(t)
				codec := tensor.Values[float32, float32]("", "")
				caller, err := NewAsyncFunction(cfg, codec).Open(t.Context(), r.sub, r)
				if err != nil {
					t.Fatal(err)
				}
				defer caller.Close()
				r.caller = caller
				c := caller.(*channel[numbers, numbers])
				var records []numbers
				for i := range 64 {
					records = append(records, make(numbers, 50)) // 200 bytes
					records[i][0] = float32(i)
				}
				if side == "answer" {
					r.call(records...)
					r.await()
					r.check()
				} else {
					records = append(records, make(numbers, 5000))
					r.call(records...)
					r.await()
					r.check(64)
					err := r.outcome[64].Err
					if !errors.Is(err, ErrTooLarge) || async.VerdictOf(err).Class != async.BadRecord {
						t.Error(err)
					}
					if e := errText(err); !strings.Contains(e, "4096") || !strings.Contains(e, "MaxMessageSize") {
						t.Errorf("the message names neither the limit nor the setting: %s", e)
					}
				}
				if c.sizes.now > 4096 || c.sizes.now < 1024 {
					t.Errorf("%d bytes a request after refusals at 4096", c.sizes.now)
				}
				// From then on no request is refused and split.
				before := len(p.log)
				r.call(records[:64]...)
				r.await()
				if n, most := len(p.log)-before, 64*200/c.sizes.now+1; n > most {
					t.Errorf("%d requests after the limit was known, want %d", n, most)
				}
			})
		})
	}
}

// A record that the codec refuses, by an error or a panic, fails alone. Its neighbours share a
// request.
func TestCodecFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		r := newRecorder(t)
		c, err := NewAsyncFunction(p.config(), fussy{}).Open(t.Context(), r.sub, r)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		r.caller = c
		r.call(ramp(8)...)
		r.await()
		r.check(1, 2, 3, 5, 6, 7)
		for e, want := range map[uint64]string{
			1: "refused", 2: "boom", 3: "not decoded", 5: "ragged by itself", 6: "bang",
		} {
			err := r.outcome[e].Err
			if v := async.VerdictOf(err); v != (async.Verdict{Class: async.BadRecord}) || !errors.Is(err, ErrBadRecord) || !strings.Contains(errText(err), want) {
				t.Errorf("record %d: %v (%+v), want %q", e, err, v, want)
			}
		}
		// If the codec blames the answer, the failure is the model's, and another attempt
		// does not help.
		if err := r.outcome[7].Err; async.VerdictOf(err) != (async.Verdict{Class: async.Backend}) || !errors.Is(err, ErrBackend) || errors.Is(err, ErrBadRecord) || !strings.Contains(errText(err), "no number") {
			t.Errorf("record 7: %v (%+v)", err, async.VerdictOf(err))
		}
		if _, ok := errors.AsType[*async.PanicError](r.outcome[2].Err); !ok {
			t.Errorf("%v is not a panic error", r.outcome[2].Err)
		}
		if want := []int{5}; !slices.Equal(p.sizes(), want) {
			t.Errorf("requests of %v rows, want %v", p.sizes(), want)
		}
	})
}

// fussy doubles its input, and fails in every possible way, depending on the record's value.
type fussy struct{}

func (fussy) Bind(tensor.Signature) (tensor.RowCodec[numbers, numbers], error) { return fussy{}, nil }

func (fussy) Encode(dst *tensor.Batch, in numbers) error {
	tensor.AppendValues(dst.Column(0), in)
	switch in[0] {
	case 1:
		return errors.New("refused")
	case 2:
		panic("boom")
	case 5:
		return errors.Join(errors.New("ragged by itself"))
	}
	return nil
}

func (fussy) Decode(in numbers, src *tensor.Rows, i int) (numbers, error) {
	switch in[0] {
	case 3:
		return nil, errors.New("not decoded")
	case 6:
		panic("bang")
	case 7:
		return nil, fmt.Errorf("%w: no number", tensor.ErrAnswer)
	}
	return tensor.RowValues[float32](src.Output(0), i, nil)
}

// A codec that changes the batch itself cannot mix up the answers.
func TestCodecBreaksBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		r := newRecorder(t)
		c, err := NewAsyncFunction(p.config(), breaker{}).Open(t.Context(), r.sub, r)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		r.caller = c
		r.call(ramp(4)...)
		r.await()
		r.check(0, 1, 2, 3)
		if len(p.log) > 0 {
			t.Errorf("sent %v", p.log)
		}
	})
}

type breaker struct{ fussy }

func (breaker) Bind(tensor.Signature) (tensor.RowCodec[numbers, numbers], error) {
	return breaker{}, nil
}

func (breaker) Encode(dst *tensor.Batch, in numbers) error {
	if in[0] == 2 {
		dst.Reset()
	}
	return tensor.AppendValues(dst.Column(0), in)
}

// A23. The request's deadline is the latest of its rows', to the tick. A request without any wanted
// row is cancelled. The channel does not complete a row that timed out, since the operator does.
func TestDeadlineAndCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		var ended atomic.Int64
		start := time.Now()
		p.infer = func(ctx context.Context, _ *oip.ModelInferRequest, rows [][]float32) error {
			<-ctx.Done()
			ended.Store(int64(time.Since(start)))
			return ctx.Err()
		}
		r := newRecorder(t)
		c := r.open(p.config())
		at := func(e uint64, d time.Duration) async.Call[numbers] {
			return async.Call[numbers]{ID: async.CallID{Entry: e}, Record: async.Record[numbers]{Value: numbers{1}}, Deadline: start.Add(d)}
		}
		r.attempts = make([]uint32, 6)
		c.Call([]async.Call[numbers]{at(0, 300*time.Millisecond), at(1, 700*time.Millisecond), at(2, 500*time.Millisecond)})
		synctest.Wait()
		time.Sleep(time.Second)
		if got := time.Duration(ended.Load()); got != 700*time.Millisecond {
			t.Errorf("the request ended after %v, want 700ms", got)
		}
		if len(r.outcome) > 0 {
			t.Errorf("outcomes after the deadline: %v", r.outcome)
		}

		start = time.Now()
		c.Call([]async.Call[numbers]{at(3, time.Hour), at(4, time.Hour)})
		synctest.Wait()
		c.Cancel([]async.CallID{{Entry: 4}, {Entry: 99}})
		time.Sleep(10 * time.Millisecond)
		ended.Store(0)
		c.Cancel([]async.CallID{{Entry: 3}})
		synctest.Wait()
		if got := time.Duration(ended.Load()); got != 10*time.Millisecond {
			t.Errorf("the request ended after %v, want 10ms", got)
		}
		// No attempt starts after the deadline (A24).
		n := len(p.log)
		c.Call([]async.Call[numbers]{at(5, 10*time.Millisecond)})
		synctest.Wait()
		if len(p.log) != n {
			t.Error("a call was sent at its deadline")
		}
	})
}

// The operator's timeout over a server that hangs: to the tick, and typed. A record that must go
// alone keeps others waiting until the request in flight is answered. When the record is cancelled,
// the others go at once.
func TestCancelWakesThoseThatWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		hang := make(chan struct{})
		p.infer = func(_ context.Context, _ *oip.ModelInferRequest, rows [][]float32) error {
			switch rows[0][0] {
			case 1:
				return status.Error(codes.Internal, "the model failed")
			case 2:
				<-hang
			}
			return nil
		}
		cfg := p.config()
		cfg.Window, cfg.MaxBatch = 2, 1
		r := newRecorder(t)
		c := r.open(cfg)
		for _, v := range []float32{2, 1, 3} { // 1 fails, and goes alone when 2 is answered
			r.call(numbers{v})
			synctest.Wait()
		}
		c.Cancel([]async.CallID{{Entry: 1}}) // has timed out
		r.Complete([]async.Completion[numbers]{{ID: async.CallID{Entry: 1}, Err: context.DeadlineExceeded}})
		synctest.Wait()
		r.mu.Lock()
		_, answered := r.outcome[2]
		r.mu.Unlock()
		if !answered {
			t.Error("record 3 was not sent although the window has a free place")
		}
		close(hang)
		r.await()
	})
}

func TestOperatorTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.infer = func(ctx context.Context, _ *oip.ModelInferRequest, _ [][]float32) error {
			<-ctx.Done()
			return ctx.Err()
		}
		start := time.Now()
		records := func(yield func(numbers, error) bool) { yield(numbers{1}, nil) }
		for _, err := range async.Map(t.Context(), records, NewAsyncFunction(p.config(), doubling), async.Config{Timeout: 1234 * time.Millisecond}) {
			if !errors.Is(err, async.ErrTimeout) || async.VerdictOf(err).Class != async.Timeout {
				t.Error(err)
			}
		}
		if got := time.Since(start); got != 1234*time.Millisecond {
			t.Errorf("after %v", got)
		}
	})
}

// Close cancels what is in flight and leaves nothing behind. It is idempotent, and calls after it
// do nothing. The server sees one connection for each subtask, and none afterwards.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.infer = func(ctx context.Context, _ *oip.ModelInferRequest, _ [][]float32) error {
			<-ctx.Done()
			return ctx.Err()
		}
		var callers []*recorder
		for i := range 3 {
			r := newRecorder(t)
			r.sub.Index, r.sub.Parallelism = i, 3
			r.open(p.config())
			r.call(ramp(2000)...)
			callers = append(callers, r)
		}
		synctest.Wait()
		if open, accepted, _ := p.connections(); open != 3 || accepted != 3 {
			t.Errorf("%d connections, %d in all, want 3", open, accepted)
		}
		for _, r := range callers {
			done := make(chan error)
			for range 2 {
				go func() { done <- r.caller.Close() }()
			}
			for range 2 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			r.caller.Call([]async.Call[numbers]{{ID: async.CallID{Entry: 1}}})
			r.caller.Cancel([]async.CallID{{Entry: 1}})
			if len(r.outcome) > 0 {
				t.Errorf("%d outcomes", len(r.outcome))
			}
		}
		synctest.Wait()
		if open, _, _ := p.connections(); open != 0 {
			t.Errorf("%d connections left", open)
		}
	})
}

// The operator, the client and a server together: every order, many records.
func TestMap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		p.infer = func(_ context.Context, _ *oip.ModelInferRequest, rows [][]float32) error {
			time.Sleep(time.Duration(1+int(rows[0][0])%7) * time.Millisecond)
			return nil
		}
		records := func(yield func(numbers, error) bool) {
			for i := range 5000 {
				if !yield(numbers{float32(i)}, nil) {
					return
				}
			}
		}
		n := 0
		for v, err := range async.Map(t.Context(), records, NewAsyncFunction(p.config(), doubling), async.Config{}) {
			if err != nil || v[0] != 2*float32(n) {
				t.Fatalf("result %d: %v, %v", n, v, err)
			}
			n++
		}
		synctest.Wait()
		if open, accepted, _ := p.connections(); n != 5000 || accepted != 1 || open != 0 {
			t.Errorf("%d results over %d connections, %d left", n, accepted, open)
		}
		if requests := len(p.sizes()); requests > 500 {
			t.Errorf("%d requests for 5000 records", requests)
		}
	})
}
