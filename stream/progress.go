package stream

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// State says where a run stands.
type State string

// The states of a run.
const (
	StateStarting State = "starting"
	StateRunning  State = "running"
	// StateFailing: an attempt has failed and is being closed. What follows is not known yet.
	StateFailing    State = "failing"
	StateRestarting State = "restarting"
	StateStopping   State = "stopping"
	StateFinished   State = "finished"
	StateStopped    State = "stopped"
	StateFailed     State = "failed"
)

// Progress is the state of a run at one moment. After a restart the numbers of records go back to
// those of the checkpoint that was restored, except in Worked. A subtask that has ended or has not
// been opened holds no records and no calls.
type Progress struct {
	State State
	// Attempt counts the starts of the run before the present one. Restarts counts those within
	// this call of Run.
	Attempt, Restarts int
	// Totals are those of the run, over all processes in which it ran.
	Totals
	// Before are the part of Totals that earlier processes did: the counts in the checkpoint from
	// which this call of Run went on. Totals less Before is what this call did, for computing a
	// rate.
	Before Totals
	// InFlight counts the records that asynchronous operators hold.
	InFlight int64
	// Committed counts the records in published results.
	Committed int64
	// Operators are in the order in which the job was built.
	Operators []OperatorProgress
	// Worked is what this call of Run has done, by operator in the same order, and by subtask. Its
	// counts never decrease: records that were handled again after a restart count again. Only
	// Held, and the numbers in Async that describe the present, are those of this moment.
	Worked []SubtaskProgress
	// CheckpointsCompleted and CheckpointsFailed count the checkpoints that this call of Run
	// completed and gave up. LastCheckpoint is the id of the last one that was completed, by this
	// call or before it, and LastCheckpointAt is when. LastCheckpointTook is how long it took; 0 if
	// that is not known, because it was completed before this call or by a restart.
	CheckpointsCompleted, CheckpointsFailed int64
	LastCheckpoint                          int64
	LastCheckpointAt                        time.Time
	LastCheckpointTook                      time.Duration
	// Untimed counts the records that this call of Run read with a time out of range (async.MinTime
	// to async.MaxTime). Their times were replaced by async.NoTime.
	Untimed int64
	// LastError is the newest failure that led to a restart, gave a checkpoint up or ended the run.
	// It is nil if there was none.
	LastError error
	// Began is when Run was called.
	Began time.Time
}

// Totals are the numbers of records of a whole job. While its subtasks run, Read is the sum of
// Completed, Dropped, DeadLettered and the records in flight. It is not if other operators drop or
// multiply records between two asynchronous ones.
type Totals struct {
	// Read records were taken from the sources. Completed records have their outcome, of 0 to n
	// results, at the last asynchronous operator of their stream, or at the sink of a stream that
	// has none. Dropped and DeadLettered are failed records with these actions at asynchronous
	// operators.
	Read, Completed, Dropped, DeadLettered int64
	// Emitted records were written to the sinks, dead letters not counted.
	Emitted int64
}

// OperatorProgress are the numbers of one operator. In records came in. Of them, Completed, Dropped
// and DeadLettered have that outcome, and Held are still in the operator. Out records were emitted.
type OperatorProgress struct {
	Name                                            string
	In, Completed, Dropped, DeadLettered, Out, Held int64
	// Async are the numbers of an asynchronous operator since the present attempt began, summed
	// over its subtasks: calls in flight and their limit, retries, timeouts, holds and drains. It
	// is zero for other operators.
	Async async.Stats
}

// SubtaskProgress is what one subtask of an operator has done.
type SubtaskProgress struct {
	OperatorProgress
	// Subtask is the number of the subtask, from 0.
	Subtask int
	// Open reports that the subtask is one of an asynchronous operator, and that it runs, even if
	// its calls are suspended. After the subtask has ended, Async.Limit stays
	// as it was.
	Open bool
	// Watermark is the last watermark that the subtask passed on. It is async.NoTime if there was
	// none or the subtask is idle, and async.EndOfTime at the end of the input.
	Watermark async.EventTime
}

// Settled counts the records that have an outcome, whatever it is.
func (t Totals) Settled() int64 { return t.Completed + t.Dropped + t.DeadLettered }

// counters of a whole job, as they stand in a checkpoint.
func (t Totals) counters() []checkpoint.Counter {
	return []checkpoint.Counter{
		{Name: "read", Value: t.Read}, {Name: "completed", Value: t.Completed},
		{Name: "dropped", Value: t.Dropped}, {Name: "dead-lettered", Value: t.DeadLettered}, {Name: "emitted", Value: t.Emitted},
	}
}

