package async_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// Rows about full queues, barriers and restores.

func TestFullQueueRows(t *testing.T) {
	row(t, "41 capacity 1, keyed", func(t *testing.T) {
		r := newRig(t, async.Keyed, async.Config{Capacity: 1}, nil)
		for v := 1; v <= 3; v++ {
			if !admitKeyed(r, v, ownKey(v%2)) || admitKeyed(r, 9, "other") || r.op.Watermark(async.Watermark{Time: 9}) {
				t.Fatal("capacity 1 takes one")
			}
			r.step().double(v)
			r.step()
		}
		r.want("2@1 4@2 6@3")
	})
	inEveryOrder(t, "42 watermarks behind a full queue", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Capacity: 1}, nil)
		r.admit(1)
		if r.step(); r.op.Watermark(async.Watermark{Time: 1}) {
			t.Fatal("a full queue took a watermark")
		}
		r.double(1)
		for w := async.EventTime(1); w <= 3; w++ {
			if r.step(); !r.op.Watermark(async.Watermark{Time: w}) {
				t.Fatalf("no room for watermark %d", w)
			}
		}
		r.step().want("2@1 W1 W2 W3")
	})
	for _, downstream := range []int{0, 1000} {
		inEveryOrder(t, fmt.Sprintf("A37 a barrier at a full queue, room for %d downstream", downstream), func(t *testing.T, order async.Order) {
			// FLINK-39680, FLINK-39835: the operator took no barrier while its queue was full.
			r := newRig(t, order, async.Config{Capacity: 2, Barrier: async.Snapshot}, nil)
			r.admit(1, 2)
			r.step()
			if r.admit(3) {
				t.Fatal("the queue is not full")
			}
			r.op.Barrier(4)
			st, err := r.op.Step(time.Now(), downstream, r)
			if err != nil || st.Barrier != 4 || len(st.Entries) != 2 {
				t.Fatalf("%+v, %v", st, err)
			}
			// A drain takes the barrier in at once too, and lets it pass when it is empty.
			d := newRig(t, order, async.Config{Capacity: 2, Barrier: async.Drain}, nil)
			d.admit(1, 2)
			d.step()
			d.op.Barrier(5)
			d.step().double(2, 1)
			if d.run(func() bool { return d.status.Barrier == 5 }); len(d.out) != 3 || d.out[2] != "|5" {
				t.Fatal(d.out)
			}
		})
	}
	inEveryOrder(t, "45 two barriers back to back", func(t *testing.T, order async.Order) {
		for _, policy := range []async.BarrierPolicy{async.Drain, async.Snapshot} {
			r := newRig(t, order, async.Config{Barrier: policy}, nil)
			r.admit(1, 2)
			r.step()
			r.op.Barrier(1)
			if policy == async.Drain {
				r.step().double(1, 2)
			}
			r.run(func() bool { return r.status.Barrier == 1 })
			first := r.status.Entries
			r.op.Barrier(2)
			if r.step(); r.status.Barrier != 2 || len(r.status.Entries) != len(first) {
				t.Fatalf("%v: barrier %d with %d entries after %d", policy, r.status.Barrier, len(r.status.Entries), len(first))
			}
			want := "2@1 4@2 |1 |2"
			if policy == async.Snapshot {
				want = "|1 |2 2@1 4@2"
				r.double(1, 2)
			}
			r.op.End()
			r.run(nil).want(want)
			if (len(first) == 2) != (policy == async.Snapshot) {
				t.Errorf("%v: %d entries", policy, len(first))
			}
		}
	})
}

// TestRow46: a snapshot of N+1 entries comes back into capacity N, and into capacity 1, in every
// order and under every policy, with the input that waits behind it (A36, FLINK-7949).
func TestRow46(t *testing.T) {
	const n = 5
	inEveryOrder(t, "46 N+1 entries into capacity N and 1", func(t *testing.T, order async.Order) {
		r := newRig(t, order, async.Config{Capacity: n + 1, Barrier: async.Snapshot}, nil)
		for v := 1; v <= n+1; v++ {
			admitKeyed(r, v, ownKey(v))
		}
		r.step()
		r.op.Barrier(1)
		entries := r.step().status.Entries
		if len(entries) != n+1 {
			t.Fatalf("%d entries", len(entries))
		}
		for _, capacity := range []int{n, 1} {
			for _, policy := range []async.BarrierPolicy{async.Snapshot, async.Drain} {
				b := newRig(t, order, async.Config{Capacity: capacity, Barrier: policy}, nil)
				b.op.Restore(slices.Clone(entries), nil)
				if b.step(); b.op.Room() != 0 || b.op.Stats().InFlight != capacity {
					t.Fatalf("capacity %d: room %d, %+v", capacity, b.op.Room(), b.op.Stats())
				}
				// Nothing completes, and a barrier comes: the whole snapshot is in the next one
				// too.
				b.op.Barrier(2)
				if b.step(); policy == async.Snapshot && (b.status.Barrier != 2 || len(b.status.Entries) != n+1) {
					t.Fatalf("capacity %d: %d entries in the next checkpoint", capacity, len(b.status.Entries))
				}
				b.answer = func(r *rig, c async.Call[int]) { r.double(c.Record.Value) }
				b.double(b.called()...)
				b.run(func() bool { return b.op.Room() > 0 })
				b.next = n + 1
				feedFrom(b, n+2, 2*n)
				out := slices.DeleteFunc(b.out, func(s string) bool { return s == "|2" })
				for v := 1; v <= 2*n; v++ {
					if !slices.Contains(out, fmt.Sprintf("%d@%d", 2*v, v)) || len(out) != 2*n {
						t.Fatalf("capacity %d, %v: %v", capacity, policy, out)
					}
				}
			}
		}
	})
}

// called returns the records that are in a call.
func (r *rig) called() (vs []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for v := range r.calls {
		vs = append(vs, v)
	}
	slices.Sort(vs)
	return vs
}

// feedFrom admits from..to as there is room, each with its own key, and ends the input.
func feedFrom(r *rig, from, to int) {
	for v := from; v <= to; {
		if admitKeyed(r, v, ownKey(v)) {
			v++
		} else {
			r.run(func() bool { return r.op.Room() > 0 })
		}
	}
	r.op.End()
	r.run(nil)
}
