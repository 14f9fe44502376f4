package async

import (
	"fmt"
	"math/bits"
	"time"
)

// HistogramBuckets is how many bounded buckets a Histogram has.
const HistogramBuckets = 23

const leastBound = 25 * time.Microsecond

// HistogramBound returns the upper bound of a bucket, which it holds itself: 25 µs for bucket 0,
// and twice that of the one before for each other, up to 105 s for bucket HistogramBuckets - 1.
func HistogramBound(bucket int) time.Duration { return leastBound << bucket }

// Histogram counts durations. Its zero value is empty. It holds no pointer, so an assignment copies
// it; it is not safe for concurrent use.
type Histogram struct {
	// Buckets count the durations up to HistogramBound and above that of the bucket before; the
	// last one those above all bounds.
	Buckets [HistogramBuckets + 1]int64
	// Sum is of all durations.
	Sum time.Duration
}

// Add counts a duration; one below 0, which clocks may give, as 0.
func (h *Histogram) Add(d time.Duration) { h.add(d, 1) }

func (h *Histogram) add(d time.Duration, n int64) {
	d = max(d, 0)
	// The bounds are powers of two of one unit, so the bucket is the length of a number in bits.
	h.Buckets[min(bits.Len64(uint64(max(d, 1)-1)/uint64(leastBound)), HistogramBuckets)] += n
	h.Sum += d * time.Duration(n)
}

// tally is in front of a histogram. Records that came or were answered together take equally long,
// and are many: it counts them, and adds them when another duration comes, or at flush.
type tally struct {
	of Histogram
	d  time.Duration
	n  int64
}

func (t *tally) add(d time.Duration) {
	if d != t.d {
		t.change(d)
	}
	t.n++
}

// change is apart so that add is inlined.
//
//go:noinline
func (t *tally) change(d time.Duration) {
	t.flush()
	t.d = d
}

func (t *tally) flush() {
	t.of.add(t.d, t.n)
	t.n = 0
}

// Count returns how many durations were counted.
func (h *Histogram) Count() (n int64) {
	for _, b := range h.Buckets {
		n += b
	}
	return n
}

// Plus returns what both have counted.
func (h Histogram) Plus(o Histogram) Histogram {
	for i, b := range o.Buckets {
		h.Buckets[i] += b
	}
	h.Sum += o.Sum
	return h
}

// Minus returns what h has counted since it was o.
func (h Histogram) Minus(o Histogram) Histogram {
	for i, b := range o.Buckets {
		h.Buckets[i] -= b
	}
	h.Sum -= o.Sum
	return h
}

// Quantile returns an estimate of the duration that the share q (0 to 1) of all does not exceed, as
// straight lines between the bounds have it; so it is off by less than a bucket. It is 0 if nothing
// was counted, and the largest bound if it lies above.
func (h *Histogram) Quantile(q float64) time.Duration {
	n := h.Count()
	if n == 0 {
		return 0
	}
	rank := min(max(q, 0), 1) * float64(n)
	var low time.Duration
	for i, b := range h.Buckets[:HistogramBuckets] {
		if float64(b) >= rank && b > 0 {
			return low + time.Duration(rank/float64(b)*float64(HistogramBound(i)-low))
		}
		rank -= float64(b)
		low = HistogramBound(i)
	}
	return low
}

// String says how many there are, and the middle and the end of them.
func (h Histogram) String() string {
	return fmt.Sprintf("%d (p50 %v, p99 %v)", h.Count(), h.Quantile(0.5), h.Quantile(0.99))
}
