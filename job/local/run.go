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

// Run runs the job to the end of its input: from the lock on its checkpoints to the last of its
// results. When ctx ends, the calls in flight are cancelled, and the error wraps
// context.Cause(ctx); the run can be resumed. An error of Run is a *RefusedError, a job.Fault, or
// the failure of the job.
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
	// A refusal comes before anything is started.
	if err := j.refused(store); err != nil {
		return err
	}
	if !j.opts.Resume && j.opts.From == "" {
		// A file that is missing is found before a sidecar is started, and is said
		// with its place. One that is missing at a resumption is the source's to judge.
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
	broken := false // an unfinished or damaged run is there
	if store != nil && j.opts.Fresh {
		st, err := store.State()
		broken = err != nil || st.Phase == checkpoint.Unfinished || st.Damaged != nil
	}
	begun, err := j.begin(store)
	if err != nil {
		return err
	}
	for _, d := range begun.Damaged {
		j.log.Warn("passed over a checkpoint that is damaged or gone", "error", d)
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
		// Nothing but another job file or another model helps.
		err = placed{spec.Fault("infer", "%v", err)}
	}
	if p := run.Progress(); err != nil && store != nil && begun.Attempt == 0 && j.Untouched(&p) {
		// It failed before it did anything, as by a field that the model does not
		// have. That is no run that anyone has to resume or discard.
		err = also(err, store.Abandon())
	}
	return err
}

// observers is an Observer of several.
type observers []stream.Observer

// Observe implements stream.Observer.
func (all observers) Observe(e stream.Event) {
	for _, o := range all {
		o.Observe(e)
	}
}
