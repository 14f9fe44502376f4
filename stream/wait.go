package stream

import (
	"errors"

	"github.com/tensorferry/tensorferry/async"
)

// OrderedWait calls an asynchronous function for each record and emits its
// results in the order of the records. Options: Name, Parallel, WithSerializer.
func OrderedWait[IN, OUT any](s *Stream[IN], fn async.Function[IN, OUT], cfg async.Config, opts ...Option) *Stream[OUT] {
	results, _ := waited(s, fn, async.Ordered, cfg, false, opts)
	return results
}

// UnorderedWait calls an asynchronous function for each record and emits results as they
// come, none past a watermark. Options: Name, Parallel, WithSerializer.
func UnorderedWait[IN, OUT any](s *Stream[IN], fn async.Function[IN, OUT], cfg async.Config, opts ...Option) *Stream[OUT] {
	results, _ := waited(s, fn, async.Unordered, cfg, false, opts)
	return results
}

// KeyedWait brings the records of one key together in one subtask, as KeyBy does, and
// emits their results in the order in which they came there; keys pass each
// other, and none passes a watermark. Options: Name, Parallel, WithSerializer.
func KeyedWait[IN, OUT any](s *Stream[IN], key func(IN) string, fn async.Function[IN, OUT], cfg async.Config, opts ...Option) *Stream[OUT] {
	results, _ := waited(keyedFor(s, key, opts), fn, async.Keyed, cfg, false, opts)
	return results
}

// OrderedWaitSplit is OrderedWait with a second stream: the records whose failure has
// the action async.DeadLetter, in their turn among the results and committed with the same
// checkpoint. If cfg.OnError is not set, that is every failure of a record itself (classes
// BadRecord, Timeout and Backend), and the others fail the job. Both streams must be taken.
func OrderedWaitSplit[IN, OUT any](s *Stream[IN], fn async.Function[IN, OUT], cfg async.Config, opts ...Option) (results *Stream[OUT], failed *Stream[async.Failed[IN]]) {
	return waited(s, fn, async.Ordered, cfg, true, opts)
}

// UnorderedWaitSplit is UnorderedWait with the second stream of OrderedWaitSplit.
func UnorderedWaitSplit[IN, OUT any](s *Stream[IN], fn async.Function[IN, OUT], cfg async.Config, opts ...Option) (results *Stream[OUT], failed *Stream[async.Failed[IN]]) {
	return waited(s, fn, async.Unordered, cfg, true, opts)
}

// KeyedWaitSplit is KeyedWait with the second stream of OrderedWaitSplit.
func KeyedWaitSplit[IN, OUT any](s *Stream[IN], key func(IN) string, fn async.Function[IN, OUT], cfg async.Config, opts ...Option) (results *Stream[OUT], failed *Stream[async.Failed[IN]]) {
	return waited(keyedFor(s, key, opts), fn, async.Keyed, cfg, true, opts)
}

// keyedFor is KeyBy in front of an operator with options of its own.
func keyedFor[T any](s *Stream[T], key func(T) string, opts []Option) *Stream[T] {
	o, _ := gather(opts, "Name", "Parallel", "WithSerializer") // what is wrong is said by the operator
	var mine []Option
	if o.name != "" {
		mine = append(mine, Name(o.name+"-key"))
	}
	if o.parallelism > 0 {
		mine = append(mine, Parallel(o.parallelism))
	}
	return KeyBy(s, key, mine...)
}

func waited[IN, OUT any](s *Stream[IN], fn async.Function[IN, OUT], order async.Order, cfg async.Config, split bool, opts []Option) (*Stream[OUT], *Stream[async.Failed[IN]]) {
	o, err := gather(opts, "Name", "Parallel", "WithSerializer")
	if fn == nil {
		err = errors.Join(err, errors.New("the function is nil"))
	}
	if split && cfg.OnError == (async.OnError{}) {
		cfg.OnError = async.OnError{BadRecord: async.DeadLetter, Timeout: async.DeadLetter, Backend: async.DeadLetter}
	}
	serializer, serr := serializerFor[IN](o.serializer)
	if serr != nil && o.serializer == nil && s.job.cfg.Checkpoint.Interval == 0 && cfg.Checkpoint == async.DefaultPolicy && cfg.Timeout != async.NoTimeout {
		// The only checkpoint that could hold records is that of a stop, which can as well wait for
		// them.
		cfg.Checkpoint = async.Drain
	}
	resolved, bad := cfg.Resolve(order)
	switch letters := cfg.OnError.Uses(async.DeadLetter); {
	case letters && !split:
		bad = errors.Join(bad, errors.New("some failures have the action dead letter, and nobody would take them; use the Split form of the operator"))
	case split && !letters:
		bad = errors.Join(bad, errors.New("no failure has the action dead letter, so the second stream would stay empty; set it in OnError, or leave OnError out"))
	}
	if _, makes := fn.(async.FallbackMaker[IN, OUT]); cfg.OnError.Uses(async.Fallback) && !makes {
		bad = errors.Join(bad, errors.New("some failures have the action fallback, and the function makes none; implement async.FallbackMaker"))
	}
	if o.serializer == nil && !keeps(resolved) {
		serr = nil // no checkpoint holds a record; a serializer of the wrong type is a mistake all the same
	}
	n := take(s, "async", o, errors.Join(err, bad, serr))
	n.waits, n.splits = true, split
	n.make = func(env *taskEnv, next, side any) any {
		w := newAsyncWait(env, n, fn, order, cfg, serializer, next.(input[OUT]))
		if side != nil {
			w.takeLetters(side.(input[async.Failed[IN]]))
		}
		return input[IN](w)
	}
	results := &Stream[OUT]{job: s.job, from: n, parallelism: n.parallelism}
	if !split {
		return results, nil
	}
	return results, &Stream[async.Failed[IN]]{job: s.job, from: n, side: true, parallelism: n.parallelism}
}
