package sidecar

import (
	"github.com/tensorferry/tensorferry/async"
)

// accused are rows that the server has refused, or failed on, over their content. Before one of
// them is blamed the server is asked whether the model is still the one that the codec was bound
// to (A63): a codec that does not fit makes every row look bad. The question goes out beside the
// requests, one at a time, and an answer counts for all rows that were accused before it was
// asked, so that a burst of bad records costs a few questions and no request waits.
type accused[OUT any] struct {
	rows  []async.Completion[OUT]
	open  bool          // the question is to be asked
	asked chan struct{} // wakes who asks it
}

// accuse hands rows over that are to fail unless the model has changed. Without rows it only has
// that looked into.
func (c *channel[IN, OUT]) accuse(rows []async.Completion[OUT]) {
	c.mu.Lock()
	c.accused.rows, c.accused.open = append(c.accused.rows, rows...), true
	c.mu.Unlock()
	select {
	case c.accused.asked <- struct{}{}:
	default:
	}
}

// judgeAccused completes accused rows until the channel is closed.
func (c *channel[IN, OUT]) judgeAccused() {
	var rows []async.Completion[OUT]
	for {
		select {
		case <-c.accused.asked:
		case <-c.ctx.Done():
			return
		}
		c.mu.Lock()
		open := c.accused.open
		rows, c.accused.rows, c.accused.open = c.accused.rows, rows[:0], false
		c.mu.Unlock()
		if !open {
			continue
		}
		why := c.link.down.Load()
		if why == nil || why.hold {
			why = c.link.verify(c.ctx)
		}
		for n := 0; c.cfg.NonIdempotent && why != nil && why.hold && c.ctx.Err() == nil; n++ {
			// They must not be called again because there is no answer to this, so they wait for
			// one.
			c.link.lost(why)
			sleep(c.ctx, c.cfg.Backoff.delay(n))
			why = c.link.verify(c.ctx)
		}
		switch {
		case c.ctx.Err() != nil:
			return // closed: nobody listens
		case why != nil && why.hold:
			c.link.lost(why)
		case why != nil:
			c.link.end(why)
		}
		if why != nil {
			for i := range rows {
				rows[i].Err = why
			}
		}
		if len(rows) > 0 {
			c.complete(rows)
		}
		clear(rows) // errors must not be kept alive
	}
}
