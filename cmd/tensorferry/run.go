package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tensorferry/tensorferry/internal/cli"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/embedded"
	"github.com/tensorferry/tensorferry/job/inference"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

const runDetails = `Runs the job to the end of its input.

  --resume            go on with the unfinished run, from its newest checkpoint; start if there is none
  --fresh             discard an unfinished run and start anew
  --from CHECKPOINT   go on from this checkpoint of the run, named by its number or file
  --log-format FORMAT text or json (default: the job file's, else text)
  --log-level LEVEL   debug, info, warn or error (default: the job file's, else info, and warn beside the live view)
  --metrics HOST:PORT serve /metrics for Prometheus, and /health
  --pprof             serve /debug/pprof/ there too
  --no-progress       log lines instead of the live view, also on a terminal

Without a flag a run starts where there is none, or replaces one that is finished.
The first SIGINT, SIGTERM or SIGHUP stops with a checkpoint; a second one, or stop_timeout,
stops at once. Either way the run can be resumed.

exit codes: 0 done, 1 the job failed, 2 wrong usage or job file, or an unfinished run,
129, 130 and 143 stopped by SIGHUP, SIGINT and SIGTERM
`

// runner is one call of the run command.
type runner struct {
	w       *cli.World
	spec    *job.Spec
	parts   parts
	how     beginning
	log     *slog.Logger
	view    *view // nil without a terminal
	store   *checkpoint.Store
	metrics *metrics // nil without --metrics
	traffic traffic
	// notNumbers counts those of the model's answers; nil before there is a function.
	notNumbers *atomic.Int64
	// finished: the run that was to be resumed had reached its end before.
	finished bool
	resumed  bool // from a checkpoint
	ran      running
	ending   *ending
}

func runJob(c *cli.Call) int {
	fs := c.Flags()
	var how beginning
	var format, level string
	fs.BoolVar(&how.resume, "resume", false, "")
	fs.BoolVar(&how.fresh, "fresh", false, "")
	fs.StringVar(&how.from, "from", "", "")
	fs.StringVar(&format, "log-format", "", "")
	fs.StringVar(&level, "log-level", "", "")
	noProgress := fs.Bool("no-progress", false, "")
	address := fs.String("metrics", "", "")
	withPprof := fs.Bool("pprof", false, "")
	rest, code, ok := c.Parse(fs, 1, "one job file")
	if !ok {
		return code
	}
	switch {
	case how.resume && how.fresh || how.from != "" && (how.resume || how.fresh):
		return c.Misused("want at most one of --resume, --fresh and --from")
	case *withPprof && *address == "":
		return c.Misused("--pprof is served at the address of --metrics; want both")
	case !slices.Contains([]string{"", "text", "json"}, format):
		return c.Misused("--log-format is %q; want text or json", format)
	case !slices.Contains([]string{"", "debug", "info", "warn", "error"}, level):
		return c.Misused("--log-level is %q; want debug, info, warn or error", level)
	}
	spec, err := job.Load(rest[0])
	if err != nil {
		fmt.Fprintln(c.Stderr, err)
		return exitUsage
	}
	r := &runner{w: c.World, spec: spec, how: how}
	logTo := c.Stderr
	fallback := "info"
	// Results on the same terminal would be drawn over.
	if c.Size != nil && !*noProgress && !spec.Sink.Stdout {
		r.view = newView(c.Stderr, c.Size)
		logTo, fallback = r.view, "warn"
	}
	r.log = cli.Logger(logTo, first(format, spec.Log.Format, "text"), first(level, spec.Log.Level, fallback))
	var faults []error
	if r.parts, faults = newParts(spec, c.World, r.log); faults != nil {
		fmt.Fprintln(c.Stderr, errors.Join(faults...))
		return exitUsage
	}
	if *address == "" {
		return r.untilEnd(r.drive)
	}
	if r.metrics, err = newMetrics(*address, spec.Name, *withPprof); err != nil {
		code := c.Fails("--metrics: %v", err) // taken, say, which may pass
		if _, ok := errors.AsType[*net.AddrError](err); ok {
			return exitUsage
		}
		return code
	}
	r.metrics.skipped = r.parts.skipped
	r.log.Info("metrics", "url", "http://"+r.metrics.listener.Addr().String()+"/metrics")
	return r.untilEnd(func(ctx context.Context) int {
		served := make(chan error, 1)
		go func() { served <- r.metrics.serve() }()
		code := r.drive(ctx)
		r.metrics.close()
		if err := <-served; err != nil {
			r.log.Warn("metrics were no longer served", "error", err)
		}
		return code
	})
}

