package async

// Stats are an operator's numbers at one moment.
type Stats struct {
	// Queued counts the records that are admitted and not yet emitted. InFlight counts the calls in
	// progress. Held, Retrying and Done count the records that wait for the other side, for their
	// next attempt, and for their turn to leave.
	Queued, InFlight, Held, Retrying, Done int
	// Suspended says why no calls can be made at present. It is nil if calls can be made.
	Suspended error
	// HeldFor is the newest failure or suspension for which a record was held. It is nil if no
	// record is held.
	HeldFor error
	// Limit is how many calls may be in progress at present, between 1 and MaxCalls. Bytes is the
	// size of the queued records and of their results.
	Limit, MaxCalls int
	Bytes           int64
	// These count records since Open. Admitted includes restored records. Completed records had any
	// number of results, fallbacks included. Admitted is the sum of Completed, Dropped,
	// DeadLettered and Queued.
	Admitted, Completed, Dropped, DeadLettered int64
	// These count events since Open, those that end the operator included. Calls were made.
	// Timeouts are records whose time was over. Retries are the calls that followed a failed one.
	// Holds is how often a record was held, whether it was called before or not. Fallbacks are
	// records that failed and for which the function made results. A call that was completed with
	// ErrUnmade counts in Calls, and so does the call that replaces it.
	Calls, Timeouts, Retries, Holds, Fallbacks int64
	// Drained counts the records that left while barriers waited. Snapshotted counts the records
	// that went into checkpoints (A38).
	Drained, Snapshotted int64
	// These are durations since Open. Call is from a call to its outcome, its cancellation or
	// Close; calls that were completed with ErrUnmade are left out. HeadOfLine is from a record's
	// outcome until the record left, while it waited for the records before it and for room
	// downstream. Latency is from a record's admission until it left. Drain is how long each
	// barrier waited under the Drain policy.
	Call, HeadOfLine, Latency, Drain Histogram
}

// left counts the records that have left.
func (o *Operator[IN, OUT]) left() int64 {
	return o.stats.Completed + o.stats.Dropped + o.stats.DeadLettered
}

// Stats returns the operator's present numbers, also after it has failed or was closed.
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
