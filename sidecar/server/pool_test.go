package server

import "testing"

// TestPool: a buffer has the size that is asked for, and not many times that, whatever the pool
// held before. Large buffers are not kept.
func TestPool(t *testing.T) {
	for _, n := range []int{1, 300, 5000, 40 << 10, 100 << 10, 600 << 10, largestKept, largestKept + 1, 3 << 20, 20 << 20, 2 << 20, 1} {
		b := pool{}.Get(n)
		if len(*b) != n || cap(*b) > max(4*n, 1<<8) || n > largestKept && cap(*b) > n+n/8 {
			t.Errorf("%d bytes: %d of %d", n, len(*b), cap(*b))
		}
		pool{}.Put(b)
	}
}
