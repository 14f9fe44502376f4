package sidecar

import (
	"context"
	"fmt"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/tensor"
)

// AsyncFunction is an async.Function that sends records through a model on a sidecar. Each subtask
// has its own connection. It is safe for concurrent use.
//
// To add a timeout handler or a retry predicate, embed it in a type that implements
// async.TimeoutHandler or async.RetryPredicate.
type AsyncFunction[IN, OUT any] struct {
	cfg  Config
	bind binder[IN, OUT]
}

// NewAsyncFunction returns the function that calls cfg.Model at cfg.Endpoint. It checks nothing and
// does not connect: both happen in Open. Config.Validate checks the configuration earlier.
func NewAsyncFunction[IN, OUT any](cfg Config, codec tensor.Codec[IN, OUT]) *AsyncFunction[IN, OUT] {
	return &AsyncFunction[IN, OUT]{cfg, func(sig tensor.Signature) (rowCodec[IN, OUT], error) {
		row, err := bound(codec, sig)
		return values[IN, OUT]{row}, err
	}}
}

// NewRecordFunction is NewAsyncFunction for a codec that needs more than the record's value: its
// event time, key, split and position, for features that are computed from them, or for messages.
func NewRecordFunction[IN, OUT any](cfg Config, codec tensor.Codec[async.Record[IN], OUT]) *AsyncFunction[IN, OUT] {
	return &AsyncFunction[IN, OUT]{cfg, func(sig tensor.Signature) (rowCodec[IN, OUT], error) {
		row, err := bound(codec, sig)
		return records[IN, OUT]{row}, err
	}}
}

// rowCodec hides which of the two kinds of codec the channel uses.
type rowCodec[IN, OUT any] interface {
	encode(dst *tensor.Batch, r *async.Record[IN]) error
	decode(r *async.Record[IN], src *tensor.Rows, i int) (OUT, error)
}

type binder[IN, OUT any] func(tensor.Signature) (rowCodec[IN, OUT], error)

type values[IN, OUT any] struct{ row tensor.RowCodec[IN, OUT] }

func (v values[IN, OUT]) encode(dst *tensor.Batch, r *async.Record[IN]) error {
	return v.row.Encode(dst, r.Value)
}

func (v values[IN, OUT]) decode(r *async.Record[IN], src *tensor.Rows, i int) (OUT, error) {
	return v.row.Decode(r.Value, src, i)
}

type records[IN, OUT any] struct {
	row tensor.RowCodec[async.Record[IN], OUT]
}

func (v records[IN, OUT]) encode(dst *tensor.Batch, r *async.Record[IN]) error {
	return v.row.Encode(dst, *r)
}

func (v records[IN, OUT]) decode(r *async.Record[IN], src *tensor.Rows, i int) (OUT, error) {
	return v.row.Decode(*r, src, i)
}

// Open connects one subtask, waits until the server is ready, reads the model's metadata and binds
// the codec to it. If the server is out of reach, stopping or loading, Open waits for at most
// Config.OpenTimeout (default: the operator's hold). An error that waiting cannot fix is returned
// at once, with class async.Permanent. The connection outlives ctx; the caller's Close ends it.
func (f *AsyncFunction[IN, OUT]) Open(ctx context.Context, sub async.Subtask, done async.Completer[OUT]) (async.Caller[IN, OUT], error) {
	cfg, ep, err := f.cfg.resolve()
	if err != nil {
		return nil, permanent{err}
	}
	c := newChannel[IN, OUT](cfg, ep, sub, done)
	if err := c.open(ctx, f.bind); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// bound binds the codec to the model. A panic in Bind becomes an error.
func bound[IN, OUT any](codec tensor.Codec[IN, OUT], sig tensor.Signature) (row tensor.RowCodec[IN, OUT], err error) {
	err = guard.Apart(fmt.Sprintf("Bind of codec %T", codec), func() (err error) {
		row, err = codec.Bind(sig)
		return err
	})
	if err == nil && row == nil {
		err = fmt.Errorf("codec %T: Bind returned neither a row codec nor an error", codec)
	}
	return row, err
}

// permanent gives a configuration error the class async.Permanent.
type permanent struct{ error }

func (e permanent) Unwrap() error          { return e.error }
func (e permanent) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }
func (e permanent) Is(target error) bool   { return target == ErrPermanent }
