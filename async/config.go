package async

import (
	"fmt"
	"strings"
	"time"

	"github.com/tensorferry/tensorferry/internal/enum"
	"github.com/tensorferry/tensorferry/trace"
)

// Order says in which order results leave the operator.
type Order uint8

const (
	// Ordered emits results, watermarks and statuses in the order in which their records came in.
	Ordered Order = iota
	// Unordered emits results as they complete. No result passes a watermark.
	Unordered
	// Keyed emits the results of one Record.Key in the order of its records. Results of different
	// keys pass each other. No result passes a watermark.
	Keyed
)

var orders = []string{"ordered", "unordered", "keyed"}

func (o Order) String() string { return enum.Name("order", o, orders) }

// BarrierPolicy says what a checkpoint barrier does at the operator.
type BarrierPolicy uint8

const (
	// DefaultBarrier is Snapshot for Unordered, and Drain for the other orders.
	DefaultBarrier BarrierPolicy = iota
	// Drain stops admission until everything before the barrier has been emitted; then the barrier
	// passes. The checkpoint holds no record of the operator, unless Config.DrainLimit cuts the
	// wait short.
	Drain
	// Snapshot lets the barrier pass at once and puts the records that are not yet emitted into the
	// checkpoint. After a restore they are called again.
	Snapshot
)

var policies = []string{"default", "drain", "snapshot"}

func (p BarrierPolicy) String() string { return enum.Name("barrier policy", p, policies) }

// Off switches a field of Config or Retry off, where zero means the default. With a Timeout of Off
// a call may take for ever. That needs the Snapshot policy or a DrainLimit, because a drain must
// end.
const Off = -1

// Defaults of Config.
const (
	DefaultCapacity = 1000
	DefaultTimeout  = 10 * time.Second
	DefaultHold     = time.Minute
	DefaultMaxBytes = 64 << 20
	// MaxCapacity is the largest Config.Capacity.
	MaxCapacity = 1 << 24
)

// Config says how an operator runs. Its zero value has all the defaults that are given below.
// Operator.Config returns it with the defaults filled in.
type Config struct {
	// Order is the order in which results leave. Default: Ordered.
	Order Order
	// Capacity bounds the records and watermarks that are admitted and not yet emitted: 1 to
	// MaxCapacity. A slot is freed by emission, not by completion. Default: 1000.
	Capacity int
	// MaxBytes bounds the bytes of these records and of their results. Records are counted by the
	// function's Sizer or, without one, by their type. Results are counted by their type. A record
	// that is larger than the bound is admitted alone. Results of calls that have been made can go
	// beyond the bound. Calls are then made one at a time until the bytes are within it again.
	// Default: 64 MiB; Off for no bound.
	MaxBytes int64
	// MaxCalls bounds the calls in progress. A record that waits for its call holds a slot, and its
	// timer does not run. When the other side reports overload, the limit halves, to no less than
	// 1. It grows back with success (Stats.Limit). Default and upper bound: Capacity.
	MaxCalls int
	// Timeout is the time from a record's first call to its outcome, over all attempts. Default:
	// 10 s; Off for no timeout.
	Timeout time.Duration
	// Hold bounds how long a record waits while the other side takes no records, because it is
	// overloaded or out of reach. The record's timer stands still meanwhile. The wait for a slow
	// side that does take records has no bound. A record that is refused while others are taken
	// fails some time after Hold (A40). Default: 1 min.
	Hold time.Duration
	// Retry says how a failed attempt is followed by others.
	Retry Retry
	// Barrier says what a checkpoint barrier does. Default: Snapshot for Unordered, and Drain for
	// the other orders.
	Barrier BarrierPolicy
	// DrainLimit bounds the time of a drain. When that is over, the records that are left go into
	// the checkpoint, as under Snapshot. It needs the Drain policy. Default: no limit.
	DrainLimit time.Duration
	// OnError says what becomes of a record that failed, by the class of its failure. Default: the
	// task fails.
	OnError OnError
	// Tracer records a span for each sampled record, from its admission to its emission. Callers
	// may record spans of their own with it. Default: no spans are recorded.
	Tracer trace.Tracer
}

