package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	guards "github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/trace"
)

// input is what takes the elements of a stream, within one goroutine.
type input[T any] interface {
	// room returns how many records may come now. More may come if one record became several. These
	// are then kept until there is room.
	room() int
	// records takes records. The slice belongs to the caller again on return.
	records([]Record[T]) error
	watermark(async.Watermark) error
	// barrier passes even if there is no room. It may come after end.
	barrier(*barrier) error
	end() error
}

// operator is the part of an operator that knows no types.
type operator interface {
	open(ctx context.Context) error
	// turn does what is due. It returns whether something moved, and when the next turn is due by
	// time alone (zero: never).
	turn(now time.Time) (moved bool, next time.Time, err error)
	// abort gives up a checkpoint whose barrier may still be on its way.
	abort(id int64)
	// complete says that a checkpoint is complete and published.
	complete(id int64)
	// close cancels and waits; nothing is emitted any more. Idempotent.
	close() error
}

// head is where elements enter a task's chain.
type head interface {
	operator
	// trigger says that checkpoint id was started, and whether it is to stop the job.
	trigger(id int64, stop bool) error
	// pull lets a bounded number of elements into the chain.
	pull(now time.Time) (moved bool, err error)
}

// idle is embedded by operators with nothing to do for most of operator's methods.
type idle struct{}

func (idle) open(context.Context) error              { return nil }
func (idle) turn(time.Time) (bool, time.Time, error) { return false, time.Time{}, nil }
func (idle) abort(int64)                             {}
func (idle) complete(int64)                          {}
func (idle) close() error                            { return nil }

// barrier travels through a chain and gathers the state of each operator as it passes.
type barrier struct {
	id     int64
	ack    *ack
	passed int // ends of the chain that it has reached
}

// ack is a task's part of a checkpoint.
type ack struct {
	id     int64
	task   int
	parts  []opPart
	sinks  []sinkAck
	counts []opCounts
}

// sinkAck is the pending results of one sink.
type sinkAck struct {
	name    string
	pending []connector.Pending
}

// opPart is a piece of an operator's state.
type opPart struct {
	operator, kind string
	part           checkpoint.Part
}

// controlKind is what the coordinator tells a task.
type controlKind uint8

const (
	triggerBarrier controlKind = iota
	triggerStop                // as triggerBarrier, and sources emit nothing after it
	abortBarrier
	completeBarrier
	startWork // every task is open
)

type control struct {
	kind controlKind
	id   int64
}

// reportKind is what a task tells the coordinator.
type reportKind uint8

const (
	taskRunning reportKind = iota // everything is open
	taskAcked
	taskEnded // the end of the input has passed through
	taskFailed
)

type report struct {
	kind reportKind
	task int
	ack  *ack
	err  error
}

// taskEnv is what the operators of one subtask share.
type taskEnv struct {
	id                 int // number of the task in its job
	index, parallelism int
	job, run           string
	attempt            int
	logger             *slog.Logger
	tracer             trace.Tracer // nil: none
	wake               func()       // makes the task step again; from any goroutine
	report             func(report)
	restore            *restored               // nil: from the beginning
	splits             map[string][]splitState // of each source
	untimely           func(operator string, split int, position int64, t async.EventTime)

	task *task
}

// add makes op part of the task of e. Chains are built from their end.
func (e *taskEnv) add(op operator, name string) {
	e.task.ops = append(e.task.ops, op)
	e.task.names = append(e.task.names, name)
}

// count makes the counts of an operator.
func (e *taskEnv) count(name string) *counts {
	c := &counts{operator: name, subtask: e.index}
	c.reached(async.Watermark{Time: async.NoTime})
	e.task.counts = append(e.task.counts, c)
	return c
}

// passed is called by each end of the chain when a barrier has passed it.
func (e *taskEnv) passed(b *barrier) {
	if b.passed++; b.passed == e.task.ends {
		e.report(report{kind: taskAcked, task: e.id, ack: b.ack})
	}
}

// ended is called by each end of the chain when the end of the input has passed it.
func (e *taskEnv) ended() {
	if e.task.ended++; e.task.ended == e.task.ends {
		e.report(report{kind: taskEnded, task: e.id})
	}
}

