package restart

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Names of the strategies, for Config.Strategy.
const (
	// None: the first failure ends the job.
	None = "none"
	// FixedDelay: a fixed number of restarts, each after the same delay.
	FixedDelay = "fixed-delay"
	// FailureRate: restarts as long as failures are rare enough.
	FailureRate = "failure-rate"
	// ExponentialDelay: restarts after growing delays.
	ExponentialDelay = "exponential-delay"
)

// Defaults of Config.
const (
	DefaultAttempts     = 1
	DefaultDelay        = time.Second
	DefaultMaxFailures  = 1
	DefaultInterval     = time.Minute
	DefaultInitialDelay = time.Second
	DefaultMaxDelay     = time.Minute
	DefaultMultiplier   = 1.5
	DefaultJitter       = 0.1
	DefaultResetAfter   = time.Hour
)

// Off switches a field of Config off, where zero means the default. A Delay of Off restarts at
// once, a Jitter of Off makes delays exact, and Attempts of Off, with fixed-delay, allow no
// restart.
const Off = -1

// Config chooses a strategy and its parameters. Its zero value has the defaults that are given
// below. A field that does not belong to the chosen strategy must be zero.
type Config struct {
	// Strategy is one of the names above. Default: exponential-delay if the job takes periodic
	// checkpoints, and otherwise none.
	Strategy string
	// Attempts, with fixed-delay, is how many restarts there may be in all. Default: 1. With
	// exponential-delay it is how many restarts there may be in a row; ResetAfter says when a
	// failure begins a new row. Default: no bound.
	Attempts int
	// Delay is the wait before a restart, with fixed-delay and failure-rate. Default: 1 s.
	Delay time.Duration
	// MaxFailures is how many failures failure-rate allows within any Interval. One more ends the
	// job. Default: 1 failure within 1 min.
	MaxFailures int
	Interval    time.Duration
	// InitialDelay is the first delay of exponential-delay. Each further failure multiplies it by
	// Multiplier, from 1 to 1000, up to MaxDelay. Defaults: 1 s, 1.5 and 1 min, or InitialDelay if
	// that is longer than 1 min.
	InitialDelay, MaxDelay time.Duration
	Multiplier             float64
	// Jitter is the share of each delay, from 0 to 1, by which exponential-delay makes it longer or
	// shorter at random. A delay is never longer than MaxDelay. Default: 0.1.
	Jitter float64
	// ResetAfter is how long exponential-delay remembers failures. A failure counts as the first
	// again if more time has passed since the last one than ResetAfter and the delay that followed
	// it. Default: 1 h.
	ResetAfter time.Duration
}

// Resolve checks c and returns it with every default of its strategy filled in. checkpointing says
// whether the job takes periodic checkpoints. The error names every field that is wrong, and the
// values that it may have.
func (c Config) Resolve(checkpointing bool) (Config, error) {
	r := resolver{}
	if c.Strategy == "" {
		if other := (Config{}); c != other {
			return c, fmt.Errorf("restart: no strategy is named, but its parameters are set; want %s, %s or %s",
				FixedDelay, FailureRate, ExponentialDelay)
		}
		c.Strategy = None
		if checkpointing {
			c.Strategy = ExponentialDelay
		}
	}
	in := c
	out := Config{Strategy: c.Strategy}
	switch c.Strategy {
	case None:
	case FixedDelay:
		out.Attempts = r.count("attempts", in.Attempts, DefaultAttempts, Off)
		out.Delay = r.delay("delay", in.Delay, DefaultDelay)
		in.Attempts, in.Delay = 0, 0
	case FailureRate:
		out.MaxFailures = r.count("max failures", in.MaxFailures, DefaultMaxFailures, 1)
		out.Interval = r.span("interval", in.Interval, DefaultInterval)
		out.Delay = r.delay("delay", in.Delay, DefaultDelay)
		in.MaxFailures, in.Interval, in.Delay = 0, 0, 0
	case ExponentialDelay:
		out.Attempts = r.count("attempts", in.Attempts, math.MaxInt, 1)
		out.InitialDelay = r.span("initial delay", in.InitialDelay, DefaultInitialDelay)
		out.MaxDelay = r.span("max delay", in.MaxDelay, max(DefaultMaxDelay, out.InitialDelay))
		out.ResetAfter = r.span("reset after", in.ResetAfter, DefaultResetAfter)
		out.Multiplier = r.real("multiplier", in.Multiplier, DefaultMultiplier, 1, 1000)
		if in.Jitter == Off {
			out.Jitter = Off
		} else {
			out.Jitter = r.real("jitter", in.Jitter, DefaultJitter, 0, 1)
		}
		if out.MaxDelay < out.InitialDelay {
			r.wrong("max delay is %v; want at least the initial delay, %v", out.MaxDelay, out.InitialDelay)
		}
		in = Config{Strategy: in.Strategy, Delay: in.Delay, MaxFailures: in.MaxFailures, Interval: in.Interval}
	default:
		return c, fmt.Errorf("restart: the strategy %q is unknown; want %s, %s, %s or %s",
			c.Strategy, None, FixedDelay, FailureRate, ExponentialDelay)
	}
	r.foreign(in)
	if r.bad != nil {
		return c, fmt.Errorf("restart: invalid configuration of %s: %s", c.Strategy, strings.Join(r.bad, "; "))
	}
	return out, nil
}

// resolver gathers what is wrong.
type resolver struct{ bad []string }

func (r *resolver) wrong(format string, a ...any) { r.bad = append(r.bad, fmt.Sprintf(format, a...)) }

func (r *resolver) count(name string, v, def, least int) int {
	if v == 0 {
		return def
	}
	if v < least {
		r.wrong("%s is %d; want 1 or more, or 0 for the default", name, v)
	}
	return v
}

func (r *resolver) delay(name string, v, def time.Duration) time.Duration {
	if v == Off {
		return Off
	}
	return r.span(name, v, def)
}

func (r *resolver) span(name string, v, def time.Duration) time.Duration {
	if v == 0 {
		return def
	}
	if v < 0 {
		r.wrong("%s is %v; want more than 0, or 0 for %v", name, v, def)
	}
	return v
}

func (r *resolver) real(name string, v, def, least, most float64) float64 {
	if v == 0 {
		return def
	}
	if !(v >= least && v <= most) {
		r.wrong("%s is %v; want %v to %v, or 0 for %v", name, v, least, most, def)
	}
	return v
}

// foreign reports the fields that are still set, which belong to other strategies.
func (r *resolver) foreign(c Config) {
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"attempts", c.Attempts != 0}, {"delay", c.Delay != 0}, {"max failures", c.MaxFailures != 0},
		{"interval", c.Interval != 0}, {"initial delay", c.InitialDelay != 0}, {"max delay", c.MaxDelay != 0},
		{"multiplier", c.Multiplier != 0}, {"jitter", c.Jitter != 0}, {"reset after", c.ResetAfter != 0},
	} {
		if f.set {
			r.wrong("%s does not belong to this strategy", f.name)
		}
	}
}
