package local

import (
	"context"
	"errors"
	"fmt"

	"github.com/tensorferry/tensorferry/job/embedded"
	"github.com/tensorferry/tensorferry/job/inference"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// Run runs the job to the end of its input, from the lock on its checkpoints to the last of its
// results. When ctx ends, what is in flight is cancelled, and the error wraps context.Cause(ctx).
// The error of a run that was stopped (stream.Run.Stop) is stream.ErrStopped. In both cases the run
// can be resumed. Other errors are a *RefusedError, a job.Fault, or the failure of the job.
//
// Run does not keep to Spec.StopTimeout, since it does not know why the run is stopped: cancel ctx
// when the time is over.
func (j *Job) Run(ctx context.Context) (err error) {
	spec := j.spec
	if faults := checkApart(ctx, spec, j.parts, true); faults != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errors.Join(faults...)
	}
	store, err := openStore(spec, j.log)
	if err != nil {
		return err
	}
	if store != nil {
		defer func() { err = also(err, store.Close()) }()
	}
	if g := j.parts.group; g != nil {
		defer func() { err = also(err, g.Close()) }()
	}
	// Refuse before anything starts.
	if err := j.refused(store); err != nil {
		return err
	}
	if !j.opts.Resume && j.opts.From == "" {
		// Find a missing file before a sidecar starts, so that the error has its place in
		// the job file. When a run is resumed, the source itself checks its files.
		if err := checkSource(ctx, spec, j.parts.source); err != nil {
			return err
		}
	}
	if err := checkKafka(ctx, spec, j.parts, j.opts); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
	traces, err := startTraces(spec, j.opts.Version, j.log)
	if err != nil {
		return err
	}
	defer traces.Close(ctx)
	j.parts.tracer = traces.Tracer()
	endpoint := spec.Infer.Endpoint
	if spec.Sidecar != nil {
		e, err := embedded.Start(ctx, spec, j.log, j.parts.tracer)
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return fmt.Errorf("the job's sidecar: %w", err)
		}
		defer func() { err = also(err, e.Close()) }()
		endpoint = e.Endpoint()
	}
	warnPlain(spec, j.log)
	fn, err := inference.NewFunction(spec, endpoint, j.opts.Request)
	if err != nil {
		return err
	}
	j.notNumbers.Store(&fn.NotNumbers)
	broken := false // whether there is an unfinished or damaged run
	if store != nil && j.opts.Fresh {
		st, err := store.State()
		broken = err != nil || st.Phase == checkpoint.Unfinished || st.Damaged != nil
	}
	begun, err := j.begin(store)
	if err != nil {
		return err
	}
	for _, d := range begun.Damaged {
		j.log.Warn("skipped a checkpoint that is damaged or gone", "error", d)
	}
	if store != nil {
		if err := j.goOn(ctx, begun, broken); err != nil {
			return err
		}
	}
	j.finished.Store(begun.Restore != nil && begun.Restore.Finished)
	j.resumed.Store(begun.Restore != nil)
	run := j.assemble(fn, begun, store).Start(ctx)
	if j.opts.Started != nil {
		j.opts.Started(run)
	}
	err = inSource(run.Wait(), j.parts.source)
	if errors.Is(err, sidecar.ErrPermanent) {
		// Only another job file or another model helps.
		err = placed{spec.Fault("infer", "%v", err)}
	}
	if p := run.Progress(); err != nil && store != nil && begun.Attempt == 0 && j.Untouched(&p) {
		// The run failed before it did anything, for example because the model lacks an
		// input. There is nothing to resume or to discard.
		err = also(err, store.Abandon())
	}
	return err
}

// observers passes each event to several Observers.
type observers []stream.Observer

// Observe implements stream.Observer.
func (all observers) Observe(e stream.Event) {
	for _, o := range all {
		o.Observe(e)
	}
}
