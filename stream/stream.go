package stream

import (
	"errors"
	"fmt"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
)

// Stream is the output of an operator. Exactly one other operator must take it.
type Stream[T any] struct {
	job  *Job
	from *node
	side bool // the second stream of from
	// exchange says how the records reach the operator that takes them.
	exchange    exchange
	parallelism int
}

// From begins a stream with a source. A source that is connector.Unbounded needs a checkpoint
// interval. Options: Name, Parallel, BoundedOutOfOrderness, Monotonous, IdleAfter.
func From[T any](j *Job, src connector.Source[T], opts ...SourceOption) *Stream[T] {
	o, err := gather(opts)
	if src == nil {
		err = errors.Join(err, errors.New("the source is nil"))
	}
	if _, live := src.(connector.Unbounded[T]); live && j.cfg.Checkpoint.Interval == 0 {
		err = errors.Join(err, errors.New("the source has no end, so without periodic checkpoints no result would be published before a stop, and a restart would read everything again; set Config.Checkpoint.Interval"))
	}
	n := &node{kind: "source", parallelism: o.parallelism}
	if n.parallelism == 0 {
		n.parallelism = j.cfg.Parallelism
	}
	j.add(n, o, err)
	if src != nil {
		n.source = &sourceNode{splits: src.Splits, verify: src.Verify}
		n.source.rebalancing, _ = src.(connector.Rebalancing)
		n.source.apart = apartOf(src)
	}
	n.head = func(env *taskEnv, next any) head {
		return newSourceHead(env, n.name, src, o.watermarks, next.(input[T]))
	}
	return &Stream[T]{job: j, from: n, parallelism: n.parallelism}
}

// Map replaces each value by the result of fn. Each subtask calls fn from its own goroutine, so fn
// must be safe for concurrent use if there are several subtasks. If it returns an error or panics,
// the job fails at that record. Options: Name, Parallel.
func Map[IN, OUT any](s *Stream[IN], fn func(IN) (OUT, error), opts ...OperatorOption) *Stream[OUT] {
	return transformed(s, "map", fn == nil, opts, func(_ *transform[IN, OUT]) each[IN, OUT] {
		return func(r *Record[IN], out []Record[OUT]) ([]Record[OUT], error) {
			v, err := fn(r.Value)
			if err != nil {
				return out, err
			}
			return append(out, async.With(*r, v)), nil
		}
	})
}

// FlatMap replaces each value by those that fn emits, 0 to n of them. fn must not use emit after it
// has returned. If it returns an error or panics, the job fails at that record. Options: Name,
// Parallel.
func FlatMap[IN, OUT any](s *Stream[IN], fn func(v IN, emit func(OUT)) error, opts ...OperatorOption) *Stream[OUT] {
	return transformed(s, "flatmap", fn == nil, opts, func(*transform[IN, OUT]) each[IN, OUT] {
		var from *Record[IN]
		var to []Record[OUT]
		emit := func(v OUT) { to = append(to, async.With(*from, v)) }
		return func(r *Record[IN], out []Record[OUT]) ([]Record[OUT], error) {
			from, to = r, out
			err := fn(r.Value, emit)
			out, from, to = to, nil, nil
			return out, err
		}
	})
}

// Filter keeps the records for which keep returns true. If keep panics, the job fails at that
// record. Options: Name, Parallel.
func Filter[T any](s *Stream[T], keep func(T) bool, opts ...OperatorOption) *Stream[T] {
	return transformed(s, "filter", keep == nil, opts, func(*transform[T, T]) each[T, T] {
		return func(r *Record[T], out []Record[T]) ([]Record[T], error) {
			if keep(r.Value) {
				out = append(out, *r)
			}
			return out, nil
		}
	})
}

// KeyBy gives each record a key, and sends all records of a key to the same subtask of the operator
// that follows. They stay in order as far as they come from the same sender. Options: Name, and
// Parallel for the operator that follows.
func KeyBy[T any](s *Stream[T], key func(T) string, opts ...OperatorOption) *Stream[T] {
	o, err := gather(opts)
	if o.name != "" {
		opts = []OperatorOption{Name(o.name)}
	} else {
		opts = nil
	}
	keyed := transformed(s, "keyby", key == nil, opts, func(*transform[T, T]) each[T, T] {
		return func(r *Record[T], out []Record[T]) ([]Record[T], error) {
			rec := *r
			rec.Key = key(r.Value)
			return append(out, rec), nil
		}
	})
	if err != nil {
		s.job.fault(keyed.from.name, err)
	}
	keyed.exchange = byKey
	if o.parallelism != 0 {
		keyed.parallelism = o.parallelism
	}
	return keyed
}

// Rebalance deals the records out in turn to parallelism subtasks of the operator that follows,
// from 1 to MaxParallelism. If parallelism is above 1, the records of a split do not keep their
// order.
func Rebalance[T any](s *Stream[T], parallelism int) *Stream[T] {
	if parallelism < 1 || parallelism > MaxParallelism {
		s.job.fault("rebalance after "+s.from.name, fmt.Errorf("parallelism is %d; want 1 to %d", parallelism, MaxParallelism))
		parallelism = 1
	}
	return &Stream[T]{job: s.job, from: s.from, side: s.side, exchange: inTurn, parallelism: parallelism}
}

// To ends a stream in a sink, whose results are published when their checkpoint is complete.
// Options: Name, Parallel.
func To[T any](s *Stream[T], sink connector.Sink[T], opts ...SinkOption) {
	o, err := gather(opts)
	if sink == nil {
		err = errors.Join(err, errors.New("the sink is nil"))
	}
	n := take(s, "sink", o, err)
	if sink != nil {
		n.sink = &sinkNode{committer: sink.Committer, sink: sink}
	}
	n.make = func(env *taskEnv, _, _ any) any { return newSinkWriter(env, n.name, sink) }
}

// take makes the node that takes s.
func take[T any](s *Stream[T], kind string, o options, err error) *node {
	n := &node{kind: kind, input: s.from, exchange: s.exchange, parallelism: s.parallelism, edge: edge[T]{}}
	if o.parallelism != 0 && o.parallelism != n.parallelism {
		n.parallelism = o.parallelism
		if n.exchange == forward {
			n.exchange = inTurn
		}
	}
	s.job.add(n, o, err)
	to := &s.from.output
	if n.sided = s.side; s.side {
		to = &s.from.side
	}
	if *to != nil {
		s.job.fault(n.name, fmt.Errorf("the stream of %q is already taken by %q; only one operator can take a stream", s.from.name, (*to).name))
	} else {
		*to = n
	}
	return n
}

func transformed[IN, OUT any](s *Stream[IN], kind string, isNil bool, opts []OperatorOption, make func(*transform[IN, OUT]) each[IN, OUT]) *Stream[OUT] {
	o, err := gather(opts)
	if isNil {
		err = errors.Join(err, errors.New("the function is nil"))
	}
	n := take(s, kind, o, err)
	n.make = func(env *taskEnv, next, _ any) any {
		return newTransform(env, n.name, next.(input[OUT]), make)
	}
	return &Stream[OUT]{job: s.job, from: n, parallelism: n.parallelism}
}
