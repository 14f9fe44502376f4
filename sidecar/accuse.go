package sidecar

import (
	"cmp"
	"slices"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// accused holds rows that the server refused, or failed on, because of their content. Before the
// channel blames a row, it asks the server whether the model is still the one that the codec was
// bound to (A63): a codec that does not fit makes every row look bad. The question goes out beside
// the requests, one at a time. Its answer counts for every row that was accused before the question
// was sent. So a burst of bad records costs a few questions, and no request waits.
type accused[OUT any] struct {
	rows  []accusedRow[OUT]
	open  bool          // a question should be sent
	asked chan struct{} // wakes judgeAccused
}

type accusedRow[OUT any] struct {
	async.Completion[OUT] // with the error that the row gets if the model is the same
	// The row must have its outcome by then; see accuseUntil.
	until time.Time
}

// accuse hands over rows that fail unless the model has changed. Without rows it only has the model
// checked.
func (c *channel[IN, OUT]) accuse(rows []accusedRow[OUT]) {
	c.mu.Lock()
	c.accused.rows, c.accused.open = append(c.accused.rows, rows...), true
	c.mu.Unlock()
	select {
	case c.accused.asked <- struct{}{}:
	default:
	}
}

// accuseUntil returns when a row that is accused now must have its outcome. That is early enough
// before its deadline for another call, or, without a timeout, after a hold. Later, the row would
// fail with a timeout instead of its own error, or never.
func (c *channel[IN, OUT]) accuseUntil(deadline time.Time) time.Time {
	if deadline.IsZero() {
		return time.Now().Add(cmp.Or(c.sub.Config.Hold, async.DefaultHold))
	}
	return deadline.Add(-silencePeriod(c.sub.Config.Timeout) / 2)
}

// judgeAccused completes accused rows until the channel is closed.
func (c *channel[IN, OUT]) judgeAccused() {
	j := judging[IN, OUT]{c: c, answers: make(chan *Error, 1)}
	for {
		next := j.next()
		select {
		case <-c.ctx.Done():
			return // the operator takes no more outcomes
		case <-c.accused.asked:
			c.mu.Lock()
			j.due = j.due || c.accused.open
			j.waiting, c.accused.rows, c.accused.open = append(j.waiting, c.accused.rows...), nil, false
			c.mu.Unlock()
		case why := <-j.answers:
			j.answered(why)
		case <-next.C:
			j.late()
		}
		next.Stop()
		j.ask()
	}
}

// judging is the state of judgeAccused.
type judging[IN, OUT any] struct {
	c       *channel[IN, OUT]
	waiting []accusedRow[OUT] // for the next question
	asked   []accusedRow[OUT] // before the question in progress was sent
	due     bool              // a question should be sent
	asking  bool
	answers chan *Error
	tries   int       // questions in a row without an answer
	pause   time.Time // no question is sent before then
}

// next returns a timer for the first moment at which there is something to do.
func (j *judging[IN, OUT]) next() *time.Timer {
	at := time.Now().Add(time.Hour)
	if j.due && !j.asking && j.pause.Before(at) {
		at = j.pause
	}
	for _, rows := range [][]accusedRow[OUT]{j.waiting, j.asked} {
		for i := range rows {
			if rows[i].until.Before(at) {
				at = rows[i].until
			}
		}
	}
	return time.NewTimer(time.Until(at))
}

// ask asks whether the model is the same, if a question is due and none is in progress.
func (j *judging[IN, OUT]) ask() {
	if !j.due || j.asking || time.Now().Before(j.pause) {
		return
	}
	j.due, j.asking = false, true
	j.asked, j.waiting = j.waiting, j.asked[:0]
	j.c.tasks.Go(func() {
		why := j.c.link.down.Load()
		if why == nil || why.hold {
			why = j.c.link.verify(j.c.ctx)
		}
		j.answers <- why
	})
}

// answered completes the rows that were accused before the question: with their own errors, if the
// model is the same. If the question got no answer, they wait, as for a lost connection.
func (j *judging[IN, OUT]) answered(why *Error) {
	c := j.c
	j.asking = false
	if c.ctx.Err() != nil {
		return
	}
	rows := j.asked
	j.asked = nil
	switch {
	case why == nil:
	case !why.hold:
		c.link.end(why)
	case why.kind == ErrUnreachable:
		c.link.lost(why)
	}
	if why != nil && why.hold && c.cfg.NonIdempotent {
		// These rows must not be called again just because this question got no answer.
		j.waiting, j.due = append(j.waiting, rows...), j.due || len(rows) > 0
		j.pause = time.Now().Add(c.cfg.Backoff.delay(j.tries))
		j.tries++
		return
	}
	j.tries, j.pause = 0, time.Time{}
	c.convict(rows, why)
}

// late completes rows that cannot wait any longer for an answer. Rows that must not be called again
// fail with their own errors.
func (j *judging[IN, OUT]) late() {
	var why *Error
	if !j.c.cfg.NonIdempotent {
		why = j.c.link.unanswered()
	}
	now := time.Now()
	for _, rows := range []*[]accusedRow[OUT]{&j.waiting, &j.asked} {
		var over []accusedRow[OUT]
		*rows = slices.DeleteFunc(*rows, func(r accusedRow[OUT]) bool {
			late := !now.Before(r.until)
			if late {
				over = append(over, r)
			}
			return late
		})
		j.c.convict(over, why)
	}
}

// convict completes rows with why, or with their own errors if why is nil.
func (c *channel[IN, OUT]) convict(rows []accusedRow[OUT], why *Error) {
	if len(rows) == 0 {
		return
	}
	out := make([]async.Completion[OUT], len(rows))
	for i := range rows {
		if out[i] = rows[i].Completion; why != nil {
			out[i].Err = why
		}
	}
	c.complete(out)
}
