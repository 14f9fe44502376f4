package stream

import "sync/atomic"

// counts are the records that passed one operator of one subtask, since the start of
// the attempt. The task writes them, anybody may read them.
type counts struct {
	operator string
	// in came from the input; done, dropped and lettered say what became of them; out were
	// emitted; held are admitted and have no outcome yet.
	in, done, dropped, lettered, out, held atomic.Int64
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
