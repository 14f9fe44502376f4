package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/internal/brief"
	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// failure says why a request, or a row of it, failed. Its status is what the caller gets.
type failure struct {
	code    codes.Code
	reason  string // empty: the status has no details
	message string
	retry   time.Duration
	input   string // the tensor at fault, if it is known
}

func (f *failure) Error() string { return f.message }

// content reports whether the failure is about the content of rows. Other rows of the same batch
// may then succeed.
func (f *failure) content() bool {
	switch f.code {
	case codes.InvalidArgument, codes.Internal, codes.DataLoss, codes.Unknown:
		return true
	}
	return false
}

// The failures of requests that never ran.
var (
	errQueueTimeout = &failure{code: codes.DeadlineExceeded, reason: oip.ReasonQueueTimeout,
		message: "the request waited in the queue for as long as the server allows and was not run; send less, or give the server more capacity"}
	errCallerLate = &failure{code: codes.DeadlineExceeded, message: "the caller's deadline passed before the request was run"}
)

// draining returns the failure of a request that a stopping server does not take.
func (s *Server) draining() *failure {
	return &failure{code: codes.Unavailable, reason: oip.ReasonDraining, retry: s.cfg.RetryDelay,
		message: "the server is stopping and takes no new requests"}
}

var (
	// errClosed is for requests that come after the runner was closed, which should not happen.
	errClosed = &failure{code: codes.Unavailable, reason: oip.ReasonDraining, message: "the server has stopped"}
	// errInterrupted is for requests that a stopping server abandons after the model has had
	// rows of them.
	errInterrupted = &failure{code: codes.Unavailable, reason: oip.ReasonInterrupted,
		message: "the server is stopping and abandoned the request; the model may have run it"}
)

// failureOf makes a failure of a backend's error, and returns the rows that the error names.
func failureOf(err error) (*failure, []int) {
	if f, ok := errors.AsType[*failure](err); ok {
		return f, nil
	}
	if e, ok := errors.AsType[*backend.RowsError](err); ok {
		return &failure{code: codes.InvalidArgument, reason: oip.ReasonBadTensor, message: fmt.Sprint(e.Err), input: e.Input}, slices.Clone(e.Rows)
	}
	if e, ok := errors.AsType[*backend.TensorError](err); ok {
		return &failure{code: codes.InvalidArgument, reason: oip.ReasonBadTensor, message: e.Error(), input: e.Input}, nil
	}
	if e, ok := errors.AsType[*backend.Error](err); ok {
		f := &failure{code: e.Code, reason: e.Reason, message: e.Error(), retry: e.RetryAfter}
		if f.code == codes.OK || f.code > codes.Unauthenticated {
			f.code = codes.Internal
		}
		return f, nil
	}
	return &failure{code: codes.Internal, reason: oip.ReasonBackendError, message: err.Error()}, nil
}

// callerGone is the status of a request whose context has ended.
func callerGone(ctx context.Context) error { return status.FromContextError(ctx.Err()).Err() }

// Bounds on what a status holds, in bytes. A status travels in trailers. gRPC in C, and so in
// Python, takes 8 KiB of these and may refuse more; the caller would then lose the code too.
const (
	maxMessage     = 1 << 10
	maxDescription = 1 << 8
	maxNamed       = 2 << 10 // for the names of bad rows
)

// status returns the error that the caller of model gets.
func (f *failure) status(model, id string, opts ...oip.Option) error {
	message := brief.Cut(f.message, maxMessage)
	if f.reason == "" {
		return status.Error(f.code, strings.ToValidUTF8(message, "\uFFFD"))
	}
	if model != "" {
		opts = append(opts, oip.WithMetadata(oip.MetaModel, strings.ToValidUTF8(model, "\uFFFD")))
	}
	if id != "" {
		opts = append(opts, oip.WithMetadata(oip.MetaRequestID, id))
	}
	if f.retry > 0 {
		opts = append(opts, oip.WithRetryAfter(f.retry))
	}
	return oip.Error(f.code, f.reason, message, opts...)
}

// badRowsStatus returns the error of a request with rows that failed alone. A status has one code,
// so it names the rows that failed in the same way as the first, as far as there is room. The
// caller then sends the other rows again, and learns of other failures from that.
func badRowsStatus(r *request, model, id, firstInput string) (*failure, error) {
	slices.SortFunc(r.bad, func(a, b badRow) int { return cmp.Compare(a.row, b.row) })
	first, _ := failureOf(r.bad[0].err)
	var rows []int
	for _, b := range r.bad {
		if f, _ := failureOf(b.err); f.code == first.code && f.reason == first.reason {
			rows = append(rows, b.row)
		}
	}
	said := *first
	if r.rows > 1 {
		said.message = fmt.Sprintf("%s (row %s of %d)", brief.Cut(first.message, maxMessage-100), list(rows), r.rows)
	}
	input := cmp.Or(first.input, firstInput)
	rows = rows[:min(len(rows), 1+maxNamed/(len(input)+32))]
	return &said, said.status(model, id, oip.WithBadRows(input, brief.Cut(first.message, maxDescription), rows...))
}

// list writes the first few numbers, and how many more there are.
func list(rows []int) string {
	var b strings.Builder
	for i, r := range rows {
		if i == 8 {
			fmt.Fprintf(&b, " and %d more", len(rows)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(r))
	}
	return b.String()
}
