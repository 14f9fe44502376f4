package sidecar_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// Our own server ends while a row runs and others wait. With NonIdempotent no row goes to the model
// twice: the row that ran fails, and the rows that waited run on the next server (A65). Without it,
// all rows run in the end.
func TestNoRowRunsTwice(t *testing.T) {
	ends := map[string]func(*sidecartest.Server){
		"grace is over": (*sidecartest.Server).Stop,
		"closed":        func(s *sidecartest.Server) { s.Serving().Close(); s.Stop() },
		"killed":        (*sidecartest.Server).Kill,
		"cut off":       func(s *sidecartest.Server) { s.DropConnections(); s.Kill() },
	}
	for name, end := range ends {
		for _, once := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := sidecartest.Start(t, sidecartest.Script{Latency: 3 * time.Second, Grace: time.Second, Instances: 1, MaxBatch: 2})
					cfg := config(s)
					cfg.NonIdempotent, cfg.Window = once, 2
					collect := &collector{outcome: map[uint64]error{}}
					keep := &holder{collector: collect, again: make(chan []async.CallID, 100)}
					c, err := sidecar.NewAsyncFunction(cfg, doubling).Open(t.Context(), async.Subtask{Operator: "op"}, keep)
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					call := func(entries ...uint64) {
						var calls []async.Call[[]float32]
						for _, e := range entries {
							calls = append(calls, async.Call[[]float32]{ID: async.CallID{Entry: e}, Record: async.Record[[]float32]{Value: []float32{float32(e)}}})
						}
						c.Call(calls)
						synctest.Wait()
					}
					// two requests are sent; one runs, the other waits, and the
					// rest waits in the client
					call(0, 1, 2, 3, 4)
					time.Sleep(500 * time.Millisecond)
					end(s)
					if err := s.Restart(); err != nil {
						t.Fatal(err)
					}
					for range 60 {
						time.Sleep(time.Second)
						select {
						case ids := <-keep.again:
							for _, id := range ids {
								call(id.Entry)
							}
						default:
						}
					}
					keep.mu.Lock()
					defer keep.mu.Unlock()
					// A row may have run unless the server says that it was not
					// taken.
					var went, answered [5]int
					for _, call := range s.Log() {
						for _, row := range call.First {
							switch {
							case call.Code == codes.OK:
								answered[int(row)]++
								fallthrough
							case call.Reason != oip.ReasonDraining:
								went[int(row)]++
							}
						}
					}
					for e := range 5 {
						err, ok := collect.outcome[uint64(e)]
						switch {
						case !ok:
							t.Errorf("row %d has no outcome", e)
						case once && went[e] > 1:
							t.Errorf("row %d went to the model %d times", e, went[e])
						case answered[e] > 0 != (err == nil), !once && err != nil:
							t.Errorf("row %d was answered %d times: %v", e, answered[e], err)
						case err != nil && (!errors.Is(err, sidecar.ErrUnreachable) || !strings.Contains(err.Error(), "NonIdempotent") || async.VerdictOf(err).Hold):
							t.Errorf("row %d, which may have run: %v", e, err)
						}
					}
					if name == "grace is over" && (slices.Max(went[:]) == 0 || slices.Max(answered[:]) == 0 || once && slices.Min(answered[:]) > 0) {
						t.Errorf("went %v, answered %v: nothing was interrupted, or nothing was made again", went, answered)
					}
				})
			})
		}
	}
}

// holder is a collector that passes held calls on to again.
type holder struct {
	*collector
	mu    sync.Mutex
	again chan []async.CallID
}

func (h *holder) Complete(cs []async.Completion[[]float32]) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range cs {
		if c.Err != nil && async.VerdictOf(c.Err).Hold {
			h.again <- []async.CallID{c.ID}
			continue
		}
		h.collector.Complete([]async.Completion[[]float32]{c})
	}
}
