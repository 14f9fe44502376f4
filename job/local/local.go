// Package local runs job files on one machine, in the process that calls it. It is the twin of
// flink/jobfile, which makes Beam pipelines of the same files.
//
//	spec, err := job.Load("job.yaml")
//	if err != nil {
//		return err // each fault with its line and column
//	}
//	j, err := local.Build(spec, local.Options{Resume: true})
//	if err != nil {
//		return err
//	}
//	return j.Run(ctx)
//
// Run starts the model server that the file brings along, locks the job's checkpoints, and runs the
// job to the end of its input. The command tensorferry adds flags, signals and a display to this
// package. A run costs one process on one machine; use flink/jobfile for a job that must be spread
// over several.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/embedded"
	"github.com/tensorferry/tensorferry/job/inference"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/stream"
)

// Record is the record of a job that a file describes: one JSON object, with the bytes of its line.
type Record = inference.Record

// Options say how a job file is run. With the zero value a new run starts if there is none, or if
// the last one is finished.
type Options struct {
	// Resume continues the unfinished run from its newest checkpoint, and starts a run if there is
	// none. Fresh discards an unfinished run and starts a new one. From continues from one
	// checkpoint of the run, by its number or file. At most one of the three may be set.
	Resume, Fresh bool
	From          string
	// Stdin and Stdout are used by jobs that read standard input or write to standard output.
	// Default: those of the process.
	Stdin  *os.File
	Stdout io.Writer
	// Logger receives what happens to the run. Default: nothing is logged.
	Logger *slog.Logger
	// Version is the program's version, for the job's traces.
	Version string
	// Request, if set, is called after each request to the model server, by any goroutine. It must
	// not block.
	Request func(sidecar.Request)
	// Started, if set, is called with the run when the job begins, before anything is read. To end
	// the run with a checkpoint, call stream.Run.Stop.
	Started func(*stream.Run)
	// Observers are called for every event of the run (stream.Config.Observer).
	Observers []stream.Observer
}

// Job is a job file that is ready to run. It runs once.
type Job struct {
	spec  *job.Spec
	opts  Options
	log   *slog.Logger
	parts parts

	ran               running
	finished, resumed atomic.Bool
	// the function's count; nil before there is a function
	notNumbers atomic.Pointer[atomic.Int64]
}

// RefusedError is an error that can be avoided with other options or another job file. Nothing was
// changed.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

func refuse(format string, args ...any) error { return &RefusedError{fmt.Errorf(format, args...)} }

// Check returns everything that is wrong with a job file, as far as it shows without a run. Each
// error is a job.Fault. Check reads a little of each input file, and changes nothing.
func Check(ctx context.Context, spec *job.Spec) []error {
	p, faults := newParts(spec, Options{Logger: slog.New(slog.DiscardHandler)})
	if err := checkSource(ctx, spec, p.source); err != nil {
		faults = append(faults, err)
	}
	return append(faults, checkApart(ctx, spec, p, false)...)
}

// Build checks a job file and makes a Job. It opens, locks and changes nothing. The error contains
// a job.Fault for each fault, or is a *RefusedError for options that exclude each other.
func Build(spec *job.Spec, opts Options) (*Job, error) {
	if opts.Resume && opts.Fresh || opts.From != "" && (opts.Resume || opts.Fresh) {
		return nil, refuse("want at most one of resume, fresh and from")
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Stdin == nil {
		opts.Stdin = os.Stdin
	}
	if opts.Stdout == nil {
		opts.Stdout = os.Stdout
	}
	for _, w := range spec.Warnings {
		opts.Logger.Warn("job file", "warning", w.Error())
	}
	p, faults := newParts(spec, opts)
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	return &Job{spec: spec, opts: opts, log: opts.Logger, parts: p}, nil
}

// Unread returns how many records of the source exist and have not been read. known is false if the
// source cannot tell, or cannot tell yet.
func (j *Job) Unread() (records int64, known bool) {
	if s, ok := j.parts.source.(interface{ Lag() (int64, bool) }); ok {
		return s.Lag()
	}
	return 0, false
}

// Skipped returns how many records of the source were deleted before they were read, and were
// skipped. known is false for sources that skip nothing.
func (j *Job) Skipped() (records int64, known bool) {
	if s, ok := j.parts.source.(interface{ Skipped() int64 }); ok {
		return s.Skipped(), true
	}
	return 0, false
}

// NotNumbers returns how many numbers in the model's answers were NaN or infinite.
func (j *Job) NotNumbers() int64 {
	if n := j.notNumbers.Load(); n != nil {
		return n.Load()
	}
	return 0
}

// Resumed reports whether the run continued from a checkpoint.
func (j *Job) Resumed() bool { return j.resumed.Load() }

// Finished reports whether the resumed run had already reached its end, so that nothing was left to
// do.
func (j *Job) Finished() bool { return j.finished.Load() }

// Untouched reports whether nothing is lost if this run is dropped: this process has read nothing
// and kept nothing, in any attempt. A job that reads topics counts as touched once it runs, because
// its beginning is then fixed and later records belong to it.
func (j *Job) Untouched(p *stream.Progress) bool {
	for i := range p.Worked {
		if p.Worked[i].In > 0 {
			return false
		}
	}
	return p.CheckpointsCompleted == 0 && !(j.spec.Source.Kafka != nil && j.ran.Load())
}

// Ask opens the model once, as a subtask would, and closes it again. It returns the error if the
// model does not fit the job file, or cannot be opened. It waits for at most 10 s for a server that
// is out of reach.
func (j *Job) Ask(ctx context.Context) (err error) {
	log := slog.New(slog.DiscardHandler)
	endpoint := j.spec.Infer.Endpoint
	if j.spec.Sidecar != nil {
		e, err := embedded.Start(ctx, j.spec, log, nil)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, e.Close()) }()
		endpoint = e.Endpoint()
	}
	spec := *j.spec
	spec.Infer.OpenTimeout = 0 // the shorter hold below applies
	fn, err := inference.NewFunction(&spec, endpoint, nil)
	if err != nil {
		return err
	}
	cfg, err := j.parts.operator.Resolve()
	if err != nil {
		return err
	}
	// A person waits for the answer, so do not wait as long as a job would.
	cfg.Hold = min(cfg.Hold, 10*time.Second)
	caller, err := fn.Open(ctx, async.Subtask{Operator: InferName, Parallelism: 1, Config: cfg, Logger: log}, nobody{})
	if err != nil {
		return err
	}
	return caller.Close()
}

// nobody takes completions that never come.
type nobody struct{}

func (nobody) Complete([]async.Completion[Record]) {}
func (nobody) Suspend(error)                       {}
func (nobody) Resume()                             {}
func (nobody) Fail(error)                          {}
func (nobody) ResultsFull() bool                   { return false }

// running is true once every subtask of a job has run.
type running struct{ atomic.Bool }

// Observe implements stream.Observer.
func (r *running) Observe(e stream.Event) {
	if _, ok := e.(stream.Started); ok {
		r.Store(true)
	}
}

// also joins an error of the clean-up, if there is one.
func also(err, more error) error {
	if more == nil {
		return err
	}
	return errors.Join(err, more)
}

// placed is a failure whose cause is a place in the job file. errors.As does not find a job.Fault
// in it, since the file alone does not show the failure.
type placed struct{ at job.Fault }

func (p placed) Error() string { return p.at.Error() }
