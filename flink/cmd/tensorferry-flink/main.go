// Command tensorferry-flink runs job files on Apache Flink.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/tensorferry/tensorferry/flink/jobfile"
	"github.com/tensorferry/tensorferry/flink/submit"
	"github.com/tensorferry/tensorferry/flink/worker"
	"github.com/tensorferry/tensorferry/job"
)

const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() { os.Exit(command(os.Args[1:], os.Stdout, os.Stderr)) }

func command(args []string, stdout, stderr io.Writer) int {
	beam.Init()
	log := slog.New(slog.NewTextHandler(stderr, nil))
	slog.SetDefault(log)
	switch args[0] {
	case "worker":
		fs := flag.NewFlagSet("worker", flag.ContinueOnError)
		listen := fs.String("listen", "127.0.0.1:50000", "")
		if err := fs.Parse(args[1:]); err != nil {
			return exitUsage
		}
		l, err := net.Listen("tcp", *listen)
		if err != nil {
			fmt.Fprintln(stderr, err)
			return exitUsage
		}
		p := worker.New(log)
		go func() {
			c := make(chan os.Signal, 1)
			signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
			<-c
			p.Close()
		}()
		log.Info("the worker pool is ready", "address", l.Addr())
		if err := p.Serve(l); err != nil {
			fmt.Fprintln(stderr, err)
			return exitFailed
		}
		return exitOK
	case "run":
		fs := flag.NewFlagSet("run", flag.ContinueOnError)
		var o submit.Options
		fs.StringVar(&o.JobServer, "job-server", "", "")
		fs.StringVar(&o.WorkerPool, "worker-pool", "127.0.0.1:50000", "")
		if err := fs.Parse(args[1:]); err != nil {
			return exitUsage
		}
		spec, err := job.Load(fs.Arg(0))
		if err != nil {
			fmt.Fprintln(stderr, err)
			return exitUsage
		}
		return run(spec, o, log, stderr)
	}
	return exitUsage
}

func run(spec *job.Spec, o submit.Options, log *slog.Logger, stderr io.Writer) int {
	ctx := context.Background()
	p := beam.NewPipeline()
	splits, err := jobfile.Splits(ctx, spec)
	if err == nil {
		err = jobfile.Build(p, spec, splits)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	o.Name = spec.Name
	o.Parallelism = spec.Parallelism
	o.CheckpointInterval = spec.Checkpoint.Interval
	began := time.Now()
	j, err := submit.Submit(ctx, p, o)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	defer j.Close()
	err = j.Wait(ctx, log)
	log.Info("over", "took", time.Since(began), "error", err)
	if err != nil && !errors.Is(err, submit.ErrCancelled) {
		return exitFailed
	}
	return exitOK
}
