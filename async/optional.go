package async

import (
	"fmt"

	"github.com/tensorferry/tensorferry/internal/guard"
)

// Unwrapper is an optional interface of a Function that wraps another one. The operator looks for
// the other optional interfaces in the wrapper first, and then in what Unwrap returns. So a wrapper
// that adds something to Open, or to the callers that it makes, keeps what the function can do.
type Unwrapper[IN, OUT any] interface {
	Unwrap() Function[IN, OUT]
}

// As returns fn as a T if it is one, and otherwise the first function that it wraps (Unwrapper) and
// that is one. T is one of the optional interfaces of a Function. If an Unwrap panics, what it
// wraps has none; NewOperator returns that as an error.
func As[T, IN, OUT any](fn Function[IN, OUT]) (t T, ok bool) {
	all, _ := layers(fn)
	for _, f := range all {
		if t, ok = f.(T); ok {
			return t, true
		}
	}
	return t, false
}

// maxLayers bounds how many functions may wrap each other: one may wrap itself.
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

// TimeoutHandler decides what becomes of a record that timed out. A Function
// that implements it is asked on the operator's own goroutine, so the handler must
// not block. It returns a fallback, None to emit nothing, or an error to fail
// the record. Returning nothing at all (the zero Outputs) fails the record with
// ErrHandlerSilent. It is called at most once a record, and its failure is
// never retried.
type TimeoutHandler[IN, OUT any] interface {
	OnTimeout(call Call[IN]) (Outputs[OUT], error)
}

// RetryPredicate says which outcomes are worth another attempt. A Function that
// implements it replaces the default, under which no result is retried and an
// error is if its Verdict says so. Both run on the operator's own goroutine.
// Errors of class Record and Permanent, and what Verdict.Hold covers, are never
// retried, whatever the predicate says.
type RetryPredicate[OUT any] interface {
	RetryResult(Outputs[OUT]) bool
	RetryError(error) bool
}

// CallLimiter is implemented by a Function that makes at most so many calls at a
// time in each subtask. It lowers Config.MaxCalls, so that records wait for
// their place before their timers start. 0 is no limit.
type CallLimiter interface{ MaxCalls() int }

// FallbackMaker is implemented by a Function that has results for records that failed,
// for the classes with action Fallback. It runs on the operator's own goroutine. Its
// failure, and that of saying nothing, is the record's and fails the task.
type FallbackMaker[IN, OUT any] interface {
	Fallback(Failed[IN]) (Outputs[OUT], error)
}

// Sizer is implemented by a Function that knows the bytes a record takes, for Config.MaxBytes.
// Without it a record counts by its type, which is looked at once: its own size, and all that
// strings, slices, maps, interfaces and pointers in it refer to, those in fields that are not
// exported aside. RecordBytes may be called from several goroutines. It is needed where records
// share memory, which would count for each of them, and where a type contains itself; a log line
// says that.
type Sizer[IN any] interface{ RecordBytes(IN) int }