// Action says what becomes of a record that failed for good.
type Action uint8

const (
	// Fail fails the task with the record's failure.
	Fail Action = iota
	// Drop discards the record and counts it.
	Drop
	// Fallback asks the function for results. The function must be a FallbackMaker.
	Fallback
	// DeadLetter sends the record and its failure to a second output, beside the results. It leaves
	// when the turn of the record's results would have come.
	DeadLetter
)

var actions = []string{"fail", "drop", "fallback", "dead_letter"}

func (a Action) String() string { return enum.Name("action", a, actions) }

// OnError has an Action for each Class of failure. With the zero value every failure fails the
// task.
type OnError struct {
	Backend, BadRecord, Timeout, Overload, Transport, Permanent Action
}

// For returns the action for a class. For a class that does not exist it returns Fail, since no
// action was chosen for such records.
func (o OnError) For(c Class) Action {
	all := [...]Action{o.Backend, o.BadRecord, o.Timeout, o.Overload, o.Transport, o.Permanent}
	if int(c) >= len(all) {
		return Fail
	}
	return all[c]
}

// Uses reports whether any class has the action a.
func (o OnError) Uses(a Action) bool {
	for c := Backend; c <= Permanent; c++ {
		if o.For(c) == a {
			return true
		}
	}
	return false
}

// Retry says how many attempts follow a failed one, and when. With the zero value, a failure that
// calls itself transient (Verdict.Retry) is retried twice, each time after 100 ms with a jitter of
// 10 %. A RetryPredicate of the function decides instead which outcomes are retried. Retries need a
// Timeout.
type Retry struct {
	// Max is how many attempts may follow the first. 0 means 2, but it is an error together with a
	// Delay, Multiplier or MaxDelay. Off means none.
	Max int
	// Delay is the wait before the first retry. Default: 100 ms.
	Delay time.Duration
	// Multiplier is the factor by which the delay grows from one retry to the next, from 1 to 1000.
	// Default: 1, a fixed delay.
	Multiplier float64
	// MaxDelay bounds the grown delay. Default: no bound.
	MaxDelay time.Duration
	// Jitter is the share of each delay, from 0 to 1, by which it is made longer or shorter at
	// random. Default: 0.1; Off for none.
	Jitter float64
	// Budget bounds the retries of all records of a subtask together, so that retries do not
	// multiply an outage. It is the number of retries that are available at first, and at most.
	// Each retry takes one, and every five results return one. When none is left, a record that
	// would be retried fails as if its attempts were used up. Default: the capacity, and at least
	// 100; Off for no bound.
	Budget int
}

// Defaults of Retry.
const (
	DefaultRetries    = 2
	DefaultRetryDelay = 100 * time.Millisecond
	DefaultJitter     = 0.1
	minBudget         = 100
	budgetRefill      = 0.2
)

