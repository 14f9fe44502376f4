package async

import (
	"context"
	"log/slog"
	"time"
)

// Function makes the callers of an asynchronous function, one for each parallel
// subtask. It is shared between subtasks and must be safe for concurrent use.
//
// A function may also implement TimeoutHandler, RetryPredicate, FallbackMaker, Sizer and
// CallLimiter. The operator looks for them once, when it is made. A function that wraps another one
// implements Unwrapper, so that those of the other one are found.
type Function[IN, OUT any] interface {
	// Open makes the caller of one subtask. It may block (dial, check the model)
	// and should return when ctx ends. done is where the caller reports; it is
	// valid until Close has returned.
	Open(ctx context.Context, sub Subtask, done Completer[OUT]) (Caller[IN, OUT], error)
}

// Caller starts calls for one subtask. Its methods are called from one
// goroutine at a time and must not block.
type Caller[IN, OUT any] interface {
	// Call starts a call for each element of batch. The slice belongs to the
	// operator again when Call returns; the records in it may be kept until
	// their completion. The end of the slice says that no more input is at
	// hand, so whoever gathers records into requests sends what it has if it may.
	Call(batch []Call[IN])
	// Cancel says that these calls have their outcome (they timed out) or are no
	// longer wanted. Late answers are ignored, so it is advice, not a promise.
	Cancel(ids []CallID)
	// Close cancels what is in flight and gives everything back: when it returns
	// no goroutine, timer or connection of the caller is left. It is idempotent,
	// and it may block for as long as that takes.
	Close() error
}

// Completer takes the outcomes of calls. Its methods may be called from any
// goroutine, also from inside Call, and never block.
type Completer[OUT any] interface {
	// Complete reports outcomes, with one wake-up of the operator for the slice.
	// The slice belongs to the caller again when Complete returns. The first
	// completion of an attempt counts; others, and those of earlier attempts,
	// are ignored.
	Complete([]Completion[OUT])
	// Suspend says that no call can be made for now (the connection is lost)
	// and why. The operator makes no calls until Resume; records that wait meanwhile
	// are held: their timers stand still, for at most Config.Hold.
	Suspend(reason error)
	// Resume says that calls can be made again.
	Resume()
}

// Failer is implemented by the Completer that an operator gives to Open.
type Failer interface {
	// Fail says that a user's function has broken which no record is to blame for, and how. The
	// operator fails with why, as if Call had panicked (A9). It may be called from any goroutine
	// and never blocks.
	Fail(why error)
}

// Crowd is implemented by the Completer that an operator gives to Open.
type Crowd interface {
	// Crowded reports whether the results that wait for their turn are more than Config.MaxBytes. A
	// caller that has calls it has not begun then completes them with ErrUnmade, but for the oldest
	// where nothing else is in progress: the operator may wait for just that one. So what waits in
	// a caller does not become results that nobody has room for. It may be called from any
	// goroutine and never blocks.
	Crowded() bool
}

// Subtask describes one parallel instance of an operator, or of a sink.
type Subtask struct {
	// Job is the name of the job; empty outside of one.
	Job string
	// Operator is the operator's name within its job.
	Operator string
	// Index is the number of the subtask, from 0, and Parallelism how many there are.
	Index, Parallelism int
	// Run names the run of the job, and is the same after a restore; empty outside of a job.
	// Attempt counts the starts of the run, which are its restarts and resumptions, from 0.
	Run     string
	Attempt int
	// Config is the operator's configuration with every default filled in.
	Config Config
	// Logger is never nil.
	Logger *slog.Logger
}

// CallID names one attempt for one record, so that the answer to one attempt is
// never taken for another's. It means nothing outside its operator.
type CallID struct {
	Entry   uint64
	Attempt uint32
}

// Call is one attempt for one record.
type Call[IN any] struct {
	ID CallID
	// Record is what the call is for; its split, position, event time and key
	// are there for logs and metadata.
	Record Record[IN]
	// Deadline is when the record times out; zero means never. It may move when
	// the record was held, so each attempt carries its own.
	Deadline time.Time
}

// Completion is the outcome of one attempt.
type Completion[OUT any] struct {
	ID CallID
	// Outputs are the results, 0 to n of them. Not used if Err is set.
	Outputs Outputs[OUT]
	// Err is the failure. An error that says what it means to the operator
	// implements Failure; every other one has class Backend.
	Err error
}

// Outputs are the results of one record. The zero value means that nothing was
// said, which is an error of a timeout handler and no output for a completion.
type Outputs[OUT any] struct {
	one  OUT
	many []OUT
	kind uint8
}

const (
	outputsUnset = iota
	outputsNone
	outputsOne
	outputsMany
)

// One is a single result; it allocates nothing.
func One[OUT any](v OUT) Outputs[OUT] { return Outputs[OUT]{one: v, kind: outputsOne} }

// Many is any number of results, emitted in order. The operator keeps the slice.
func Many[OUT any](vs ...OUT) Outputs[OUT] { return Outputs[OUT]{many: vs, kind: outputsMany} }

// None is no result: the record is complete and nothing is emitted for it.
func None[OUT any]() Outputs[OUT] { return Outputs[OUT]{kind: outputsNone} }

// Len returns the number of results.
func (o *Outputs[OUT]) Len() int {
	switch o.kind {
	case outputsOne:
		return 1
	case outputsMany:
		return len(o.many)
	}
	return 0
}

// At returns result i, 0 <= i < Len.
func (o *Outputs[OUT]) At(i int) OUT {
	if o.kind == outputsOne {
		return o.one
	}
	return o.many[i]
}

// bytes is the size of the results.
func (o *Outputs[OUT]) bytes(size func(*OUT) int64) (n int64) {
	switch o.kind {
	case outputsOne:
		n = size(&o.one)
	case outputsMany:
		for i := range o.many {
			n += size(&o.many[i])
		}
	}
	return n
}

// IsSet reports whether anything was said, be it None.
func (o *Outputs[OUT]) IsSet() bool { return o.kind != outputsUnset }
