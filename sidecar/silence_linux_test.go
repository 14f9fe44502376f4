package sidecar_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// A server that is too busy to answer anything counts as present while its system acknowledges what
// is sent: its timeouts are timeouts, and the connection stays (A73).
func TestBusyServerIsNoSilence(t *testing.T) {
	var busy atomic.Bool
	s := sidecartest.StartAt(t, sidecartest.Script{Options: []grpc.ServerOption{grpc.ChainUnaryInterceptor(
		func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if busy.Load() && info.FullMethod == oip.GRPCInferenceService_ModelReady_FullMethodName {
				<-ctx.Done()
			}
			return next(ctx, req)
		})}}, "127.0.0.1:0")
	in := func(yield func([]float32, error) bool) {
		if !yield([]float32{0}, nil) {
			return
		}
		if _, err := s.Wait(t.Context(), func(st sidecartest.Status) bool { return st.Answered == 1 }); err != nil {
			t.Error(err)
		}
		busy.Store(true)
		s.Block()
		yield([]float32{1}, nil)
	}
	var err error
	for _, e := range async.Map(t.Context(), in, sidecar.NewAsyncFunction(sidecar.Config{Endpoint: s.Endpoint(), Model: s.Model()}, doubling), async.Config{Timeout: time.Second}) {
		err = errors.Join(err, e)
	}
	if st := s.Status(); !errors.Is(err, async.ErrTimeout) || st.Accepted != 1 {
		t.Errorf("%v; %d connections", err, st.Accepted)
	}
}
