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
	"time"

	"github.com/tensorferry/tensorferry/internal/cli"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/local"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/stream"
)

const runDetails = `Runs the job to the end of its input.

  --resume            continue the unfinished run from its newest checkpoint; start a run if there is none
  --fresh             discard an unfinished run and start a new one
  --from CHECKPOINT   continue from this checkpoint of the run, given by its number or file
  --log-format FORMAT text or json (default: the job file's, or text)
  --log-level LEVEL   debug, info, warn or error (default: the job file's, or info, or warn with the live view)
  --metrics HOST:PORT serve /metrics for Prometheus, and /health
  --pprof             serve /debug/pprof/ there too
  --no-progress       write log lines instead of the live view, also on a terminal

Without --resume, --fresh and --from a new run starts, unless there is an unfinished one. The
results of a finished run are replaced.

The first SIGINT, SIGTERM or SIGHUP stops the run with a checkpoint. A second one, or the end
of stop_timeout, stops it at once. In both cases the run can be resumed.

exit codes: 0 done, 1 the job failed, 2 wrong usage or job file, or an unfinished run,
129, 130 and 143 stopped by SIGHUP, SIGINT and SIGTERM
`

// runner is one call of the run command.
type runner struct {
	w       *cli.World
	spec    *job.Spec
	job     *local.Job
	log     *slog.Logger
	view    *view    // nil without a terminal
	metrics *metrics // nil without --metrics
	traffic traffic
	ending  *ending
}

