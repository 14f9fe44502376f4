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

// rule is one row of the table of failures: which it matches, and what they mean.
type rule struct {
	code   codes.Code
	reason string // of our own domain; empty: any or none
	text   string // in the message, whatever its case; empty: any

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
	// holdRows: nobody has failed. The rows go back to the operator to wait (A40, A41).
	holdRows
	// lostRows: as holdRows, and the connection is in doubt.
	lostRows
	// findRow: the content of some row is at fault. Find it (A42).
	findRow
	// splitRows: too much for one message. Send less.
	splitRows
	// misfit: the request does not suit the model, whatever its rows hold. All of them fail, for
	// good.
	misfit
)

// The first rule that matches counts. What stands at the top of a code are words of
// servers and of grpc itself; the code alone comes last.
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
	// Triton's queue policies answer UNAVAILABLE, and so did the repository of older ones.
	{codes.Unavailable, "", "exceeds maximum queue size", ErrOverloaded, async.Overload, holdRows, false, ""},
	{codes.Unavailable, "", "request timeout expired", ErrTimeout, async.Timeout, failRows, true,
		"the server's queue was too slow; give it more instances, or the model's queue policy more time"},
	{codes.Unavailable, "", "is not found", ErrModelNotFound, async.Permanent, failRows, false, helpModel},
	{codes.Unavailable, "", "request for unknown model", ErrNotReady, async.Transport, holdRows, false, ""},
	// KServe, of a model that is loading.
	{codes.Unavailable, "", "is not ready", ErrNotReady, async.Transport, holdRows, false, ""},
	// grpc's own, of a call that came after the server's GOAWAY: it was never taken.
	{codes.Unavailable, "", "the stream is rejected because server is draining", ErrNotReady, async.Transport, holdRows, false, ""},
	{codes.Unavailable, "", "", ErrUnreachable, async.Transport, lostRows, false, helpReach},

	{codes.DeadlineExceeded, oip.ReasonQueueTimeout, "", ErrTimeout, async.Timeout, failRows, false,
		"the record waited in the server's queue for too long and was never run; add capacity or raise the server's queue timeout"},
	{codes.DeadlineExceeded, "", "", ErrTimeout, async.Timeout, failRows, false, ""},
	{codes.Canceled, "", "", ErrCancelled, async.Transport, holdRows, false,
		"this side did not cancel it; look at the server's log, and at proxies on the way"},

	// Names come from the codec and not from the record.
	{codes.InvalidArgument, oip.ReasonUnknownInput, "", ErrMismatch, async.Permanent, misfit, false,
		"the codec was bound to a model with other inputs; start the job again, which binds it anew"},
	// MLServer, of a model that is loading.
	{codes.InvalidArgument, "", "is not ready yet", ErrNotReady, async.Transport, holdRows, false, ""},
	// Triton, where the model's configuration could not be read before.
	{codes.InvalidArgument, "", "batch-size must be <=", ErrTooLarge, async.BadRecord, splitRows, false,
		"the server's model takes fewer rows in a request; lower max_batch"},
	{codes.InvalidArgument, "", "", ErrBadRecord, async.BadRecord, findRow, false, ""},
	{codes.OutOfRange, "", "", ErrBadRecord, async.BadRecord, findRow, false, ""},
	{codes.Internal, "", "", ErrBackend, async.Backend, findRow, true, ""},
	{codes.Unknown, "", "", ErrBackend, async.Backend, findRow, true, ""},
	{codes.Aborted, "", "", ErrBackend, async.Backend, findRow, true, ""},
	{codes.DataLoss, "", "", ErrBadOutput, async.Backend, findRow, false, ""},

	// Triton, of a model that is being loaded or was unloaded.
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
	helpProxy = "this is no answer of the model server's, but of something before it; look at what listens there, and at the log and the routes of a proxy on the way"
	helpSize  = "raise the limit of the side that refuses it (here: max_message, in Go MaxMessageSize; at our sidecar: --max-message), or make the record smaller"
)

