package async

// Stats are an operator's present numbers.
type Stats struct {
	// Queued counts the records admitted and not yet emitted; InFlight the calls
	// in progress; Held, Retrying and Done what waits for the other side, for
	// its next attempt, and for its turn to leave.
	Queued, InFlight, Held, Retrying, Done int
	// Suspended says why no calls are made at present; nil if they are.
	Suspended error
	// HeldFor is the newest failure, or suspension, for which a record was held; nil while none is.
	HeldFor error
	// Limit is how many calls may be in progress at present, between 1 and
	// MaxCalls; Bytes those of the queued records and of their results.
	Limit, MaxCalls int
	Bytes           int64
	// Since Open: Admitted, which what was restored is as well, is Completed (with any number of
	// results, fallbacks included), Dropped, DeadLettered, and what is Queued.
	Admitted, Completed, Dropped, DeadLettered int64
	// Since Open: Calls were made; Retries are those of them that followed a failed one; Timeouts
	// are records whose time was over, Holds how often a record was held, called before or not,
	// and Fallbacks results that the function made for records that failed. What ends the
	// operator is counted too. A call that was given back before it began (ErrUnmade) is one of
	// Calls, and so is the one that is made in its place.
	Calls, Timeouts, Retries, Holds, Fallbacks int64
	// Drained counts the records that left while barriers waited, Snapshotted those that went
	// into checkpoints (A38).
	Drained, Snapshotted int64
	// Since Open, by how long it took: Call, from a call to its outcome or its cancellation,
	// which Close is too, unless it was given back before it began; HeadOfLine, from a record's
	// outcome until it left, which waited for
	// those before it and for room behind; Latency, from a record's admission until it left;
	// Drain, how long each barrier waited.
	Call, HeadOfLine, Latency, Drain Histogram
}

// left counts the records that have left.
func (o *Operator[IN, OUT]) left() int64 {
	return o.stats.Completed + o.stats.Dropped + o.stats.DeadLettered
}

// Stats returns the operator's present numbers.
func (o *Operator[IN, OUT]) Stats() Stats {
	for _, t := range [...]*tally{&o.called, &o.waited, &o.stayed} {
		t.flush()
	}
	s, q := o.stats, o.queue.Stats()
	s.Call, s.HeadOfLine, s.Latency = o.called.of, o.waited.of, o.stayed.of
	s.Queued, s.InFlight, s.Held, s.Retrying, s.Done = int(s.Admitted-o.left()), q.Calling, q.Held, q.Retrying, q.Done
	s.Suspended, s.Limit, s.MaxCalls, s.Bytes = o.suspended, q.Limit, o.cfg.MaxCalls, q.Bytes
	s.Holds, s.Retries = q.Holds, q.Retries
	if q.Held > 0 {
		s.HeldFor = o.heldFor
	}
	if o.closed {
		s.InFlight = 0 // all were cancelled
	}
	return s
}