// first returns the first text that is not empty.
func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// drive runs the job in the background and shows how it gets on. It returns the exit code.
func (r *runner) drive(ctx context.Context) int {
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- r.execute(ctx) }()

	every := logEvery
	if r.view != nil {
		every = redrawEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	m := &meter{name: r.spec.Name, began: began}
	stopping := r.ending.stopping
	for {
		select {
		case <-stopping:
			stopping = nil
			if run, s := r.ending.standing(); run != nil {
				r.log.Info("stopping with a checkpoint", "signal", s.String(), "timeout", r.spec.StopTimeout)
			}
		case <-tick.C:
			if run, _ := r.ending.standing(); run != nil {
				r.report(m, run)
			}
		case err := <-done:
			if r.view != nil {
				r.view.clear()
			}
			run, stopped := r.ending.standing()
			return r.finish(began, run, stopped, err)
		}
	}
}

// report shows where the run stands.
func (r *runner) report(m *meter, run *stream.Run) {
	// The time is that of the numbers: a terminal that stood still may have kept the tick for long.
	g := glance{Progress: run.Progress(), at: time.Now(), requests: r.traffic.requests.Load(), rows: r.traffic.rows.Load(), unread: -1}
	if r.parts.lag != nil {
		if n, known := r.parts.lag(); known {
			g.unread = n
		}
	}
	m.add(&g)
	if r.view != nil {
		width, _ := r.view.size()
		r.view.show(m.block(&g, width)...)
		return
	}
	r.log.Info("progress", m.attrs(&g)...)
}

// execute is the run from the lock on its checkpoints to the last of its results.
func (r *runner) execute(ctx context.Context) (err error) {
	if faults := checkApart(ctx, r.spec, r.parts, true); faults != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errors.Join(faults...)
	}
	if r.store, err = openStore(r.spec, r.log); err != nil {
		return err
	}
	if r.store != nil {
		defer func() { err = also(err, r.store.Close()) }()
	}
	if g := r.parts.group; g != nil {
		defer func() { err = also(err, g.Close()) }()
	}
	// A refusal comes before anything is started.
	if err := r.how.refused(r.spec, r.store); err != nil {
		return err
	}
	if !r.how.resume && r.how.from == "" {
		// A file that is missing is found before a sidecar is started, and is said
		// with its place. One that is missing at a resumption is the source's to judge.
		if err := checkSource(ctx, r.spec, r.parts.source); err != nil {
			return err
		}
	}
	if err := checkKafka(ctx, r.spec, r.parts, r.how); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
	traces, err := startTraces(r.spec, r.log)
	if err != nil {
		return err
	}
	defer traces.Close(ctx)
	r.parts.tracer = traces.Tracer()
	endpoint := r.spec.Infer.Endpoint
	if r.spec.Sidecar != nil {
		e, err := embedded.Start(ctx, r.spec, r.log, r.parts.tracer)
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return fmt.Errorf("the job's sidecar: %w", err)
		}
		defer func() { err = also(err, e.Close()) }()
		endpoint = e.Endpoint()
	}
	warnPlain(r.spec, r.log)
	request := r.traffic.take
	observer := []stream.Observer{&r.ran}
	if r.metrics != nil {
		request = func(q sidecar.Request) {
			r.traffic.take(q)
			r.metrics.request(q)
		}
		observer = append(observer, r.metrics)
	}
	fn, err := inference.NewFunction(r.spec, endpoint, request)
	if err != nil {
		return err
	}
	r.notNumbers = &fn.NotNumbers
	if r.metrics != nil {
		r.metrics.notNumbers.Store(&fn.NotNumbers)
	}
	broken := false // an unfinished or damaged run is there
	if r.store != nil && r.how.fresh {
		st, err := r.store.State()
		broken = err != nil || st.Phase == checkpoint.Unfinished || st.Damaged != nil
	}
	begun, err := r.how.begin(r.spec, r.store)
	if err != nil {
		return err
	}
	for _, d := range begun.Damaged {
		r.log.Warn("passed over a checkpoint that is damaged or gone", "error", d)
	}
	if r.store != nil {
		if err := r.how.goOn(ctx, r.spec, begun, broken, r.parts, r.log); err != nil {
			return err
		}
	}
	r.finished, r.resumed = begun.Restore != nil && begun.Restore.Finished, begun.Restore != nil
	run := assemble(r.spec, r.parts, fn, begun, r.store, r.log, observer...).Start(ctx)
	if r.metrics != nil {
		r.metrics.watch(run, r.parts.lag)
	}
	r.ending.began(run)
	err = inSource(run.Wait(), r.parts.source)
	if errors.Is(err, sidecar.ErrPermanent) {
		// Nothing but another job file or another model helps.
		err = placed{r.spec.Fault("infer", "%v", err)}
	}
	if err != nil && r.store != nil && begun.Attempt == 0 && r.untouched(run.Progress()) {
		// It failed before it did anything, as by a field that the model does not
		// have. That is no run that anyone has to resume or discard.
		err = also(err, r.store.Abandon())
	}
	return err
}

