package server

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// arrivals is a bound on the bytes of requests that arrive. A request says at its beginning how
// much it takes at most, and takes it as it comes in, so that nobody has memory for what was only
// announced.
//
// Requests that have come in by half could then have all the memory, and none of them could go on.
// So each gets more only if all that have something can still be finished, one after another, with
// what is free and what those before them give back (the banker's algorithm). If it cannot have
// more now it waits. The oldest request is served first. Younger ones pass it only if they have
// something already, since it may wait for that; so it is not passed for ever.
type arrivals struct {
	most    int64
	largest int64  // what one request claims at most; not more than most
	what    string // whose they are, for callers that get nothing
	flag    string // of which flag they are

	mu      sync.Mutex
	used    int64
	last    uint64   // the number of the youngest
	partly  []*share // that have something and may need more, what needs least first
	partial int64    // what these have
	waiting []*share // the oldest first
}

// share is what one request has of arrivals. Its call has room for the first bytes of it, which are
// not counted here. It belongs to one goroutine at a time. A nil one has nothing.
type share struct {
	of    *arrivals
	free  int64 // for which its call has room
	claim int64 // what it may have yet: until it is settled, under the lock
	born  uint64
	n     int64 // without what is free; under the lock

	wants int64         // what it waits to have
	given chan struct{} // closed when it has that
}

// share begins a request that takes at most so much, and whose call has room for some of it.
func (a *arrivals) share(claim, free int64) *share {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	return &share{of: a, free: free, claim: max(claim-free, 0), born: a.last}
}

// allows reports whether h may have n.
func (a *arrivals) allows(h *share, n int64) bool {
	left := a.most - a.used - (n - h.n)
	if left < 0 {
		return false
	}
	// What has no claim any more comes back by itself.
	left = a.most - (a.partial + n)
	if slices.Contains(a.partly, h) {
		left += h.n
	}
	done := false
	for _, other := range a.partly {
		if other == h {
			continue
		}
		if !done && h.claim-n <= left {
			left, done = left+n, true
		}
		if other.claim-other.n > left {
			return false
		}
		left += other.n
	}
	return true // and h as the last of them, since no claim is larger than the bound
}

// set makes n what h has.
func (a *arrivals) set(h *share, n int64) {
	if i := slices.Index(a.partly, h); i >= 0 {
		a.partly = slices.Delete(a.partly, i, i+1)
		a.partial -= h.n
	}
	a.used += n - h.n
	h.n = n
	if n == 0 || h.claim <= n {
		return
	}
	i, _ := slices.BinarySearchFunc(a.partly, h, func(x, y *share) int { return cmp.Compare(x.claim-x.n, y.claim-y.n) })
	a.partly = slices.Insert(a.partly, i, h)
	a.partial += n
}

// serve gives to those who wait what there is for them.
func (a *arrivals) serve() {
	blocked := false
	a.waiting = slices.DeleteFunc(a.waiting, func(w *share) bool {
		if blocked && w.n == 0 || !a.allows(w, w.wants) {
			blocked = true
			return false
		}
		a.set(w, w.wants)
		close(w.given)
		return true
	})
}

// taken returns how much is taken now.
func (a *arrivals) taken() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used
}

// counted is what of n bytes is counted.
func (h *share) counted(n int64) int64 { return max(n-h.free, 0) }

// try makes n what h has, if it has less, nobody older waits, and that is allowed.
func (h *share) try(n int64) bool {
	n = h.counted(n)
	if n <= h.n {
		return true
	}
	a := h.of
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiting) > 0 && h.n == 0 || !a.allows(h, n) {
		return false
	}
	a.set(h, n)
	return true
}

// wait makes n what h has, as soon as that is allowed and those have been served who are older.
// n is not more than its claim.
func (h *share) wait(ctx context.Context, n int64) error {
	a := h.of
	a.mu.Lock()
	h.wants, h.given = h.counted(n), make(chan struct{})
	i, _ := slices.BinarySearchFunc(a.waiting, h, func(x, y *share) int { return cmp.Compare(x.born, y.born) })
	a.waiting = slices.Insert(a.waiting, i, h)
	a.serve()
	a.mu.Unlock()
	select {
	case <-h.given:
		return nil
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	i = slices.Index(a.waiting, h)
	if i < 0 {
		return nil // it was given in the same moment
	}
	a.waiting = slices.Delete(a.waiting, i, i+1)
	a.serve() // it may have been in the way
	return ctx.Err()
}

// spare reports whether h may have n and there is still enough for the largest request that there
// may be: then nobody has to be sparing.
func (h *share) spare(n int64) bool {
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	return h.of.used-h.n+h.counted(n) <= h.of.most-h.of.largest
}

// settle gives up the claim to more.
func (h *share) settle() {
	if h == nil {
		return
	}
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	h.claim = 0
	h.of.set(h, h.n)
	h.of.serve()
}

// grow makes n what a settled share has, without waiting: nobody waits for one who is about to give
// everything back. If there is no room it is had of another, of which it is then a share.
func (h *share) grow(n int64, other *arrivals) bool {
	n = h.counted(n)
	if n <= h.n {
		return true
	}
	h.of.mu.Lock()
	fits := n-h.n <= h.of.most-h.of.used
	if fits {
		h.of.set(h, n)
	}
	h.of.mu.Unlock()
	if fits || other == nil || other == h.of {
		return fits
	}
	other.mu.Lock()
	if fits = len(other.waiting) == 0 && n <= other.most-other.used; fits {
		other.used += n
	}
	other.mu.Unlock()
	if fits {
		h.keep(0)
		h.of, h.n = other, n
	}
	return fits
}

// keep gives back all but n.
func (h *share) keep(n int64) {
	if h == nil {
		return
	}
	if n = h.counted(n); h.n <= n {
		return
	}
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	h.of.set(h, n)
	h.of.serve()
}

// release gives all of it back. It may be called again.
func (h *share) release() {
	if h == nil {
		return
	}
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	h.claim = 0
	h.of.set(h, 0)
	h.of.serve()
}
