package sidecar_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// paced yields n records, one every gap.
func paced(n int, gap time.Duration) func(func([]float32, error) bool) {
	return func(yield func([]float32, error) bool) {
		for i := range n {
			if time.Sleep(gap); !yield([]float32{float32(i)}, nil) {
				return
			}
		}
	}
}

// doubled counts the results, and fails the test if a record fails or has a wrong result.
func doubled(t *testing.T, in func(func([]float32, error) bool), cfg sidecar.Config, op async.Config) (n int) {
	t.Helper()
	for y, err := range async.Map(t.Context(), in, sidecar.NewAsyncFunction(cfg, doubling), op) {
		if err != nil {
			t.Fatalf("record %d: %v", n, err)
		}
		if y[0] != float32(2*n) {
			t.Fatalf("result %d is %v", n, y)
		}
		n++
	}
	return n
}

// A connection that goes silent in mid-run costs no record: those in progress wait for a new one,
// whatever their timeout (A73).
func TestSilentConnection(t *testing.T) {
	for name, c := range map[string]struct {
		op          async.Config
		latency     time.Duration
		comesBackIn time.Duration
	}{
		"defaults":             {async.Config{}, time.Millisecond, 15 * time.Second},
		"a second":             {async.Config{Timeout: time.Second}, time.Millisecond, 15 * time.Second},
		"a second, back soon":  {async.Config{Timeout: time.Second}, time.Millisecond, 100 * time.Millisecond},
		"a slow model":         {async.Config{Timeout: time.Second}, 300 * time.Millisecond, 5 * time.Second},
		"a tenth":              {async.Config{Timeout: 100 * time.Millisecond}, time.Millisecond, 5 * time.Second},
		"five minutes":         {async.Config{Timeout: 5 * time.Minute}, time.Millisecond, 15 * time.Second},
		"without a timeout":    {async.Config{Timeout: async.Off, Barrier: async.Snapshot}, time.Millisecond, 15 * time.Second},
		"it is in mid-request": {async.Config{Timeout: 4 * time.Second}, 2 * time.Second, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sidecartest.Start(t, sidecartest.Script{Latency: c.latency})
				go func() {
					time.Sleep(5 * time.Second)
					s.Silence()
					time.Sleep(c.comesBackIn)
					s.Speak()
				}()
				start := time.Now()
				if n := doubled(t, paced(1000, 10*time.Millisecond), config(s), c.op); n != 1000 {
					t.Errorf("%d results", n)
				}
				if d := time.Since(start); d > 70*time.Second {
					t.Errorf("it took %v", d)
				}
				if st := s.Status(); st.Accepted < 2 {
					t.Errorf("no new connection was made: %+v", st)
				}
			})
		})
	}
}

// Rows that must not be repeated fail if they are on the silent connection, with the error of a
// lost connection.
func TestSilentConnectionNotIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Latency: time.Millisecond})
		cfg := config(s)
		cfg.NonIdempotent = true
		time.AfterFunc(time.Second, s.Silence)
		var err error
		for _, e := range async.Map(t.Context(), paced(200, 10*time.Millisecond), sidecar.NewAsyncFunction(cfg, doubling), async.Config{Timeout: time.Second}) {
			if e != nil {
				err = e
				break
			}
		}
		if !errors.Is(err, sidecar.ErrUnreachable) || errors.Is(err, async.ErrTimeout) || async.VerdictOf(err).Class != async.Transport {
			t.Error(err)
		}
	})
}

// If a model is slow and its server answers questions, timeouts are timeouts, the connection stays,
// and the questions are few.
func TestSlowModelIsNoSilence(t *testing.T) {
	for name, c := range map[string]struct {
		latency time.Duration
		op      async.Config
		want    error
	}{
		"it takes too long":    {time.Hour, async.Config{Timeout: 10 * time.Second}, async.ErrTimeout},
		"it takes 160 seconds": {160 * time.Second, async.Config{Timeout: 200 * time.Second}, nil},
		"it takes its time":    {300 * time.Second, async.Config{Timeout: async.Off, Barrier: async.Snapshot}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				s := sidecartest.Start(t, sidecartest.Script{Latency: c.latency, Options: []grpc.ServerOption{grpc.ChainUnaryInterceptor(
					func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
						if info.FullMethod == oip.GRPCInferenceService_ModelReady_FullMethodName {
							asked++
						}
						return next(ctx, req)
					})}})
				start := time.Now()
				err := run(t, 1, config(s), c.op)
				if !errors.Is(err, c.want) || c.want == nil && err != nil {
					t.Error(err)
				}
				if st := s.Status(); st.Accepted != 1 || st.Calls != 1 {
					t.Errorf("%+v", st)
				}
				if most := int(time.Since(start)/(2*time.Second)) + 2; asked < 3 || asked > most {
					t.Errorf("%d questions in %v", asked, time.Since(start))
				}
			})
		})
	}
}
