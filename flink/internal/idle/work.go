package idle

import (
	"sync"
	"time"
)

// Work is what a Thing knows of its own use: it is embedded, and then is the Thing's Abandoned. One
// at a time is at work on it. The zero value was last used long ago.
type Work struct {
	mu     sync.Mutex
	used   time.Time
	closed bool
}

// Since is the Work of a thing that was last used at a time, as when it was opened.
func Since(at time.Time) Work { return Work{used: at} }

// Do calls f, unless the thing is closed; its error is ErrAbandoned then.
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

// End waits for whoever is at work on the thing, and calls f, which closes it.
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
