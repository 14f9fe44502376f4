package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/tensorferry/tensorferry/flink/jobfile"
	"github.com/tensorferry/tensorferry/flink/submit"
	"github.com/tensorferry/tensorferry/internal/cli"
	"github.com/tensorferry/tensorferry/job"
)

// defaultPool is the default address of worker pools.
const defaultPool = "127.0.0.1:50000"

const runDetails = `Submits the job to Beam's job server for Flink, and waits for its end. The job file is the same as
for tensorferry run. Its keys set the parallelism, the checkpoints' interval, timeout and pause,
and the restart strategy.

  --job-server HOST:PORT   Beam's job server (required)
  --worker-pool HOST:PORT  where each TaskManager finds its worker pool (default 127.0.0.1:50000)
  --resume                 with files as the source: continue with the results that the same job
                           left when it failed or was cancelled; start if there are none
  --savepoint PATH         start from this savepoint or retained checkpoint of Flink
  --lost-state             with --savepoint: start even if it has state of operators that the job
                           no longer has
  --bundle-time DURATION   longest time of a bundle (default 200ms; 20ms with topics, which are
                           read for 200ms at a time)
  --bundle-size N          most records in a bundle (default 10000; with files as the source, a
                           bundle is one split of a file)
  --flink HOST:PORT        Flink's REST interface, to end the job at a signal
  --accept-growing-state   start a job that reads topics, although it fills the TaskManager's heap
                           until it fails: Beam keeps 90 to 190 kB of every resumption of a partition
                           (four empty ones and a heap of 1 GiB: 660 MB after 3 minutes, FAILED after
                           7:41). Without the flag such a job is refused, unless --savepoint continues
                           one. Jobs that read files do not need it
  --detach                 do not wait for the end
  --log-format FORMAT      text or json (default text)

With --flink the first SIGINT, SIGTERM or SIGHUP ends the job. A job that reads files is cancelled;
continue it with run --resume. A job that reads topics is stopped with a savepoint, whose path is
printed; continue it with run --savepoint. A second signal cancels the job. Without --flink a
signal ends only this process, and the job continues.

exit codes: 0 done, 1 the job failed or was cancelled elsewhere, 2 wrong usage or job file,
129, 130 and 143 ended by SIGHUP, SIGINT and SIGTERM
`

const validateDetails = `Checks a job file for Flink. It prints what works differently than in tensorferry run, and
whether run needs --accept-growing-state for the job. Nothing is submitted.

exit codes: 0 ok, 2 the file has faults
`

func validateJob(c *cli.Call) int {
	fs := c.Flags()
	rest, code, ok := c.Parse(fs, 1, "one job file")
	if !ok {
		return code
	}
	spec, err := job.Load(rest[0])
	if err == nil {
		err = errors.Join(jobfile.Check(spec)...)
	}
	if err != nil {
		fmt.Fprintln(c.Stderr, err)
		return exitUsage
	}
	for _, n := range jobfile.Notes(spec) {
		fmt.Fprintf(c.Stdout, "note: %s\n", n)
	}
	fmt.Fprintf(c.Stdout, "%s: ok\n", rest[0])
	return exitOK
}

