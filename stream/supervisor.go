package stream

import (
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// vain is how many restarts in a row may fail without a checkpoint completed between them (A43).
const vain = 3

// supervisor judges the failures of a run. It is a step function: the failures of attempts come in,
// and what follows comes out.
//
// All failures from an attempt's first failure until its last task has ended are one failure. A
// restart that fails before every task runs is the next one.
type supervisor struct {
	strategy restart.Strategy
	state    restart.State
	jitter   func() float64 // in [0, 1)

	completed int64 // checkpoints, as of the last failure
	failures  int   // since then, of those that count
}

// failed judges the end of an attempt. It returns the delay of a restart or, if final is not nil,
// the end of the run. completed counts the run's checkpoints that published something.
func (s *supervisor) failed(now time.Time, err error, completed int64) (delay time.Duration, final error) {
	v := async.VerdictOf(err)
	switch v.Class {
	case async.Permanent, async.BadRecord:
		return 0, err
	}
	if completed != s.completed {
		s.completed, s.failures = completed, 0
	}
	if pointless(err, v) {
		if s.failures++; s.failures > vain {
			return 0, fmt.Errorf("%w: %d restarts in a row failed, and no checkpoint was completed between them: %w", ErrNoProgress, vain, err)
		}
	}
	next, d := s.strategy.Next(s.state, now, s.jitter())
	s.state = next
	if d.Restart {
		return d.Delay, nil
	}
	if name := s.strategy.Config().Strategy; name != restart.None {
		return 0, fmt.Errorf("failure %d is more than the restart strategy %s allows: %w", next.Failures, name, err)
	}
	return 0, err
}

// pointless reports whether a restart is in vain if the next attempt fails like this one. It is not
// for failures of other systems that are away or have no room, since they may be back at any time.
func pointless(err error, v async.Verdict) bool {
	return v.Class != async.Transport && v.Class != async.Overload && !slow(err)
}
