package stream

import (
	"fmt"
	"strings"
	"time"
)

// Option sets what an operator has beside its function. An option that does not
// fit its operator is an error when the job is started.
type Option struct {
	name  string
	apply func(*options)
}

// options are what an operator's Option values say.
type options struct {
	name        string
	parallelism int
	watermarks  *watermarks
	serializer  any
}

// watermarks say how a source makes them.
type watermarks struct {
	lag  time.Duration
	idle time.Duration
}

// Name names an operator. Names are unique within a job; state in checkpoints is
// found again by them. Default: the operator's kind, numbered from the second on.
func Name(name string) Option {
	return Option{"Name", func(o *options) { o.name = name }}
}

// Parallel sets the number of subtasks. Default: that of the input, and for a
// source Config.Parallelism. Where it differs from the input's, records are
// dealt out in turn, as by Rebalance.
func Parallel(n int) Option {
	return Option{"Parallel", func(o *options) { o.parallelism = n }}
}

// BoundedOutOfOrderness makes a source give watermarks that trail the greatest
// event time seen in a subtask by lag: records may be that late. Without it, or
// Monotonous, the only watermark is the one at the end of the input.
func BoundedOutOfOrderness(lag time.Duration) Option {
	return Option{"BoundedOutOfOrderness", func(o *options) { o.marks().lag = lag }}
}

// Monotonous makes a source give watermarks for event times that never fall
// within a subtask.
func Monotonous() Option {
	return Option{"Monotonous", func(o *options) { o.marks().lag = 0 }}
}

// IdleAfter makes a source with watermarks declare itself idle when it has read
// nothing for d, so that it holds nobody's watermark back. Default: never.
func IdleAfter(d time.Duration) Option {
	return Option{"IdleAfter", func(o *options) { o.marks().idle = d }}
}

// WithSerializer says how the records before an OrderedWait or UnorderedWait are kept in
// checkpoints under the Snapshot policy. Default: by the parts of their type, exactly as they are,
// whatever their form in JSON. A struct may gain fields until the checkpoint is restored, which are
// then zero; any other change of the type is an error at the restore. A type that has interfaces,
// functions, channels or fields that are not exported is kept by its own methods: GobEncode,
// MarshalBinary, MarshalText or MarshalJSON, and their counterparts. If it has none the job does
// not start where a checkpoint would hold records, that of a stop too: under the Snapshot policy,
// with a drain limit, or without a timeout. Where there is no interval and no policy is set, such a
// job drains when it is stopped. What several slices share is kept once for each; a time loses the
// reading of its monotonic clock.
func WithSerializer[T any](s Serializer[T]) Option {
	return Option{"WithSerializer", func(o *options) { o.serializer = s }}
}

func (o *options) marks() *watermarks {
	if o.watermarks == nil {
		o.watermarks = &watermarks{}
	}
	return o.watermarks
}

// gather applies opts, of which an operator knows those in known.
func gather(opts []Option, known ...string) (options, error) {
	var o options
	var alien []string
	for _, opt := range opts {
		fits := false
		for _, k := range known {
			fits = fits || k == opt.name
		}
		if !fits || opt.apply == nil {
			alien = append(alien, opt.name)
			continue
		}
		opt.apply(&o)
	}
	switch {
	case alien != nil:
		return o, fmt.Errorf("option %s does not apply here; want %s", strings.Join(alien, ", "), strings.Join(known, ", "))
	case o.parallelism < 0 || o.parallelism > MaxParallelism:
		return o, fmt.Errorf("parallelism is %d; want 1 to %d", o.parallelism, MaxParallelism)
	case o.watermarks != nil && (o.watermarks.lag < 0 || o.watermarks.idle < 0):
		return o, fmt.Errorf("watermark lag is %v, idle time %v; want none below 0", o.watermarks.lag, o.watermarks.idle)
	}
	return o, nil
}
