package sidecar

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/brief"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// awaitModel waits until the server is ready, and returns the model's signature. For failures that
// may pass (out of reach, stopping, loading, overloaded) it asks again until patience is over. Any
// other failure is returned at once.
func (l *link) awaitModel(ctx context.Context, version string, patience time.Duration) (tensor.Signature, error) {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	var last *Error
	for n := 0; ; n++ {
		asked := time.Now()
		sig, told, err := l.askModel(ctx, version)
		switch {
		case err == nil:
			l.told = told
			// grpc lets calls through a moment before it reports that it is ready. The
			// watcher would take the states in between for a loss.
			l.awaitConnection(ctx)
			return sig, nil
		case over(ctx):
			// The last answer says more than "time is over". A last failure to connect
			// does not, if there is a connection by now.
			silent := l.silent(time.Since(asked))
			if last == nil || silent.kind == ErrTimeout && (last.kind == ErrUnreachable || time.Since(asked) >= probeTimeout) {
				last = silent
			}
		case !l.known && (err.strange || err.kind == ErrUnreachable && l.wire.distrusted() != nil):
			return sig, l.unwelcome(err)
		case !err.hold && err.Class != async.Timeout:
			return sig, err
		default:
			last = err
			if n == 0 {
				l.log.Info("sidecar: waiting for the server", "endpoint", l.name.endpoint, "reason", err.Message)
			}
			sleep(ctx, max(err.RetryAfter, l.backoff.delay(n)))
			l.awaitConnection(ctx)
		}
		if outer.Err() != nil {
			return sig, fmt.Errorf("sidecar %s: opening was ended: %w", l.name.endpoint, context.Cause(outer))
		}
		if over(ctx) {
			why := *last
			why.Message = fmt.Sprintf("waited %v for it: %s", time.Since(began).Round(time.Millisecond), last.Message)
			why.hold = false
			return sig, &why
		}
	}
}

// over reports whether ctx has ended, or its deadline has passed and it is about to end. The server
// knows the deadline too, so its status, or grpc's, may arrive before ctx ends.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// awaitConnection waits until the connection reports that it is ready, or ctx ends. While
// connecting fails, it waits only briefly: the state then stays the same until the connection is
// ready, but a call tells why connecting fails, and the reason may be permanent.
func (l *link) awaitConnection(ctx context.Context) {
	if l.states == nil {
		return
	}
	short, cancel := context.WithTimeout(ctx, l.backoff.Max)
	defer cancel()
	for s := l.states.GetState(); s != connectivity.Ready && s != connectivity.Shutdown; s = l.states.GetState() {
		within := ctx
		switch s {
		case connectivity.Idle:
			l.states.Connect()
		case connectivity.TransientFailure:
			within = short
		}
		if !l.states.WaitForStateChange(within, s) {
			return
		}
	}
}

// told holds what a server's metadata say about a model, before the configuration is applied.
type told struct {
	name      string // the server's name for the model; requests may use another
	signature string
	nothing   bool // the server has no metadata for it
}

// askModel asks whether the model is ready, and what its inputs and outputs are.
func (l *link) askModel(ctx context.Context, version string) (tensor.Signature, told, *Error) {
	// ServerReady would not do: a server answers no while any other model of it is broken. A
	// no, or an error, may also mean that the model does not exist. The metadata tell.
	ready, err := l.modelReady(ctx, version)
	if err != nil && err.kind == ErrUnreachable {
		return tensor.Signature{}, told{}, err
	}
	sig, said, failed := l.describe(ctx, version)
	if failed != nil {
		if failed.kind == ErrModelNotFound && l.starting(ctx) {
			e := l.notReady()
			e.Message = "the server is not ready, and does not know the model yet: " + failed.Message
			return sig, said, e
		}
		return sig, said, failed
	}
	if err == nil && !ready {
		return sig, said, l.notReady()
	}
	if err != nil && said.nothing {
		return sig, said, err // nothing else says whether the model exists
	}
	return sig, said, l.configure(ctx, version, &sig)
}

// ask makes a call about the model.
func (l *link) ask(ctx context.Context, method string, question, answer any) *Error {
	var m marks
	if err := l.conn.Invoke(ctx, method, question, answer, grpc.Header(&m.header), grpc.Trailer(&m.trailer)); err != nil {
		return l.name.understand(err, "", &m).Error
	}
	return nil
}

// unwelcome returns the failure of an opening that waiting cannot fix: something other than the
// server answers, or one side does not trust the other.
func (l *link) unwelcome(err *Error) *Error {
	e := *err
	e.hold, e.Class, e.cause = false, async.Permanent, nil
	if why := l.wire.distrusted(); why != nil && !e.strange {
		e.kind, e.Message, e.cause = ErrUntrusted, why.Error(), why
		e.advice = "check the certificate authority (ca), the server's name, the certificates of both sides, and whether the server speaks TLS"
	}
	return &e
}

