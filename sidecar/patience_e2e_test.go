package sidecar_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// busyWith returns an option for a server that answers no questions while a model runs.
func busyWith() grpc.ServerOption {
	var running atomic.Int32
	return grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		switch {
		case info.FullMethod == oip.GRPCInferenceService_ModelInfer_FullMethodName:
			running.Add(1)
			defer running.Add(-1)
		case info.FullMethod == oip.GRPCInferenceService_ModelReady_FullMethodName && running.Load() > 0:
			<-ctx.Done()
		}
		return next(ctx, req)
	})
}

// If no system reports whether the other side acknowledges, a slow model is cut off at most once.
// If the question could not be sent, it is not cut off at all: its timeouts are timeouts (A73).
func TestSlowModelOfWhichNobodyTells(t *testing.T) {
	full := grpc.MaxConcurrentStreams(1)
	for name, c := range map[string]struct {
		latency, timeout time.Duration
		option           grpc.ServerOption
		cuts             int
		answers          bool
	}{
		"it is too slow":                     {time.Hour, 10 * time.Second, busyWith(), 1, false},
		"it is too slow by little":           {12 * time.Second, 10 * time.Second, busyWith(), 1, false},
		"it is slow":                         {30 * time.Second, 60 * time.Second, busyWith(), 1, true},
		"it is slow, without a timeout":      {300 * time.Second, async.Off, busyWith(), 1, true},
		"no room to ask, and it is too slow": {time.Hour, 10 * time.Second, full, 0, false},
		"no room to ask, and it is slow":     {30 * time.Second, 60 * time.Second, full, 0, true},
		"no room to ask, without a timeout":  {300 * time.Second, async.Off, full, 0, true},
		"it answers before it is asked":      {time.Second, 60 * time.Second, busyWith(), 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const records = 12
				s := sidecartest.Start(t, sidecartest.Script{Latency: c.latency, Options: []grpc.ServerOption{c.option}})
				cfg := config(s)
				cfg.Window, cfg.MaxBatch = 1, 1
				op := async.Config{Timeout: c.timeout, MaxCalls: 1, Barrier: async.Snapshot}
				op.OnError.Timeout = async.Drop
				results := 0
				for _, err := range async.Map(t.Context(), ramp(records), sidecar.NewAsyncFunction(cfg, doubling), op) {
					if err != nil {
						t.Fatal(err)
					}
					results++
				}
				want := 0
				if c.answers {
					want = records
				}
				st := s.Status()
				if st.Accepted != 1+c.cuts || int(st.Calls) != records+c.cuts || results != want {
					t.Errorf("%d results, %d connections, %d calls", results, st.Accepted, st.Calls)
				}
			})
		})
	}
}

// Each connection that dies is noticed, whatever was cut before, since the connections in between
// worked: no record fails.
func TestConnectionsThatDieOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Latency: time.Millisecond})
		go func() {
			for range 3 {
				time.Sleep(20 * time.Second)
				s.Silence()
				time.Sleep(2 * time.Second)
				s.Speak()
			}
		}()
		if n := doubled(t, paced(9000, 10*time.Millisecond), config(s), async.Config{Timeout: 4 * time.Second}); n != 9000 {
			t.Errorf("%d results", n)
		}
		if st := s.Status(); st.Accepted != 4 {
			t.Errorf("%d connections", st.Accepted)
		}
	})
}

// A connection that follows a cut, and is dead itself, is not taken for a slow model's for ever.
// The calls on it time out one after the other, and their silences add up.
func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Latency: time.Millisecond, Options: []grpc.ServerOption{
			// the server does not notice
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: 24 * time.Hour})}})
		time.AfterFunc(10*time.Second, s.Silence)
		time.AfterFunc(12*time.Second, s.Speak)
		go func() {
			if _, err := s.Wait(t.Context(), func(st sidecartest.Status) bool { return st.Accepted == 2 }); err == nil {
				time.Sleep(100 * time.Millisecond) // it has answered the question
				s.SilenceConnection(2)
			}
		}()
		results := 0
		op := async.Config{Timeout: 4 * time.Second, MaxCalls: 1, OnError: async.OnError{Timeout: async.Drop}}
		for _, err := range async.Map(t.Context(), paced(200, time.Second), sidecar.NewAsyncFunction(config(s), doubling), op) {
			if err != nil {
				t.Fatal(err)
			}
			results++
		}
		if st := s.Status(); results < 110 || results > 140 || st.Accepted != 3 {
			t.Errorf("%d results of 200, %d connections", results, st.Accepted)
		}
	})
}
