package server

import "sync"

// budget is a bound on things that are counted, and nobody waits for them. Who takes some gives
// them back. One who wants more than the bound has it when nobody else has any.
type budget struct {
	most int64

	mu   sync.Mutex
	used int64
}

// try takes n, if there are so many.
func (b *budget) try(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used > 0 && n > b.most-b.used {
		return false
	}
	b.used += n
	return true
}

// give gives n back.
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
