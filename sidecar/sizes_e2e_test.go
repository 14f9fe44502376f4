package sidecar_test

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/tensor"
)

// large yields n records of 1 KiB, for a model that takes them.
func large(n int) func(func([]float32, error) bool) {
	return func(yield func([]float32, error) bool) {
		for i := range n {
			v := make([]float32, 256)
			if v[0] = float32(i); !yield(v, nil) {
				return
			}
		}
	}
}

var kilobytes = []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{256}}}

// A server with its own limit gets all records, whatever it says about larger requests. Known
// messages count at once, and others once it is clear that the size is the reason (A75).
func TestTooLargeInOthersWords(t *testing.T) {
	const limit = 20 << 10
	for name, c := range map[string]struct {
		words error
		known bool
	}{
		"grpc in Go and C++": {status.Error(codes.ResourceExhausted, "Received message larger than max (30000 vs. 20480)"), true},
		"Java":               {status.Error(codes.ResourceExhausted, "gRPC message exceeds maximum size 20480: 30000"), true},
		".NET":               {status.Error(codes.ResourceExhausted, "Received message exceeds the maximum configured message size."), true},
		"Rust":               {status.Error(codes.OutOfRange, "Error, decoded message length too large: found 30000 bytes, the limit is: 20480 bytes"), true},
		"unknown words":      {status.Error(codes.ResourceExhausted, "quota: payload"), false},
		"no words":           {status.Error(codes.Canceled, ""), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var refused atomic.Int32
				s := sidecartest.Start(t, sidecartest.Script{Inputs: kilobytes, Latency: time.Millisecond, Refuse: func(call sidecartest.Call) error {
					if call.Bytes <= limit {
						return nil
					}
					refused.Add(1)
					return c.words
				}})
				start := time.Now()
				if n := doubled(t, large(400), config(s), async.Config{}); n != 400 {
					t.Errorf("%d results", n)
				}
				most := 40
				if !c.known {
					most = 60
				}
				if n := int(refused.Load()); n < 2 || n > most || time.Since(start) > 10*time.Second {
					t.Errorf("%d refusals in %v", n, time.Since(start))
				}
			})
		})
	}
}

// A proxy's limit counts too.
func TestTooLargeForAProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Inputs: kilobytes})
		p := sidecartest.StartProxy(t, s)
		p.Answer("ModelInfer", http.StatusRequestEntityTooLarge, 3)
		if n := doubled(t, large(400), behind(p, s), async.Config{}); n != 400 {
			t.Errorf("%d results", n)
		}
		p.Answer("ModelInfer", http.StatusRequestEntityTooLarge, 1)
		cfg := behind(p, s)
		cfg.MaxBatch = 1
		err := run(t, 1, cfg, async.Config{})
		if !errors.Is(err, sidecar.ErrBadRecord) && !errors.Is(err, sidecar.ErrTooLarge) {
			t.Error(err)
		}
		p.Close()
		s.Close()
	})
}

// A server that is out of room for a while has no size limit: the channel learns nothing from that,
// and does not flood the server with halves.
func TestOverloadIsNoLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full atomic.Bool
		s := sidecartest.Start(t, sidecartest.Script{Inputs: kilobytes, Latency: time.Millisecond, Refuse: func(sidecartest.Call) error {
			if full.Load() {
				return status.Error(codes.ResourceExhausted, "come back later")
			}
			return nil
		}})
		full.Store(true)
		time.AfterFunc(30*time.Second, func() { full.Store(false) })
		var calm int
		in := func(yield func([]float32, error) bool) {
			k := 0
			for v := range large(3000) {
				if k++; k == 2000 { // the calls in progress have grown back
					time.Sleep(time.Second)
					calm = len(s.Log())
				}
				if !yield(v, nil) {
					return
				}
			}
		}
		cfg := config(s)
		cfg.Window = 2
		if n := doubled(t, in, cfg, async.Config{}); n != 3000 {
			t.Errorf("%d results", n)
		}
		refused, widest := 0, 0
		for i, c := range s.Log() {
			if c.Code != codes.OK {
				refused++
			}
			if i >= calm {
				widest = max(widest, c.Rows)
			}
		}
		if refused > 150 || widest < 100 {
			t.Errorf("%d refusals in 30 s; the largest request afterwards had %d rows", refused, widest)
		}
	})
}

// Rows that must not be repeated are in no second request if it is unknown what happened before the
// first one ended.
func TestNoHalvesOfWhatMayHaveRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{Inputs: kilobytes, Refuse: func(c sidecartest.Call) error {
			if c.Rows > 4 {
				return status.Error(codes.Canceled, "")
			}
			return nil
		}})
		cfg := config(s)
		cfg.NonIdempotent = true
		op := async.Config{OnError: async.OnError{Transport: async.Drop}}
		for _, err := range async.Map(t.Context(), large(400), sidecar.NewAsyncFunction(cfg, doubling), op) {
			if err != nil {
				t.Fatal(err)
			}
		}
		seen := map[float64]int{}
		for _, c := range s.Log() {
			for _, v := range c.First {
				seen[v]++
			}
		}
		for v, n := range seen {
			if n != 1 {
				t.Fatalf("record %v was sent %d times", v, n)
			}
		}
	})
}
