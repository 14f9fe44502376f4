package stream

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	guards "github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// Run is a job that was started. Its methods may be called from any goroutine.
type Run struct {
	job     *Job
	cfg     Config
	tracker tracker

	stopOnce sync.Once
	stop     chan struct{} // closed by Stop
	over     chan struct{} // closed at the end
	err      error

	// Of the run's main goroutine:
	stages    []*stage
	operators []planned
	committer committer
	id        string
	cut       map[string][]splitState // the initial splits of a run that began here
	// kept is what the checkpoint of the run's beginning says, or nil before it is written.
	kept     map[string][]splitState
	lastID   int64
	numbered bool  // a checkpoint has had the number lastID, which may be 0
	emitted  int64 // records in the checkpoint that is being completed
	broken   error // of the observer
	ran      bool  // every subtask has run at once, in some attempt
}

func newRun(j *Job) *Run {
	r := &Run{job: j, cfg: j.cfg, stop: make(chan struct{}), over: make(chan struct{}), lastID: j.cfg.LastID}
	r.tracker.p = Progress{State: StateStarting, Began: time.Now()}
	return r
}

// Stop ends the run with a checkpoint. The sources stop. The records that they emitted before are
// completed or kept in the checkpoint, as the policy of each operator says. The results are
// published, and Wait returns ErrStopped. The end of the input is not signalled. If the input ends
// first, the run finishes and Wait returns nil. Stop returns at once and may be called again.
func (r *Run) Stop() {
	r.stopOnce.Do(func() { close(r.stop) })
}

// Done returns a channel that is closed when the run is over.
func (r *Run) Done() <-chan struct{} { return r.over }

// Wait waits for the end of the run and returns what Job.Run returns.
func (r *Run) Wait() error {
	<-r.over
	return r.err
}

// ID returns the name of the run, which stays the same after each resumption. It is empty before
// the run has begun.
func (r *Run) ID() string {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	return r.id
}

// Progress returns the present numbers of the run, also after its end.
func (r *Run) Progress() Progress { return r.tracker.progress() }

// end makes err the run's result.
func (r *Run) end(err error) {
	r.err = err
	r.tracker.set(func(p *Progress) {
		switch {
		case err == nil:
			p.State = StateFinished
		case errors.Is(err, ErrStopped):
			p.State = StateStopped
		default:
			p.State, p.LastError = StateFailed, err
		}
	})
	r.observe(Ended{err})
	close(r.over)
}

// observe notifies the observer. If it panics, the job fails, unless it is over.
func (r *Run) observe(e Event) {
	err := guard("Observe", func() error {
		r.cfg.Observer.Observe(e)
		return nil
	})
	if err != nil {
		r.cfg.Logger.Error("the observer failed", "job", r.job.name, "error", err)
		r.broken = err
		r.tracker.set(func(p *Progress) { p.LastError = err })
	}
}

func (r *Run) main(ctx context.Context) {
	var err error
	returned := false
	defer func() {
		if !returned {
			err = guards.Exited("a function of job " + r.job.name)
		}
		r.close(ctx, err)
	}()
	err = r.run(ctx)
	returned = true
}

// close ends the run with the result err.
func (r *Run) close(ctx context.Context, err error) {
	if cerr := r.committer.close(); err == nil {
		err = cerr
	}
	// err may wrap the cause of the context's end, which is a user's error.
	err = guards.Error("job "+r.job.name, err)
	switch {
	case err == nil, errors.Is(err, ErrStopped):
	case ctx.Err() != nil:
		// Failures while the job ends are consequences of the cancellation.
		err = fmt.Errorf("job %q was cancelled: %w", r.job.name, context.Cause(ctx))
	default:
		err = fmt.Errorf("job %q failed: %w", r.job.name, err)
	}
	r.end(err)
}

// plan describes the operators for the parts that know no types.
func (r *Run) plan(stages []*stage) {
	r.stages = stages
	for _, n := range r.job.nodes {
		p := planned{name: n.name, kind: n.stateKind(), parallelism: n.parallelism}
		if n.input != nil {
			p.input, p.sided = n.input.name, n.sided
		}
		r.operators = append(r.operators, p)
	}
	r.tracker.operators = r.operators
}

