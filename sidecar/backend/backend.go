// Package backend is the contract between the sidecar's server and the code that runs a model. A
// backend loads a model from a location, describes its tensors, and runs batches of rows: implement
// [Loader] and [Model]. Each kind of backend is a package below this one. A program has those that
// its main function puts into a [Registry].
//
// The contract costs nothing itself: tensors are passed as they lie in memory. Do not use it to
// call a model in another process; package sidecar does that.
//
// A backend must never know where a batch came from: no requests, no callers, no queue and no gRPC
// beyond its list of status codes.
package backend

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/tensor"
)

// Model is a loaded model. The server calls Run from several goroutines, at most Instances at once.
type Model interface {
	// Signature describes the model's inputs and outputs. It never changes. A MaxBatch of 0 means
	// that the model takes batches of any size.
	Signature() tensor.Signature
	// Instances is the number of Run calls that may be in progress at once, at least 1.
	Instances() int
	// Run answers one batch. The inputs are those of the signature, in its order and checked
	// against it. If the signature is Batched, their shapes begin with the number of rows. The
	// inputs belong to the server again when Run returns. The outputs are those of the signature,
	// in its order and raw. They belong to the server, may share memory with the inputs, and are
	// checked by it.
	//
	// Run should return soon after ctx has ended, because the answer is not needed any more. An
	// error may be a *RowsError, a *TensorError or an *Error, also wrapped. Any other error means
	// that the model failed for an unknown reason. A panic counts as such an error.
	Run(ctx context.Context, inputs []tensor.Tensor) ([]tensor.Tensor, error)
	// Close frees everything that the model holds. It is called once, when no Run is in progress.
	Close() error
}

// Unwarmed may be implemented by a Model that must not always be run before requests run it:
// because its runs are counted, or because it does not take rows of zeros and empty strings.
type Unwarmed interface {
	// NoWarmUp reports whether the server must leave out the warm-up.
	NoWarmUp() bool
}

// Loader loads models of one kind. It must be safe for concurrent use.
type Loader interface {
	// Load loads the model at loc. It may take long, and should give up when ctx ends. An unknown
	// option must be an error (Location.CheckOptions).
	Load(ctx context.Context, loc Location) (Model, error)
}

// Checker may be implemented by a Loader that can find what is wrong with a location's options
// without loading anything.
type Checker interface {
	Check(loc Location) error
}

// LoaderFunc is a function as a Loader.
type LoaderFunc func(ctx context.Context, loc Location) (Model, error)

// Load calls f.
func (f LoaderFunc) Load(ctx context.Context, loc Location) (Model, error) { return f(ctx, loc) }

// RowsError says that the model refuses the content of some rows of a batch, and which ones. The
// server fails the requests that these rows belong to with INVALID_ARGUMENT, names the rows, and
// runs the others again. A backend that cannot tell which rows are at fault returns another error.
// The server then finds the rows by halving the batch.
type RowsError struct {
	// Rows are the numbers of the rows within the batch, from 0.
	Rows []int
	// Input is the name of the tensor at fault; empty: the first one.
	Input string
	// Err says what is wrong with them.
	Err error
}

func (e *RowsError) Error() string {
	return fmt.Sprintf("the model refuses %d row(s) of the batch: %v", len(e.Rows), e.Err)
}

// Unwrap returns Err.
func (e *RowsError) Unwrap() error { return e.Err }

// TensorError says that the model refuses a whole tensor, although it agrees with the signature.
type TensorError struct {
	// Input is the tensor's name.
	Input string
	// Err says what is wrong with it.
	Err error
}

func (e *TensorError) Error() string { return fmt.Sprintf("input %q: %v", e.Input, e.Err) }

// Unwrap returns Err.
func (e *TensorError) Unwrap() error { return e.Err }

// Error is a failure with a status of its own, for a backend that knows what its failure means to
// the caller, such as RESOURCE_EXHAUSTED with reason MEMORY_PRESSURE. With the codes
// INVALID_ARGUMENT, INTERNAL, DATA_LOSS and UNKNOWN the failure is about the content of the batch,
// and the server looks for the rows at fault. With any other code it is about the whole batch, and
// all requests in it get it.
type Error struct {
	// Code is the status code; OK and values out of range count as INTERNAL.
	Code codes.Code
	// Reason is the ErrorInfo's reason. Empty: none, as from a foreign server.
	Reason string
	// Message says what happened and what to do.
	Message string
	// RetryAfter is how long the caller should wait before it tries again. 0: not stated.
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("%v %s", e.Code, e.Reason)
	}
	return e.Message
}
