package server

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// idleness ends a stream on which nothing happens: nothing has been asked that is not answered, and
// nothing is asked for a while. Each message of a caller is a question that gets one answer. A nil
// one does nothing.
type idleness struct {
	most time.Duration

	mu    sync.Mutex
	open  int // questions without an answer
	since time.Time
	timer *time.Timer // nil: nobody waits
	end   func()
	ended bool
}

// within calls read, which waits for the next message, and ends the stream if that is too long.
func (i *idleness) within(r *receiver, read func() error) (*failure, error) {
	f := &failure{code: codes.Unavailable, message: fmt.Sprintf(
		"nothing was asked on this stream for %v (--stream-idle-timeout), so it was ended; open a new one for the next request", i.most)}
	// To write the status ends the reading.
	i.wait(func() { _ = r.w.WriteStatus(status.Convert(f.status("", ""))) })
	err := read()
	if i.came(err == nil) {
		r.door = doorIdle
		return f, nil
	}
	return nil, wireError(r.ctx, err)
}

// wait begins to wait for a message.
func (i *idleness) wait(end func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.end = end
	i.rest()
}

// rest measures, if there is no question. It must be called with the lock held.
func (i *idleness) rest() {
	if i.open > 0 || i.end == nil {
		return
	}
	i.since = time.Now()
	i.timer = time.AfterFunc(i.most, func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.open > 0 || i.end == nil || time.Since(i.since) < i.most {
			return // something happened in the same moment
		}
		i.ended = true
		i.end()
	})
}

// came ends the waiting, and reports whether the stream has been ended: then what came is not
// taken.
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

// answered says that a question has its answer.
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

// stop ends the measuring with the stream.
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