// What ends a call without a word of the server's own is something before it: it may be a proxy
// that has lost the server for a moment, or is set up anew.
var (
	strangeStatus    = rule{kind: ErrUnreachable, class: async.Transport, do: lostRows, help: helpProxy}
	strangeEnd       = rule{kind: ErrUnreachable, class: async.Transport, do: holdRows, help: helpProxy}
	tooLargeForProxy = rule{kind: ErrTooLarge, class: async.BadRecord, do: splitRows,
		help: "raise the limit of the proxy that refuses it (nginx: client_max_body_size), or make the record smaller"}
	largeAnswer = rule{kind: ErrTooLarge, class: async.Backend, do: splitRows,
		help: "the model's answer is larger than this side takes; raise the limit (max_message, in Go MaxMessageSize)"}
	largeToSend = rule{kind: ErrTooLarge, class: async.Backend, do: splitRows,
		help: "the model's answer is larger than its server sends; raise the server's limit, or lower max_batch"}
)

// otherwise is for codes that no rule names.
var otherwise = rule{codes.Unknown, "", "", ErrBackend, async.Backend, findRow, true, ""}

// ruleFor finds the row of the table for a failure. A reason counts only in our own domain;
// another's may mean anything.
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

// marks are what a server itself has put around an answer. A status that comes without any is not
// its own: grpc, or something on the way, has ended the call.
type marks struct{ header, trailer metadata.MD }

// reset makes room for those of another call.
func (m *marks) reset() { m.header, m.trailer = nil, nil }

// Words of grpc's for what ended a call without a status of the server's.
const (
	wordsHTTP  = "unexpected HTTP status code received from server: "
	wordsReset = "stream terminated by RST_STREAM with error code: "
	wordsEnd   = "server closed the stream without sending trailers"
)

// strange says what ended a call that the server itself has not ended. The status is that of HTTP,
// or 0.
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

// failure is a failed request, understood.
type failure struct {
	*Error
	do   action
	rows []int // that the server names as bad, in the request's numbering
	// shared: a server of others said no more than that its model failed. One that batches
	// across requests says that of all that it ran together, so that the fault may be in
	// another request.
	shared bool
	// unlikely: it may have been refused for its size, in words that nobody knows here.
	unlikely bool
	// uncertain: the model may have run the rows, although they are called again.
	uncertain bool
	// answered: there is an answer, so the rows have run, and this side cannot have it.
	answered bool
	// once: no row may be sent again.
	once bool
	// untouched: whatever refused it did so before the model could see it.
	untouched bool
}

// understand makes sense of what an RPC returned. m is what came with it; nil: that is not known.
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
		r = &largeAnswer // it began to arrive, and was refused here
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

// held is the same loss or fault for calls that wait for its end.
func (e *Error) held() *Error {
	c := *e
	c.hold, c.Class, c.retry = true, async.Transport, false
	return &c
}

// lostForGood is the same loss for a call that must not be made again.
func (e *Error) lostForGood() *Error {
	c := *e
	c.hold, c.retry, c.RetryAfter = false, false, 0
	c.advice = "it may have reached the model, and NonIdempotent forbids sending it again"
	return &c
}

// peerName is whom a channel talks to, for messages.
type peerName struct{ endpoint, model string }

// badRecord is the failure of a record that the codec refuses; doing says what it was
// asked for.
func (p *peerName) badRecord(doing string, err error) *Error {
	return &Error{
		Code: InvalidArgument, Message: doing + ": " + err.Error(), Model: p.model, Endpoint: p.endpoint,
		Class: async.BadRecord, kind: ErrBadRecord, cause: err,
	}
}

// badAnswer is the failure of a record whose answer the codec cannot decode.
func (p *peerName) badAnswer(err error) *Error {
	e := p.badRecord("the codec cannot decode the answer", err)
	if errors.Is(err, tensor.ErrAnswer) {
		e.Code, e.Class, e.kind = Internal, async.Backend, ErrBackend
	}
	return e
}