// task is one parallel subtask of a stage: a head and a chain of operators. It is a step function,
// used from one goroutine. Its events are control and step. Its effects go to ports, to callers and
// writers, and to report. It never waits, except for a writer.
type task struct {
	env    *taskEnv
	head   head
	first  string     // names the head
	reader fetcher    // of a source
	ops    []operator // from the end of the chain to its head
	names  []string   // of ops
	counts []*counts
	ends   int    // of the chain: sinks, and exchanges to other tasks
	ended  int    // of these, how many the end of the input has passed
	at     string // what runs, for panics

	started bool
	lost    error // why the goroutine ends, set where the place is known
}

func newTask(env *taskEnv) *task {
	t := &task{env: env}
	env.task = t
	return t
}

// name says which subtask this is.
func (t *task) name() string {
	return fmt.Sprintf("%s (subtask %d of %d)", t.at, t.env.index, t.env.parallelism)
}

// rescue is deferred. It turns a panic into *err with the operator's name.
func (t *task) rescue(err *error) {
	if v := recover(); v != nil {
		*err = guards.Caught(t.name(), v)
	}
}

// exited is called in a deferred function. It returns why the task's goroutine ends without having
// returned.
func (t *task) exited() error {
	if t.lost != nil {
		return t.lost
	}
	return guards.Exited(t.name())
}

// open opens the chain from its end, so that nothing is called before the operators behind it are
// open.
func (t *task) open(ctx context.Context) (err error) {
	defer t.rescue(&err)
	for i, op := range t.ops {
		t.at = t.names[i]
		if err := op.open(ctx); err != nil {
			return fmt.Errorf("open %s: %w", t.name(), err)
		}
	}
	t.at = t.first
	return t.head.open(ctx)
}

// control handles a message of the coordinator.
func (t *task) control(c control) (err error) {
	defer t.rescue(&err)
	switch c.kind {
	case triggerBarrier, triggerStop:
		return t.head.trigger(c.id, c.kind == triggerStop)
	case abortBarrier:
		t.head.abort(c.id)
		for _, op := range t.ops {
			op.abort(c.id)
		}
	case completeBarrier:
		for _, op := range t.ops {
			op.complete(c.id)
		}
	case startWork:
		t.started = true
	}
	return nil
}

// step does a bounded amount of work: it lets the operators emit, from the end of the chain to its
// head so that each finds room, and lets elements in. more says that there is more to do at once.
// next says when the task must step again if nothing wakes it.
//
// Nothing is done before every task of the attempt is open. So a job that cannot be opened calls no
// model, and a failure after that is one of a job that ran and may be restarted.
func (t *task) step(now time.Time) (more bool, next time.Time, err error) {
	if !t.started {
		return false, next, nil
	}
	defer t.rescue(&err)
	for i, op := range t.ops {
		t.at = t.names[i]
		moved, at, err := op.turn(now)
		if err != nil {
			return false, next, err
		}
		more, next = more || moved, earlier(next, at)
	}
	t.at = t.first
	moved, err := t.head.pull(now)
	if err != nil {
		return false, next, err
	}
	_, at, err := t.head.turn(now)
	return more || moved, earlier(next, at), err
}

// close releases everything. It is safe after a failed open.
func (t *task) close() error {
	var errs []error
	one := func(op operator) {
		// A close that does not return must not keep the others from being closed.
		errs = append(errs, guard(t.name(), op.close))
	}
	t.at = t.first
	if t.head != nil {
		one(t.head)
	}
	for i := len(t.ops) - 1; i >= 0; i-- {
		t.at = t.names[i]
		one(t.ops[i])
	}
	return errors.Join(errs...)
}

// earlier returns the earlier of two times. Zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// guard calls a user's function on a goroutine of its own. It turns a panic, a Goexit and an error
// that cannot be used into an error.
func guard(where string, f func() error) error { return guards.Apart(where, f) }

// guard calls a user's function on the task's goroutine, which a Goexit ends.
func (e *taskEnv) guard(where string, f func() error) (err error) {
	returned := false
	defer func() {
		if v := recover(); v != nil {
			err = guards.Caught(where, v)
		} else if !returned {
			e.task.lost = guards.Exited(where)
		}
	}()
	err = guards.Error(where, f())
	returned = true
	return err
}

// caught is deferred. It turns a panic into *err, and replaces an error that cannot be used.
func caught(what, of string, err *error) {
	if v := recover(); v != nil {
		*err = guards.Caught(what+of, v)
	} else if *err != nil {
		*err = guards.Error(what+of, *err)
	}
}

// begin makes the barrier of a checkpoint at the head of the chain.
func (e *taskEnv) begin(id int64) *barrier {
	return &barrier{id: id, ack: &ack{id: id, task: e.id}}
}
