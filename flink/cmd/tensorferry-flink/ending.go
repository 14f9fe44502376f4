package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/tensorferry/tensorferry/flink"
	"github.com/tensorferry/tensorferry/flink/submit"
	"github.com/tensorferry/tensorferry/job"
)

// ending waits for the end of a job, and brings it about when a signal asks for it.
type ending struct {
	w       *world
	spec    *job.Spec
	cluster submit.Cluster
	log     *slog.Logger
	began   time.Time

	asked     os.Signal // the first
	cancelled bool
	stopping  bool // a savepoint is being taken
	lost      bool // one was, and nobody said where
	stopped   chan stopped
	patience  time.Duration // for the savepoint's path when the job is over
}

// pathPatience is long for Flink, which knows the path when the job ends.
const pathPatience = 10 * time.Second

// stopped is how a stop with a savepoint went.
type stopped struct {
	path string
	err  error
}

// wait returns the exit code.
func (e *ending) wait(ctx context.Context, j *submit.Job) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e.stopped = make(chan stopped, 1)
	done := make(chan error, 1)
	go func() { done <- j.Wait(ctx, e.log) }()
	var savepoint string
	for {
		select {
		case s := <-e.w.signals:
			if e.cluster.Address == "" {
				fmt.Fprintf(e.w.stderr, "%s: the job goes on; end it in Flink's web UI or with its command (with --flink a signal ends it)\n", e.spec.Name)
				return signalCode(s)
			}
			if err := e.signal(ctx, s); err != nil {
				fmt.Fprintf(e.w.stderr, "tensorferry-flink run: the job may go on: %v\n", err)
				return exitFailed
			}
		case st := <-e.stopped:
			savepoint = e.took(st)
		case err := <-done:
			if err == nil && e.stopping && !e.cancelled {
				// The job server is told of the end before the savepoint's path is.
				select {
				case st := <-e.stopped:
					savepoint = e.took(st)
				case <-time.After(e.patience):
					e.lost = true
				}
			}
			return e.over(savepoint, err)
		}
	}
}

// took notes how a stop with a savepoint went, and returns the savepoint's path.
func (e *ending) took(st stopped) string {
	e.stopping = false
	if st.err != nil {
		e.log.Warn("the job could not be stopped with a savepoint; a further signal cancels it", "error", st.err)
	}
	return st.path
}

// signal asks Flink to end the job.
func (e *ending) signal(ctx context.Context, s os.Signal) error {
	// The clock of the cluster may be another.
	id, err := e.cluster.Find(ctx, e.spec.Name, e.began.Add(-time.Minute))
	if err != nil {
		return err
	}
	if id == "" {
		return fmt.Errorf("no job %q runs on Flink at %s", e.spec.Name, e.cluster.Address)
	}
	if e.asked == nil && e.spec.Source.File == nil {
		e.asked, e.stopping = s, true
		e.log.Info("stopping with a savepoint", "signal", s.String(), "job", id)
		go func() {
			path, err := e.cluster.Stop(ctx, id)
			e.stopped <- stopped{path, err}
		}()
		return nil
	}
	if e.asked == nil {
		e.asked = s
	}
	e.cancelled = true
	e.log.Info("cancelling", "signal", s.String(), "job", id)
	return e.cluster.Cancel(ctx, id)
}

// over says how the job ended, and returns the exit code.
func (e *ending) over(savepoint string, err error) int {
	name := e.spec.Name
	switch {
	case savepoint != "":
		fmt.Fprintf(e.w.stderr, "%s: stopped; go on with --savepoint %s\n", name, savepoint)
		return signalCode(e.asked)
	case e.lost:
		fmt.Fprintf(e.w.stderr, "%s: stopped; Flink's web UI says where its savepoint is\n", name)
		return signalCode(e.asked)
	case err == nil:
		fmt.Fprintf(e.w.stdout, "%s: finished in %.1fs\n", name, time.Since(e.began).Seconds())
		return exitOK
	case e.cancelled:
		// Of a job that Flink has cancelled the job server says that it failed.
		next := "go on with --resume"
		if e.spec.Source.File == nil {
			next = "go on with --savepoint and a checkpoint that was kept"
		}
		fmt.Fprintf(e.w.stderr, "%s: cancelled; %s\n", name, next)
		return signalCode(e.asked)
	}
	if f := flink.FailureIn(err.Error()); f != nil {
		fmt.Fprintf(e.w.stderr, "tensorferry-flink run: %s failed: %s (class %s%s%s)\n", name, f.Message, f.Class, labelled("code", f.Code), labelled("reason", f.Reason))
		return exitFailed
	}
	if errors.Is(err, submit.ErrCancelled) {
		fmt.Fprintf(e.w.stderr, "tensorferry-flink run: %s was cancelled\n", name)
		return exitFailed
	}
	fmt.Fprintf(e.w.stderr, "tensorferry-flink run: %v\n", err)
	return exitFailed
}

func labelled(name, value string) string {
	if value == "" {
		return ""
	}
	return ", " + name + " " + value
}
