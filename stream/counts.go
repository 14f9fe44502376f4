package stream

import (
	"sync"
	"sync/atomic"

	"github.com/tensorferry/tensorferry/async"
)

// counts are the numbers of records that passed one operator in one subtask, since the start of the
// attempt. The task writes them. Any goroutine may read them.
type counts struct {
	operator string
	subtask  int
	// in counts records that came from the input. done, dropped and lettered count them by their
	// outcome. held counts those that have no outcome yet. out counts emitted records.
	in, done, dropped, lettered, out, held atomic.Int64
	// mark is the event time of the watermark that was passed on last.
	mark atomic.Int64
	open atomic.Bool // an asynchronous operator makes calls

	mu    sync.Mutex
	stats async.Stats // an asynchronous operator's own numbers, as of its last turn
}

// reached keeps a watermark that is passed on. An idle subtask has none.
func (c *counts) reached(w async.Watermark) {
	if w.Idle {
		w.Time = async.NoTime
	}
	c.mark.Store(int64(w.Time))
}

func (c *counts) setStats(s *async.Stats) {
	c.mu.Lock()
	c.stats = *s
	c.mu.Unlock()
}

// gone marks the subtask as closed. What it has done and what its limit was stay. It holds no
// records and calls any more.
func (c *counts) gone() {
	c.held.Store(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	limit, most := c.stats.Limit, c.stats.MaxCalls
	c.stats = past(c.stats)
	c.stats.Limit, c.stats.MaxCalls = limit, most
}

// past returns what a subtask has done, without the records and calls that it holds.
func past(s async.Stats) async.Stats {
	s.Queued, s.InFlight, s.Held, s.Retrying, s.Done, s.Limit, s.MaxCalls, s.Bytes = 0, 0, 0, 0, 0, 0, 0, 0
	s.Suspended, s.HeldFor = nil, nil
	return s
}

func (c *counts) getStats() async.Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// addStats adds up the numbers of two subtasks.
func addStats(a, b async.Stats) async.Stats {
	a.Queued += b.Queued
	a.InFlight += b.InFlight
	a.Held += b.Held
	a.Retrying += b.Retrying
	a.Done += b.Done
	if a.Suspended == nil {
		a.Suspended = b.Suspended
	}
	if a.HeldFor == nil {
		a.HeldFor = b.HeldFor
	}
	a.Limit += b.Limit
	a.MaxCalls += b.MaxCalls
	a.Bytes += b.Bytes
	a.Admitted += b.Admitted
	a.Completed += b.Completed
	a.Dropped += b.Dropped
	a.DeadLettered += b.DeadLettered
	a.Calls += b.Calls
	a.Timeouts += b.Timeouts
	a.Retries += b.Retries
	a.Holds += b.Holds
	a.Fallbacks += b.Fallbacks
	a.Drained += b.Drained
	a.Snapshotted += b.Snapshotted
	a.Call = a.Call.Plus(b.Call)
	a.HeadOfLine = a.HeadOfLine.Plus(b.HeadOfLine)
	a.Latency = a.Latency.Plus(b.Latency)
	a.Drain = a.Drain.Plus(b.Drain)
	return a
}

// opCounts are counts at one moment.
type opCounts struct {
	operator                               string
	in, done, dropped, lettered, out, held int64
}

func (c *counts) now() opCounts {
	return opCounts{c.operator, c.in.Load(), c.done.Load(), c.dropped.Load(), c.lettered.Load(), c.out.Load(), c.held.Load()}
}

func (c opCounts) plus(d opCounts) opCounts {
	c.in += d.in
	c.done += d.done
	c.dropped += d.dropped
	c.lettered += d.lettered
	c.out += d.out
	c.held += d.held
	return c
}
