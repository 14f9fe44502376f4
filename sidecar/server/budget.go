package server

import "sync"

// budget bounds how many things are taken at once, such as calls or bytes. Taking never waits. If
// nothing is taken, more than the bound may be taken at once.
type budget struct {
	most int64

	mu   sync.Mutex
	used int64
}

// try takes n, if there are so many, and reports whether it did.
func (b *budget) try(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used > 0 && n > b.most-b.used {
		return false
	}
	b.used += n
	return true
}

// give returns n that were taken.
func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
}

// taken returns how many are taken now.
func (b *budget) taken() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
