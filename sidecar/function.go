package sidecar

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/tensor"
)

// AsyncFunction is an async.Function that sends records through a model on a
// sidecar. Each subtask gets a channel of its own. It is safe for concurrent use.
//
// To add a timeout handler or a retry predicate, embed it in a type that implements
// async.TimeoutHandler or async.RetryPredicate.
type AsyncFunction[IN, OUT any] struct {
	cfg   Config
	codec tensor.Codec[IN, OUT]
}

// NewAsyncFunction returns the function of cfg.Model at cfg.Endpoint. Nothing is
// checked or dialled before Open; Config.Validate checks earlier.
func NewAsyncFunction[IN, OUT any](cfg Config, codec tensor.Codec[IN, OUT]) *AsyncFunction[IN, OUT] {
	return &AsyncFunction[IN, OUT]{cfg: cfg, codec: codec}
}

// Open connects one subtask, waits until the server is ready, reads the model's
// metadata and binds the codec to it. It waits for at most Config.OpenTimeout (default: the
// operator's hold) for a server that is out of reach, stopping or loading; what no waiting
// mends fails at once, with class async.Permanent. The connection outlives ctx; Close of the
// caller ends it.
func (f *AsyncFunction[IN, OUT]) Open(ctx context.Context, sub async.Subtask, done async.Completer[OUT]) (async.Caller[IN, OUT], error) {
	cfg, ep, err := f.cfg.resolve()
	if err != nil {
		return nil, permanent{err}
	}
	c := newChannel[IN, OUT](cfg, ep, sub, done)
	if err := c.open(ctx, f.codec); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// bind binds the codec; a panic of it is an error too.
func bind[IN, OUT any](codec tensor.Codec[IN, OUT], sig tensor.Signature) (row tensor.RowCodec[IN, OUT], err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &async.PanicError{Where: fmt.Sprintf("Bind of codec %T", codec), Value: v, Stack: debug.Stack()}
		}
	}()
	row, err = codec.Bind(sig)
	if err == nil && row == nil {
		err = fmt.Errorf("codec %T: Bind returned neither a row codec nor an error", codec)
	}
	return row, err
}

// permanent gives an error of the configuration its class.
type permanent struct{ error }

func (e permanent) Unwrap() error          { return e.error }
func (e permanent) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }
func (e permanent) Is(target error) bool   { return target == ErrPermanent }
