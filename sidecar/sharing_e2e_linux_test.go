package sidecar_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// Our own sidecar runs over a real socket, with answers out of order, and is killed in mid-run.
// Every result is right, and no shared memory object is left.
func TestSharedMemoryOfOurSidecar(t *testing.T) {
	before := sharedObjects(t)
	for _, order := range []async.Order{async.Ordered, async.Unordered} {
		s := sidecartest.StartAt(t, sidecartest.Script{Jitter: time.Millisecond, Seed: 7}, "unix://"+filepath.Join(t.TempDir(), "s"))
		cfg := sidecar.Config{Endpoint: s.Endpoint(), Model: s.Model(), MaxBatch: 50, SharedMemory: 1 << 20, SharedMemoryMin: 1}
		var log strings.Builder // the channel writes one line at a time
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		in := func(yield func([]float32, error) bool) {
			for i := range 20_000 {
				if i == 7000 || i == 14_000 {
					s.Kill()
					if err := s.Restart(); err != nil {
						t.Error(err)
					}
				}
				if !yield([]float32{float32(i)}, nil) {
					return
				}
			}
		}
		seen := map[float32]int{}
		k := 0
		results := async.Map(t.Context(), in, sidecar.NewAsyncFunction(cfg, doubling), async.Config{})
		if order == async.Unordered {
			results = async.Map(t.Context(), in, sidecar.NewAsyncFunction(cfg, doubling), async.Config{Order: async.Unordered})
		}
		for y, err := range results {
			if err != nil {
				t.Fatal(err)
			}
			if order == async.Ordered && y[0] != float32(2*k) {
				t.Fatalf("result %d is %v", k, y)
			}
			seen[y[0]]++
			k++
		}
		if len(seen) != 20_000 || k != 20_000 {
			t.Errorf("%d results, %d of them different, of 20000 records", k, len(seen))
		}
		gone(t, s)
		if n := strings.Count(log.String(), "large tensors travel by shared memory"); n < 2 {
			t.Errorf("%d rings were registered, with a server that was started three times:\n%s", n, log.String())
		}
	}
	for _, name := range sharedObjects(t) {
		if !slices.Contains(before, name) {
			t.Errorf("%s is left", name)
		}
	}
}

// sharedObjects returns the names of this package's objects in /dev/shm.
func sharedObjects(t *testing.T) (names []string) {
	entries, err := os.ReadDir("/dev/shm")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "tensorferry-") {
			names = append(names, e.Name())
		}
	}
	return names
}
