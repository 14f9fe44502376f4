package sidecar

import (
	"errors"
	"strings"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// The failures that an Error can report. Test for them with errors.Is.
var (
	// ErrOverloaded: the server has no room for the request at present.
	ErrOverloaded = errors.New("the server is overloaded")
	// ErrUnreachable: there is no connection, or it was lost before the answer.
	ErrUnreachable = errors.New("the server is out of reach")
	// ErrNotReady: the server is stopping, or still loads the model.
	ErrNotReady = errors.New("the server or its model is not ready")
	// ErrTooLarge: one record alone makes a message that one of the sides refuses.
	ErrTooLarge = errors.New("the message is too large")
	// ErrBadRecord: the codec or the model refuses the record's content.
	ErrBadRecord = errors.New("the record is bad")
	// ErrTimeout: no answer arrived in time.
	ErrTimeout = errors.New("the request ran out of time")
	// ErrBackend: the model failed on the record.
	ErrBackend = errors.New("the model failed")
	// ErrBadOutput: the tensors in the answer are not those that the model declares.
	ErrBadOutput = errors.New("the answer does not fit the model's outputs")
	// ErrCancelled: the server, or something on the way to it, cancelled the request.
	ErrCancelled = errors.New("the request was cancelled")
	// ErrPermanent matches every error of class async.Permanent. The errors below it say which one
	// it is.
	ErrPermanent = errors.New("no retry or restart helps")
	// ErrModelNotFound: the server does not have the model or the version.
	ErrModelNotFound = errors.New("the server has no such model")
	// ErrModelUnusable: the server has the model but cannot run it, or requests cannot use it.
	ErrModelUnusable = errors.New("the model cannot be used")
	// ErrMismatch: the codec does not fit the model's inputs and outputs.
	ErrMismatch = errors.New("the codec does not fit the model")
	// ErrUnsupported: the server does not know the call.
	ErrUnsupported = errors.New("the server does not support this")
	// ErrUntrusted: one side does not trust the other's certificate, or does not speak TLS.
	ErrUntrusted = errors.New("no trusted connection to the server can be made")
	// ErrUnauthorized: the server refuses this client.
	ErrUnauthorized = errors.New("the server refuses this client")
)

// Error is a failure of a call to a sidecar. Find it with errors.As, and test its kind with
// errors.Is and the errors above. It implements async.Failure, so that the operator knows what to
// do. It never changes after it was made: records of one request may share it.
type Error struct {
	// Code is the status that ended the request. If nothing was sent, for example because the codec
	// refused the record, it is the code that a server would have used.
	Code Code
	// Reason is the server's own name for the failure (QUEUE_FULL, BAD_TENSOR, ...). Empty: the
	// server gave none.
	Reason string
	// Message says what happened, in the words of the side that noticed it.
	Message string
	// Model and Endpoint are the configured ones. RequestID is empty if nothing was sent.
	Model, Endpoint, RequestID string
	// RetryAfter is how long the server asks the client to wait. 0: the server did not say.
	RetryAfter time.Duration
	// Class is the kind of failure, which decides what the operator does with the record.
	Class async.Class

	kind        error // one of the errors above
	hold, retry bool
	strange     bool          // a proxy or grpc ended the call, not the server
	lost        time.Duration // since the connection went silent
	advice      string
	cause       error
}

// Error says where the call failed, what happened and what to do about it.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("sidecar ")
	b.WriteString(e.Endpoint)
	if e.Model != "" {
		b.WriteString(", model ")
		b.WriteString(e.Model)
	}
	if e.RequestID != "" {
		b.WriteString(", request ")
		b.WriteString(e.RequestID)
	}
	b.WriteString(": ")
	if e.kind != nil { // nil in an Error made outside this package
		b.WriteString(e.kind.Error())
	} else {
		b.WriteString("failed")
	}
	b.WriteString(" (")
	b.WriteString(string(e.Code))
	if e.Reason != "" {
		b.WriteString(", ")
		b.WriteString(e.Reason)
	}
	b.WriteString("): ")
	b.WriteString(e.Message)
	if e.advice != "" {
		b.WriteString("; ")
		b.WriteString(e.advice)
	}
	return b.String()
}

// Verdict implements async.Failure.
func (e *Error) Verdict() async.Verdict {
	return async.Verdict{Class: e.Class, Hold: e.hold, RetryAfter: e.RetryAfter, Lost: e.lost, Retry: e.retry}
}

// Is reports whether target is the kind of e, an error of this package, or ErrPermanent if the
// class is async.Permanent.
func (e *Error) Is(target error) bool {
	return target == e.kind || (target == ErrPermanent && e.Class == async.Permanent)
}

// Unwrap returns the cause of the failure: the codec's error, or the gRPC status.
func (e *Error) Unwrap() error { return e.cause }

// Code is the status of a request, under its gRPC name.
type Code string

// The codes. A code alone does not say what a failure means, because servers use codes differently.
// Use errors.Is, or Error.Class.
const (
	Cancelled          Code = "CANCELLED"
	Unknown            Code = "UNKNOWN"
	InvalidArgument    Code = "INVALID_ARGUMENT"
	DeadlineExceeded   Code = "DEADLINE_EXCEEDED"
	NotFound           Code = "NOT_FOUND"
	AlreadyExists      Code = "ALREADY_EXISTS"
	PermissionDenied   Code = "PERMISSION_DENIED"
	ResourceExhausted  Code = "RESOURCE_EXHAUSTED"
	FailedPrecondition Code = "FAILED_PRECONDITION"
	Aborted            Code = "ABORTED"
	OutOfRange         Code = "OUT_OF_RANGE"
	Unimplemented      Code = "UNIMPLEMENTED"
	Internal           Code = "INTERNAL"
	Unavailable        Code = "UNAVAILABLE"
	DataLoss           Code = "DATA_LOSS"
	Unauthenticated    Code = "UNAUTHENTICATED"
)

// codeNames is indexed by gRPC's numbers.
var codeNames = [...]Code{"OK", Cancelled, Unknown, InvalidArgument, DeadlineExceeded, NotFound, AlreadyExists,
	PermissionDenied, ResourceExhausted, FailedPrecondition, Aborted, OutOfRange, Unimplemented, Internal,
	Unavailable, DataLoss, Unauthenticated}

// codeName returns the name of a code from the wire, which may be any number.
func codeName(n uint32) Code {
	if n >= uint32(len(codeNames)) {
		return Unknown
	}
	return codeNames[n]
}
