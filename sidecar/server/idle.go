package server

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// idleness ends a stream that is idle for too long: all its questions are answered, and no new one
// comes. A question is a message of the caller, and gets one answer. A nil idleness does nothing.
type idleness struct {
	most time.Duration

	mu    sync.Mutex
	open  int // questions without an answer
	since time.Time
	timer *time.Timer // nil: no time is measured
	end   func()
	ended bool
}

// within calls read, which waits for the next message, and ends the stream if it is idle too long.
func (i *idleness) within(r *receiver, read func() error) (*failure, error) {
	f := &failure{code: codes.Unavailable, message: fmt.Sprintf(
		"no request came on this stream for %v (--stream-idle-timeout), so the server ended it; open a new stream for the next request", i.most)}
	// Writing the status ends the read.
	i.wait(func() { _ = r.w.WriteStatus(status.Convert(f.status("", ""))) })
	err := read()
	if i.came(err == nil) {
		r.door = doorIdle
		return f, nil
	}
	return nil, wireError(r.ctx, err)
}

// wait notes that the stream waits for a message. end ends the stream.
func (i *idleness) wait(end func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.end = end
	i.rest()
}

// rest starts the timer if the stream waits and no question is open. It must be called with the
// lock held.
func (i *idleness) rest() {
	if i.open > 0 || i.end == nil {
		return
	}
	i.since = time.Now()
	i.timer = time.AfterFunc(i.most, func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.open > 0 || i.end == nil || time.Since(i.since) < i.most {
			return // a question or an answer came at the same moment
		}
		i.ended = true
		i.end()
	})
}

// came ends the wait for a message, and reports whether the stream was ended meanwhile. If it was,
// the message is not taken.
func (i *idleness) came(question bool) (ended bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.halt()
	i.end = nil
	if question && !i.ended {
		i.open++
	}
	return i.ended
}

// answered notes that a question has its answer.
func (i *idleness) answered() {
	if i == nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.open > 0 {
		i.open--
	}
	i.halt()
	i.rest()
}

// stop stops the timer for good, when the stream ends.
func (i *idleness) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.halt()
	i.end = nil
}

func (i *idleness) halt() {
	if i.timer != nil {
		i.timer.Stop()
		i.timer = nil
	}
}
