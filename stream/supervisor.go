package stream

import (
	"errors"
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// sameRecord is how many restarts in a row may fail at one record (A43).
const sameRecord = 3

// supervisor judges the failures of a run. It is a step function: the failures
// of attempts come in, what follows comes out.
//
// All that fails from an attempt's first failure until its last task is gone is one
// failure; a restart that fails before every task runs is the next one.
type supervisor struct {
	strategy restart.Strategy
	state    restart.State
	jitter   func() float64 // in [0, 1)

	record  recordKey // where the last failure was
	repeats int       // restarts in a row that failed there again
}

// recordKey says where a failure was.
type recordKey struct {
	operator string
	split    int
	position int64
}

// failed judges the end of an attempt: a restart after delay, or, if final is
// not nil, the end of the run.
func (s *supervisor) failed(now time.Time, err error) (delay time.Duration, final error) {
	if v := async.VerdictOf(err); v.Class == async.Permanent || v.Class == async.BadRecord {
		return 0, err
	}
	// A record that fails again was not behind any checkpoint completed since:
	// it would not have been replayed otherwise.
	if at, ok := failedAt(err); !ok || at != s.record {
		s.record, s.repeats = at, 0
	} else if s.repeats++; s.repeats >= sameRecord {
		return 0, fmt.Errorf("%w: %d restarts in a row failed at the same record: %w", ErrNoProgress, s.repeats, err)
	}
	next, d := s.strategy.Next(s.state, now, s.jitter())
	s.state = next
	if d.Restart {
		return d.Delay, nil
	}
	if name := s.strategy.Config().Strategy; name != restart.None {
		return 0, fmt.Errorf("failure %d is beyond what the restart strategy %s allows: %w", next.Failures, name, err)
	}
	return 0, err
}

// failedAt says at which record a failure was, if it was at one.
func failedAt(err error) (recordKey, bool) {
	if r, ok := errors.AsType[*async.RecordError](err); ok {
		return recordKey{r.Operator, r.Split, r.Position}, true
	}
	// A source that may be asked again has not failed over its next record.
	if r, ok := errors.AsType[*ReadError](err); ok && !async.VerdictOf(err).Retry {
		return recordKey{r.Operator, r.Split, r.Position}, true
	}
	return recordKey{split: -1}, false
}
