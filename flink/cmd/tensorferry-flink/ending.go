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
	"github.com/tensorferry/tensorferry/internal/cli"
	"github.com/tensorferry/tensorferry/job"
)

// ending waits for the end of a job, and ends the job when a signal asks for it.
type ending struct {
	w       *cli.World
	spec    *job.Spec
	cluster submit.Cluster
	log     *slog.Logger
	began   time.Time
	before  []string // Flink's jobs of this name from before the submission
	id      string   // Flink's id of the job, once Flink has it
	// patience is how long Flink is asked to end the job, and how long to wait for a
	// savepoint's path when the job has ended.
	patience time.Duration

	asked     os.Signal // the first signal
	insisted  bool      // a second signal came
	cancelled bool
	stopping  bool // a savepoint is being taken
	lost      bool // a savepoint was taken, as far as is known, but its path is not known
	stopped   chan stopped
}

// flinkPatience is long for Flink, which has a job some seconds after the job server accepted it,
// and knows a savepoint's path when the job ends.
const flinkPatience = 30 * time.Second

// askAgain is the time between requests to Flink.
const askAgain = 200 * time.Millisecond

// stopped is the outcome of a stop with a savepoint.
type stopped struct {
	path string
	err  error
}

// wait waits for the job's end and returns the exit code. early is a signal that came before, or
// nil.
func (e *ending) wait(ctx context.Context, j *submit.Job, early os.Signal) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e.stopped = make(chan stopped, 1)
	done := make(chan error, 1)
	go func() { done <- j.Wait(ctx, e.log) }()
	var savepoint string
	var again <-chan time.Time // while Flink does not do what a signal asks for
	var until time.Time
	// end asks Flink to end the job, and gives up at the time until.
	end := func() error {
		err := e.end(ctx)
		switch {
		case err == nil:
			again = nil
		case time.Now().Before(until):
			if again == nil {
				e.log.Warn("the job cannot be ended yet; trying again", "error", err)
			}
			again = time.After(askAgain)
			err = nil
		}
		return err
	}
	// Find the job as soon as Flink has it. Later there may be another one of its name.
	var look <-chan time.Time
	if e.cluster.Address != "" {
		look = time.After(0)
	}
	for {
		var err error
		var heard os.Signal
		if heard, early = early, nil; heard == nil {
			select {
			case heard = <-e.w.Signals:
			case <-again:
				err = end()
			case <-look:
				look = nil
				if !e.found(ctx) && time.Since(e.began) < e.patience {
					look = time.After(askAgain)
				}
			case st := <-e.stopped:
				if savepoint = e.took(st); savepoint != "" {
					again = nil // the job has stopped, so there is nothing to cancel
				}
			case err := <-done:
				if err == nil && e.stopping {
					// The job server knows of the end before Flink's answer has
					// the savepoint's path.
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
		if heard != nil {
			if e.cluster.Address == "" {
				fmt.Fprintf(e.w.Stderr, "%s: the job continues; end it in Flink's web UI or with Flink's command (with --flink a signal ends it)\n", e.spec.Name)
				return cli.SignalCode(heard)
			}
			if e.asked == nil {
				e.asked = heard
			} else {
				e.insisted = true
			}
			if again == nil {
				until = time.Now().Add(e.patience)
			}
			err = end()
		}
		if err != nil {
			fmt.Fprintf(e.w.Stderr, "tensorferry-flink run: the job may still run: %v\n", err)
			return exitFailed
		}
	}
}

// took records the outcome of a stop with a savepoint, and returns the savepoint's path.
func (e *ending) took(st stopped) string {
	e.stopping = false
	switch {
	case errors.Is(st.err, submit.ErrStopUnknown):
		e.lost = true
		e.log.Warn("the outcome of the stop with a savepoint is not known; another signal cancels the job", "error", st.err)
	case st.err != nil:
		e.log.Warn("the job could not be stopped with a savepoint; another signal cancels it", "error", st.err)
	}
	return st.path
}

// end asks Flink to stop the job with a savepoint, or to cancel it. After an error the job runs on;
// Flink may not have it yet, or may not have it any more.
func (e *ending) end(ctx context.Context) error {
	if err := e.find(ctx); err != nil {
		return err
	}
	id := e.id
	if !e.insisted && e.spec.Source.File == nil {
		e.stopping = true
		e.log.Info("stopping with a savepoint", "signal", e.asked.String(), "job", id)
		go func() {
			path, err := e.cluster.Stop(ctx, id)
			e.stopped <- stopped{path, err}
		}()
		return nil
	}
	e.log.Info("cancelling", "signal", e.asked.String(), "job", id)
	e.cancelled = true // it may be cancelled even if the answer is lost
	return e.cluster.Cancel(ctx, id)
}

// find learns Flink's id of the job.
func (e *ending) find(ctx context.Context) (err error) {
	if e.id != "" {
		return nil
	}
	if e.id, err = e.cluster.Find(ctx, e.spec.Name, e.before); err != nil {
		return err
	}
	if e.id == "" {
		return fmt.Errorf("no job %q runs on Flink at %s", e.spec.Name, e.cluster.Address)
	}
	return nil
}

// found is find with a short timeout, because signals wait meanwhile. A later signal reports an
// error.
func (e *ending) found(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return e.find(ctx) == nil
}

// over prints how the job ended, and returns the exit code.
func (e *ending) over(savepoint string, err error) int {
	name := e.spec.Name
	switch {
	case savepoint != "":
		fmt.Fprintf(e.w.Stderr, "%s: stopped; continue with --savepoint %s\n", name, savepoint)
		return cli.SignalCode(e.asked)
	case e.lost && err == nil:
		fmt.Fprintf(e.w.Stderr, "%s: stopped; Flink's web UI shows the path of its savepoint\n", name)
		return cli.SignalCode(e.asked)
	case err == nil:
		fmt.Fprintf(e.w.Stdout, "%s: finished in %.1fs\n", name, time.Since(e.began).Seconds())
		return exitOK
	case e.cancelled:
		// The job server reports a job that Flink has cancelled as failed.
		next := "continue with --resume"
		if e.spec.Source.File == nil {
			next = "continue with --savepoint and a retained checkpoint"
		}
		fmt.Fprintf(e.w.Stderr, "%s: cancelled; %s\n", name, next)
		return cli.SignalCode(e.asked)
	}
	if f := flink.FailureIn(err.Error()); f != nil {
		fmt.Fprintf(e.w.Stderr, "tensorferry-flink run: %s failed: %s (class %s%s%s)\n", name, f.Message, f.Class, labelled("code", f.Code), labelled("reason", f.Reason))
		return exitFailed
	}
	if errors.Is(err, submit.ErrCancelled) {
		fmt.Fprintf(e.w.Stderr, "tensorferry-flink run: %s was cancelled\n", name)
		return exitFailed
	}
	fmt.Fprintf(e.w.Stderr, "tensorferry-flink run: %v\n", err)
	return exitFailed
}

func labelled(name, value string) string {
	if value == "" {
		return ""
	}
	return ", " + name + " " + value
}
