package sidecar

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// dislikes makes a peer refuse record 1, and then not answer questions about the model's metadata
// until the test ends.
func dislikes(t *testing.T, p *peerServer) {
	var asked atomic.Bool
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	p.infer = func(_ context.Context, _ *oip.ModelInferRequest, rows [][]float32) error {
		if slices.ContainsFunc(rows, func(v []float32) bool { return v[0] == 1 }) {
			asked.Store(true)
			return status.Error(codes.InvalidArgument, "NaN")
		}
		return nil
	}
	p.meta = func() error {
		if asked.Load() {
			<-over
		}
		return nil
	}
}

// If the server does not say in time whether the model is the same, or never does, a record still
// fails with its own error, not with a timeout, and does not wait for ever (A63).
func TestAccusedWithoutAnAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		once    bool
		timeout time.Duration
		class   async.Class
		within  time.Duration
	}{
		"not to be repeated":                    {true, 4 * time.Second, async.BadRecord, 4 * time.Second},
		"not to be repeated, a short time":      {true, 100 * time.Millisecond, async.BadRecord, 100 * time.Millisecond},
		"not to be repeated, without a timeout": {true, async.Off, async.BadRecord, async.DefaultHold},
		"repeated":                              {false, 4 * time.Second, async.Transport, 2 * async.DefaultHold},
		"repeated, without a timeout":           {false, async.Off, async.Transport, 2 * async.DefaultHold},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				dislikes(t, p)
				cfg := p.config()
				cfg.MaxBatch, cfg.NonIdempotent = 1, c.once
				op := async.Config{Order: async.Unordered, Timeout: c.timeout}
				if c.timeout == async.Off {
					op.Barrier = async.Snapshot
				}
				start := time.Now()
				var err error
				for _, e := range async.Map(t.Context(), async.Values(slices.Values(ramp(3))), NewAsyncFunction(cfg, doubling), op) {
					if e != nil {
						err = e
					}
				}
				if errors.Is(err, async.ErrTimeout) || async.VerdictOf(err).Class != c.class || time.Since(start) > c.within {
					t.Errorf("after %v: class %v: %v", time.Since(start), async.VerdictOf(err).Class, err)
				}
				if c.once && !errors.Is(err, ErrBadRecord) {
					t.Error(err)
				}
				times := 0
				for _, rows := range p.log {
					if rows[0][0] == 1 {
						times++
					}
				}
				if c.once && times != 1 {
					t.Errorf("it was sent %d times", times)
				}
			})
		})
	}
}

// A server that has no room to answer about its model, or is slow to, is not a lost connection:
// other records are answered, and the server is not called out of reach.
func TestAccusedWhileTheServerIsBusy(t *testing.T) {
	for name, silent := range map[string]bool{"no room": false, "silent": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				var asked atomic.Bool
				over := make(chan struct{})
				t.Cleanup(func() { close(over) })
				p.meta = func() error {
					switch {
					case !asked.Load():
					case !silent:
						return oip.Error(codes.ResourceExhausted, oip.ReasonQueueFull, "no room")
					default:
						<-over
					}
					return nil
				}
				p.infer = func(_ context.Context, _ *oip.ModelInferRequest, rows [][]float32) error {
					if asked.Load() && rows[0][0] == 1 {
						return status.Error(codes.InvalidArgument, "NaN")
					}
					return nil
				}
				r := newRecorder(t)
				cfg := p.config()
				cfg.MaxBatch = 1
				r.open(cfg)
				asked.Store(true)
				r.call(ramp(200)...)
				time.Sleep(time.Minute)
				r.mu.Lock()
				done, held, events := len(r.outcome), r.held, r.events
				r.mu.Unlock()
				if done != 199 || held != 1 || len(events) > 0 {
					t.Errorf("%d outcomes, %d held, %v", done, held, events)
				}
				asked.Store(false)
				r.await()
				r.check()
			})
		})
	}
}

// A server may list a model's tensors in another order. It is the same model.
func TestTensorsInAnotherOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		spec := func(name string) tensor.Spec { return tensor.Spec{Name: name, DType: tensor.FP32, Row: []int64{1}} }
		sig := *p.signature()
		sig.Outputs = []tensor.Spec{spec("y"), spec("z")}
		p.replace(sig)
		p.answer = func(resp *oip.ModelInferResponse) {
			other := "z"
			if resp.Outputs[0].Name == "z" {
				resp.Outputs[0].Name, other = "y", "z"
			}
			resp.Outputs = append(resp.Outputs, &oip.ModelInferResponse_InferOutputTensor{Name: other, Datatype: "FP32", Shape: resp.Outputs[0].Shape})
			resp.RawOutputContents = append(resp.RawOutputContents, make([]byte, len(resp.RawOutputContents[0])))
		}
		p.infer = func(_ context.Context, _ *oip.ModelInferRequest, rows [][]float32) error {
			if rows[0][0] == 1 {
				return status.Error(codes.InvalidArgument, "NaN")
			}
			return nil
		}
		cfg := p.config()
		cfg.MaxBatch = 1
		r := newRecorder(t)
		c := r.open(cfg)
		sig.Outputs = []tensor.Spec{spec("z"), spec("y")}
		p.replace(sig)
		r.call(ramp(3)...)
		r.await()
		r.check(1)
		if err := r.outcome[1].Err; !errors.Is(err, ErrBadRecord) {
			t.Error(err)
		}
		p.drop()
		time.Sleep(time.Second)
		r.call(numbers{7})
		r.await()
		r.check(1)
		if why := c.link.down.Load(); why != nil {
			t.Error(why)
		}
	})
}

// A panic in the user's own connection stays a panic error, however long its text is.
func TestLongPanicOfAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		cfg, ep, err := p.config().resolve()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := dial(&cfg, ep, &wire{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		bad := panicky{conn, strings.Repeat("x", 64<<10)}
		for _, e := range async.Map(t.Context(), async.Values(slices.Values(ramp(1))), NewAsyncFunction(Config{Model: "double", Conn: bad}, doubling), async.Config{}) {
			err = e
		}
		if got, ok := errors.AsType[*async.PanicError](err); !ok || !strings.Contains(got.Where, "Invoke") {
			t.Errorf("%.300v", err)
		}
	})
}

// panicky is a connection that panics at inference calls.
type panicky struct {
	grpc.ClientConnInterface
	with string
}

func (c panicky) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if method == oip.GRPCInferenceService_ModelInfer_FullMethodName {
		panic(c.with)
	}
	return c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
}