func runJob(c *cli.Call) int {
	fs := c.Flags()
	var how local.Options
	var format, level string
	fs.BoolVar(&how.Resume, "resume", false, "")
	fs.BoolVar(&how.Fresh, "fresh", false, "")
	fs.StringVar(&how.From, "from", "", "")
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
	case how.Resume && how.Fresh || how.From != "" && (how.Resume || how.Fresh):
		return c.Misused("want at most one of --resume, --fresh and --from")
	case *withPprof && *address == "":
		return c.Misused("--pprof needs --metrics, which says where to serve it")
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
	r := &runner{w: c.World, spec: spec}
	logTo := c.Stderr
	fallback := "info"
	// The view would draw over results on the same terminal.
	if c.Size != nil && !*noProgress && !spec.Sink.Stdout {
		r.view = newView(c.Stderr, c.Size)
		logTo, fallback = r.view, "warn"
	}
	r.log = cli.Logger(logTo, first(format, spec.Log.Format, "text"), first(level, spec.Log.Level, fallback))
	how.Stdin, how.Stdout, how.Logger, how.Version = c.Stdin, c.Stdout, r.log, cli.Version()
	how.Request, how.Started, how.Observers = r.request, r.started, []stream.Observer{r}
	if r.job, err = local.Build(spec, how); err != nil {
		fmt.Fprintln(c.Stderr, err)
		return exitUsage
	}
	if *address == "" {
		return r.untilEnd(r.drive)
	}
	if r.metrics, err = newMetrics(*address, spec.Name, *withPprof); err != nil {
		code := c.Fails("--metrics: %v", err) // such as an address in use, which may become free
		if _, ok := errors.AsType[*net.AddrError](err); ok {
			return exitUsage
		}
		return code
	}
	if _, known := r.job.Skipped(); known {
		r.metrics.skipped = func() int64 { n, _ := r.job.Skipped(); return n }
	}
	r.metrics.notNumbers = r.job.NotNumbers
	r.log.Info("metrics", "url", "http://"+r.metrics.listener.Addr().String()+"/metrics")
	return r.untilEnd(func(ctx context.Context) int {
		served := make(chan error, 1)
		go func() { served <- r.metrics.serve() }()
		code := r.drive(ctx)
		r.metrics.close()
		if err := <-served; err != nil {
			r.log.Warn("serving metrics failed", "error", err)
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

// drive runs the job in the background and shows its progress. It returns the exit code.
func (r *runner) drive(ctx context.Context) int {
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- r.job.Run(ctx) }()

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

// report shows the run's progress.
func (r *runner) report(m *meter, run *stream.Run) {
	// Take the time together with the numbers: a blocked terminal may have delayed the tick.
	g := glance{Progress: run.Progress(), at: time.Now(), requests: r.traffic.requests.Load(), rows: r.traffic.rows.Load(), unread: -1}
	if n, known := r.job.Unread(); known {
		g.unread = n
	}
	m.add(&g)
	if r.view != nil {
		width, _ := r.view.size()
		r.view.show(m.block(&g, width)...)
		return
	}
	r.log.Info("progress", m.attrs(&g)...)
}

// request takes a request to the model server.
func (r *runner) request(q sidecar.Request) {
	r.traffic.take(q)
	if r.metrics != nil {
		r.metrics.request(q)
	}
}

// started takes the run when it begins.
func (r *runner) started(run *stream.Run) {
	if r.metrics != nil {
		r.metrics.watch(run, r.job.Unread)
	}
	r.ending.began(run)
}

// Observe implements stream.Observer.
func (r *runner) Observe(e stream.Event) {
	if r.metrics != nil {
		r.metrics.Observe(e)
	}
}

// finish prints how the run ended, and returns the exit code.
func (r *runner) finish(began time.Time, run *stream.Run, stopped os.Signal, err error) int {
	out := r.w.Stdout
	if r.spec.Sink.Stdout {
		out = r.w.Stderr // stdout belongs to the results
	}
	var p stream.Progress
	if run != nil {
		p = run.Progress()
	}
	idle := run == nil || !r.job.Resumed() && r.job.Untouched(&p) // the run did nothing
	switch {
	case err == nil && r.job.Finished():
		fmt.Fprintf(out, "%s: the run was already finished; its results are in %s\n", r.spec.Name, local.SinkPlace(r.spec))
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
		case r.spec.KafkaToKafka():
			fmt.Fprintf(r.w.Stderr, "%s: stopped; the next start continues at the offsets of the group %q\n", r.spec.Name, r.spec.Source.Kafka.Group)
		case local.CheckpointDir(r.spec) == "":
			fmt.Fprintf(r.w.Stderr, "%s: stopped; the job keeps no checkpoints, so the run cannot be resumed\n", r.spec.Name)
		default:
			fmt.Fprintf(r.w.Stderr, "%s: stopped, resumable: continue with --resume\n", r.spec.Name)
		}
		if err != stream.ErrStopped && !idle {
			fmt.Fprintf(r.w.Stderr, "%s: stopped without a final checkpoint: %v\n", r.spec.Name, err)
		}
		if !idle {
			r.summary(out, "stopped", time.Since(began), &p)
		}
		return cli.SignalCode(stopped)
	}
	fmt.Fprintf(r.w.Stderr, "tensorferry run: %v\n", err)
	if _, ok := errors.AsType[*local.RefusedError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[job.Fault](err); ok {
		return exitUsage
	}
	return exitFailed
}

func (r *runner) summary(out io.Writer, how string, took time.Duration, p *stream.Progress) {
	fmt.Fprintf(out, "%s: %s in %s: %s records read, %s results in %s\n", r.spec.Name, how, seconds(took),
		group(p.Read), group(p.Committed), local.SinkPlace(r.spec))
	if p.Before.Read > 0 {
		fmt.Fprintf(out, "  since the run was resumed: %s records, %s results\n", group(p.Read-p.Before.Read), group(p.Committed-p.Before.Emitted))
	}
	if p.Dropped > 0 {
		fmt.Fprintf(out, "  %s records failed and were dropped\n", group(p.Dropped))
	}
	if p.DeadLettered > 0 {
		fmt.Fprintf(out, "  %s records failed and are in %s\n", group(p.DeadLettered), local.LettersPlace(r.spec))
	}
	if n := r.job.NotNumbers(); n > 0 {
		fmt.Fprintf(out, "  %s numbers in the model's answers were NaN or infinite\n", group(n))
	}
	rate := rateText(rateOf(p.Settled()-p.Before.Settled(), took))
	fmt.Fprintf(out, "  %s   checkpoints %d, failed %d   restarts %d\n", rate, p.CheckpointsCompleted, p.CheckpointsFailed, p.Restarts)
}