// Resolve checks c and returns it with every default filled in. The error names every field that is
// wrong, and the values that it may have.
func (c Config) Resolve() (Config, error) {
	var bad []string
	wrong := func(format string, a ...any) { bad = append(bad, fmt.Sprintf(format, a...)) }
	if c.Capacity < 0 || c.Capacity > MaxCapacity {
		wrong("capacity is %d; want 1 to %d, or 0 for %d", c.Capacity, MaxCapacity, DefaultCapacity)
	} else if c.Capacity == 0 {
		c.Capacity = DefaultCapacity
	}
	if c.MaxCalls < 0 {
		wrong("max calls is %d; want 1 or more, or 0 for the capacity", c.MaxCalls)
	} else if c.MaxCalls == 0 || c.MaxCalls > c.Capacity {
		c.MaxCalls = c.Capacity
	}
	if c.MaxBytes < Off {
		wrong("max bytes is %d; want 1 or more, 0 for %d, or %d for no bound", c.MaxBytes, DefaultMaxBytes, Off)
	} else if c.MaxBytes == 0 {
		c.MaxBytes = DefaultMaxBytes
	}
	if c.Timeout < 0 && c.Timeout != Off {
		wrong("timeout is %v; want more than 0, 0 for %v, or Off for no timeout", c.Timeout, DefaultTimeout)
	} else if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Hold < 0 {
		wrong("hold is %v; want more than 0, or 0 for %v", c.Hold, DefaultHold)
	} else if c.Hold == 0 {
		c.Hold = DefaultHold
	}
	switch {
	case c.Order > Keyed:
		wrong("order %d is unknown", c.Order)
	case c.Barrier > Snapshot:
		wrong("checkpoint policy %d is unknown", c.Barrier)
	case c.Barrier == DefaultBarrier && c.Order == Unordered:
		c.Barrier = Snapshot
	case c.Barrier == DefaultBarrier:
		c.Barrier = Drain
	}
	if c.DrainLimit < 0 || (c.DrainLimit > 0 && c.Barrier != Drain) {
		wrong("drain limit is %v; want more than 0 with the drain policy, or 0 for no limit", c.DrainLimit)
	}
	if c.Timeout == Off && c.Barrier == Drain && c.DrainLimit == 0 {
		wrong("no timeout with the drain policy: a checkpoint could wait for ever; set a timeout, a drain limit or the snapshot policy")
	}
	for class := Backend; class <= Permanent; class++ {
		if a := c.OnError.For(class); a > DeadLetter {
			wrong("the action for class %v is %d, which does not exist", class, a)
		}
	}
	if c.Timeout == Off {
		// Nothing would bound the attempts in time, so the default is off. Retries that were asked
		// for are a mistake.
		if c.Retry.Max > 0 {
			wrong("retries need a timeout; set one")
		}
		c.Retry.Max = Off
	}
	c.Retry = c.Retry.resolve(c.Capacity, wrong)
	if bad != nil {
		return c, fmt.Errorf("async: invalid configuration: %s", strings.Join(bad, "; "))
	}
	return c, nil
}

func (r Retry) resolve(capacity int, wrong func(string, ...any)) Retry {
	if r.Max < Off {
		wrong("retry max is %d; want 1 or more, 0 for %d, or %d for no retries", r.Max, DefaultRetries, Off)
	}
	if r.Max == 0 {
		if r.Delay != 0 || r.Multiplier != 0 || r.MaxDelay != 0 {
			wrong("retry max is 0 while a delay is set; say how many attempts may follow the first")
		}
		r.Max = DefaultRetries
	}
	if r.Delay < 0 || r.MaxDelay < 0 {
		wrong("retry delay is %v, max delay %v; want 0 or more", r.Delay, r.MaxDelay)
	}
	if r.Delay == 0 {
		r.Delay = DefaultRetryDelay
	}
	if r.Multiplier == 0 {
		r.Multiplier = 1
	}
	if !(r.Multiplier >= 1 && r.Multiplier <= 1000) {
		wrong("retry multiplier is %v; want 1 to 1000", r.Multiplier)
	}
	if r.Jitter == 0 {
		r.Jitter = DefaultJitter
	}
	if r.Jitter != Off && !(r.Jitter > 0 && r.Jitter <= 1) {
		wrong("retry jitter is %v; want more than 0 and up to 1, 0 for %v, or %d for no jitter", r.Jitter, DefaultJitter, Off)
	}
	if r.Budget == 0 {
		r.Budget = max(capacity, minBudget)
	}
	if r.Budget < Off {
		wrong("retry budget is %d; want 1 or more, 0 for the capacity, or %d for no bound", r.Budget, Off)
	}
	return r
}