// describe asks only for the model's metadata.
func (l *link) describe(ctx context.Context, version string) (tensor.Signature, told, *Error) {
	var meta oip.ModelMetadataResponse
	nothing := false
	failed := l.ask(ctx, oip.GRPCInferenceService_ModelMetadata_FullMethodName,
		&oip.ModelMetadataRequest{Name: l.name.model, Version: version}, &meta)
	if failed != nil && failed.kind == ErrUnsupported && l.stated != nil {
		meta.Name, failed, nothing = l.name.model, nil, true
	}
	switch {
	case failed == nil:
		failed = l.complete(&meta)
	case failed.kind == ErrUnsupported:
		failed.advice = stateThem
	}
	if failed != nil {
		return tensor.Signature{}, told{}, failed
	}
	sig, err := oip.SignatureOf(&meta, version)
	if err != nil {
		return sig, told{}, l.unusable(err)
	}
	if l.stated != nil && sig.Batched {
		sig.MaxBatch = l.stated.MaxBatch // the model's configuration may override it
	}
	said := told{name: sig.Model, nothing: nothing}
	sig.Model = l.name.model // the name that requests use, whatever the server calls it
	ordered := inOrder(&sig)
	said.signature = ordered.String()
	return sig, said, nil
}

// silent is the failure of a question that got no answer in time. With a connection, the server is
// slow; without one, it is out of reach. A connection that does not report its state counts as
// ready.
func (l *link) silent(within time.Duration) *Error {
	within = within.Round(time.Millisecond)
	if l.state() != connectivity.Ready {
		return l.away(fmt.Sprintf("no connection and no answer within %v", within))
	}
	e := l.away(fmt.Sprintf("connected, but no answer within %v", within))
	e.Code, e.kind, e.advice = DeadlineExceeded, ErrTimeout, "the server is slow or hangs; look at its load and its log"
	return e
}

// starting reports whether the server says that it is not ready. It may not have read a model yet
// that it does not know.
func (l *link) starting(ctx context.Context) bool {
	var ready oip.ServerReadyResponse
	err := l.ask(ctx, oip.GRPCInferenceService_ServerReady_FullMethodName, &oip.ServerReadyRequest{}, &ready)
	return err == nil && !ready.Ready
}

func (l *link) unusable(err error) *Error {
	err = brief.Error(err) // it contains names from the server
	return &Error{
		Code: FailedPrecondition, Message: err.Error(), Model: l.name.model, Endpoint: l.name.endpoint,
		Class: async.Permanent, kind: ErrModelUnusable, cause: err,
	}
}

// modelReady asks whether the model takes requests. A server that does not have this call counts as
// ready.
func (l *link) modelReady(ctx context.Context, version string) (bool, *Error) {
	var ready oip.ModelReadyResponse
	err := l.ask(ctx, oip.GRPCInferenceService_ModelReady_FullMethodName,
		&oip.ModelReadyRequest{Name: l.name.model, Version: version}, &ready)
	if err != nil && err.kind != ErrUnsupported {
		return false, err
	}
	return err != nil || ready.Ready, nil
}

func (l *link) notReady() *Error {
	return &Error{
		Code: Unavailable, Message: "the server says that the model is not ready", Model: l.name.model, Endpoint: l.name.endpoint,
		Class: async.Transport, kind: ErrNotReady, hold: true, advice: "look at the server's log for what it is loading",
	}
}

// configure adds what only the model's configuration tells. Not every server has it. Without it,
// the client relies only on what the protocol promises.
func (l *link) configure(ctx context.Context, version string, sig *tensor.Signature) *Error {
	var resp oip.ModelConfigResponse
	err := l.ask(ctx, oip.GRPCInferenceService_ModelConfig_FullMethodName,
		&oip.ModelConfigRequest{Name: l.name.model, Version: version}, &resp)
	if err != nil {
		// The server may answer later, and the model must not look different from one time
		// to the next.
		if err.hold || err.Class == async.Timeout {
			return err
		}
		return nil
	}
	if resp.Config != nil {
		if err := oip.Configure(sig, resp.Config); err != nil {
			return l.unusable(err)
		}
	}
	return nil
}

// mismatch returns the failure of a codec that does not fit. The codec's message shows what the
// codec wants; mismatch adds the model's signature if the message does not contain it.
func (p *peerName) mismatch(sig *tensor.Signature, err error) *Error {
	message := err.Error()
	if model := sig.String(); !strings.Contains(message, model) {
		message = fmt.Sprintf("%s (the server describes the model as: %s)", message, model)
	}
	return &Error{
		Code: FailedPrecondition, Message: brief.Text(message),
		Model: p.model, Endpoint: p.endpoint, Class: async.Permanent, kind: ErrMismatch, cause: err,
	}
}
