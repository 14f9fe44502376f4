package stream

import (
	"errors"
	"fmt"
	"time"
)

// Option is an option of any operator: Name or Parallel.
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

// AsyncOption is an option of Async, AsyncWithDeadLetters, OrderedWait, UnorderedWait and
// KeyedWait.
type AsyncOption interface {
	option
	async()
}

// SinkOption is an option of To and Collect.
type SinkOption interface {
	option
	sink()
}

// option is what all options have in common.
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

// options are the values that an operator's options set.
type options struct {
	name        string
	parallelism int
	watermarks  *watermarks
	serializer  any
}

// watermarks says how a source makes watermarks.
type watermarks struct {
	lag  time.Duration
	idle time.Duration
}

// Name names an operator. Names are unique within a job. Checkpoints keep an operator's state under
// its name. Default: the operator's kind, with a number from the second one of a kind on.
func Name(name string) Option {
	return anyOption(func(o *options) { o.name = name })
}

// Parallel sets the number of subtasks of an operator, from 1 to MaxParallelism. If it differs from
// the number of the input, records are dealt out in turn, as by Rebalance. Default: that of the
// input, and for a source Config.Parallelism.
func Parallel(n int) Option {
	return anyOption(func(o *options) { o.parallelism = n })
}

// BoundedOutOfOrderness makes a source emit watermarks. In each subtask they are behind the
// greatest event time so far by lag, so records may be late by lag. Without this option or
// Monotonous, the only watermark is the one at the end of the input.
func BoundedOutOfOrderness(lag time.Duration) SourceOption {
	return sourceOption(func(o *options) { o.marks().lag = lag })
}

// Monotonous makes a source emit watermarks for records whose event times never decrease within a
// subtask.
func Monotonous() SourceOption {
	return sourceOption(func(o *options) { o.marks().lag = 0 })
}

// IdleAfter makes a source that emits watermarks declare a subtask idle when it has read nothing
// for d. An idle subtask does not hold the watermark back. Default: never.
func IdleAfter(d time.Duration) SourceOption {
	return sourceOption(func(o *options) { o.marks().idle = d })
}

// WithSerializer sets how checkpoints keep the records that wait before an asynchronous function,
// under the Snapshot policy.
//
// By default a value is kept by the parts of its type, exactly and independently of its form in
// JSON. A struct may have more fields when the checkpoint is restored; they are then zero. Any
// other change of the type is an error at the restore. Memory that several slices share is kept
// once for each slice. A time loses the reading of its monotonic clock.
//
// A type that has interfaces, functions, channels or fields that are not exported is kept by its
// own methods: GobEncode, MarshalBinary, MarshalText or MarshalJSON, and their counterparts. If it
// has none of them, a job whose checkpoints would hold records does not start. The checkpoints hold
// records under the Snapshot policy, with a drain limit, or without a timeout, including the
// checkpoint of a stop. But a job without a checkpoint interval and without a policy drains
// when it is stopped, and then its checkpoint holds none.
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
		return o, fmt.Errorf("watermark lag is %v, idle time %v; want 0 or more", o.watermarks.lag, o.watermarks.idle)
	}
	return o, nil
}