// run is the life of the job: its attempts, and what lies between them.
func (r *Run) run(ctx context.Context) error {
	super := &supervisor{strategy: r.cfg.strategy, jitter: mrand.Float64}
	if err := r.unlessStopped(ctx, r.apart); err != nil {
		return err
	}
	if err := r.unlessStopped(ctx, r.openCommitters); err != nil {
		return err
	}
	var from *restored
	err := r.unlessStopped(ctx, func(ctx context.Context) (err error) {
		from, err = r.begin(ctx)
		return err
	})
	if err != nil || (from != nil && from.finished) {
		return err
	}
	for number := r.cfg.Attempt; ; number++ {
		out := outcome{}
		if err := r.unlessStopped(ctx, func(ctx context.Context) error { return r.settle(ctx, number, from) }); err != nil {
			out.err = err
		} else {
			out = r.attempt(ctx, number, from)
		}
		if r.broken != nil {
			return r.broken
		}
		if out.changed {
			r.tracker.set(func(p *Progress) {
				if p.State != StateStopping {
					p.State = StateStarting
				}
			})
			var refused, err error
			if from, refused, err = r.goBack(ctx); refused == nil && err == nil {
				r.cfg.Logger.Info("the splits of a source have changed; the job goes on with the new ones", "job", r.job.name)
				continue
			}
			out.err = errors.Join(refused, err)
		}
		switch {
		case ctx.Err() != nil && out.err != nil:
			return context.Cause(ctx)
		case out.stopped:
			return ErrStopped
		case out.err == nil, out.err == errStoppedIdle:
			return out.err
		case r.stopped():
			return fmt.Errorf("%w, from the last checkpoint that was completed, since the checkpoint of this stop failed: %w", ErrStopped, out.err)
		}
		if out.shut && !r.ran {
			// A task that could never be opened has a wrong configuration, or lacks something that
			// it needs. If waiting helps, the code that opens it has waited. A restart would only
			// repeat that.
			return out.err
		}
		for {
			delay, final := super.failed(time.Now(), out.err, r.tracker.completed())
			if final != nil {
				return final
			}
			r.tracker.set(func(p *Progress) { p.State, p.LastError, p.Restarts = StateRestarting, out.err, p.Restarts+1 })
			r.cfg.Logger.Warn("the job failed and will restart", "job", r.job.name, "in", delay, "error", out.err)
			if r.observe(Restarting{Attempt: number + 1, Delay: delay, Err: out.err}); r.broken != nil {
				return r.broken
			}
			if err := r.pause(ctx, delay); err != nil {
				return err
			}
			var refused error
			if from, refused, err = r.goBack(ctx); refused != nil {
				return fmt.Errorf("cannot restart: %w (the failure was: %w)", refused, out.err)
			}
			if err == nil {
				break
			}
			out.err = err
		}
	}
}

// pause waits before a restart.
func (r *Run) pause(ctx context.Context, delay time.Duration) error {
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-r.stop:
		return errStoppedIdle
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// errStoppedIdle is the result of a run that is stopped while no subtask works.
var errStoppedIdle = fmt.Errorf("%w, from the last checkpoint that was completed", ErrStopped)

// unlessStopped calls f with a context that ends when the run is to stop. f may wait long for other
// systems.
func (r *Run) unlessStopped(ctx context.Context, f func(context.Context) error) error {
	fctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-r.stop:
			cancel()
		case <-fctx.Done():
		}
	})
	defer watch.Wait()
	defer cancel()
	err := f(fctx)
	if err != nil && ctx.Err() == nil && r.stopped() {
		return errStoppedIdle
	}
	return err
}

func (r *Run) stopped() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