// placed is a failure of the job whose cause is a place in the job file. Its exit
// code is that of a failed job, since the file alone does not show it.
type placed struct{ at job.Fault }

func (p placed) Error() string { return p.at.Error() }

// also adds what failed on the way out, if anything did.
func also(err, more error) error {
	if more == nil {
		return err
	}
	return errors.Join(err, more)
}

// running is true once every subtask of a job has run.
type running struct{ atomic.Bool }

// Observe implements stream.Observer.
func (r *running) Observe(e stream.Event) {
	if _, ok := e.(stream.Started); ok {
		r.Store(true)
	}
}

// untouched reports whether nothing is lost with a run: this process has read nothing and kept
// nothing, in any attempt. One that reads topics has a beginning once it runs, behind which records
// come that it has not read yet.
func (r *runner) untouched(p stream.Progress) bool {
	for i := range p.Worked {
		if p.Worked[i].In > 0 {
			return false
		}
	}
	return p.CheckpointsCompleted == 0 && !(r.spec.Source.Kafka != nil && r.ran.Load())
}

// finish says how the run ended, and returns the exit code.
func (r *runner) finish(began time.Time, run *stream.Run, stopped os.Signal, err error) int {
	out := r.w.Stdout
	if r.spec.Sink.Stdout {
		out = r.w.Stderr // stdout belongs to the results
	}
	var p stream.Progress
	if run != nil {
		p = run.Progress()
	}
	idle := run == nil || !r.resumed && r.untouched(p) // nothing has come of it
	switch {
	case err == nil && r.finished:
		fmt.Fprintf(out, "%s: the run had finished before; its results are in %s\n", r.spec.Name, sinkPlace(r.spec))
		return exitOK
	case err == nil:
		r.summary(out, "finished", time.Since(began), &p)
		return exitOK
	case stopped != nil && (errors.Is(err, stream.ErrStopped) || errors.Is(err, errSecondSignal) || errors.Is(err, errStopTimeout) || errors.Is(err, errInterrupted)):
		switch {
		case idle:
			fmt.Fprintf(r.w.Stderr, "%s: stopped before it began\n", r.spec.Name)
		case r.spec.Source.Stdin != nil:
			fmt.Fprintf(r.w.Stderr, "%s: stopped; standard input cannot be read again, so the run cannot be resumed\n", r.spec.Name)
		case r.parts.group != nil:
			fmt.Fprintf(r.w.Stderr, "%s: stopped; the next start goes on where the group %q stands\n", r.spec.Name, r.spec.Source.Kafka.Group)
		case r.store == nil:
			fmt.Fprintf(r.w.Stderr, "%s: stopped; the job keeps no checkpoints, so the run cannot be resumed\n", r.spec.Name)
		default:
			fmt.Fprintf(r.w.Stderr, "%s: stopped, resumable: continue with --resume\n", r.spec.Name)
		}
		if err != stream.ErrStopped && !idle {
			fmt.Fprintf(r.w.Stderr, "%s: without a last checkpoint: %v\n", r.spec.Name, err)
		}
		if !idle {
			r.summary(out, "stopped", time.Since(began), &p)
		}
		return cli.SignalCode(stopped)
	}
	fmt.Fprintf(r.w.Stderr, "tensorferry run: %v\n", err)
	if _, ok := errors.AsType[refusal](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[job.Fault](err); ok {
		return exitUsage
	}
	return exitFailed
}

func (r *runner) summary(out io.Writer, how string, took time.Duration, p *stream.Progress) {
	fmt.Fprintf(out, "%s: %s in %s: %s records read, %s results in %s\n", r.spec.Name, how, seconds(took),
		group(p.Read), group(p.Committed), sinkPlace(r.spec))
	if p.Before.Read > 0 {
		fmt.Fprintf(out, "  of these %s records and %s results since it was resumed\n", group(p.Read-p.Before.Read), group(p.Committed-p.Before.Emitted))
	}
	if p.Dropped > 0 {
		fmt.Fprintf(out, "  %s records failed and were dropped\n", group(p.Dropped))
	}
	if p.DeadLettered > 0 {
		fmt.Fprintf(out, "  %s records failed and are in %s\n", group(p.DeadLettered), lettersPlace(r.spec))
	}
	if n := r.notNumbers; n != nil && n.Load() > 0 {
		fmt.Fprintf(out, "  %s numbers of the model's answers were NaN or infinite\n", group(n.Load()))
	}
	rate := rateText(rateOf(p.Settled()-p.Before.Settled(), took))
	fmt.Fprintf(out, "  %s   checkpoints %d, failed %d   restarts %d\n", rate, p.CheckpointsCompleted, p.CheckpointsFailed, p.Restarts)
}
