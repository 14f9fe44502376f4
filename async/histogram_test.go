package async_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

func TestHistogramBounds(t *testing.T) {
	if async.HistogramBound(0) != 25*time.Microsecond || async.HistogramBound(2) != 100*time.Microsecond {
		t.Errorf("the bounds begin with %v, %v, %v", async.HistogramBound(0), async.HistogramBound(1), async.HistogramBound(2))
	}
	for i := range async.HistogramBuckets {
		var h async.Histogram
		h.Add(async.HistogramBound(i))
		h.Add(async.HistogramBound(i) + 1)
		if h.Buckets[i] != 1 || h.Buckets[i+1] != 1 || h.Count() != 2 || h.Sum != 2*async.HistogramBound(i)+1 {
			t.Errorf("%v and 1 ns more are in %v, %v", async.HistogramBound(i), h.Buckets, h.Sum)
		}
	}
	var h async.Histogram
	h.Add(-time.Second)
	h.Add(0)
	h.Add(1<<63 - 1)
	if h.Buckets[0] != 2 || h.Buckets[async.HistogramBuckets] != 1 || h.Sum != 1<<63-1 {
		t.Errorf("less than nothing, nothing and all the time there is are in %v, %v", h.Buckets, h.Sum)
	}
}

func TestHistogramQuantile(t *testing.T) {
	var h async.Histogram
	if h.Quantile(0.5) != 0 {
		t.Errorf("the median of nothing is %v", h.Quantile(0.5))
	}
	random := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(random.ExpFloat64() * float64(20*time.Millisecond))
		h.Add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.95, 0.99} {
		// Twice as much is a bucket.
		if got, want := h.Quantile(q), all[int(q*float64(len(all)))]; got < want/2 || got > 2*want {
			t.Errorf("quantile %v is %v, want about %v", q, got, want)
		}
	}
	var one async.Histogram
	one.Add(30 * time.Millisecond)
	if q := one.Quantile(1); q != 51200*time.Microsecond {
		t.Errorf("the largest of 30ms is %v, want the bucket's bound", q)
	}
	both := h.Plus(one)
	if both.Count() != 10_001 || both.Minus(h) != one {
		t.Errorf("%v and %v are %v", h, one, both)
	}
	one.Add(time.Hour)
	if q := one.Quantile(1); q != async.HistogramBound(async.HistogramBuckets-1) {
		t.Errorf("above all bounds is %v", q)
	}
}
