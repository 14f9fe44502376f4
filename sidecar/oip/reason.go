package oip

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tensorferry/tensorferry/internal/brief"
)

// ErrorDomain is the domain of this package's reasons in google.rpc.ErrorInfo.
const ErrorDomain = "sidecar.tensorferry"

// The reasons of failures, each under the gRPC code that it comes with.
const (
	// ReasonQueueFull and ReasonMemoryPressure come with RESOURCE_EXHAUSTED. The server is
	// overloaded; wait and send less.
	ReasonQueueFull      = "QUEUE_FULL"
	ReasonMemoryPressure = "MEMORY_PRESSURE"
	// ReasonDraining and ReasonModelLoading come with UNAVAILABLE. The server did not accept the
	// request; wait until the server is ready.
	ReasonDraining     = "DRAINING"
	ReasonModelLoading = "MODEL_LOADING"
	// ReasonInterrupted comes with UNAVAILABLE. The server accepted the request and gave it up,
	// because it is stopping or because its callers do not read their answers. The model may have
	// run all of its rows, some or none. A client that does not know the reason treats it as a lost
	// connection.
	ReasonInterrupted = "INTERRUPTED"
	// ReasonQueueTimeout comes with DEADLINE_EXCEEDED. The request waited too long and was never
	// run.
	ReasonQueueTimeout = "QUEUE_TIMEOUT"
	// ReasonBadTensor, ReasonShapeMismatch and ReasonUnknownInput come with INVALID_ARGUMENT. The
	// record is at fault.
	ReasonBadTensor     = "BAD_TENSOR"
	ReasonShapeMismatch = "SHAPE_MISMATCH"
	ReasonUnknownInput  = "UNKNOWN_INPUT"
	// ReasonModelNotFound and ReasonVersionMismatch come with NOT_FOUND. The configuration is at
	// fault. Older servers send the second one with FAILED_PRECONDITION.
	ReasonModelNotFound   = "MODEL_NOT_FOUND"
	ReasonVersionMismatch = "VERSION_MISMATCH"
	// ReasonModelLoadFailed comes with FAILED_PRECONDITION. The configuration is at fault.
	ReasonModelLoadFailed = "MODEL_LOAD_FAILED"
	// ReasonUnsupportedFeature comes with UNIMPLEMENTED. The client must do without the feature.
	ReasonUnsupportedFeature = "UNSUPPORTED_FEATURE"
	// ReasonBackendError comes with INTERNAL. The model failed.
	ReasonBackendError = "BACKEND_ERROR"
	// ReasonBadOutput comes with DATA_LOSS. The model's answer has wrong rows or shapes.
	ReasonBadOutput = "BAD_OUTPUT"
)

// Keys of the metadata of google.rpc.ErrorInfo.
const (
	MetaModel     = "model"
	MetaRequestID = "request_id"
)

// Option adds a detail to the status that [Error] makes.
type Option func(*statusDetails)

type statusDetails struct {
	metadata   map[string]string
	retry      *errdetails.RetryInfo
	violations []*errdetails.BadRequest_FieldViolation
}

// WithMetadata adds one entry to the ErrorInfo, such as the model, the request's id or a limit.
func WithMetadata(key, value string) Option {
	return func(d *statusDetails) {
		if d.metadata == nil {
			d.metadata = make(map[string]string)
		}
		d.metadata[key] = clean(value)
	}
}

// WithRetryAfter adds a RetryInfo: the client should wait for this long. A negative delay counts as
// 0.
func WithRetryAfter(delay time.Duration) Option {
	return func(d *statusDetails) { d.retry = &errdetails.RetryInfo{RetryDelay: durationpb.New(max(delay, 0))} }
}

// WithBadRows adds a BadRequest that names the rows at fault, numbered from 0 within the request.
// input is the tensor that shows the fault, or the model's first one if no single tensor shows it.
// Only the first row has the description, because a status travels in trailers, which must be
// short.
func WithBadRows(input, description string, rows ...int) Option {
	return func(d *statusDetails) {
		for i, row := range rows {
			v := &errdetails.BadRequest_FieldViolation{Field: fmt.Sprintf("inputs[%s].rows[%d]", clean(input), row)}
			if i == 0 {
				v.Description = clean(description)
			}
			d.violations = append(d.violations, v)
		}
	}
}

// WithBadInput adds a BadRequest that names one whole tensor as being at fault.
func WithBadInput(input, description string) Option {
	return func(d *statusDetails) {
		d.violations = append(d.violations, &errdetails.BadRequest_FieldViolation{
			Field: fmt.Sprintf("inputs[%s]", clean(input)), Description: clean(description)})
	}
}

