package sidecar

import (
	"errors"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// rule is one row of the table of failures: which failures it matches, and what they mean.
type rule struct {
	code   codes.Code
	reason string // in our own error domain; empty: any or none
	text   string // part of the message, in any case; empty: any message

	kind  error
	class async.Class
	do    action
	retry bool // the default retry applies to a row that fails
	help  string
}

// action is what the channel does about a request that failed.
type action uint8

const (
	// failRows: every row has failed.
	failRows action = iota
	// holdRows: the rows have not failed. They go back to the operator to wait (A40, A41).
	holdRows
	// lostRows: like holdRows, and the connection may be lost.
	lostRows
	// findRow: the content of some row is at fault. Find it (A42).
	findRow
	// splitRows: the message is too large. Send fewer rows in one.
	splitRows
	// misfit: the request does not fit the model, whatever its rows contain. All rows fail
	// permanently.
	misfit
)

// The first rule that matches counts. Within a code, rules that match the text of a server or of
// grpc come first, and the rule for the code alone comes last.
var rules = [...]rule{
	{codes.ResourceExhausted, oip.ReasonQueueFull, "", ErrOverloaded, async.Overload, holdRows, false, ""},
	{codes.ResourceExhausted, oip.ReasonMemoryPressure, "", ErrOverloaded, async.Overload, holdRows, false, ""},
	// grpc in Go, C++, Python and Node; in Java; in .NET; in Rust.
	{codes.ResourceExhausted, "", "larger than max", ErrTooLarge, async.BadRecord, splitRows, false, helpSize},
	{codes.ResourceExhausted, "", "message exceeds maximum size", ErrTooLarge, async.BadRecord, splitRows, false, helpSize},
	{codes.ResourceExhausted, "", "message exceeds the maximum configured message size", ErrTooLarge, async.BadRecord, splitRows, false, helpSize},
	{codes.OutOfRange, "", "message length too large", ErrTooLarge, async.BadRecord, splitRows, false, helpSize},
	{codes.ResourceExhausted, "", "message length too large", ErrTooLarge, async.BadRecord, splitRows, false, helpSize},
	{codes.ResourceExhausted, "", "", ErrOverloaded, async.Overload, holdRows, false, ""},

	{codes.Unavailable, oip.ReasonDraining, "", ErrNotReady, async.Transport, holdRows, false, ""},
	{codes.Unavailable, oip.ReasonModelLoading, "", ErrNotReady, async.Transport, holdRows, false, ""},
	{codes.Unavailable, oip.ReasonInterrupted, "", ErrUnreachable, async.Transport, lostRows, false, ""},
	// Triton's queue policies answer UNAVAILABLE. So did the model repository of older
	// versions.
	{codes.Unavailable, "", "exceeds maximum queue size", ErrOverloaded, async.Overload, holdRows, false, ""},
	{codes.Unavailable, "", "request timeout expired", ErrTimeout, async.Timeout, failRows, true,
		"the request waited too long in the server's queue; add instances of the model, or raise the timeout of its queue policy"},
	{codes.Unavailable, "", "is not found", ErrModelNotFound, async.Permanent, failRows, false, helpModel},
	{codes.Unavailable, "", "request for unknown model", ErrNotReady, async.Transport, holdRows, false, ""},
	// KServe: the model is loading.
	{codes.Unavailable, "", "is not ready", ErrNotReady, async.Transport, holdRows, false, ""},
	// grpc: the call came after the server's GOAWAY, so the server never took it.
	{codes.Unavailable, "", "the stream is rejected because server is draining", ErrNotReady, async.Transport, holdRows, false, ""},
	{codes.Unavailable, "", "", ErrUnreachable, async.Transport, lostRows, false, helpReach},

	{codes.DeadlineExceeded, oip.ReasonQueueTimeout, "", ErrTimeout, async.Timeout, failRows, false,
		"the record waited in the server's queue for too long and was never run; add capacity or raise the server's queue timeout"},
	{codes.DeadlineExceeded, "", "", ErrTimeout, async.Timeout, failRows, false, ""},
	{codes.Canceled, "", "", ErrCancelled, async.Transport, holdRows, false,
		"the client did not cancel it; look at the server's log, and at proxies on the way"},

	// Input names come from the codec, not from the record.
	{codes.InvalidArgument, oip.ReasonUnknownInput, "", ErrMismatch, async.Permanent, misfit, false,
		"the codec was bound to a model with other inputs; start the job again to bind it to the new one"},
	// MLServer: the model is loading.
	{codes.InvalidArgument, "", "is not ready yet", ErrNotReady, async.Transport, holdRows, false, ""},
	// Triton: the client could not read the model's configuration at Open.
	{codes.InvalidArgument, "", "batch-size must be <=", ErrTooLarge, async.BadRecord, splitRows, false,
		"the server's model takes fewer rows in a request; lower max_batch"},
	{codes.InvalidArgument, "", "", ErrBadRecord, async.BadRecord, findRow, false, ""},
	{codes.OutOfRange, "", "", ErrBadRecord, async.BadRecord, findRow, false, ""},
	{codes.Internal, "", "", ErrBackend, async.Backend, findRow, true, ""},
	{codes.Unknown, "", "", ErrBackend, async.Backend, findRow, true, ""},
	{codes.Aborted, "", "", ErrBackend, async.Backend, findRow, true, ""},
	{codes.DataLoss, "", "", ErrBadOutput, async.Backend, findRow, false, ""},

	// Triton: the model is being loaded, or was unloaded.
	{codes.NotFound, "", "has no available versions", ErrNotReady, async.Transport, holdRows, false, ""},
	{codes.NotFound, "", "", ErrModelNotFound, async.Permanent, failRows, false, helpModel},
	{codes.FailedPrecondition, "", "", ErrModelUnusable, async.Permanent, failRows, false,
		"look at the server's log for why it cannot run this version of the model"},
	{codes.Unimplemented, "", "", ErrUnsupported, async.Permanent, failRows, false,
		"the endpoint must serve the Open Inference Protocol, version 2, over gRPC (inference.GRPCInferenceService)"},
	{codes.Unauthenticated, "", "", ErrUnauthorized, async.Permanent, failRows, false, "check the client certificate and the server's access rules"},
	{codes.PermissionDenied, "", "", ErrUnauthorized, async.Permanent, failRows, false, "check the client certificate and the server's access rules"},
}

const (
	helpModel = "check the model's name and version, and what the server has loaded"
	helpReach = "check that the server runs and listens there"
	helpProxy = "the answer does not come from the model server but from something before it; look at what listens there, and at the log and the routes of a proxy on the way"
	helpSize  = "raise the limit of the side that refuses it (client: max_message, in Go MaxMessageSize; our sidecar: --max-message), or make the record smaller"
)

// A call that ended without a status of the server's own was ended by something before the server.
// It may be a proxy that has lost the server for a moment, or is being reconfigured.
var (
	strangeStatus    = rule{kind: ErrUnreachable, class: async.Transport, do: lostRows, help: helpProxy}
	strangeEnd       = rule{kind: ErrUnreachable, class: async.Transport, do: holdRows, help: helpProxy}
	tooLargeForProxy = rule{kind: ErrTooLarge, class: async.BadRecord, do: splitRows,
		help: "raise the limit of the proxy that refuses it (nginx: client_max_body_size), or make the record smaller"}
	largeAnswer = rule{kind: ErrTooLarge, class: async.Backend, do: splitRows,
		help: "the model's answer is larger than the client accepts; raise the client's limit (max_message, in Go MaxMessageSize)"}
	largeToSend = rule{kind: ErrTooLarge, class: async.Backend, do: splitRows,
		help: "the model's answer is larger than the server may send; raise the server's limit, or lower max_batch"}
)

// otherwise applies if no rule matches.
var otherwise = rule{codes.Unknown, "", "", ErrBackend, async.Backend, findRow, true, ""}

// ruleFor finds the rule for a failure. A reason counts only in our own error domain; in another
// domain it may mean anything.
func ruleFor(d *oip.Details) *rule {
	reason := d.Reason
	if d.Domain != oip.ErrorDomain {
		reason = ""
	}
	text := strings.ToLower(d.Message)
	for i := range rules {
		r := &rules[i]
		if r.code == d.Code && (r.reason == "" || r.reason == reason) && (r.text == "" || reason == "" && strings.Contains(text, r.text)) {
			return r
		}
	}
	return &otherwise
}

// marks are the headers and trailers that a server itself has sent with an answer. A status without
// any does not come from the server: grpc, or something on the way, has ended the call.
type marks struct{ header, trailer metadata.MD }

// reset makes marks ready for another call.
func (m *marks) reset() { m.header, m.trailer = nil, nil }

// grpc's messages for a call that ended without a status of the server's own.
const (
	wordsHTTP  = "unexpected HTTP status code received from server: "
	wordsReset = "stream terminated by RST_STREAM with error code: "
	wordsEnd   = "server closed the stream without sending trailers"
)

// strange reports whether something other than the server ended a call, and how: with an HTTP
// status (otherwise 0), or with a reset.
func (m *marks) strange(message string) (httpStatus int, reset, yes bool) {
	if m == nil || len(m.trailer) > 0 {
		return 0, false, false
	}
	if rest, ok := strings.CutPrefix(message, wordsHTTP); ok {
		digits, _, _ := strings.Cut(rest, " ")
		n, _ := strconv.Atoi(digits)
		return n, false, true
	}
	reset = strings.HasPrefix(message, wordsReset)
	return 0, reset, reset || strings.HasPrefix(message, wordsEnd)
}

// failure says what a failed request means and what to do about it.
type failure struct {
	*Error
	do   action
	rows []int // the rows that the server names as bad, as indexes in the request
	// shared: a server that is not ours says only that its model failed. A server that batches
	// across requests says so of every request in the batch, so the fault may be in another
	// request.
	shared bool
	// unlikely: the request may have been refused for its size, with a message that the rules
	// do not know.
	unlikely bool
	// uncertain: the model may have run the rows, although the rule calls them again.
	uncertain bool
	// answered: the server has an answer, so the model has run the rows, but this side cannot
	// read it.
	answered bool
	// once: no row may be sent again.
	once bool
	// untouched: the request was refused before the model could see it.
	untouched bool
}

// understand turns the error of an RPC into a failure. m holds the headers and trailers that came
// with it; nil: they are not known.
func (p *peerName) understand(err error, requestID string, m *marks) failure {
	d := oip.Parse(err)
	r := ruleFor(&d)
	httpStatus, reset, strange := m.strange(d.Message)
	switch {
	case !strange || d.Code == codes.Unavailable:
	case httpStatus == 413:
		r = &tooLargeForProxy
	case httpStatus != 0:
		r = &strangeStatus
	default:
		r = &strangeEnd
	}
	spoiled := m.spoiled(&d)
	unsent, large := m.unsent(&d)
	switch {
	case large:
		r = &largeToSend
	case r.kind == ErrTooLarge && m != nil && len(m.header) > 0 && (spoiled || len(m.trailer) == 0):
		r = &largeAnswer // the answer began to arrive, and this side refused it
	}
	e := &Error{
		Code: codeName(uint32(d.Code)), Reason: d.Reason, Message: d.Message,
		Model: p.model, Endpoint: p.endpoint, RequestID: requestID,
		Class: r.class, kind: r.kind, retry: r.retry, advice: r.help, cause: err,
	}
	if r.do == holdRows || r.do == lostRows {
		e.hold, e.RetryAfter = true, d.RetryAfter
	}
	e.strange = strange && d.Code != codes.Unavailable
	return failure{
		Error: e, do: r.do, rows: d.BadRows, shared: r.class == async.Backend && r.do == findRow && d.Reason == "",
		unlikely:  reset || d.Reason == "" && (d.Code == codes.ResourceExhausted || d.Code == codes.Canceled) && r.do == holdRows,
		uncertain: strange || d.Code == codes.Canceled,
		answered:  spoiled || unsent || r == &largeAnswer,
		untouched: httpStatus >= 400 && httpStatus < 500,
	}
}

// held returns the same failure for calls that wait until it is over.
func (e *Error) held() *Error {
	c := *e
	c.hold, c.Class, c.retry = true, async.Transport, false
	return &c
}

// lostForGood returns the same failure for a call that must not be made again.
func (e *Error) lostForGood() *Error {
	c := *e
	c.hold, c.retry, c.RetryAfter = false, false, 0
	c.advice = "the request may have reached the model, and NonIdempotent forbids sending it again"
	return &c
}

// peerName names the server and the model of a channel in messages.
type peerName struct{ endpoint, model string }

// badRecord returns the failure of a record that the codec refuses. doing says what the codec was
// doing.
func (p *peerName) badRecord(doing string, err error) *Error {
	return &Error{
		Code: InvalidArgument, Message: doing + ": " + err.Error(), Model: p.model, Endpoint: p.endpoint,
		Class: async.BadRecord, kind: ErrBadRecord, cause: err,
	}
}

// badAnswer returns the failure of a record whose answer the codec cannot decode.
func (p *peerName) badAnswer(err error) *Error {
	e := p.badRecord("the codec cannot decode the answer", err)
	if errors.Is(err, tensor.ErrAnswer) {
		e.Code, e.Class, e.kind = Internal, async.Backend, ErrBackend
	}
	return e
}
