package stream

import (
	"errors"

	"github.com/tensorferry/tensorferry/async"
)

// Async calls an asynchronous function for each record. cfg bounds the calls, says in which order
// the results leave, and what becomes of failures. Keyed order needs a stream from KeyBy. Options:
// Name, Parallel, WithSerializer.
func Async[IN, OUT any](s *Stream[IN], fn async.Function[IN, OUT], cfg async.Config, opts ...AsyncOption) *Stream[OUT] {
	results, _ := call(s, fn, cfg, false, opts)
	return results
}

// AsyncWithDeadLetters is Async with a second stream, which holds the records whose failure has the
// action async.DeadLetter. Each leaves when the turn of its results would have come, and is
// committed with the same checkpoint. If cfg.OnError is not set, failures of the classes BadRecord,
// Timeout and Backend go there, which are failures of a record itself. All other failures then fail
// the job. Both streams must be taken.
func AsyncWithDeadLetters[IN, OUT any](s *Stream[IN], fn async.Function[IN, OUT], cfg async.Config, opts ...AsyncOption) (results *Stream[OUT], failed *Stream[async.Failed[IN]]) {
	return call(s, fn, cfg, true, opts)
}

// OrderedWait is Async with the results in the order of their records. It ignores cfg.Order.
func OrderedWait[IN, OUT any](s *Stream[IN], fn async.Function[IN, OUT], cfg async.Config, opts ...AsyncOption) *Stream[OUT] {
	cfg.Order = async.Ordered
	return Async(s, fn, cfg, opts...)
}

// UnorderedWait is Async with the results in the order in which they complete. No result passes a
// watermark. It ignores cfg.Order.
func UnorderedWait[IN, OUT any](s *Stream[IN], fn async.Function[IN, OUT], cfg async.Config, opts ...AsyncOption) *Stream[OUT] {
	cfg.Order = async.Unordered
	return Async(s, fn, cfg, opts...)
}

// KeyedWait is KeyBy followed by Async. The results of one key are in the order of its records.
// Results of different keys pass each other. No result passes a watermark. It ignores cfg.Order.
func KeyedWait[IN, OUT any](s *Stream[IN], key func(IN) string, fn async.Function[IN, OUT], cfg async.Config, opts ...AsyncOption) *Stream[OUT] {
	cfg.Order = async.Keyed
	return Async(keyedFor(s, key, opts), fn, cfg, opts...)
}

// keyedFor is KeyBy in front of an operator that has options of its own.
func keyedFor[T any](s *Stream[T], key func(T) string, opts []AsyncOption) *Stream[T] {
	o, _ := gather(opts) // the operator itself reports mistakes in its options
	var mine []OperatorOption
	if o.name != "" {
		mine = append(mine, Name(o.name+"-key"))
	}
	if o.parallelism > 0 {
		mine = append(mine, Parallel(o.parallelism))
	}
	return KeyBy(s, key, mine...)
}

func call[IN, OUT any](s *Stream[IN], fn async.Function[IN, OUT], cfg async.Config, letters bool, opts []AsyncOption) (*Stream[OUT], *Stream[async.Failed[IN]]) {
	o, err := gather(opts)
	if fn == nil {
		err = errors.Join(err, errors.New("the function is nil"))
	}
	if letters && cfg.OnError == (async.OnError{}) {
		cfg.OnError = async.OnError{BadRecord: async.DeadLetter, Timeout: async.DeadLetter, Backend: async.DeadLetter}
	}
	serializer, serr := serializerFor[IN](o.serializer)
	if serr != nil && o.serializer == nil && s.job.cfg.Checkpoint.Interval == 0 && cfg.Barrier == async.DefaultBarrier && cfg.Timeout != async.Off {
		// The only checkpoint that could hold records is that of a stop. It can wait for the
		// records instead.
		cfg.Barrier = async.Drain
	}
	resolved, bad := cfg.Resolve()
	switch used := cfg.OnError.Uses(async.DeadLetter); {
	case used && !letters:
		bad = errors.Join(bad, errors.New("some failures have the action dead letter, but no stream takes them; use stream.AsyncWithDeadLetters"))
	case letters && !used:
		bad = errors.Join(bad, errors.New("no failure has the action dead letter, so the second stream would stay empty; set it in OnError, or leave OnError out"))
	}
	if _, makes := async.As[async.FallbackMaker[IN, OUT]](fn); cfg.OnError.Uses(async.Fallback) && !makes {
		bad = errors.Join(bad, errors.New("some failures have the action fallback, but the function makes no fallback results; implement async.FallbackMaker"))
	}
	if o.serializer == nil && !keeps(resolved) {
		// No checkpoint holds a record. A serializer of the wrong type is still a mistake.
		serr = nil
	}
	n := take(s, "async", o, errors.Join(err, bad, serr))
	n.waits, n.letters, n.wantsKeys = true, letters, cfg.Order == async.Keyed
	n.make = func(env *taskEnv, next, side any) any {
		w := newAsyncWait(env, n, fn, cfg, serializer, next.(input[OUT]))
		if side != nil {
			w.takeLetters(side.(input[async.Failed[IN]]))
		}
		return input[IN](w)
	}
	results := &Stream[OUT]{job: s.job, from: n, parallelism: n.parallelism}
	if !letters {
		return results, nil
	}
	return results, &Stream[async.Failed[IN]]{job: s.job, from: n, side: true, parallelism: n.parallelism}
}
