package server

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// arrivals bounds the bytes of requests that arrive. A request states at its beginning how much it
// takes at most: its claim. It takes memory only as its bytes come in, so a large claim alone does
// not take any.
//
// Half-received requests could then hold all the memory, and none of them could go on. So a request
// gets more only if all requests that hold memory can still be finished one after another, each
// with the free memory and with what those before it return (the banker's algorithm). Otherwise it
// waits. The oldest request is served first. A younger one passes it only if it holds memory
// already, since the oldest may be waiting for that memory. New requests do not hold any, so the
// oldest is not passed for ever.
type arrivals struct {
	most    int64
	largest int64  // the largest claim of a request; not more than most
	what    string // the kind of requests, for the error of one that gets no memory
	flag    string // the flag that sets the bound, for the same error

	mu      sync.Mutex
	used    int64
	last    uint64   // the number of the youngest request
	partly  []*share // those that hold memory and may need more, in the order of that need
	partial int64    // what these hold
	waiting []*share // the oldest first
}

// share is what one request holds of an arrivals. The request's call has room for the first bytes,
// which do not count here. A share belongs to one goroutine at a time. A nil share holds nothing.
type share struct {
	of    *arrivals
	free  int64  // the bytes that its call has room for
	claim int64  // how much it may come to hold, without free; 0 once settled; under the lock
	born  uint64 // its number
	n     int64  // how much it holds, without free; under the lock

	wants int64         // how much it waits to hold
	given chan struct{} // closed when it holds that
}

// share begins a request that takes at most claim bytes. Its call has room for the first free ones.
func (a *arrivals) share(claim, free int64) *share {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	return &share{of: a, free: free, claim: max(claim-free, 0), born: a.last}
}

// allows reports whether all requests can still be finished if h holds n.
func (a *arrivals) allows(h *share, n int64) bool {
	left := a.most - a.used - (n - h.n)
	if left < 0 {
		return false
	}
	// Requests without a claim return what they hold in any case.
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
	return true // h can be finished as the last of them, since no claim is larger than most
}

// set makes h hold n.
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

// serve gives waiting requests what they may have now.
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

// taken returns how many bytes are taken now.
func (a *arrivals) taken() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used
}

// counted returns how many of n bytes count, which are those that free does not cover.
func (h *share) counted(n int64) int64 { return max(n-h.free, 0) }

// try makes h hold n, if it holds less and may have that now, and reports whether it holds n. A
// request that holds nothing yet does not pass those that wait.
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

// wait makes h hold n as soon as that is allowed. Older requests are served first. n must not
// exceed the claim.
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
		return nil // it was served at the same moment
	}
	a.waiting = slices.Delete(a.waiting, i, i+1)
	a.serve() // h may have blocked others
	return ctx.Err()
}

// spare reports whether there would still be room for the largest possible request if h held n.
// Then memory is plentiful.
func (h *share) spare(n int64) bool {
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	return h.of.used-h.n+h.counted(n) <= h.of.most-h.of.largest
}

// settle ends the claim to more memory.
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

// grow makes a settled share hold n, and reports whether there is room for that. It does not wait,
// because others rely on a settled share to return its memory. If there is no room here, the share
// moves to other.
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

// keep returns all that h holds beyond n.
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

// release returns all that h holds. It may be called again.
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