// jobTotals sums up the operators of a job. Each operator comes before its taker.
func jobTotals(operators []planned, counts map[string]opCounts) (t Totals) {
	answers := map[string]string{} // operator: the last one up to it that waits
	letters := map[string]bool{}   // operator: it is behind one's dead letters
	for _, o := range operators {
		n := counts[o.name]
		if o.input != "" {
			answers[o.name], letters[o.name] = answers[o.input], letters[o.input] || o.sided
		}
		switch o.kind {
		case checkpoint.KindSource:
			t.Read += n.out
		case checkpoint.KindAsync:
			answers[o.name] = o.name
			t.Dropped += n.dropped
			t.DeadLettered += n.lettered
		case checkpoint.KindSink:
			if letters[o.name] {
				continue // counted where they came from
			}
			t.Emitted += n.done
			by := n
			if a := answers[o.name]; a != "" {
				by = counts[a]
			}
			t.Completed += by.done
		}
	}
	return t
}

// tracker gathers what Progress shows.
type tracker struct {
	mu        sync.Mutex
	p         Progress
	operators []planned
	base      *restored
	live      []*counts
	untimed   atomic.Int64
	own       int64 // the newest checkpoint that was completed in this call of Run
	// past is what the attempts before the present one did.
	past map[place]work
}

// place is a subtask of an operator.
type place struct {
	operator string
	subtask  int
}

// work is what was done at a place.
type work struct {
	opCounts
	stats async.Stats
	mark  async.EventTime
	open  bool
}

// now adds what a subtask has done to what was done before.
func (w work) now(c *counts) work {
	return work{w.plus(c.now()), addStats(w.stats, c.getStats()), async.EventTime(c.mark.Load()), c.open.Load()}
}

// attempt makes the counts of new tasks the live ones.
func (t *tracker) attempt(base *restored, tasks []*task) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.retire()
	t.base = base
	for _, k := range tasks {
		t.live = append(t.live, k.counts...)
	}
	if base != nil {
		t.p.Committed = t.based().Emitted
	}
}

// based are the totals of the checkpoint that the present attempt went on from. Under t.mu.
func (t *tracker) based() Totals {
	if t.base == nil {
		return Totals{}
	}
	return jobTotals(t.operators, t.base.counts)
}

// retire keeps what the tasks of an attempt that is over have done. Under t.mu.
func (t *tracker) retire() {
	if t.past == nil {
		t.past = map[place]work{}
	}
	for _, c := range t.live {
		at := place{c.operator, c.subtask}
		w := t.past[at].now(c)
		w.stats, w.mark, w.open = past(w.stats), async.NoTime, false
		t.past[at] = w
	}
	t.live = nil
}

func (t *tracker) set(f func(*Progress)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.p)
}

// completed counts the checkpoints that were completed.
func (t *tracker) completed() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.p.CheckpointsCompleted
}

// lastOwn is the newest checkpoint that this call of Run has completed; 0: none.
func (t *tracker) lastOwn() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.own
}

// emittedIn returns the emitted records of a checkpoint.
func emittedIn(snap *checkpoint.Snapshot) int64 {
	for _, c := range snap.Counters {
		if c.Name == "emitted" {
			return c.Value
		}
	}
	return 0
}

func (t *tracker) progress() Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.p
	p.Untimed = t.untimed.Load()
	counts := map[string]opCounts{}
	for _, o := range t.operators {
		counts[o.name] = base(t.base, o.name)
	}
	stats := map[string]async.Stats{}
	for _, c := range t.live {
		counts[c.operator] = counts[c.operator].plus(c.now())
		stats[c.operator] = addStats(stats[c.operator], c.getStats())
	}
	p.Totals = jobTotals(t.operators, counts)
	p.Operators, p.Worked = nil, nil
	all := maps.Clone(t.past)
	for _, c := range t.live {
		at := place{c.operator, c.subtask}
		all[at] = all[at].now(c)
	}
	for _, o := range t.operators {
		for i := range o.parallelism {
			if w, known := all[place{o.name, i}]; known {
				p.Worked = append(p.Worked, SubtaskProgress{OperatorProgress{o.name, w.in, w.done, w.dropped, w.lettered, w.out, w.held, w.stats}, i, w.open, w.mark})
			}
		}
		n := counts[o.name]
		p.Operators = append(p.Operators, OperatorProgress{o.name, n.in, n.done, n.dropped, n.lettered, n.out, n.held, stats[o.name]})
		p.InFlight += n.held
	}
	return p
}
