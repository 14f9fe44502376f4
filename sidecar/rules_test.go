package sidecar

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// The table of failures, row by row: what each means to the operator and to the channel.
func TestErrorTable(t *testing.T) {
	hold := func(c async.Class, after time.Duration) async.Verdict {
		return async.Verdict{Class: c, Hold: true, RetryAfter: after}
	}
	ends := func(c async.Class) async.Verdict { return async.Verdict{Class: c} }
	again := func(c async.Class) async.Verdict { return async.Verdict{Class: c, Retry: true} }
	after := oip.WithRetryAfter(70 * time.Millisecond)
	const wait = 70 * time.Millisecond
	used := map[*rule]bool{}
	for _, c := range []struct {
		err  error
		is   error
		do   action
		want async.Verdict
	}{
		// Our own sidecar.
		{oip.Error(codes.ResourceExhausted, oip.ReasonQueueFull, "full", after), ErrOverloaded, holdRows, hold(async.Overload, wait)},
		{oip.Error(codes.ResourceExhausted, oip.ReasonMemoryPressure, "full"), ErrOverloaded, holdRows, hold(async.Overload, 0)},
		{oip.Error(codes.ResourceExhausted, oip.ReasonQueueFull, "a batch larger than max rows", after), ErrOverloaded, holdRows, hold(async.Overload, wait)},
		{oip.Error(codes.Unavailable, oip.ReasonDraining, "stopping", after), ErrNotReady, holdRows, hold(async.Transport, wait)},
		{oip.Error(codes.Unavailable, oip.ReasonInterrupted, "stopping"), ErrUnreachable, lostRows, hold(async.Transport, 0)},
		{oip.Error(codes.Unavailable, oip.ReasonModelLoading, "loading", after), ErrNotReady, holdRows, hold(async.Transport, wait)},
		{oip.Error(codes.DeadlineExceeded, oip.ReasonQueueTimeout, "waited"), ErrTimeout, failRows, ends(async.Timeout)},
		{oip.Error(codes.InvalidArgument, oip.ReasonBadTensor, "nan"), ErrBadRecord, findRow, ends(async.BadRecord)},
		{oip.Error(codes.InvalidArgument, oip.ReasonShapeMismatch, "shape"), ErrBadRecord, findRow, ends(async.BadRecord)},
		{oip.Error(codes.InvalidArgument, oip.ReasonUnknownInput, "name"), ErrMismatch, misfit, ends(async.Permanent)},
		{oip.Error(codes.NotFound, oip.ReasonModelNotFound, "model"), ErrModelNotFound, failRows, ends(async.Permanent)},
		{oip.Error(codes.FailedPrecondition, oip.ReasonModelLoadFailed, "file"), ErrModelUnusable, failRows, ends(async.Permanent)},
		{oip.Error(codes.FailedPrecondition, oip.ReasonVersionMismatch, "2"), ErrModelUnusable, failRows, ends(async.Permanent)},
		{oip.Error(codes.Unimplemented, oip.ReasonUnsupportedFeature, "shm"), ErrUnsupported, failRows, ends(async.Permanent)},
		{oip.Error(codes.Internal, oip.ReasonBackendError, "assert"), ErrBackend, findRow, again(async.Backend)},
		{oip.Error(codes.DataLoss, oip.ReasonBadOutput, "rows"), ErrBadOutput, findRow, ends(async.Backend)},
		{status.Error(codes.Unauthenticated, "who"), ErrUnauthorized, failRows, ends(async.Permanent)},
		{status.Error(codes.PermissionDenied, "no"), ErrUnauthorized, failRows, ends(async.Permanent)},
		// grpc itself.
		{status.Error(codes.ResourceExhausted, "grpc: received message larger than max (5 vs. 4)"), ErrTooLarge, splitRows, ends(async.BadRecord)},
		{status.Error(codes.ResourceExhausted, "trying to send message larger than max (5 vs. 4)"), ErrTooLarge, splitRows, ends(async.BadRecord)},
		{status.Error(codes.ResourceExhausted, "SERVER: Received message larger than max (5 vs. 4)"), ErrTooLarge, splitRows, ends(async.BadRecord)},
		{status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing"`), ErrUnreachable, lostRows, hold(async.Transport, 0)},
		{status.Error(codes.Unavailable, "error reading from server: EOF"), ErrUnreachable, lostRows, hold(async.Transport, 0)},
		{status.Error(codes.DeadlineExceeded, "context deadline exceeded"), ErrTimeout, failRows, ends(async.Timeout)},
		{context.DeadlineExceeded, ErrTimeout, failRows, ends(async.Timeout)},
		{status.Error(codes.Canceled, "stream reset"), ErrCancelled, holdRows, hold(async.Transport, 0)},
		{status.Error(codes.ResourceExhausted, "gRPC message exceeds maximum size 4194304: 5000000"), ErrTooLarge, splitRows, ends(async.BadRecord)},
		{status.Error(codes.ResourceExhausted, "Received message exceeds the maximum configured message size."), ErrTooLarge, splitRows, ends(async.BadRecord)},
		{status.Error(codes.OutOfRange, "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes"), ErrTooLarge, splitRows, ends(async.BadRecord)},
		{status.Error(codes.ResourceExhausted, "Error, message length too large: found 5 bytes, the limit is: 4 bytes"), ErrTooLarge, splitRows, ends(async.BadRecord)},
		{status.Error(codes.Unavailable, "the stream is rejected because server is draining the connection"), ErrNotReady, holdRows, hold(async.Transport, 0)},
		// Other servers.
		{status.Error(codes.ResourceExhausted, "too many requests"), ErrOverloaded, holdRows, hold(async.Overload, 0)},
		{status.Error(codes.Unavailable, "[request id: 7] Exceeds maximum queue size"), ErrOverloaded, holdRows, hold(async.Overload, 0)},
		{status.Error(codes.Unavailable, "Request timeout expired"), ErrTimeout, failRows, again(async.Timeout)},
		{status.Error(codes.Unavailable, "Request for unknown model: 'm' is not found"), ErrModelNotFound, failRows, ends(async.Permanent)},
		{status.Error(codes.Unavailable, "Request for unknown model: 'm' version 1 is not at ready state"), ErrNotReady, holdRows, hold(async.Transport, 0)},
		{status.Error(codes.Unavailable, "Request for unknown model: 'm' has no available versions"), ErrNotReady, holdRows, hold(async.Transport, 0)},
		{status.Error(codes.NotFound, "Request for unknown model: 'm' has no available versions"), ErrNotReady, holdRows, hold(async.Transport, 0)},
		{status.Error(codes.Unavailable, "Model with name m is not ready."), ErrNotReady, holdRows, hold(async.Transport, 0)},
		{status.Error(codes.InvalidArgument, "Model m is not ready yet."), ErrNotReady, holdRows, hold(async.Transport, 0)},
		{status.Error(codes.InvalidArgument, "inference request batch-size must be <= 8 for 'm'"), ErrTooLarge, splitRows, ends(async.BadRecord)},
		{status.Error(codes.InvalidArgument, "unexpected shape for input 'x'"), ErrBadRecord, findRow, ends(async.BadRecord)},
		{status.Error(codes.OutOfRange, "token 70000"), ErrBadRecord, findRow, ends(async.BadRecord)},
		{status.Error(codes.Unknown, "Exception calling application"), ErrBackend, findRow, again(async.Backend)},
		{errors.New("no status at all"), ErrBackend, findRow, again(async.Backend)},
		{status.Error(codes.Aborted, "aborted"), ErrBackend, findRow, again(async.Backend)},
		{status.Error(codes.AlreadyExists, "?"), ErrBackend, findRow, again(async.Backend)},
		{status.Error(codes.Code(99), "?"), ErrBackend, findRow, again(async.Backend)},
	} {
		name := peerName{endpoint: "unix:///s", model: "m"}
		f := name.understand(c.err, "r1", nil)
		d := oip.Parse(c.err)
		used[ruleFor(&d)] = true
		// The operator and users see it wrapped.
		err := fmt.Errorf("record 7: %w", f.Error)
		if f.do != c.do || async.VerdictOf(err) != c.want || !errors.Is(err, c.is) || errors.Is(err, ErrPermanent) != (c.want.Class == async.Permanent) {
			t.Errorf("%v: action %d, verdict %+v, %v", c.err, f.do, async.VerdictOf(err), err)
		}
		if e, ok := errors.AsType[*Error](err); !ok || e.Class != c.want.Class || e.Model != "m" || e.Endpoint != "unix:///s" || e.RequestID != "r1" || !errors.Is(err, c.err) {
			t.Errorf("%v: %#v", c.err, e)
		}
		if msg := err.Error(); !strings.Contains(msg, "sidecar unix:///s, model m, request r1: ") || !strings.Contains(msg, d.Message) || strings.Contains(msg, "rpc error") {
			t.Errorf("message %q", msg)
		}
	}
	for i := range rules {
		if !used[&rules[i]] {
			t.Errorf("no example for rule %d: %+v", i, rules[i])
		}
	}
	if !used[&otherwise] {
		t.Error("no example for the case that no rule matches")
	}
}

func TestCodes(t *testing.T) {
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		var named codes.Code
		if err := named.UnmarshalJSON([]byte(`"` + string(codeName(uint32(c))) + `"`)); err != nil || named != c {
			t.Errorf("code %d is %q", c, codeName(uint32(c)))
		}
	}
}
