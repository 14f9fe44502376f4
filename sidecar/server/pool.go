package server

import (
	"sync"

	"google.golang.org/grpc/mem"
)

// largestKept is the size of the largest buffers that are kept for further use, in bytes. A larger
// one is made when it is needed, with exactly the size that is needed, and left to the collector.
const largestKept = 4 << 20

// pool has the buffers of requests and answers. Grpc's own pool has no size between 32 KiB and
// 1 MiB, and for more than that it returns a buffer of any larger size.
type pool struct{}

var tiers = sync.OnceValue(func() mem.BufferPool {
	p, err := mem.NewBinaryTieredBufferPool(8, 10, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22)
	if err != nil {
		return mem.DefaultBufferPool()
	}
	return p
})

// Get implements mem.BufferPool.
func (pool) Get(n int) *[]byte {
	if n > largestKept {
		b := make([]byte, n)
		return &b
	}
	return tiers().Get(n)
}

// Put implements mem.BufferPool.
func (pool) Put(b *[]byte) {
	if cap(*b) <= largestKept {
		tiers().Put(b)
	}
}
