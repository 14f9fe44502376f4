package server

import (
	"context"
	"sync"
)

// budget is a bound on bytes, or on other things that are counted. Who takes some gives it back.
// One who wants more than the bound has it when nobody else has any.
type budget struct {
	most int64

	mu      sync.Mutex
	used    int64
	waiting []*waiter // in the order in which they came
}

type waiter struct {
	n     int64
	given chan struct{} // closed when it has them; under the lock
}

func (b *budget) fits(n int64) bool { return b.used == 0 || n <= b.most-b.used }

// try takes n if nobody has to wait for them, and nobody waits already.
func (b *budget) try(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) > 0 || !b.fits(n) {
		return false
	}
	b.used += n
	return true
}

// more takes n for one who has some already. It passes those who wait, since they may wait for
// what the taker has, and it never exceeds the bound.
func (b *budget) more(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.most-b.used {
		return false
	}
	b.used += n
	return true
}

// take waits for n until ctx ends. The first to come is the first to be served.
func (b *budget) take(ctx context.Context, n int64) error {
	b.mu.Lock()
	if len(b.waiting) == 0 && b.fits(n) {
		b.used += n
		b.mu.Unlock()
		return nil
	}
	w := &waiter{n, make(chan struct{})}
	b.waiting = append(b.waiting, w)
	b.mu.Unlock()
	select {
	case <-w.given:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, other := range b.waiting {
		if other == w {
			b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
			b.serve() // it may have been in the way
			return ctx.Err()
		}
	}
	b.used -= n // it was given in the same moment
	b.serve()
	return ctx.Err()
}

// give gives n back.
func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	b.serve()
}

// serve must be called with the lock held.
func (b *budget) serve() {
	for len(b.waiting) > 0 && b.fits(b.waiting[0].n) {
		w := b.waiting[0]
		b.waiting[0] = nil
		b.waiting = b.waiting[1:]
		b.used += w.n
		close(w.given)
	}
}

// taken returns how many are taken now.
func (b *budget) taken() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// share is what one has of a budget. It belongs to one goroutine at a time. A nil one has nothing.
type share struct {
	of *budget
	n  int64
}

// grow takes so many more, without waiting.
func (h *share) grow(n int64) bool {
	if !h.of.more(n) {
		return false
	}
	h.n += n
	return true
}

// keep gives back all but n.
func (h *share) keep(n int64) {
	if h == nil || h.n <= n {
		return
	}
	h.of.give(h.n - n)
	h.n = n
}

// release gives all of it back. It may be called again.
func (h *share) release() { h.keep(0) }
