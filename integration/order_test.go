package integration

import (
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// The mock's latencies shuffle the answers; what is committed does not show it.
func TestOrderedOutputIsTheSameBytes(t *testing.T) {
	in, want := records(t, 2000)
	for _, seed := range seeds(t, 10) {
		for _, parallelism := range []int{1, 2, 4} {
			t.Run(fmt.Sprintf("seed=%d/parallelism=%d", seed, parallelism), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := sidecartest.Start(t, sidecartest.Script{Latency: time.Millisecond, PerRow: 10 * time.Microsecond, Jitter: 50 * time.Millisecond, Seed: seed})
					k := build(t, spec{in: in, server: s, parallelism: parallelism, interval: 20 * time.Millisecond, op: async.Config{Capacity: 60}})
					if err := k.Run(t.Context()); err != nil {
						t.Fatal(err)
					}
					sameBytes(t, output(t, k.out), want)
					if n := len(k.store.snapshots()); n < 3 {
						t.Errorf("%d checkpoints: too few for a test", n)
					}
				})
			})
		}
	}
}

func TestUnorderedOutputIsTheSameMultiset(t *testing.T) {
	in, want := records(t, 2000)
	reordered := false
	for _, seed := range seeds(t, 5) {
		for _, parallelism := range []int{1, 2, 4} {
			synctest.Test(t, func(t *testing.T) {
				s := sidecartest.Start(t, sidecartest.Script{Latency: time.Millisecond, Jitter: 50 * time.Millisecond, Seed: seed})
				k := build(t, spec{in: in, server: s, parallelism: parallelism, unordered: true, interval: 20 * time.Millisecond, op: async.Config{Capacity: 60}})
				if err := k.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				got := output(t, k.out)
				sameLines(t, got, want)
				reordered = reordered || string(got) != string(want)
			})
		}
	}
	if !reordered {
		t.Error("nothing was reordered, so nothing was tested")
	}
}

// The same over real sockets, in real time.
func TestOverRealSockets(t *testing.T) {
	in, want := records(t, 2000)
	for name, endpoint := range map[string]string{"unix": "unix://" + filepath.Join(t.TempDir(), "s.sock"), "tcp": "127.0.0.1:0"} {
		for _, parallelism := range []int{1, 2, 4} {
			for _, unordered := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/parallelism=%d/unordered=%v", name, parallelism, unordered), func(t *testing.T) {
					s := sidecartest.StartAt(t, sidecartest.Script{Latency: 100 * time.Microsecond, Jitter: 3 * time.Millisecond, Seed: 7}, endpoint)
					sp := spec{in: in, parallelism: parallelism, unordered: unordered, interval: 10 * time.Millisecond, op: async.Config{Capacity: 60}}
					sp.client.Endpoint, sp.client.Model = s.Endpoint(), s.Model()
					k := build(t, sp)
					if err := k.Run(t.Context()); err != nil {
						t.Fatal(err)
					}
					if unordered {
						sameLines(t, output(t, k.out), want)
					} else {
						sameBytes(t, output(t, k.out), want)
					}
					// A server learns of the end of a connection a moment later.
					st, err := s.Wait(t.Context(), func(st sidecartest.Status) bool { return st.Connections == 0 })
					if err != nil || st.Accepted != parallelism {
						t.Errorf("%d connections accepted for %d subtasks (%v)", st.Accepted, parallelism, err)
					}
				})
			}
		}
	}
}
