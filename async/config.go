package async

import (
	"fmt"
	"strings"
	"time"
)

// Order says in which order results leave the operator.
type Order uint8

const (
	// Ordered emits results, watermarks and statuses strictly in the order in
	// which their records came in.
	Ordered Order = iota
	// Unordered emits results as they complete; none passes a watermark.
	Unordered
)

func (o Order) String() string {
	if o == Unordered {
		return "unordered"
	}
	return "ordered"
}

// Policy says what a checkpoint barrier does at the operator.
type Policy uint8

const (
	// DefaultPolicy is Drain for Ordered and Snapshot for Unordered.
	DefaultPolicy Policy = iota
	// Drain stops admission and lets the barrier pass when everything before it
	// has been emitted. Nothing is in flight in the checkpoint.
	Drain
	// Snapshot lets the barrier pass at once and puts the records not yet
	// emitted into the checkpoint. After a restore they are called again.
	Snapshot
)

func (p Policy) String() string { return [...]string{"default", "drain", "snapshot"}[p%3] }

// NoTimeout as Config.Timeout lets calls take for ever. It needs the Snapshot
// policy, because a drain must end.
const NoTimeout time.Duration = -1

// Defaults of Config.
const (
	DefaultCapacity = 1000
	DefaultTimeout  = 10 * time.Second
	DefaultHold     = time.Minute
	// MaxCapacity bounds Config.Capacity.
	MaxCapacity = 1 << 24
)

// Config is how an operator runs. Its zero value is the documented defaults.
type Config struct {
	// Capacity bounds the records and watermarks that are admitted and not yet
	// emitted. Default 1000. A slot is freed by emission, not by completion.
	Capacity int
	// MaxCalls bounds the calls in progress. Default and upper bound: Capacity.
	// A record that waits for its call holds a slot; its timer does not run.
	MaxCalls int
	// Timeout is the time from a record's first call to its outcome, over all
	// attempts. Default 10 s; NoTimeout for none.
	Timeout time.Duration
	// Hold bounds how long a record waits, in all, while the other side is
	// overloaded or out of reach; its timer stands still meanwhile. Default 1 min.
	Hold time.Duration
	// Retry says how failed attempts are followed by others.
	Retry Retry
	// Checkpoint says what a barrier does. Default: Drain for Ordered, Snapshot
	// for Unordered.
	Checkpoint Policy
}

// Retry bounds and spaces the attempts for one record. The zero value retries
// what the failure itself calls transient, twice, after 100 ms each.
type Retry struct {
	// Max is how many attempts may follow the first. 0 means 2, unless another
	// field is set, which makes it an error; NoRetry means none.
	Max int
	// Delay before the first further attempt. Default 100 ms.
	Delay time.Duration
	// Multiplier grows the delay from one attempt to the next. Default 1 (fixed).
	Multiplier float64
	// MaxDelay bounds the grown delay. Default: no bound.
	MaxDelay time.Duration
}

// NoRetry as Retry.Max makes the first attempt the only one.
const NoRetry = -1

// Default retry.
const (
	DefaultRetries    = 2
	DefaultRetryDelay = 100 * time.Millisecond
)

// Resolve checks c for an operator of the given order and returns it with every default filled in.
// The error names each field that is wrong and what it may be.
func (c Config) Resolve(order Order) (Config, error) {
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
	if c.Timeout < 0 && c.Timeout != NoTimeout {
		wrong("timeout is %v; want more than 0, or 0 for %v, or none", c.Timeout, DefaultTimeout)
	} else if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Hold < 0 {
		wrong("hold is %v; want more than 0, or 0 for %v", c.Hold, DefaultHold)
	} else if c.Hold == 0 {
		c.Hold = DefaultHold
	}
	switch {
	case order > Unordered:
		wrong("order %d is unknown", order)
	case c.Checkpoint > Snapshot:
		wrong("checkpoint policy %d is unknown", c.Checkpoint)
	case c.Checkpoint == DefaultPolicy && order == Ordered:
		c.Checkpoint = Drain
	case c.Checkpoint == DefaultPolicy:
		c.Checkpoint = Snapshot
	}
	if c.Timeout == NoTimeout && c.Checkpoint == Drain {
		wrong("no timeout with the drain policy, under which a checkpoint could wait for ever; set a timeout or the snapshot policy")
	}
	c.Retry = c.Retry.resolve(wrong)
	if c.Timeout == NoTimeout && c.Retry.Max > 0 {
		// Nothing would bound the attempts in time. The default is simply off;
		// asking for both is a mistake.
		if c.Retry != (Retry{Max: DefaultRetries, Delay: DefaultRetryDelay, Multiplier: 1}) {
			wrong("retry without a timeout; set a timeout")
		}
		c.Retry.Max = NoRetry
	}
	if bad != nil {
		return c, fmt.Errorf("async: invalid configuration: %s", strings.Join(bad, "; "))
	}
	return c, nil
}

func (r Retry) resolve(wrong func(string, ...any)) Retry {
	if r.Max < NoRetry {
		wrong("retry max is %d; want 1 or more, 0 for %d, or %d for none", r.Max, DefaultRetries, NoRetry)
	}
	if r.Max == 0 {
		if r != (Retry{}) {
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
	return r
}