func runJob(c *cli.Call) int {
	fs := c.Flags()
	var o submit.Options
	fs.StringVar(&o.JobServer, "job-server", "", "")
	fs.StringVar(&o.WorkerPool, "worker-pool", defaultPool, "")
	fs.StringVar(&o.Savepoint, "savepoint", "", "")
	fs.BoolVar(&o.IgnoreLostState, "lost-state", false, "")
	fs.DurationVar(&o.MaxBundleTime, "bundle-time", 0, "")
	fs.Func("bundle-size", "", func(text string) (err error) {
		// Package flag would read 010 as octal 8.
		if o.MaxBundleSize, err = strconv.Atoi(text); err != nil {
			err = errors.New("want a whole number")
		}
		return err
	})
	resume := fs.Bool("resume", false, "")
	grow := fs.Bool("accept-growing-state", false, "")
	cluster := fs.String("flink", "", "")
	detach := fs.Bool("detach", false, "")
	format := fs.String("log-format", "text", "")
	rest, code, ok := c.Parse(fs, 1, "one job file")
	switch {
	case !ok:
		return code
	case o.JobServer == "":
		return c.Misused("want --job-server, the address of Beam's job server for Flink")
	case !isAddress(o.JobServer):
		return c.Misused("--job-server is %q; want host:port", o.JobServer)
	case !isAddress(o.WorkerPool):
		return c.Misused("--worker-pool is %q; want host:port", o.WorkerPool)
	case *cluster != "" && !strings.Contains(*cluster, "://") && !isAddress(*cluster):
		return c.Misused("--flink is %q; want host:port, or a URL", *cluster)
	case o.MaxBundleTime < 0 || o.MaxBundleSize < 0:
		return c.Misused("--bundle-time is %v and --bundle-size %d; want more than 0", o.MaxBundleTime, o.MaxBundleSize)
	case o.IgnoreLostState && o.Savepoint == "":
		return c.Misused("--lost-state needs --savepoint")
	case !slices.Contains([]string{"text", "json"}, *format):
		return c.Misused("--log-format is %q; want text or json", *format)
	}
	spec, err := job.Load(rest[0])
	if err != nil {
		fmt.Fprintln(c.Stderr, err)
		return exitUsage
	}
	if o.Savepoint != "" && spec.Source.File != nil {
		return c.Misused("--savepoint is for jobs that read topics; continue a job that reads files with --resume")
	}
	// A job that continues was accepted when it started.
	if err := jobfile.GrowingState(spec); err != nil && !*grow && o.Savepoint == "" {
		fmt.Fprintf(c.Stderr, "%v; run the job in the embedded runtime (tensorferry run), or set --accept-growing-state\n", err)
		return exitUsage
	}
	jobfile.Options(spec, &o)
	if err := o.Validate(); err != nil {
		return c.Misused("%v", err)
	}
	log := newLogger(c.Stderr, *format)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p := beam.NewPipeline()
	s, err := c.UnlessSignalled(ctx, func(ctx context.Context) error { return jobfile.Build(ctx, p, spec, *resume || o.Savepoint != "") })
	switch {
	case s != nil:
		fmt.Fprintf(c.Stderr, "%s: ended before it was submitted\n", spec.Name)
		return cli.SignalCode(s)
	case err != nil:
		fmt.Fprintln(c.Stderr, err)
		return exitUsage
	}
	for _, n := range jobfile.Notes(spec) {
		log.Warn("on Flink", "note", n)
	}
	flink := submit.Cluster{Address: *cluster}
	var before []string
	if flink.Address != "" && !*detach {
		// The job is the one that appears after this.
		s, err := c.UnlessSignalled(ctx, func(ctx context.Context) (err error) {
			before, err = flink.Jobs(ctx, spec.Name)
			return err
		})
		switch {
		case s != nil:
			fmt.Fprintf(c.Stderr, "%s: ended before it was submitted\n", spec.Name)
			return cli.SignalCode(s)
		case err != nil:
			return c.Fails("nothing was submitted: %v", err)
		}
	}
	began := time.Now()
	log.Info("submitting", "job", spec.Name, "job_server", o.JobServer)
	var j *submit.Job
	s, err = c.UnlessSignalled(ctx, func(ctx context.Context) (err error) {
		j, err = submit.Submit(ctx, p, o)
		return err
	})
	switch {
	case s != nil && err != nil:
		fmt.Fprintf(c.Stderr, "%s: ended while it was being submitted; Flink's web UI shows whether it runs\n", spec.Name)
		return cli.SignalCode(s)
	case err != nil:
		return c.Fails("%v", err)
	}
	defer j.Close()
	log.Info("submitted", "job", spec.Name, "id", j.ID)
	if *detach {
		fmt.Fprintln(c.Stdout, j.ID)
		return exitOK
	}
	e := &ending{w: c.World, spec: spec, cluster: flink, log: log, began: began, before: before, patience: flinkPatience}
	return e.wait(ctx, j, s)
}

func isAddress(s string) bool {
	_, port, err := net.SplitHostPort(s)
	return err == nil && port != ""
}
