package async

import (
	"fmt"

	"github.com/tensorferry/tensorferry/internal/guard"
)

// Unwrapper is an optional interface of a Function that wraps another one. The operator looks for
// the other optional interfaces first in the wrapper, and then in what Unwrap returns. So a wrapper
// that changes Open, or the callers, keeps the optional interfaces of the function inside.
type Unwrapper[IN, OUT any] interface {
	Unwrap() Function[IN, OUT]
}

// As returns fn as a T if it is one. Otherwise it returns the first function inside fn (see
// Unwrapper) that is a T. T is one of the optional interfaces of a Function. If an Unwrap panics,
// the search ends there. NewOperator returns that panic as an error.
func As[T, IN, OUT any](fn Function[IN, OUT]) (t T, ok bool) {
	all, _ := layers(fn)
	for _, f := range all {
		if t, ok = f.(T); ok {
			return t, true
		}
	}
	return t, false
}

// maxLayers bounds how many functions may wrap each other, since a function may wrap itself.
const maxLayers = 100

// layers returns a function and all that it wraps, from the outside in.
func layers[IN, OUT any](fn Function[IN, OUT]) (all []any, err error) {
	for fn != nil {
		if all = append(all, fn); len(all) > maxLayers {
			return all, fmt.Errorf("async: more than %d functions wrap each other; does one wrap itself?", maxLayers)
		}
		u, wraps := fn.(Unwrapper[IN, OUT])
		if !wraps {
			break
		}
		err := guard.Apart("Unwrap of the function", func() error {
			fn = u.Unwrap()
			return nil
		})
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// TimeoutHandler is an optional interface of a Function. It decides what becomes of a record that
// timed out. The operator calls it at most once for a record, on its own goroutine, so it must not
// block. It returns results to emit, None to emit nothing, or an error, with which the record
// fails. The zero Outputs without an error fail the record with ErrHandlerSilent. A failure of the
// handler is never retried.
type TimeoutHandler[IN, OUT any] interface {
	OnTimeout(call Call[IN]) (Outputs[OUT], error)
}

// RetryPredicate is an optional interface of a Function. It says which outcomes are worth another
// attempt. It replaces the default: a result is never retried, and an error is retried if its
// Verdict says so. Both methods are called on the operator's own goroutine and must not block.
// Errors of class BadRecord or Permanent, and those with Verdict.Hold, are never retried, whatever
// the predicate says.
type RetryPredicate[OUT any] interface {
	RetryResult(Outputs[OUT]) bool
	RetryError(error) bool
}

// CallLimiter is an optional interface of a Function that makes only so many calls at a time in
// each subtask. The operator lowers Config.MaxCalls to that number, so that records wait for their
// place before their timers start. 0 means no limit. MaxCalls is called once, by NewOperator.
type CallLimiter interface{ MaxCalls() int }

// FallbackMaker is an optional interface of a Function. It makes results for records that failed
// with a class that has the action Fallback. The operator calls it on its own goroutine, so it must
// not block. If it returns an error, or the zero Outputs, the task fails with that and the record's
// failure.
type FallbackMaker[IN, OUT any] interface {
	Fallback(Failed[IN]) (Outputs[OUT], error)
}

// Sizer is an optional interface of a Function that knows how many bytes a record takes, for
// Config.MaxBytes. Without it a record is counted by its type: its own size, and everything that
// its strings, slices, maps, interfaces and pointers refer to, except from fields that are not
// exported. The type is examined once.
//
// A Sizer is needed where records share memory, which would otherwise count for each of them. It is
// also needed where a type contains itself; the operator logs that. RecordBytes may be called from
// several goroutines at a time.
type Sizer[IN any] interface{ RecordBytes(IN) int }
