package sidecar

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// A server batches concurrent requests, and fails them all when its model raises, as Triton does.
// Only the records at fault fail.
func TestServerFailsWhatItRanTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := func(v float32) bool { return int(v)%17 == 5 }
		var mu sync.Mutex
		var open *shared
		p := newPeer(t)
		p.infer = func(ctx context.Context, _ *oip.ModelInferRequest, rows [][]float32) error {
			mu.Lock()
			run := open
			if run == nil {
				run = &shared{done: make(chan struct{})}
				open = run
				time.AfterFunc(5*time.Millisecond, func() {
					mu.Lock()
					open = nil
					mu.Unlock()
					close(run.done)
				})
			}
			for _, row := range rows {
				run.bad = run.bad || bad(row[0])
			}
			run.requests++
			mu.Unlock()
			<-run.done
			if run.bad {
				return status.Error(codes.Internal, "the model raised")
			}
			return nil
		}
		r := newRecorder(t)
		cfg := p.config()
		cfg.MaxBatch = 8
		r.open(cfg)
		records := ramp(200)
		var failed []uint64
		for i, v := range records {
			if bad(v[0]) {
				failed = append(failed, uint64(i))
			}
		}
		r.call(records...)
		r.await()
		r.check(failed...)
		if len(failed) < 10 {
			t.Errorf("%d bad records", len(failed))
		}
	})
}

// shared is a batch of the server.
type shared struct {
	requests int
	bad      bool
	done     chan struct{}
}
