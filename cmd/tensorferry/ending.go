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

// endGrace is how long a job has to give everything back once it is told to end at once. It needs
// a moment, unless something keeps it that nothing can interrupt.
const endGrace = 5 * time.Second

// ending sees to it that a job ends when it is asked to. It neither writes nor waits for anything
// but time and signals: whoever writes may wait for a pipe that nobody reads, and whoever reads for
// a disk that does not answer.
type ending struct {
	stopping chan struct{} // closed at the first signal

	mu     sync.Mutex
	run    *stream.Run
	signal os.Signal // the first one
}

// untilEnd calls f, which runs the job, and listens to signals meanwhile. It returns the exit code:
// that of f or, when the job does not end although it was told to, that of the signal.
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
			case ctx.Err() != nil: // whoever asks again is not kept
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

// abandon leaves a job that does not end although it was told to. The process is about to end, and
// takes along what is left. What is said must not be waited for: it may be what the job waits for.
func (r *runner) abandon(s os.Signal, why string) int {
	said := make(chan struct{})
	go func() {
		defer close(said)
		fmt.Fprintf(r.w.Stderr, "%s: ended by %s, before everything was given back; what was published stays, and the last checkpoint counts\n",
			r.spec.Name, why)
	}()
	select {
	case <-said:
	case <-time.After(100 * time.Millisecond):
	}
	return cli.SignalCode(s)
}

// asked takes a signal, and says whether it is the first, and which run it is meant for; nil: there
// is none yet.
func (e *ending) asked(s os.Signal) (run *stream.Run, first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if first = e.signal == nil; first {
		e.signal = s
		close(e.stopping)
	}
	return e.run, first
}

// began takes the run. Who asked before it began has cancelled its context.
func (e *ending) began(run *stream.Run) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.run = run
}

// standing returns the run, nil before it has begun, and the signal that asked it to end, nil if
// none did.
func (e *ending) standing() (*stream.Run, os.Signal) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.run, e.signal
}
