package async

import (
	"context"
	"log/slog"
	"time"
)

// Function makes the callers of an asynchronous function, one for each parallel subtask. All
// subtasks share it, so it must be safe for concurrent use.
//
// A function may also implement TimeoutHandler, RetryPredicate, FallbackMaker, Sizer and
// CallLimiter. The operator looks for them once, when it is made. A function that wraps another one
// implements Unwrapper, so that the optional interfaces of the other one are found.
type Function[IN, OUT any] interface {
	// Open makes the caller of one subtask. It may block, for example to connect or to check the
	// model. It should return when ctx ends. The caller reports to done, which is valid until Close
	// has returned.
	Open(ctx context.Context, sub Subtask, done Completer[OUT]) (Caller[IN, OUT], error)
}

// Caller starts calls for one subtask. Its methods are called from one goroutine at a time. Call
// and Cancel must not block.
type Caller[IN, OUT any] interface {
	// Call starts a call for each element of batch. The operator reuses the slice when Call has
	// returned. The caller may keep the records in it until their completion. When the slice ends,
	// the operator has no more input for now, so a caller that gathers records into requests should
	// send what it has, if its own limits allow it.
	Call(batch []Call[IN])
	// Cancel says that these calls are no longer needed. Their records have an outcome because they
	// timed out, or the operator has failed or closes. Later completions of them are ignored, so a
	// caller need not stop the calls.
	Cancel(ids []CallID)
	// Close cancels what is in flight and releases everything. When it returns, no goroutine, timer
	// or connection of the caller is left. It may block for as long as that takes. It is
	// idempotent.
	Close() error
}

// Completer takes the outcomes of calls. Its methods may be called from any goroutine, also from
// inside Call. They never block.
type Completer[OUT any] interface {
	// Complete reports outcomes. The operator is woken once for the whole slice. The caller may
	// reuse the slice when Complete has returned. The first completion of an attempt counts. Later
	// ones, and those of earlier attempts, are ignored.
	Complete([]Completion[OUT])
	// Suspend says that no call can be made for now, for example because the connection is lost,
	// and why. The operator makes no calls until Resume. The records that wait meanwhile are held:
	// their timers stand still, for at most Config.Hold.
	Suspend(reason error)
	// Resume says that calls can be made again.
	Resume()
	// Fail reports that a user's function broke in a way that is not the fault of any record. The
	// operator fails with why, as if Call had panicked (A9).
	Fail(why error)
	// ResultsFull reports whether the results that wait for their turn have more bytes than
	// Config.MaxBytes. A caller that holds calls which it has not begun should then complete them
	// with ErrUnmade, so that they do not become results for which there is no room. If no
	// other call is in progress, it begins the oldest one, because the results may wait for it.
	ResultsFull() bool
}

// Subtask describes one parallel instance of an operator, or of a sink.
type Subtask struct {
	// Job is the name of the job. It is empty outside of a job.
	Job string
	// Operator is the operator's name within its job.
	Operator string
	// Index is the number of the subtask, from 0. Parallelism is the number of subtasks.
	Index, Parallelism int
	// Run names the run of the job. A restore keeps it. It is empty outside of a job. Attempt
	// counts the starts of the run before this one, which are its restarts and resumptions, from 0.
	Run     string
	Attempt int
	// Config is the operator's configuration with every default filled in. It is not set for a
	// sink.
	Config Config
	// Logger is never nil.
	Logger *slog.Logger
}

// CallID identifies one attempt for one record, so that the answer to one attempt is never taken
// for the answer to another. It has no meaning outside its operator.
type CallID struct {
	Entry   uint64
	Attempt uint32
}

// Call is one attempt for one record.
type Call[IN any] struct {
	ID CallID
	// Record is the record to call the function for. Its split, position, event time and key are
	// there for logs and metadata.
	Record Record[IN]
	// Deadline is when the record times out. The zero time means never. A hold may move it, so each
	// attempt has its own.
	Deadline time.Time
}

// Completion is the outcome of one attempt.
type Completion[OUT any] struct {
	ID CallID
	// Outputs are the results, 0 to n of them. They are ignored if Err is set.
	Outputs Outputs[OUT]
	// Err is the failure, or nil. An error that implements Failure says what it means to the
	// operator. Any other error has class Backend.
	Err error
}

// Outputs are the results of one record. The zero value is not set (IsSet). As a completion it
// means no result. From a timeout handler or a fallback it is an error.
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

// One makes Outputs of a single result. It does not allocate memory.
func One[OUT any](v OUT) Outputs[OUT] { return Outputs[OUT]{one: v, kind: outputsOne} }

// Many makes Outputs of any number of results, which are emitted in order. The operator keeps the
// slice.
func Many[OUT any](vs ...OUT) Outputs[OUT] { return Outputs[OUT]{many: vs, kind: outputsMany} }

// None makes Outputs without a result: the record is complete, and nothing is emitted for it.
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

// At returns result i, with 0 <= i < Len.
func (o *Outputs[OUT]) At(i int) OUT {
	if o.kind == outputsOne {
		return o.one
	}
	return o.many[i]
}

// bytes returns the size of the results.
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

// IsSet reports whether o was made by One, Many or None.
func (o *Outputs[OUT]) IsSet() bool { return o.kind != outputsUnset }
