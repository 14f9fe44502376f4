package sidecar

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// awaitModel waits until the server is ready and returns the model's signature. What
// may pass (out of reach, stopping, loading, overloaded) is asked again for as long as
// patience lasts; everything else is an error at once.
func (l *link) awaitModel(ctx context.Context, version string, patience time.Duration) (tensor.Signature, error) {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	last := l.away("no answer")
	for n := 0; ; n++ {
		sig, err := l.askModel(ctx, version)
		switch {
		case err == nil:
			// grpc lets calls through a moment before it says that it is ready; the watcher
			// would take what it says before for a loss.
			l.awaitConnection(ctx)
			return sig, nil
		case ctx.Err() != nil:
			// The last answer says more than that time was over.
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
			return sig, fmt.Errorf("sidecar %s: opening was given up: %w", l.name.endpoint, context.Cause(outer))
		}
		if ctx.Err() != nil {
			last.Message = fmt.Sprintf("waited %v for it: %s", patience, last.Message)
			last.hold = false
			return sig, last
		}
	}
}

// awaitConnection waits until the connection says that it is ready, or ctx ends.
func (l *link) awaitConnection(ctx context.Context) {
	if l.states == nil {
		return
	}
	for s := l.states.GetState(); s != connectivity.Ready && s != connectivity.Shutdown; s = l.states.GetState() {
		if s == connectivity.Idle {
			l.states.Connect()
		}
		if !l.states.WaitForStateChange(ctx, s) {
			return
		}
	}
}

// askModel asks whether the server is ready, and for the model's metadata.
func (l *link) askModel(ctx context.Context, version string) (tensor.Signature, *Error) {
	var ready oip.ServerReadyResponse
	err := l.conn.Invoke(ctx, oip.GRPCInferenceService_ServerReady_FullMethodName, &oip.ServerReadyRequest{}, &ready)
	switch d := oip.Parse(err); {
	case err != nil && d.Code != codes.Unimplemented:
		return tensor.Signature{}, l.name.understand(err, "").Error
	case err == nil && !ready.Ready:
		return tensor.Signature{}, &Error{
			Code: Unavailable, Message: "the server says that it is not ready", Model: l.name.model, Endpoint: l.name.endpoint,
			Class: async.Transport, kind: ErrNotReady, hold: true, advice: "look at its log for what it is loading",
		}
	}
	var meta oip.ModelMetadataResponse
	err = l.conn.Invoke(ctx, oip.GRPCInferenceService_ModelMetadata_FullMethodName,
		&oip.ModelMetadataRequest{Name: l.name.model, Version: version}, &meta)
	if err != nil {
		return tensor.Signature{}, l.name.understand(err, "").Error
	}
	sig, err := oip.SignatureOf(&meta, version)
	if err != nil {
		return sig, &Error{
			Code: FailedPrecondition, Message: err.Error(), Model: l.name.model, Endpoint: l.name.endpoint,
			Class: async.Permanent, kind: ErrModelUnusable, cause: err,
		}
	}
	sig.Model = l.name.model // what requests ask for, whatever the server calls it
	return sig, nil
}

// mismatch is the failure of a codec that does not fit; the codec's own message shows its
// side, this adds the model's if the message does not show that too.
func (p *peerName) mismatch(sig *tensor.Signature, err error) *Error {
	message := err.Error()
	if model := sig.String(); !strings.Contains(message, model) {
		message = fmt.Sprintf("%s (the model, as the server describes it: %s)", message, model)
	}
	return &Error{
		Code: FailedPrecondition, Message: message,
		Model: p.model, Endpoint: p.endpoint, Class: async.Permanent, kind: ErrMismatch, cause: err,
	}
}
