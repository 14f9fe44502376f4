package server

import "sync"

// admission bounds the requests that wait to be run, over all models, and so the memory that
// callers can make the server hold.
type admission struct {
	maxRows  int
	maxBytes int64

	mu    sync.Mutex
	rows  int
	bytes int64
}

// enter takes room for a request, and reports whether there was any. A request that exceeds the
// bound on bytes by itself has room if nothing else waits.
func (a *admission) enter(rows int, bytes int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if (a.rows > 0 || a.bytes > 0) && (rows > a.maxRows-a.rows || bytes > a.maxBytes-a.bytes) {
		return false
	}
	a.rows += rows
	a.bytes += bytes
	return true
}

// leave returns the room that enter took.
func (a *admission) leave(rows int, bytes int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rows -= rows
	a.bytes -= bytes
}

// held returns how many rows and bytes wait now.
func (a *admission) held() (rows int, bytes int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rows, a.bytes
}