// Error returns a gRPC status error with an ErrorInfo of the given reason and the details that the
// options add. The message is for people. Code OK is a mistake and becomes INTERNAL.
func Error(code codes.Code, reason, message string, opts ...Option) error {
	var d statusDetails
	for _, o := range opts {
		o(&d)
	}
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason, Domain: ErrorDomain, Metadata: d.metadata}}
	if d.retry != nil {
		details = append(details, d.retry)
	}
	if d.violations != nil {
		details = append(details, &errdetails.BadRequest{FieldViolations: d.violations})
	}
	st := status.New(code, clean(message))
	with, err := st.WithDetails(details...)
	if err != nil {
		// Only code OK cannot have details. It is the caller's mistake.
		return status.Error(codes.Internal, fmt.Sprintf("%s (%s) is not an error: %s", code, reason, message))
	}
	return with.Err()
}

// clean makes text valid UTF-8, which protobuf strings must be.
func clean(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// Violation is one fault of a request: the field at fault and what is wrong with it.
type Violation struct{ Field, Description string }

// Details is what a failed call says. The details of the status are zero if the server, or the
// transport, sent none. A text has at most 4 KiB, and most have far less. A text that was longer
// ends with its original length.
type Details struct {
	Code    codes.Code
	Message string
	// Reason and Domain are those of the ErrorInfo. A reason has the meaning that the constants
	// here give it only if Domain is ErrorDomain.
	Reason, Domain string
	Metadata       map[string]string
	// RetryAfter is how long the server asks the client to wait. 0: the server did not say.
	RetryAfter time.Duration
	// BadRows are the rows at fault, each once and ascending, numbered from 0 within the request.
	BadRows    []int
	Violations []Violation
}

// Ours reports whether the reason is one of this package's.
func (d *Details) Ours() bool { return d.Domain == ErrorDomain }

// Parse reads what a failed call says. err may be wrapped. An error without a gRPC status, such as
// a context's, becomes the code that gRPC has for it, or UNKNOWN. A nil error becomes OK.
func Parse(err error) Details {
	st, ok := status.FromError(err)
	if !ok {
		st = status.FromContextError(err)
	}
	d := Details{Code: st.Code(), Message: brief.Text(st.Message())}
	for _, any := range st.Details() {
		switch m := any.(type) {
		case *errdetails.ErrorInfo:
			d.Reason, d.Domain, d.Metadata = brief.Cut(m.Reason, maxName), brief.Cut(m.Domain, maxName), shortMap(m.Metadata)
		case *errdetails.RetryInfo:
			if m.RetryDelay.IsValid() {
				d.RetryAfter = max(m.RetryDelay.AsDuration(), 0)
			}
		case *errdetails.BadRequest:
			for _, v := range m.FieldViolations {
				if n := len(d.Violations); n < maxListed {
					most := maxName
					if n == 0 {
						most = brief.Most
					}
					d.Violations = append(d.Violations, Violation{Field: brief.Cut(v.GetField(), maxName), Description: brief.Cut(v.GetDescription(), most)})
				}
				if row, ok := badRow(v.GetField()); ok {
					d.BadRows = append(d.BadRows, row)
				}
			}
		}
	}
	slices.Sort(d.BadRows)
	d.BadRows = slices.Compact(d.BadRows)
	return d
}

// Bounds for the details of a status that are kept.
const (
	// bytes of a name, of a value, and of each violation's description except the first
	maxName   = 1 << 8
	maxListed = 64 // violations, and entries of metadata
	maxStatus = 16 << 10
)

func shortMap(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, min(len(m), maxListed))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if len(out) < maxListed {
			out[brief.Cut(k, maxName)] = brief.Cut(m[k], maxName)
		}
	}
	return out
}

// Shorten returns the error of a call. If the server said more than Parse keeps, Shorten makes a
// new error from what Parse keeps, which is safe to log and to pass on.
func Shorten(err error) error {
	st, ok := status.FromError(err)
	if err == nil || ok && len(st.Message()) <= brief.Most && proto.Size(st.Proto()) <= maxStatus {
		return err
	}
	if !ok && len(err.Error()) <= brief.Most {
		return err
	}
	d := Parse(err)
	short := status.New(d.Code, d.Message)
	var details []protoadapt.MessageV1
	if d.Reason != "" || d.Domain != "" {
		details = append(details, &errdetails.ErrorInfo{Reason: d.Reason, Domain: d.Domain, Metadata: d.Metadata})
	}
	if d.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(d.RetryAfter)})
	}
	if d.Violations != nil {
		bad := &errdetails.BadRequest{}
		for _, v := range d.Violations {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Description})
		}
		details = append(details, bad)
	}
	if with, err := short.WithDetails(details...); err == nil {
		short = with
	}
	return short.Err()
}

// badRow reads the number 17 in inputs[NAME].rows[17]. The name may hold any characters.
func badRow(field string) (int, bool) {
	rest, ok := strings.CutPrefix(field, "inputs[")
	if !ok {
		return 0, false
	}
	at := strings.LastIndex(rest, "].rows[")
	if at < 0 || !strings.HasSuffix(rest, "]") {
		return 0, false
	}
	digits := rest[at+len("].rows[") : len(rest)-1]
	row, err := strconv.ParseUint(digits, 10, 31)
	return int(row), err == nil
}
