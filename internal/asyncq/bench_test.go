package asyncq

import (
	"fmt"
	"testing"
)

// BenchmarkRecord is the cost of one record's life, from Admit to Pop, in a queue that stays full.
func BenchmarkRecord(b *testing.B) {
	for _, capacity := range []int{1000, 100_000} {
		for order, name := range []string{"ordered", "unordered", "keyed"} {
			b.Run(fmt.Sprintf("capacity=%d/%s", capacity, name), func(b *testing.B) { life(b, capacity, Order(order), 0) })
		}
		b.Run(fmt.Sprintf("capacity=%d/retried", capacity), func(b *testing.B) { life(b, capacity, Ordered, 1) })
	}
}

func life(b *testing.B, capacity int, order Order, retries int) {
	q := New(Config{
		Capacity: capacity, MaxCalls: capacity, Order: order, Timeout: 1 << 40, Hold: 1 << 40,
		Retries: retries, RetryDelay: 10, Multiplier: 1, HoldDelay: 1, MaxHoldDelay: 1,
	})
	const slice = 64
	now := Time(0)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; {
		for range min(q.Room(), slice) {
			q.Admit(now, 100, uint64(n%1000))
			n++
		}
		now++
		q.Tick(now)
		q.Start(now)
		for i := 0; i < len(q.Effects); i++ {
			e := q.Effects[i]
			out := Final
			if retries > 0 && e.Attempt == 1 {
				out = Transient
			}
			if q.Complete(now, e.ID, e.Attempt, out, 0) == Decide {
				q.Finish(e.ID, 0)
			}
		}
		q.Effects = q.Effects[:0]
		// Popped late, so that the queue stays full.
		if q.Free() < slice {
			q.Pop(slice)
			q.Effects = q.Effects[:0]
		}
	}
}
