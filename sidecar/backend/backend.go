// Package backend is the contract between the sidecar's server and whatever runs
// a model: it loads a model from a location, describes its tensors and runs
// batches of rows. Each kind of backend is a package below this one; which of
// them a program has is decided by the Registry that its main function makes.
//
// A backend must never know where a batch came from: no requests, no callers,
// no queue and no gRPC beyond its list of status codes.
package backend

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/tensor"
)

// Model is a loaded model.
type Model interface {
	// Signature describes the model's inputs and outputs. It never changes. A
	// MaxBatch of 0 means that the model takes batches of any size.
	Signature() tensor.Signature
	// Instances is the number of Run calls that may be under way at once, at
	// least 1.
	Instances() int
	// Run answers one batch. The inputs are those of the signature, in its order
	// and checked against it; their shapes begin with the number of rows if the
	// signature is Batched. They belong to the server again when Run returns. The
	// outputs are those of the signature, in its order and raw; they belong to
	// the server, may share memory with the inputs, and are checked by it.
	//
	// Run should return soon after ctx has ended: then nobody waits for the
	// answer. An error may be a *RowsError, a *TensorError or an *Error, also
	// wrapped; any other one means that the model failed and nothing is known
	// about why. A panic is the same as such an error.
	Run(ctx context.Context, inputs []tensor.Tensor) ([]tensor.Tensor, error)
	// Close gives everything back. It is called once, when no Run is under way.
	Close() error
}

// Unwarmed is what a Model may implement that is not always to be run before
// requests run it: because its runs are counted, or because rows of zeros and empty
// strings are nothing that it takes.
type Unwarmed interface {
	// NoWarmUp reports whether the server leaves out the warm-up.
	NoWarmUp() bool
}

// Loader loads models of one kind. It is safe for concurrent use.
type Loader interface {
	// Load loads the model at loc. It may take long, and should give up when ctx
	// ends. An option that it does not know is an error (Location.CheckOptions).
	Load(ctx context.Context, loc Location) (Model, error)
}

// Checker is implemented by a Loader that can say what is wrong with a location's options without
// loading anything.
type Checker interface {
	Check(loc Location) error
}

// LoaderFunc is a function as a Loader.
type LoaderFunc func(ctx context.Context, loc Location) (Model, error)

// Load calls f.
func (f LoaderFunc) Load(ctx context.Context, loc Location) (Model, error) { return f(ctx, loc) }

// RowsError says that the model refuses some rows of a batch for what they
// hold, and which. The server fails the requests that these rows belong to,
// with INVALID_ARGUMENT and the rows' names, and runs the others again. A
// backend that cannot tell which rows are at fault returns another error, and the
// server finds them by halving the batch.
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

// TensorError says that a tensor as a whole is nothing that the model takes,
// although it agrees with the signature.
type TensorError struct {
	// Input is the tensor's name.
	Input string
	// Err says what is wrong with it.
	Err error
}

func (e *TensorError) Error() string { return fmt.Sprintf("input %q: %v", e.Input, e.Err) }

// Unwrap returns Err.
func (e *TensorError) Unwrap() error { return e.Err }

// Error is a failure with a status of its own, for a backend that knows what its
// failure means to the caller, as RESOURCE_EXHAUSTED with reason MEMORY_PRESSURE.
// With the codes INVALID_ARGUMENT, INTERNAL, DATA_LOSS and UNKNOWN the failure is
// about what the batch holds, and the server looks for the rows at fault; with
// any other one it is about the batch, whose requests all get it.
type Error struct {
	// Code is the status code; OK and values out of range count as INTERNAL.
	Code codes.Code
	// Reason is the ErrorInfo's reason; empty: none, as from a foreign server.
	Reason string
	// Message says what happened and what to do.
	Message string
	// RetryAfter is how long to wait before trying again; 0: not said.
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("%v %s", e.Code, e.Reason)
	}
	return e.Message
}
