package server

import (
	"sync"

	"google.golang.org/grpc/mem"
)

// largestKept is the size of the largest buffers that are kept for others, in bytes. Larger ones
// are made as they are needed, with no more than is needed, and left to the collector.
const largestKept = 4 << 20

// pool is where requests and answers have their bytes. Grpc's own has nothing between 32 KiB and
// 1 MiB, and gives a larger one of any size for any need.
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
