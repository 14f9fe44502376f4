package async

import (
	"fmt"
	"math/bits"
	"time"
)

// HistogramBuckets is the number of buckets of a Histogram that have an upper bound.
const HistogramBuckets = 23

const leastBound = 25 * time.Microsecond

// HistogramBound returns the upper bound of a bucket, from 0 to HistogramBuckets - 1. The bucket
// includes its bound. The first bound is 25 microseconds, and each further one is twice the one
// before, up to 105 s for the last.
func HistogramBound(bucket int) time.Duration { return leastBound << bucket }

// Histogram counts durations. Its zero value is empty. It holds no pointer, so an assignment copies
// it. It is not safe for concurrent use.
type Histogram struct {
	// Buckets counts the durations by size. Bucket i holds those up to HistogramBound(i) that are
	// above the bound of the bucket before. The last bucket holds those above all bounds.
	Buckets [HistogramBuckets + 1]int64
	// Sum is the sum of all durations.
	Sum time.Duration
}

// Add counts a duration. A negative one, which a clock may give, counts as 0.
func (h *Histogram) Add(d time.Duration) { h.add(d, 1) }

func (h *Histogram) add(d time.Duration, n int64) {
	d = max(d, 0)
	// The bounds are powers of two of one unit, so the bucket is the length of a number in bits.
	h.Buckets[min(bits.Len64(uint64(max(d, 1)-1)/uint64(leastBound)), HistogramBuckets)] += n
	h.Sum += d * time.Duration(n)
}

// tally stands in front of a histogram. Records that came or were answered together took equally
// long, and there are many of them. It counts them, and adds them to the histogram when another
// duration comes, or at flush.
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

// Count returns the number of durations that were counted.
func (h *Histogram) Count() (n int64) {
	for _, b := range h.Buckets {
		n += b
	}
	return n
}

// Plus returns the sum of h and o.
func (h Histogram) Plus(o Histogram) Histogram {
	for i, b := range o.Buckets {
		h.Buckets[i] += b
	}
	h.Sum += o.Sum
	return h
}

// Minus returns what h has counted since o, which is an earlier copy of h.
func (h Histogram) Minus(o Histogram) Histogram {
	for i, b := range o.Buckets {
		h.Buckets[i] -= b
	}
	h.Sum -= o.Sum
	return h
}

// Quantile returns an estimate of the duration that the share q of all durations does not exceed. q
// is from 0 to 1. It interpolates linearly between the bounds, so the error is less than one
// bucket. It returns 0 if nothing was counted, and the largest bound if the quantile lies above all
// bounds.
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

// String returns the number of durations, their median (p50) and their 99th percentile (p99).
func (h Histogram) String() string {
	return fmt.Sprintf("%d (p50 %v, p99 %v)", h.Count(), h.Quantile(0.5), h.Quantile(0.99))
}
