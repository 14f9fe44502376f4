package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// runner drives the batcher of one model: it reports events to the batcher and does what the
// batcher asks for. Each instance of the model has a goroutine that runs batches.
type runner struct {
	model      backend.Model
	name       string
	sig        tensor.Signature
	admission  *admission
	metrics    *modelMetrics
	statistics statistics
	logger     *slog.Logger

	mu      sync.Mutex
	batcher *batcher
	timer   *time.Timer
	wakeAt  time.Time
	cancel  map[*batch]context.CancelFunc
	closed  bool

	work    chan job
	workers sync.WaitGroup
}

type job struct {
	ctx   context.Context
	batch *batch
}

// errNobodyWaits ends the context of a batch whose callers have all gone.
var errNobodyWaits = errors.New("all callers of the batch have gone")

func newRunner(cfg *Config, name string, model backend.Model, adm *admission, metrics *modelMetrics) *runner {
	sig := model.Signature()
	maxRows := cfg.MaxBatch
	if own := sig.MaxRows(); own > 0 {
		maxRows = min(maxRows, own)
	}
	instances := model.Instances()
	r := &runner{
		model: model, name: name, sig: sig, admission: adm, metrics: metrics, logger: cfg.Logger,
		batcher: newBatcher(maxRows, instances, cfg.MaxBatchDelay, cfg.QueueTimeout),
		cancel:  map[*batch]context.CancelFunc{},
		work:    make(chan job, instances),
	}
	for range instances {
		r.workers.Go(r.serve)
	}
	return r
}

// serve is the goroutine of an instance. If the backend ends it, another one takes its place.
func (r *runner) serve() {
	closed := false
	defer func() {
		if !closed {
			r.workers.Go(r.serve)
		}
	}()
	for j := range r.work {
		r.carry(j)
	}
	closed = true
}

// carry runs a batch and reports its outcome, even if the backend ends the goroutine.
func (r *runner) carry(j job) {
	v, returned := verdict{}, false
	defer func() {
		if !returned {
			v = r.broke(j.batch, guard.Exited("Run of the backend"))
		}
		r.update(func(now time.Time) {
			r.cancel[j.batch]()
			delete(r.cancel, j.batch)
			j.batch.note()
			r.batcher.finish(now, j.batch, v)
		})
	}()
	v = r.run(j.ctx, j.batch)
	returned = true
}

// do runs a request that was admitted. It returns when the request has its outcome or its caller
// has gone.
func (r *runner) do(ctx context.Context, req *request) {
	req.answer = make(chan struct{})
	r.update(func(now time.Time) { r.batcher.submit(now, req) })
	if end, ok := ctx.Deadline(); !req.due.IsZero() && (!ok || req.due.Before(end)) {
		// The request's parameter asks for an earlier time than ctx. While all instances
		// are busy, only this timer heeds it.
		defer time.AfterFunc(time.Until(req.due), func() {
			r.update(func(now time.Time) { r.batcher.expire(now, req) })
		}).Stop()
	}
	select {
	case <-req.answer:
	case <-ctx.Done():
		r.update(func(now time.Time) { r.batcher.abandon(now, req, callerGone(ctx)) })
		<-req.answer
	}
}

// abort ends everything that waits or runs.
func (r *runner) abort(untaken error) {
	r.update(func(now time.Time) { r.batcher.abandonAll(now, untaken) })
}

// update reports an event to the batcher and does what the batcher asks for.
func (r *runner) update(event func(now time.Time)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	event(now)
	if r.closed {
		// Only batches that were running report now, and their callers have gone.
		r.batcher.abandonAll(now, errClosed)
	}
	e := r.batcher.step(now)
	for _, x := range e.runs {
		ctx, cancel := context.WithCancelCause(context.Background())
		r.cancel[x] = func() { cancel(errNobodyWaits) }
		r.work <- job{ctx, x} // has room: there are never more batches than instances
	}
	for _, x := range e.cancels {
		if cancel := r.cancel[x]; cancel != nil {
			cancel()
		}
	}
	for _, q := range e.left {
		r.admission.leave(q.rows, q.bytes)
	}
	for _, q := range e.answers {
		close(q.answer)
	}
	r.setTimer(now)
}

func (r *runner) setTimer(now time.Time) {
	at, ok := r.batcher.wake(now)
	switch {
	case !ok || r.closed:
		if r.timer != nil {
			r.timer.Stop()
		}
		r.wakeAt = time.Time{}
	case at.Equal(r.wakeAt):
	case r.timer == nil:
		r.timer, r.wakeAt = time.AfterFunc(at.Sub(now), r.tick), at
	default:
		r.timer.Reset(at.Sub(now))
		r.wakeAt = at
	}
}

func (r *runner) tick() {
	r.update(func(time.Time) { r.wakeAt = time.Time{} })
}

// run runs one batch.
func (r *runner) run(ctx context.Context, x *batch) (v verdict) {
	began := time.Now()
	x.run = run{began: began, rows: x.rows, requests: len(x.pieces)}
	defer func() {
		x.run.ended, x.run.err = time.Now(), v.err
		if !x.run.gathered.IsZero() {
			r.metrics.batch(x) // whatever its outcome, even a panic
		}
		if p := recover(); p != nil {
			v = r.broke(x, guard.Caught("Run of the backend", p))
		}
	}()
	inputs := gather(x.pieces, &r.sig)
	gathered := time.Now()
	x.run.gathered = gathered
	outputs, err := r.model.Run(ctx, inputs)
	computed := time.Now()
	x.run.computed = computed
	if err = guard.Error("Run of the backend", err); err != nil {
		if p, ok := err.(*guard.Panic); ok {
			return r.broke(x, p)
		}
		return r.failed(err)
	}
	answers, err := scatter(x.pieces, x.rows, &r.sig, outputs)
	if err != nil {
		return r.failed(err)
	}
	r.statistics.batch(x.rows, len(x.pieces), gathered.Sub(began), computed.Sub(gathered), time.Since(computed))
	return verdict{outputs: answers}
}

// broke logs the panic of a backend, and returns the verdict on the batch.
func (r *runner) broke(x *batch, p *guard.Panic) verdict {
	r.logger.Error("the backend panicked", "model", r.name, "panic", guard.Brief(p), "rows", x.rows, "stack", string(p.Stack))
	v := r.failed(&failure{code: codes.Internal, reason: oip.ReasonBackendError, message: "the backend " + did(p)})
	x.run.err = v.err
	return v
}

func (r *runner) failed(err error) verdict {
	f, rows := failureOf(err)
	r.metrics.failedBatches.Inc()
	return verdict{err: f, badRows: rows, content: f.content()}
}

// close ends the requests that are left and waits for the backend to return, for as long as ctx
// allows. Then it closes the model.
func (r *runner) close(ctx context.Context) error {
	r.mu.Lock()
	already := r.closed
	r.closed = true
	r.mu.Unlock()
	if already {
		return nil
	}
	r.update(func(time.Time) {})
	close(r.work)
	done := make(chan struct{})
	go func() { r.workers.Wait(); close(done) }()
	select {
	case <-done:
		return closeModel(r.model)
	case <-ctx.Done():
		return fmt.Errorf("the backend of model %q does not return from a batch whose callers have gone", r.name)
	}
}

func closeModel(m backend.Model) error {
	err := guard.Apart("Close of the backend", m.Close)
	if p, ok := err.(*guard.Panic); ok {
		err = fmt.Errorf("the backend, when it was closed, %s\n%s", did(p), p.Stack)
	}
	return err
}
