package async

import (
	"errors"
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/internal/enum"
	"github.com/tensorferry/tensorferry/internal/guard"
)

// Class is what a failure is about, and so what can be done about it.
type Class uint8

const (
	// Backend: the other side failed on this record. The class of an error that
	// says nothing about itself.
	Backend Class = iota
	// BadRecord: the record itself is at fault (it cannot be encoded, the model
	// refuses its content). Never retried; ends the job under policy fail, since
	// a replay would only meet it again.
	BadRecord
	// Timeout: no outcome within Config.Timeout.
	Timeout
	// Overload: the other side had no room for longer than Config.Hold.
	Overload
	// Transport: the other side was out of reach for longer than Config.Hold.
	Transport
	// Permanent: configuration (model not found, not authorised). Never retried,
	// and no restart helps.
	Permanent
)

var classes = []string{"backend", "record", "timeout", "overload", "transport", "permanent"}

func (c Class) String() string { return enum.Name("class", c, classes) }

// Verdict is what a failure means to the operator.
type Verdict struct {
	Class Class
	// Hold: not an attempt. The record waits, its timer standing still, and is
	// called again after RetryAfter (0: the operator's own backoff), or, while the
	// caller is suspended, when it resumes.
	Hold bool
	// RetryAfter is the other side's own wish. It is used with Hold.
	RetryAfter time.Duration
	// Lost is how much of the record's time has passed since nobody was there to answer, as on a
	// connection that has gone silent. A record that is held gets it back. It is used with Hold.
	Lost time.Duration
	// Unmade: the call never began. The record is called again in its turn, its timer standing
	// still until then; nobody has refused it.
	Unmade bool
	// Retry: transient, so the default retry applies.
	Retry bool
}

// ErrUnmade completes a call that never began (Crowd).
var ErrUnmade Failure = unmade{}

type unmade struct{}

func (unmade) Error() string    { return "the call was given back before it began" }
func (unmade) Verdict() Verdict { return Verdict{Class: Transport, Unmade: true} }

// Failure is an error that knows what it means to the operator. It is found by
// errors.As, so it may be wrapped.
type Failure interface {
	error
	Verdict() Verdict
}

// VerdictOf returns what err means to the operator. An error whose own methods panic has class
// Backend.
func VerdictOf(err error) (v Verdict) {
	defer func() {
		if recover() != nil {
			v = Verdict{Class: Backend}
		}
	}()
	if f, ok := errors.AsType[Failure](err); ok {
		return f.Verdict()
	}
	return Verdict{Class: Backend}
}

// Errors that a *RecordError may wrap.
var (
	// ErrTimeout: the record's time was over.
	ErrTimeout = errors.New("no answer within the timeout")
	// ErrHold: the record was held for as long as Config.Hold allows.
	ErrHold = errors.New("held for as long as allowed")
	// ErrHandlerSilent: a timeout handler returned neither outputs nor an error.
	ErrHandlerSilent = errors.New("the timeout handler completed nothing; return One, Many, None or an error")
)

// RecordError is the failure of one record: which one, how often it was tried
// and why it failed.
type RecordError struct {
	Operator string
	Subtask  int
	Split    int
	Position int64
	// Attempts is the number of calls that were made for the record; those that
	// ended in a hold are not counted.
	Attempts int
	// Starved says that it had fewer retries than Retry.Max, since Retry.Budget had none left.
	Starved bool
	Class   Class
	Err     error
}

func (e *RecordError) Error() string {
	starved := ""
	if e.Starved {
		starved = ", with no retry left in the budget"
	}
	return fmt.Sprintf("%s: record at split %d, position %d failed after %d attempt(s)%s (class %s): %v",
		e.Operator, e.Split, e.Position, e.Attempts, starved, e.Class, e.Err)
}

func (e *RecordError) Unwrap() error { return e.Err }

// Verdict makes a RecordError a Failure.
func (e *RecordError) Verdict() Verdict { return Verdict{Class: e.Class} }

// PanicError is a panic of a user's function, caught and turned into a failure; or the end of its
// goroutine by runtime.Goexit; or an error of it whose own methods do one of these, as those of a
// nil pointer do. Its fields are Where (string), which names the function, Value (any), which it
// panicked with (ErrGoexit if it ended its goroutine), and Stack ([]byte), the goroutine's stack at
// that moment. It wraps Value if that is an error.
type PanicError = guard.Panic

// ErrGoexit is the Value of a PanicError of a function that ended its goroutine.
var ErrGoexit = guard.ErrGoexit

// Failed is a record that failed for good.
type Failed[IN any] struct {
	Record Record[IN]
	Class  Class
	// Err is the record's failure, a *RecordError.
	Err error
	// Attempts is the number of calls made for it; those that ended in a hold are not counted.
	Attempts int
	// At is when it failed.
	At time.Time
}
