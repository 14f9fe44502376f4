package idle

import (
	"sync"
	"time"
)

// Work records the use of a Thing. Embedded, it implements the Thing's Abandoned. One goroutine at
// a time can use the Thing. The zero value counts as last used long ago.
type Work struct {
	mu     sync.Mutex
	used   time.Time
	closed bool
}

// Since returns the Work of a thing that was last used at a time, such as when it was opened.
func Since(at time.Time) Work { return Work{used: at} }

// Do calls f. If the thing is closed, it returns ErrAbandoned instead.
func (w *Work) Do(f func() error) error {
	w.mu.Lock()
	defer func() {
		w.used = time.Now()
		w.mu.Unlock()
	}()
	if w.closed {
		return ErrAbandoned
	}
	return f()
}

// End waits until the thing is not in use, and calls f, which closes it.
func (w *Work) End(f func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	return f()
}

// Abandoned implements Thing.
func (w *Work) Abandoned(since time.Time) bool {
	if !w.mu.TryLock() {
		return false
	}
	defer w.mu.Unlock()
	return w.used.Before(since)
}
