// Package restart decides whether and when a failed job starts again. A [Strategy] is made from a
// [Config] with [New]. Its method Next gets the time of a failure and returns a [Decision]. A job
// does this by itself, so a program only sets stream.Config.Restart. Use the package directly only
// to supervise something other than a job.
//
// The rules are pure functions of the times of the failures. The package has no clock, no timer and
// no random source of its own, and a call of Next costs next to nothing. It must never know what
// failed or how a restart is done.
//
// The caller decides what counts as one failure. For a job, all failures from the first one until
// every task runs again are one.
package restart

import (
	"math"
	"slices"
	"time"
)

// Strategy is a resolved Config. It is a value without state, and is safe for concurrent use.
type Strategy struct{ c Config }

// New makes the strategy of a Config. checkpointing says whether the job takes periodic
// checkpoints. The error is that of Config.Resolve.
func New(c Config, checkpointing bool) (Strategy, error) {
	c, err := c.Resolve(checkpointing)
	return Strategy{c}, err
}

// Config returns the strategy's Config with every default filled in.
func (s Strategy) Config() Config { return s.c }

// State is what a strategy remembers of a job's failures so far. The zero State is that of a job
// that never failed. It is a value: Next returns a new State and does not change the one that it
// gets.
type State struct {
	// Failures counts all failures. InARow counts those since exponential-delay last began a new
	// row.
	Failures, InARow int
	// Recent holds the times of the last failures, as many as failure-rate needs.
	Recent []time.Time
	// Last is the time of the last failure. Backoff is the delay that exponential-delay gave it,
	// before jitter.
	Last    time.Time
	Backoff time.Duration
}

// Decision says what follows a failure.
type Decision struct {
	// Restart says whether the job may start again, after Delay. If it is false, the failure ends
	// the job, and Delay is 0.
	Restart bool
	Delay   time.Duration
}

// Next judges a failure at the time at. st is the state after the failures before it. u, a number
// in [0, 1), says where in its range the jitter falls. The caller takes u from a random source, or
// from a seeded one if runs must be the same.
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

// jitter spreads d over d ± Jitter·d, but never beyond MaxDelay.
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

// add returns a + b without overflow.
func add(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
