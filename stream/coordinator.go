package stream

import (
	"errors"
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// effectKind says what the coordinator wants done.
type effectKind uint8

const (
	// tell: send the control to every task.
	tell effectKind = iota
	// write: make the snapshot durable, then report written.
	write
	// commit: publish the plans, then report committed.
	commit
	// halt: the attempt has failed; cancel every task.
	halt
	// done: the attempt is over, once every task is gone.
	done
	// note: tell the observer.
	note
)

// effect is one thing to do. Effects are carried out in order. write and commit take a while. The
// coordinator waits only for their reports.
type effect struct {
	kind    effectKind
	control control
	snap    *checkpoint.Snapshot
	plans   []sinkPlan
	outcome outcome
	event   Event
}

// outcome is how an attempt ended: with err, or stopped, or at the end of its input.
type outcome struct {
	stopped bool
	changed bool // it stopped because the splits have changed; another attempt follows
	err     error
	shut    bool // with err: a task could not be opened
}

// planned is what the coordinator knows of an operator.
type planned struct {
	name, kind, input string // kind: of its state, "" if it has none
	sided             bool   // takes the records that failed at its input
	parallelism       int
}

// coordinator takes the checkpoints of one attempt. It is a step function: each method except next
// handles one event at a time, and leaves in effects what is to be done.
type coordinator struct {
	cfg       CheckpointConfig
	header    checkpoint.Snapshot // job, run, attempt, identity
	operators []planned
	tasks     int
	committer *committer
	base      *restored // what counts go on from, nil at a run's beginning
	effects   []effect

	lastID   int64
	running  int
	ended    int
	stopping bool
	changing bool // as stopping, and another attempt follows
	failures int  // in a row
	due      time.Time
	now      *pendingCheckpoint
	failed   error
	shut     bool // with failed: a task could not be opened
	over     bool
}

type phase uint8

const (
	collecting phase = iota
	writing
	committing
)

// pendingCheckpoint is the checkpoint that is being taken.
type pendingCheckpoint struct {
	id          int64
	began       time.Time
	acked       time.Time // when every task had contributed
	kept        time.Time // when it was durable
	final, stop bool
	phase       phase
	acks        []*ack
	missing     int
	plans       []sinkPlan
}

func (c *coordinator) effect(e effect) { c.effects = append(c.effects, e) }

// report handles a report of a task.
func (c *coordinator) report(now time.Time, r report) {
	if c.over || c.failed != nil {
		return
	}
	switch r.kind {
	case taskRunning:
		if c.running++; c.running == c.tasks {
			var from int64
			if c.base != nil {
				from = c.base.id
			}
			c.effect(effect{kind: note, event: Started{c.header.Attempt, from}})
			c.effect(effect{kind: tell, control: control{kind: startWork}})
			c.due = now.Add(c.cfg.Interval)
		}
	case taskEnded:
		c.ended++
	case taskAcked:
		c.acked(now, r.ack)
	case taskFailed:
		c.shut = c.running < c.tasks // before that, tasks only open
		c.fail(r.err)
		return
	}
	c.tick(now)
}

// stop asks for a last checkpoint, behind which nothing is emitted.
func (c *coordinator) stop(now time.Time) {
	c.stopping = true
	c.tick(now)
}

// change asks for a last checkpoint like stop, because the splits of a source have changed.
func (c *coordinator) change(now time.Time) {
	c.changing = true
	c.tick(now)
}

// tick does what is due.
func (c *coordinator) tick(now time.Time) {
	if c.over || c.failed != nil {
		return
	}
	if p := c.now; p != nil {
		if p.phase == collecting && !now.Before(p.began.Add(c.cfg.Timeout)) {
			c.effect(effect{kind: tell, control: control{abortBarrier, p.id}})
			c.giveUp(now, &lateError{p.missing, c.tasks, c.cfg.Timeout})
		}
		return
	}
	if c.running < c.tasks {
		if c.stopping || c.changing {
			// No record is read before every task is open, so the newest checkpoint is up to date.
			c.effect(effect{kind: halt})
			if c.stopping {
				c.finish(outcome{err: errStoppedIdle})
			} else {
				c.finish(outcome{changed: true})
			}
		}
		return
	}
	switch {
	case c.ended == c.tasks:
		c.trigger(now, true, false)
	case c.stopping, c.changing:
		c.trigger(now, false, true)
	case c.cfg.Interval > 0 && !now.Before(c.due):
		c.trigger(now, false, false)
	}
}

// next returns when tick is due, or the zero time if time alone makes nothing due.
func (c *coordinator) next() time.Time {
	switch {
	case c.over || c.failed != nil || c.running < c.tasks:
		return time.Time{}
	case c.now != nil:
		if c.now.phase == collecting {
			return c.now.began.Add(c.cfg.Timeout)
		}
		return time.Time{}
	case c.cfg.Interval > 0:
		return c.due
	}
	return time.Time{}
}

func (c *coordinator) trigger(now time.Time, final, stop bool) {
	c.lastID++
	c.now = &pendingCheckpoint{id: c.lastID, began: now, final: final, stop: stop, acks: make([]*ack, c.tasks), missing: c.tasks}
	kind := triggerBarrier
	if stop {
		kind = triggerStop
	}
	c.effect(effect{kind: tell, control: control{kind, c.lastID}})
}

func (c *coordinator) acked(now time.Time, a *ack) {
	p := c.now
	if p == nil || a.id != p.id || p.phase != collecting || p.acks[a.task] != nil {
		return // late, of a checkpoint that was given up
	}
	p.acks[a.task] = a
	if p.missing--; p.missing > 0 {
		return
	}
	snap, err := c.assemble(now, p)
	if err != nil {
		c.fail(fmt.Errorf("checkpoint %d: %w", p.id, err))
		return
	}
	p.phase, p.acked = writing, now
	c.effect(effect{kind: write, snap: snap})
}

// assemble makes the manifest of a checkpoint to which every task has contributed.
func (c *coordinator) assemble(now time.Time, p *pendingCheckpoint) (*checkpoint.Snapshot, error) {
	snap := c.header
	snap.ID, snap.Created, snap.Finished = p.id, now, p.final
	counts := c.total(p.acks)
	if err := balance(c.operators, counts, p.final); err != nil {
		return nil, err
	}
	for _, o := range c.operators {
		if o.kind == "" || o.kind == checkpoint.KindSink {
			continue
		}
		sec := checkpoint.Section{Operator: o.name, Kind: o.kind, Parallelism: o.parallelism}
		for _, a := range p.acks {
			for _, part := range a.parts {
				if part.operator == o.name {
					sec.Parts = append(sec.Parts, part.part)
				}
			}
		}
		snap.Sections = append(snap.Sections, sec)
	}
	sinks, plans, err := c.committer.plan(p.acks, func(name string) int {
		for _, o := range c.operators {
			if o.name == name {
				return o.parallelism
			}
		}
		return 0
	})
	if err != nil {
		return nil, err
	}
	if p.final {
		if err := c.committer.unsettled(); err != nil {
			return nil, err
		}
	}
	p.plans = plans
	snap.Sections = append(snap.Sections, sinks...)
	snap.Counters = countersOf(c.operators, counts)
	return &snap, nil
}

// total adds up what the tasks counted in this attempt and before it.
func (c *coordinator) total(acks []*ack) map[string]opCounts {
	counts := map[string]opCounts{}
	for _, o := range c.operators {
		counts[o.name] = base(c.base, o.name)
	}
	for _, a := range acks {
		for _, n := range a.counts {
			counts[n.operator] = counts[n.operator].plus(n)
		}
	}
	return counts
}

// written handles the end of a write.
func (c *coordinator) written(now time.Time, err error) {
	p := c.now
	if c.failed != nil {
		// The restore finds out whether the checkpoint is complete.
		c.finish(outcome{err: c.failed})
		return
	}
	if err != nil {
		// A sink that holds results back until the checkpoint has ended must learn of this.
		c.effect(effect{kind: tell, control: control{abortBarrier, p.id}})
		c.giveUp(now, fmt.Errorf("it cannot be written: %w", err))
		c.tick(now)
		return
	}
	c.committer.adopt()
	p.phase, p.kept = committing, now
	c.effect(effect{kind: commit, plans: p.plans})
}

// committed handles the end of a commit.
func (c *coordinator) committed(now time.Time, err error) {
	p := c.now
	if c.failed == nil && err != nil {
		c.now = nil
		c.fail(fmt.Errorf("checkpoint %d: %w", p.id, err))
		return
	}
	if err == nil {
		c.effect(effect{kind: note, event: CheckpointCompleted{p.id, now.Sub(p.began), p.kept.Sub(p.acked), now.Sub(p.kept), p.final}})
	}
	if c.failed != nil {
		c.finish(outcome{err: c.failed})
		return
	}
	c.now, c.failures = nil, 0
	if p.final || p.stop {
		c.finish(outcome{stopped: p.stop && c.stopping, changed: p.stop && !c.stopping})
		return
	}
	c.effect(effect{kind: tell, control: control{completeBarrier, p.id}})
	c.rest(now, p)
	c.tick(now)
}

// rest sets when the next checkpoint is due.
func (c *coordinator) rest(now time.Time, p *pendingCheckpoint) {
	c.due = p.began.Add(c.cfg.Interval)
	if at := now.Add(c.cfg.MinPause); c.due.Before(at) {
		c.due = at
	}
}

// giveUp ends the present checkpoint without success.
func (c *coordinator) giveUp(now time.Time, err error) {
	p := c.now
	c.now = nil
	c.rest(now, p)
	c.effect(effect{kind: note, event: CheckpointFailed{p.id, err}})
	err = fmt.Errorf("checkpoint %d was given up: %w", p.id, err)
	if c.failures++; p.final || p.stop || c.failures > c.cfg.TolerableFailures || async.VerdictOf(err).Class == async.Permanent {
		c.fail(err)
	}
}

// lateError is the failure of a checkpoint that took too long. Usually a model server is slow,
// which is not a fault of the job.
type lateError struct {
	missing, tasks int
	timeout        time.Duration
}

func (e *lateError) Error() string {
	return fmt.Sprintf("%d of %d tasks had not answered after %v", e.missing, e.tasks, e.timeout)
}

// slow reports whether a failure is that of a checkpoint that took too long.
func slow(err error) bool {
	_, late := errors.AsType[*lateError](err)
	return late
}

// fail ends the attempt. The checkpoint under way is declined at once (A13). If it is already being
// written or published, the attempt ends after that.
func (c *coordinator) fail(err error) {
	if c.failed != nil || c.over {
		return
	}
	c.failed = err
	c.effect(effect{kind: halt})
	if p := c.now; p != nil {
		if p.phase != collecting {
			return
		}
		c.now = nil
		c.effect(effect{kind: note, event: CheckpointFailed{p.id, fmt.Errorf("declined, since the job failed: %w", err)}})
	}
	c.finish(outcome{err: err, shut: c.shut})
}

func (c *coordinator) finish(o outcome) {
	c.now, c.over = nil, true
	c.effect(effect{kind: done, outcome: o})
}

// balance checks that no record was lost or made up. The records that an operator emits are those
// that the next one takes in. Each record that came in is completed, dropped, dead-lettered or
// still held.
func balance(operators []planned, counts map[string]opCounts, final bool) error {
	var errs []error
	for _, o := range operators {
		n := counts[o.name]
		if n.in != n.done+n.dropped+n.lettered+n.held {
			errs = append(errs, fmt.Errorf("%s took %d records: %d were completed, %d dropped, %d dead-lettered and %d held",
				o.name, n.in, n.done, n.dropped, n.lettered, n.held))
		}
		if final && n.held != 0 {
			errs = append(errs, fmt.Errorf("%s holds %d records at the end of the input", o.name, n.held))
		}
		if o.input == "" {
			continue
		}
		given := counts[o.input].out
		if o.sided {
			given = counts[o.input].lettered
		}
		if given != n.in {
			errs = append(errs, fmt.Errorf("%s emitted %d records, but %s took %d", o.input, given, o.name, n.in))
		}
	}
	if errs != nil {
		return &imbalance{errors.Join(errs...)}
	}
	return nil
}

// imbalance is the failure of a job whose records do not add up. No restart follows it: the newest
// checkpoint may lack the lost records already.
type imbalance struct{ err error }

func (e *imbalance) Error() string {
	return fmt.Sprintf("the counts of records do not add up; this is a bug in tensorferry, please report it: %v", e.err)
}

func (e *imbalance) Verdict() async.Verdict { return async.Verdict{Class: async.Permanent} }
