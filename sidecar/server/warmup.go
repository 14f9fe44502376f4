package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/tensor"
)

// warmUp runs batches of zeros through a version before it takes requests, so that the first
// request does not pay for what a backend does only once, such as compiling or reserving memory. A
// version that fails here would fail requests too.
func (s *Server) warmUp(ctx context.Context, m *model) error {
	r := m.runner
	log := s.cfg.Logger.With("model", m.name, "version", m.version)
	if u, ok := r.model.(backend.Unwarmed); len(s.cfg.WarmUp) == 0 || ok && u.NoWarmUp() {
		return nil
	}
	for _, in := range r.sig.Inputs {
		if slices.Contains(in.Row, tensor.Dynamic) {
			log.Info("no warm-up: an input has dimensions of any size", "input", in.String())
			return nil
		}
	}
	strings := slices.ContainsFunc(r.sig.Inputs, func(in tensor.Spec) bool { return in.DType == tensor.Bytes })
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.WarmUpTimeout,
		fmt.Errorf("it takes longer than %v; warm up with smaller batches, or with none, or allow more time", s.cfg.WarmUpTimeout))
	defer cancel()
	var done []int
	for _, rows := range s.cfg.WarmUp {
		rows = warmUpRows(rows, r.batcher.maxRows, s.cfg.QueueBytes, &r.sig)
		if rows == 0 {
			log.Info("no warm-up: one row exceeds the bytes that may wait", "queue_bytes", s.cfg.QueueBytes)
			return nil
		}
		if slices.Contains(done, rows) {
			continue
		}
		done = append(done, rows)
		inputs := zeroRows(&r.sig, rows)
		errs := make([]error, r.batcher.instances)
		var wg sync.WaitGroup
		for i := range errs { // at once, so that each instance runs one
			wg.Go(func() { errs[i] = r.rehearse(ctx, inputs, rows) })
		}
		wg.Wait()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
			// A model that refuses the content of rows has run. And no string is a
			// neutral value: a model may read numbers from strings, and an empty one
			// is not a number.
			if f, _ := failureOf(errs[i]); f.code == codes.InvalidArgument || strings {
				log.Info("the model refuses rows of zeros, or of empty strings, so its warm-up may be incomplete", "rows", rows, "error", errs[i])
				continue
			}
			return fmt.Errorf("a batch of %d rows of zeros: %w", rows, errs[i])
		}
	}
	log.Info("model warmed up", "rows", done)
	return nil
}

// warmUpRows returns how many rows a batch of the warm-up has: wished, or as many as possible if
// wished is 0. They are never more than a batch may have, nor more than may wait. 0 means that not
// even one row may wait.
func warmUpRows(wished, most int, maxBytes int64, sig *tensor.Signature) int {
	rows := most
	if wished > 0 {
		rows = min(wished, most)
	}
	total := int64(0)
	for _, in := range sig.Inputs {
		size, ok := rowBytes(in, maxBytes-total)
		if !ok {
			return 0
		}
		total += size
	}
	if total > 0 {
		rows = min(rows, int(min(maxBytes/total, int64(most))))
	}
	return rows
}

// rowBytes returns the size of a row of zeros, if it is at most max.
func rowBytes(in tensor.Spec, max int64) (int64, bool) {
	n, err := in.Row.Elements()
	if err != nil {
		return 0, false
	}
	each := int64(in.DType.Size())
	if in.DType == tensor.Bytes {
		each = bytesPrefix
	}
	if n > max/each {
		return 0, false
	}
	return n * each, true
}

// bytesPrefix is the size of an empty string: its length.
const bytesPrefix = 4

// zeroRows returns inputs whose elements are all zero, or empty.
func zeroRows(sig *tensor.Signature, rows int) []tensor.Tensor {
	out := make([]tensor.Tensor, len(sig.Inputs))
	for i, in := range sig.Inputs {
		size, _ := rowBytes(in, 1<<62) // warmUpRows has checked it
		shape := in.Shape(sig.Batched)
		if sig.Batched {
			shape[0] = int64(rows)
			size *= int64(rows)
		}
		out[i] = tensor.Tensor{Name: in.Name, DType: in.DType, Shape: shape, Raw: make([]byte, size)}
	}
	return out
}

// rehearse runs a batch without callers, as run does, and does not count it.
func (r *runner) rehearse(ctx context.Context, inputs []tensor.Tensor, rows int) (err error) {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err = guard.Apart("Run of the backend", func() error {
		pieces := []piece{{req: &request{rows: rows, inputs: inputs}, to: rows}}
		outputs, err := r.model.Run(ctx, inputs)
		if err != nil {
			return err
		}
		_, err = scatter(pieces, rows, &r.sig, outputs)
		return err
	})
	if p, ok := err.(*guard.Panic); ok {
		r.logger.Error("the backend panicked", "model", r.name, "panic", guard.Brief(p), "rows", rows, "stack", string(p.Stack))
		err = errors.New("the backend " + did(p))
	}
	return err
}
