package sidecar

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	alive "google.golang.org/grpc/keepalive"

	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// A server lets go of a connection on which a slow call is in progress, and further calls use a new
// connection. Then one of the two goes silent, and only that one is cut, judged by what is known
// about it (A73).
func TestOneOfTwoConnectionsGoesSilent(t *testing.T) {
	const s, unknown, heard, unheard = time.Second, endpoint.Unknown, endpoint.Heard, endpoint.Unheard
	for name, c := range map[string]struct {
		silent   uint64           // the connection that goes silent
		old, new endpoint.Hearing // what the system says of each connection
		takes    [2]time.Duration // the first call on each; a server that is done closes its end
		calls    [2]int           // number of calls of each record
		timeout  bool             // of the first record, which is left to the operator
	}{
		"the new one":                       {2, unknown, unknown, [2]time.Duration{40 * s, 40 * s}, [2]int{1, 2}, false},
		"the new one, and systems tell":     {2, heard, unheard, [2]time.Duration{40 * s, 40 * s}, [2]int{1, 2}, false},
		"the old one":                       {1, unheard, heard, [2]time.Duration{200 * s, 30 * s}, [2]int{2, 1}, false},
		"the old one, unknown":              {1, unknown, unknown, [2]time.Duration{200 * s, s}, [2]int{1, 1}, true},
		"the old one, and its system hears": {1, heard, unheard, [2]time.Duration{200 * s, s}, [2]int{1, 1}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var slow atomic.Bool
				var asked atomic.Int32
				slow.Store(true)
				s := sidecartest.Start(t, sidecartest.Script{Options: []grpc.ServerOption{
					grpc.KeepaliveParams(alive.ServerParameters{MaxConnectionAge: 10 * time.Second}),
					grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
						if info.FullMethod == oip.GRPCInferenceService_ModelInfer_FullMethodName && slow.Load() {
							time.Sleep(c.takes[asked.Add(1)-1])
						}
						return next(ctx, req)
					}),
				}})
				r := newRecorder(t)
				r.deadline, r.sub.Config.Timeout = time.Minute, time.Minute
				ch := r.open(Config{Endpoint: s.Endpoint(), Dialer: s.Dialer(), Model: s.Model()})
				old := ch.wire.open()[0].raw
				ch.wire.hears = func(raw net.Conn, _ time.Time) endpoint.Hearing {
					if raw == old {
						return c.old
					}
					return c.new
				}
				time.Sleep(8 * time.Second)
				r.call(numbers{1})
				if _, err := s.Wait(t.Context(), func(st sidecartest.Status) bool { return st.Accepted == 2 }); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				r.call(numbers{2})
				synctest.Wait()
				s.SilenceConnection(c.silent)
				slow.Store(false)
				if c.timeout {
					time.Sleep(51 * time.Second)
					r.mu.Lock()
					if _, ok := r.outcome[0]; ok || len(r.waiting) > 0 {
						t.Errorf("the first record has an outcome, or is held: %+v", r.outcome[0])
					}
					r.mu.Unlock()
				} else {
					r.await()
					r.check()
				}
				calls, first := map[float64]int{}, map[float64]time.Time{}
				for _, call := range s.Log() {
					v := call.First[0]
					if calls[v]++; calls[v] == 1 {
						first[v] = call.Arrived
					} else if d := call.Arrived.Sub(first[v]); d > 30*time.Second {
						t.Errorf("record %v was called again after %v", v, d)
					}
				}
				if got := [2]int{calls[1], calls[2]}; got != c.calls {
					t.Errorf("%d calls; want %d", got, c.calls)
				}
			})
		})
	}
}
