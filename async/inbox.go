package async

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tensorferry/tensorferry/internal/guard"
)

// inbox is the Completer of an operator. Outcomes reach it from any goroutine. Each report is
// stamped with the time at which it came, so an answer that came in time counts as in time, however
// late the task handles it (A15).
type inbox[OUT any] struct {
	wake func()
	size func(*OUT) int64
	most int64        // bytes of results that wait; 0: no bound
	kept atomic.Int64 // of these, what the task has taken and not passed on

	mu     sync.Mutex
	closed bool
	mail   mail[OUT]
	posted int64 // bytes of the results in it
}

// mail is what an inbox gathered between two visits of the task.
type mail[OUT any] struct {
	completions []Completion[OUT]
	reports     []report
}

type report struct {
	at   time.Time
	kind reportKind
	n    int   // completions of a report
	why  error // of a suspension or a failure
}

type reportKind uint8

const (
	completed reportKind = iota
	suspended
	resumed
	broken
)

func (b *inbox[OUT]) Complete(cs []Completion[OUT]) {
	if len(cs) > 0 {
		b.post(report{kind: completed, n: len(cs)}, cs)
	}
}

func (b *inbox[OUT]) Suspend(reason error) { b.post(report{kind: suspended, why: reason}, nil) }

func (b *inbox[OUT]) Resume() { b.post(report{kind: resumed}, nil) }

func (b *inbox[OUT]) Fail(why error) { b.post(report{kind: broken, why: why}, nil) }

func (b *inbox[OUT]) post(r report, cs []Completion[OUT]) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return
	}
	r.at = time.Now()
	if b.most > 0 {
		for i := range cs {
			b.posted += cs[i].Outputs.bytes(b.size)
		}
	}
	b.mail.completions = append(b.mail.completions, cs...)
	b.mail.reports = append(b.mail.reports, r)
	b.mu.Unlock()
	b.ring()
}

// ring wakes the host. If the host's wake function fails, ring adds that failure to the mail, where
// the host's next step finds it.
func (b *inbox[OUT]) ring() {
	const where = "the function that wakes the operator's host"
	returned := false
	defer func() {
		if returned {
			return
		}
		why := guard.Exited(where)
		if v := recover(); v != nil {
			why = guard.Caught(where, v)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.mail.reports = append(b.mail.reports, report{at: time.Now(), kind: broken, why: why})
	}()
	b.wake()
	returned = true
}

// take returns the mail and puts the emptied spare in its place.
func (b *inbox[OUT]) take(spare mail[OUT]) mail[OUT] {
	clear(spare.completions) // results of the last visit must not be kept alive
	spare.completions, spare.reports = spare.completions[:0], spare.reports[:0]
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.mail.reports) == 0 {
		return spare
	}
	got := b.mail
	b.mail = spare
	b.kept.Add(b.posted) // until the task has looked at them
	b.posted = 0
	return got
}

func (b *inbox[OUT]) ResultsFull() bool {
	if b.most <= 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.posted+b.kept.Load() > b.most
}

// close discards the mail and everything that comes later.
func (b *inbox[OUT]) close() {
	b.mu.Lock()
	b.closed = true
	b.mail = mail[OUT]{}
	b.mu.Unlock()
}
