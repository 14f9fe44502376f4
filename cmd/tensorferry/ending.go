package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/tensorferry/tensorferry/internal/cli"
	"github.com/tensorferry/tensorferry/stream"
)

// Why a run was cancelled.
var (
	errSecondSignal = errors.New("a second signal")
	errStopTimeout  = errors.New("stopping took longer than stop_timeout")
	errInterrupted  = errors.New("interrupted before the job began")
)

// endGrace is the time that a job has to release its resources when it must end at once. It needs
// only a moment, unless it waits for something that cannot be interrupted.
const endGrace = 5 * time.Second

// ending makes a job end when a signal asks for it. It waits for time and signals only, and neither
// reads nor writes: a write may block on a pipe without a reader, and a read on a disk that does
// not answer.
type ending struct {
	stopping chan struct{} // closed at the first signal

	mu     sync.Mutex
	run    *stream.Run
	signal os.Signal // the first one
}

// untilEnd calls f, which runs the job, and handles signals meanwhile. It returns the exit code of
// f, or that of the signal if the job does not end in time.
func (r *runner) untilEnd(f func(context.Context) int) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	e := &ending{stopping: make(chan struct{})}
	r.ending = e
	code := make(chan int, 1)
	go func() { code <- f(ctx) }()
	var timeout, over <-chan time.Time
	grace := r.w.Grace
	if grace == 0 {
		grace = endGrace
	}
	end := func(why error) {
		cancel(why)
		over = time.After(grace)
	}
	for {
		select {
		case c := <-code:
			return c
		case s := <-r.w.Signals:
			switch run, first := e.asked(s); {
			case ctx.Err() != nil: // do not wait any longer
				return r.abandon(s, "a further signal")
			case !first:
				end(errSecondSignal)
			case run == nil:
				end(errInterrupted)
			default:
				run.Stop()
				timeout = time.After(r.spec.StopTimeout)
			}
		case <-timeout:
			end(errStopTimeout)
		case <-over:
			_, s := e.standing()
			return r.abandon(s, context.Cause(ctx).Error())
		}
	}
}

// abandon gives up a job that does not end in time. The process is about to end, and with it the
// job. Its message must not block: the job itself may be blocked on writing to standard error.
func (r *runner) abandon(s os.Signal, why string) int {
	said := make(chan struct{})
	go func() {
		defer close(said)
		fmt.Fprintf(r.w.Stderr, "%s: the process ended before the job released its resources (%s); published results and the last checkpoint are kept\n",
			r.spec.Name, why)
	}()
	select {
	case <-said:
	case <-time.After(100 * time.Millisecond):
	}
	return cli.SignalCode(s)
}

// asked takes a signal. It returns whether the signal is the first, and the run to be stopped, or
// nil if no run has begun.
func (e *ending) asked(s os.Signal) (run *stream.Run, first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if first = e.signal == nil; first {
		e.signal = s
		close(e.stopping)
	}
	return e.run, first
}

// began takes the run. A signal that came before has cancelled the run's context.
func (e *ending) began(run *stream.Run) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.run = run
}

// standing returns the run, or nil before it has begun, and the first signal, or nil before it.
func (e *ending) standing() (*stream.Run, os.Signal) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.run, e.signal
}