func (r *Run) openCommitters(ctx context.Context) error {
	for _, n := range r.job.nodes {
		if n.sink == nil {
			continue
		}
		err := guard("Committer of "+n.name, func() error {
			c, err := n.sink.committer(ctx)
			if err == nil && c == nil {
				err = errors.New("the sink returned neither a committer nor an error")
			}
			if err == nil {
				r.committer.sinks = append(r.committer.sinks, &sinkCommitter{name: n.name, c: c})
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: cannot be opened: %w", n.name, err)
		}
	}
	return nil
}

// begin starts a run afresh, or goes on with the one to be resumed. It returns nil for the
// beginning. A failure here ends the run, since nothing has run yet.
func (r *Run) begin(ctx context.Context) (*restored, error) {
	if snap := r.cfg.Resume; snap != nil {
		r.setID(snap.Run)
		if snap.Job != r.job.name {
			return nil, fmt.Errorf("checkpoint %d is of the job %q", snap.ID, snap.Job)
		}
		if err := checkpoint.Compare(snap.Identity, r.cfg.Identity); err != nil {
			return nil, fmt.Errorf("cannot go on from checkpoint %d: %w", snap.ID, err)
		}
		from, refused, err := r.take(ctx, snap)
		r.tracker.set(func(p *Progress) { p.Before = r.tracker.based() })
		return from, errors.Join(refused, err)
	}
	id := r.cfg.RunID
	if id == "" {
		var b [8]byte
		rand.Read(b[:]) // never fails
		id = hex.EncodeToString(b[:])
	}
	r.setID(id)
	cut := map[string][]splitState{}
	for _, n := range r.job.nodes {
		if n.source == nil {
			continue
		}
		err := guard("Splits of "+n.name, func() error {
			splits, err := n.source.splits(ctx)
			all := make([]splitState, len(splits))
			for i, s := range splits {
				all[i] = splitState{index: i, split: s, next: s.Start}
			}
			cut[n.name] = all
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: cannot cut the input into splits: %w", n.name, err)
		}
	}
	var previous *restored
	if p := r.cfg.Previous; p != nil {
		// Only the states of the sinks matter.
		previous = &restored{sinks: map[string]sinkState{}}
		for _, sec := range p.Sections {
			for _, part := range sec.Parts {
				if sec.Kind == checkpoint.KindSink && part.Name == partState {
					previous.sinks[sec.Operator] = sinkState{state: part.Data}
				}
			}
		}
	}
	if err := r.committer.begin(ctx, previous); err != nil {
		return nil, err
	}
	r.cut = cut
	return nil, r.committer.clean(ctx)
}

func (r *Run) setID(id string) {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	r.id = id
}

// goBack finds where a restart begins: at the newest complete checkpoint of this run or, without
// one, where the run began. refused says that a restart is not possible.
func (r *Run) goBack(ctx context.Context) (from *restored, refused, err error) {
	var snap *checkpoint.Snapshot
	err = guard("Newest of the checkpoint store", func() (err error) {
		snap, err = r.cfg.Checkpoint.Store.Newest(ctx)
		return err
	})
	switch {
	case errors.Is(err, checkpoint.ErrNoCheckpoint):
		snap = nil
	case err != nil:
		return nil, nil, fmt.Errorf("cannot find the newest checkpoint: %w", err)
	case snap != nil && (snap.Run != r.id || snap.ID <= r.cfg.LastID):
		snap = nil // it is not a checkpoint of this process
	}
	if done := r.tracker.lastOwn(); done > 0 && (snap == nil || snap.ID < done) {
		return nil, fmt.Errorf("checkpoint %d is damaged or gone, but its results are published, so a restart cannot go back to an older checkpoint; "+
			"resume the run, which goes back if that is possible, and otherwise says what to do", done), nil
	}
	if snap == nil {
		snap = r.cfg.Resume
	}
	if snap == nil {
		if refused, err := r.verify(ctx, r.cut); refused != nil || err != nil {
			return nil, refused, err
		}
		return nil, nil, r.committer.clean(ctx)
	}
	r.lastID = max(r.lastID, snap.ID)
	before := r.tracker.progress().LastCheckpoint
	from, refused, err = r.take(ctx, snap)
	if from != nil && snap != r.cfg.Resume && snap.ID > before && from.publishes() {
		// The checkpoint was written, but the job failed before its results were published. They
		// are published now.
		r.tracker.set(func(p *Progress) { p.CheckpointsCompleted++ })
	}
	return from, refused, err
}

// take goes back to a checkpoint: results that it holds are published again, and results that it
// does not hold are removed (A45).
func (r *Run) take(ctx context.Context, snap *checkpoint.Snapshot) (from *restored, refused, err error) {
	from, err = restoreFrom(snap, r.stages)
	if err != nil {
		return nil, err, nil
	}
	if !from.finished {
		if refused, err := r.verify(ctx, from.splits); refused != nil || err != nil {
			return nil, refused, err
		}
	}
	if err := publish(ctx, r.committer.restore(from)); err != nil {
		return nil, nil, fmt.Errorf("checkpoint %d: %w", snap.ID, err)
	}
	if refused, err := r.committer.check(ctx); refused != nil || err != nil {
		return nil, refused, err
	}
	if err := r.committer.clean(ctx); err != nil {
		return nil, nil, fmt.Errorf("checkpoint %d: %w", snap.ID, err)
	}
	if r.tracker.progress().LastCheckpoint < snap.ID {
		r.tracker.set(func(p *Progress) {
			p.LastCheckpoint, p.LastCheckpointAt, p.LastCheckpointTook = snap.ID, snap.Created, 0
		})
	}
	r.tracker.attempt(from, nil)
	return from, nil, nil
}

// verify asks the sources whether they can be read from where the splits stand. err says that this
// could not be found out for now.
func (r *Run) verify(ctx context.Context, splits map[string][]splitState) (refused, err error) {
	for _, n := range r.job.nodes {
		if n.source == nil {
			continue
		}
		var cut []connector.Split
		var next []int64
		for _, s := range splits[n.name] {
			cut, next = append(cut, s.split), append(next, s.next)
		}
		err := guard("Verify of "+n.name, func() error { return n.source.verify(ctx, cut, next) })
		if err != nil && async.VerdictOf(err).Retry {
			return nil, fmt.Errorf("%s: %w", n.name, err)
		}
		if err != nil {
			return fmt.Errorf("%s cannot be read again: %w", n.name, err), nil
		}
	}
	return nil, nil
}

// untimely counts a record whose time is out of range and was replaced by none. It logs the first
// one.
func (r *Run) untimely(operator string, split int, position int64, t async.EventTime) {
	if r.tracker.untimed.Add(1) == 1 {
		r.cfg.Logger.Warn("a record has a time out of range (years 1 to 9999) and is treated as a record without a time; further ones are counted but not logged", "job", r.job.name,
			"operator", operator, "split", split, "position", position, "time_ms", int64(t))
	}
}

// header is what all checkpoints of an attempt have in common.
func (r *Run) header(number int) checkpoint.Snapshot {
	return checkpoint.Snapshot{Job: r.job.name, Run: r.id, Attempt: number, Identity: slices.Clone(r.cfg.Identity)}
}

// never is a wait that only another event ends.
const never = time.Duration(math.MaxInt64)

// until returns how long to wait for a time. The zero time means never.
func until(now, at time.Time) time.Duration {
	if at.IsZero() {
		return never
	}
	return max(0, at.Sub(now))
}
