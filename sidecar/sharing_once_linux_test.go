package sidecar

import (
	"fmt"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A server that refuses the shared memory before the model has the rows gets the rows again without
// it. If it refuses later, or an output does not fit into its place, only rows that may be repeated
// are sent again.
func TestSharedMemoryIsRefusedAfterTheRun(t *testing.T) {
	for name, c := range map[string]struct {
		refusal error
		ran     bool
	}{
		"the region is not known":   {status.Error(codes.NotFound, "Unable to find shared memory region: x"), false},
		"it is not served":          {status.Error(codes.Unimplemented, "shared memory is not served"), false},
		"our sidecar, afterwards":   {status.Error(codes.InvalidArgument, `output "y" has 9 bytes; its place in the shared memory region "x" has 8`), true},
		"Triton, afterwards":        {status.Error(codes.Internal, "shared memory size specified with the request for output 'y' should be at least 9 bytes"), true},
		"another one's, it is full": {status.Error(codes.ResourceExhausted, "no room in shared memory"), true},
	} {
		for _, once := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, once %v", name, once), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p, cfg := sharingPeer(t, 3)
					p.shared.before = func(n int) error {
						if n == 0 {
							return c.refusal
						}
						return nil
					}
					cfg.MaxBatch, cfg.NonIdempotent = 8, once
					r := newRecorder(t)
					ch := r.open(cfg)
					r.call(rampOf(8, 3)...)
					r.await()
					failed, requests := []uint64{}, 2
					if c.ran && once {
						failed, requests = []uint64{0, 1, 2, 3, 4, 5, 6, 7}, 1
					}
					r.check(failed...)
					if n := len(p.shared.requests()); n != requests {
						t.Errorf("%d requests, want %d", n, requests)
					}
					r.call(rampOf(16, 3)[8:]...)
					r.await()
					r.check(failed...)
					ch.Close()
					p.shared.check(t)
				})
			})
		}
	}
}
