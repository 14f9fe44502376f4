package async

import (
	"errors"
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/internal/enum"
	"github.com/tensorferry/tensorferry/internal/guard"
)

// Class says what a failure is about, and so what can be done about it.
type Class uint8

const (
	// Backend: the other side failed on this record. An error that is not a Failure has this class.
	Backend Class = iota
	// BadRecord: the record itself is at fault. It cannot be encoded, or the model refuses its
	// content. It is never retried. If its action is Fail, the job ends without a restart, since a
	// replay would meet the record again.
	BadRecord
	// Timeout: there was no outcome within Config.Timeout.
	Timeout
	// Overload: the other side had no room for longer than Config.Hold.
	Overload
	// Transport: the other side was out of reach for longer than Config.Hold.
	Transport
	// Permanent: the configuration is wrong, for example the model does not exist or access is
	// denied. It is never retried. If its action is Fail, the job ends without a restart, which
	// would not help.
	Permanent
)

var classes = []string{"backend", "record", "timeout", "overload", "transport", "permanent"}

func (c Class) String() string { return enum.Name("class", c, classes) }

// Verdict says what a failure means to the operator.
type Verdict struct {
	Class Class
	// Hold: the call does not count as an attempt. The record waits while its timer stands still.
	// It is called again after RetryAfter or, if the caller is suspended, when the caller resumes.
	// With a RetryAfter of 0 the operator chooses the delay: 50 ms at first, growing to 2 s.
	Hold bool
	// RetryAfter is the delay that the other side asked for. It is used only with Hold.
	RetryAfter time.Duration
	// Lost is how much of the record's time passed while the other side could not answer, as on a
	// connection that went silent. It does not count against the record's timeout. It is used only
	// with Hold.
	Lost time.Duration
	// Unmade: the call never began, and no side refused the record. The record is called again when
	// its turn comes. Its timer stands still until then.
	Unmade bool
	// Retry: the failure is transient, so the default retry applies.
	Retry bool
}

// ErrUnmade is the error with which a caller completes a call that it never began (see
// Completer.ResultsFull).
var ErrUnmade Failure = unmade{}

type unmade struct{}

func (unmade) Error() string    { return "the call was returned before it began" }
func (unmade) Verdict() Verdict { return Verdict{Class: Transport, Unmade: true} }

// Failure is an error that says what it means to the operator. It is found with errors.As, so it
// may be wrapped.
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
	// ErrTimeout: the record's time was over, as Config.Timeout bounds it.
	ErrTimeout = errors.New("no answer within the timeout")
	// ErrHold: the record was held for as long as Config.Hold allows.
	ErrHold = errors.New("held for as long as allowed")
	// ErrHandlerSilent: a timeout handler returned neither outputs nor an error.
	ErrHandlerSilent = errors.New("the timeout handler returned neither outputs nor an error; return One, Many, None or an error")
)

// RecordError is the failure of one record. It says which record failed, how often it was called
// and why it failed.
type RecordError struct {
	Operator string
	Subtask  int
	Split    int
	Position int64
	// Attempts is the number of calls that were made for the record. Calls that ended in a hold are
	// not counted.
	Attempts int
	// Starved reports that the record had fewer retries than Retry.Max, because the Retry.Budget
	// was empty.
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

// PanicError is the failure of a user's function that panicked or ended its goroutine with
// runtime.Goexit. It also stands for an error of such a function whose own methods do that, as the
// methods of a nil pointer may. Its fields are Where (string), the name of the function; Value
// (any), the value of the panic, or ErrGoexit if the goroutine was ended; and Stack ([]byte), the
// goroutine's stack at that moment. It wraps Value if that is an error.
type PanicError = guard.Panic

// ErrGoexit is the Value of a PanicError if the function ended its goroutine.
var ErrGoexit = guard.ErrGoexit

// Failed is a record that failed for good, with its failure.
type Failed[IN any] struct {
	Record Record[IN]
	Class  Class
	// Err is the record's failure, a *RecordError.
	Err error
	// Attempts is the number of calls that were made for the record. Calls that ended in a hold are
	// not counted.
	Attempts int
	// At is when it failed.
	At time.Time
}
