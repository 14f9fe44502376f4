package stream

import (
	"errors"
	"fmt"
	"time"
)

// Option sets what any operator has beside its function: Name and Parallel.
type Option interface {
	SourceOption
	OperatorOption
	AsyncOption
	SinkOption
}

// SourceOption is an option of From.
type SourceOption interface {
	option
	source()
}

// OperatorOption is an option of Map, FlatMap, Filter and KeyBy.
type OperatorOption interface {
	option
	operator()
}

// AsyncOption is an option of Async, of AsyncWithDeadLetters, and of the functions over them.
type AsyncOption interface {
	option
	async()
}

// SinkOption is an option of To.
type SinkOption interface {
	option
	sink()
}

// option is what all options do.
type option interface{ apply(*options) }

// The kinds of options. Each has the methods of the interfaces that it fits.
type (
	anyOption    func(*options)
	sourceOption func(*options)
	asyncOption  func(*options)
)

func (f anyOption) apply(o *options)    { f(o) }
func (f sourceOption) apply(o *options) { f(o) }
func (f asyncOption) apply(o *options)  { f(o) }

func (anyOption) source()    {}
func (anyOption) operator()  {}
func (anyOption) async()     {}
func (anyOption) sink()      {}
func (sourceOption) source() {}
func (asyncOption) async()   {}

// options are what an operator's options say.
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

// Name names an operator. Names are unique within a job. Checkpoints keep an operator's state under
// its name. Default: the operator's kind, numbered from the second one on.
func Name(name string) Option {
	return anyOption(func(o *options) { o.name = name })
}

// Parallel sets the number of subtasks. Default: that of the input, and for a source
// Config.Parallelism. Where it differs from the input's, records are dealt out in turn, as by
// Rebalance.
func Parallel(n int) Option {
	return anyOption(func(o *options) { o.parallelism = n })
}

// BoundedOutOfOrderness makes a source give watermarks that trail the greatest event time seen in a
// subtask by lag: records may be that late. Without it, or Monotonous, the only watermark is the
// one at the end of the input.
func BoundedOutOfOrderness(lag time.Duration) SourceOption {
	return sourceOption(func(o *options) { o.marks().lag = lag })
}

// Monotonous makes a source give watermarks for event times that never fall within a subtask.
func Monotonous() SourceOption {
	return sourceOption(func(o *options) { o.marks().lag = 0 })
}

// IdleAfter makes a source with watermarks declare itself idle when it has read nothing for d. An
// idle source holds no watermark back. Default: never.
func IdleAfter(d time.Duration) SourceOption {
	return sourceOption(func(o *options) { o.marks().idle = d })
}

// WithSerializer says how checkpoints keep the records that wait before an asynchronous function,
// under the Snapshot policy. Default: by the parts of their type, exactly as they are, whatever
// their form in JSON. A struct may gain fields until the checkpoint is restored, which are then
// zero; any other change of the type is an error at the restore.
//
// A type that has interfaces, functions, channels or fields that are not exported is kept by its
// own methods: GobEncode, MarshalBinary, MarshalText or MarshalJSON, and their counterparts. If it
// has none, the job does not start where a checkpoint would hold records, that of a stop too: under
// the Snapshot policy, with a drain limit, or without a timeout. Where there is no interval and no
// policy is set, such a job drains when it is stopped.
//
// What several slices share is kept once for each; a time loses the reading of its monotonic clock.
func WithSerializer[T any](s Serializer[T]) AsyncOption {
	return asyncOption(func(o *options) { o.serializer = s })
}

func (o *options) marks() *watermarks {
	if o.watermarks == nil {
		o.watermarks = &watermarks{}
	}
	return o.watermarks
}

// gather applies opts.
func gather[O option](opts []O) (options, error) {
	var o options
	for _, opt := range opts {
		if any(opt) == nil {
			return o, errors.New("an option is nil")
		}
		opt.apply(&o)
	}
	switch {
	case o.parallelism < 0 || o.parallelism > MaxParallelism:
		return o, fmt.Errorf("parallelism is %d; want 1 to %d", o.parallelism, MaxParallelism)
	case o.watermarks != nil && (o.watermarks.lag < 0 || o.watermarks.idle < 0):
		return o, fmt.Errorf("watermark lag is %v, idle time %v; want none below 0", o.watermarks.lag, o.watermarks.idle)
	}
	return o, nil
}
