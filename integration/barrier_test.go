package integration

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/stream"
)

// What the mission asks for: at a barrier an ordered operator has nothing in
// flight. The mock's log says which calls were under way when a barrier left the operator.
func TestCallsAndBarriers(t *testing.T) {
	in, want := records(t, 3000)
	for _, unordered := range []bool{false, true} {
		for _, policy := range []async.BarrierPolicy{async.Drain, async.Snapshot} {
			name := map[bool]string{false: "ordered", true: "unordered"}[unordered] + "/" + policy.String()
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := sidecartest.Start(t, sidecartest.Script{Latency: 5 * time.Millisecond, Jitter: 40 * time.Millisecond, Seed: 11})
					k := build(t, spec{
						in: in, server: s, parallelism: 2, unordered: unordered, interval: 33 * time.Millisecond,
						op: async.Config{Capacity: 80, Barrier: policy},
					})
					if err := k.Run(t.Context()); err != nil {
						t.Fatal(err)
					}
					if unordered {
						sameLines(t, output(t, k.out), want)
					} else {
						sameBytes(t, output(t, k.out), want)
					}
					spanning := 0
					log := s.Log()
					for _, b := range k.sink.marks {
						for _, c := range log {
							if subtaskOf(t, c.ID) == b.subtask && c.Spans(b.mark) {
								spanning++
							}
						}
					}
					held := 0
					for _, snap := range k.store.snapshots() {
						held += entries(snap)
					}
					outstanding := 0 // checkpoints that found calls under way when they began
					done, at := of[stream.CheckpointCompleted](k.watch)
					for i, c := range done {
						began := at[i].Add(-c.Duration)
						for _, call := range log {
							if !c.Final && call.Arrived.Before(began) && call.Answered.After(began) {
								outstanding++
								break
							}
						}
					}
					if outstanding == 0 {
						t.Fatalf("no checkpoint of %d began with calls outstanding, so nothing was tested", len(done))
					}
					if policy == async.Drain && (spanning != 0 || held != 0) {
						t.Errorf("%d calls span a barrier, %d parts of entries are in checkpoints; want none", spanning, held)
					}
					if policy == async.Snapshot && (spanning == 0 || held == 0) {
						t.Errorf("%d calls span a barrier, %d parts of entries are in checkpoints; want some", spanning, held)
					}
				})
			})
		}
	}
}

// A job that fails between checkpoints of the snapshot policy calls the records in them again, and
// loses and doubles none.
func TestSnapshotsRestore(t *testing.T) {
	in, want := records(t, 2000)
	for _, unordered := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := sidecartest.Start(t, sidecartest.Script{Latency: 5 * time.Millisecond, Jitter: 40 * time.Millisecond, Seed: 3})
			for _, call := range []int64{120, 260} {
				if err := s.Fail(fault(t, "DATA_LOSS/BAD_OUTPUT@", call)); err != nil {
					t.Fatal(err)
				}
			}
			k := build(t, spec{
				in: in, server: s, parallelism: 2, unordered: unordered, interval: 30 * time.Millisecond,
				op:     async.Config{Capacity: 16, Barrier: async.Snapshot},
				client: oneRow,
			})
			if err := k.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if restarts, _ := of[stream.Restarting](k.watch); len(restarts) != 2 {
				t.Errorf("%d restarts, want 2", len(restarts))
			}
			started, _ := of[stream.Started](k.watch)
			if last := started[len(started)-1]; last.Restored == 0 {
				t.Error("the last restart went on from no checkpoint, so nothing was tested")
			}
			sameLines(t, output(t, k.out), want)
		})
	}
}
