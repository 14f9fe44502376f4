// Package restart owns the rules by which a failed job starts again, as pure
// functions of the times of its failures. It has no clock, no timer and no random
// source of its own, and must never know what failed or how a restart is done.
//
// What counts as one failure is the caller's to say: all failures from the first
// until every task runs again are one.
package restart

import (
	"math"
	"slices"
	"time"
)

// Strategy is a resolved Config. It is a value without state and safe for
// concurrent use.
type Strategy struct{ c Config }

// New makes the strategy of a Config; checkpointing says whether the job takes
// checkpoints. The error is Config.Resolve's.
func New(c Config, checkpointing bool) (Strategy, error) {
	c, err := c.Resolve(checkpointing)
	return Strategy{c}, err
}

// Config returns the strategy's Config with every default filled in.
func (s Strategy) Config() Config { return s.c }

// State is what a strategy remembers of a job's failures so far. The zero State
// is that of a job that never failed. It is a value: Next returns another one and
// leaves this as it was.
type State struct {
	// Failures in all, and how many of them since exponential-delay last reset.
	Failures, InARow int
	// Recent are the last failures' times, as many as failure-rate needs.
	Recent []time.Time
	// Last is the last failure's time, and Backoff the delay that
	// exponential-delay gave it, before jitter.
	Last    time.Time
	Backoff time.Duration
}

// Decision says what follows a failure.
type Decision struct {
	// Restart says whether the job may start again, after Delay. If not, the
	// failure is the job's end.
	Restart bool
	Delay   time.Duration
}

// Next judges a failure at time at, after those that st remembers. u is where in
// its range the jitter falls: a number in [0, 1), from a source of the caller's
// choice, a seeded one where runs must be the same.
func (s Strategy) Next(st State, at time.Time, u float64) (State, Decision) {
	next := st
	next.Failures++
	next.InARow++
	next.Last = at
	var d Decision
	switch s.c.Strategy {
	case FixedDelay:
		d = Decision{Restart: next.Failures <= s.c.Attempts, Delay: max(0, s.c.Delay)}
	case FailureRate:
		// Two failures an interval apart to the tick are inside the same interval.
		recent := slices.DeleteFunc(slices.Clone(st.Recent), func(t time.Time) bool { return at.Sub(t) > s.c.Interval })
		next.Recent = append(recent, at)
		d = Decision{Restart: len(next.Recent) <= s.c.MaxFailures, Delay: max(0, s.c.Delay)}
	case ExponentialDelay:
		if st.Failures == 0 || at.Sub(st.Last) > add(s.c.ResetAfter, st.Backoff) {
			next.InARow, next.Backoff = 1, s.c.InitialDelay
		} else {
			next.Backoff = s.grow(st.Backoff)
		}
		d = Decision{Restart: next.InARow <= s.c.Attempts, Delay: s.jitter(next.Backoff, u)}
	}
	if !d.Restart {
		d.Delay = 0
	}
	return next, d
}

func (s Strategy) grow(d time.Duration) time.Duration {
	grown := float64(d) * s.c.Multiplier
	if grown >= float64(s.c.MaxDelay) {
		return s.c.MaxDelay
	}
	return time.Duration(grown)
}

// jitter spreads d over d ± Jitter·d, and never beyond the greatest delay.
func (s Strategy) jitter(d time.Duration, u float64) time.Duration {
	if s.c.Jitter <= 0 {
		return d
	}
	spread := s.c.Jitter * float64(d) * (2*u - 1)
	if spread >= float64(s.c.MaxDelay-d) {
		return s.c.MaxDelay
	}
	return max(0, d+time.Duration(spread))
}

// add is a + b, without overflow.
func add(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
