package stream

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// coordRig drives a coordinator of two tasks by hand, at times in milliseconds.
type coordRig struct {
	t     *testing.T
	c     *coordinator
	start time.Time
}

func newCoordRig(t *testing.T, cfg CheckpointConfig) *coordRig {
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Hour
	}
	return &coordRig{t: t, start: time.Unix(0, 0), c: &coordinator{cfg: cfg, tasks: 2, committer: &committer{}}}
}

func (r *coordRig) at(ms int) time.Time { return r.start.Add(time.Duration(ms) * time.Millisecond) }

func (r *coordRig) run(ms int) {
	r.c.report(r.at(ms), report{kind: taskRunning})
	r.c.report(r.at(ms), report{kind: taskRunning, task: 1})
}

func (r *coordRig) ack(ms, task int, id int64) {
	r.c.report(r.at(ms), report{kind: taskAcked, task: task, ack: &ack{id: id, task: task}})
}

// wants compares the effects since the last time, and when the next tick is due.
func (r *coordRig) wants(next int, effects ...string) {
	r.t.Helper()
	var got []string
	for _, e := range r.c.effects {
		switch e.kind {
		case tell:
			got = append(got, fmt.Sprintf("%s %d", []string{"trigger", "stop", "abort", "complete", "start"}[e.control.kind], e.control.id))
		case write:
			got = append(got, fmt.Sprintf("write %d %v", e.snap.ID, e.snap.Finished))
		case commit:
			got = append(got, "commit")
		case halt:
			got = append(got, "halt")
		case done:
			got = append(got, fmt.Sprintf("done %v %v", e.outcome.stopped, e.outcome.err))
		case note:
			got = append(got, fmt.Sprintf("%T", e.event))
		}
	}
	r.c.effects = nil
	if g, w := strings.ReplaceAll(strings.Join(got, ", "), "stream.", ""), strings.Join(effects, ", "); g != w {
		r.t.Errorf("effects: %s\n   want: %s", g, w)
	}
	due := -1
	if at := r.c.next(); !at.IsZero() {
		due = int(at.Sub(r.start) / time.Millisecond)
	}
	if due != next {
		r.t.Errorf("due at %d; want %d", due, next)
	}
}

// TestCoordinator: a checkpoint's way, by interval and pause, to the final one.
func TestCoordinator(t *testing.T) {
	r := newCoordRig(t, CheckpointConfig{Interval: 100 * time.Millisecond, MinPause: 30 * time.Millisecond})
	r.c.report(r.at(0), report{kind: taskRunning})
	r.c.tick(r.at(500))
	r.wants(-1) // nothing before every task runs
	r.c.report(r.at(1000), report{kind: taskRunning, task: 1})
	r.wants(1100, "Started", "start 0")
	r.c.tick(r.at(1099))
	r.wants(1100)
	r.c.tick(r.at(1100))
	r.wants(3601100, "trigger 1")
	r.ack(1110, 0, 1)
	r.ack(1111, 0, 1) // twice
	r.ack(1112, 1, 9) // of a checkpoint that does not exist
	r.wants(3601100)
	r.ack(1120, 1, 1)
	r.wants(-1, "write 1 false")
	r.c.tick(r.at(9999)) // one at a time
	r.c.written(r.at(1180), nil)
	r.wants(-1, "commit")
	r.c.committed(r.at(1190), nil)
	if e, ok := r.c.effects[0].event.(CheckpointCompleted); !ok || e.Duration != 90*time.Millisecond || e.Kept != 60*time.Millisecond || e.Published != 10*time.Millisecond {
		t.Errorf("%+v", r.c.effects[0].event)
	}
	r.wants(1220, "CheckpointCompleted", "complete 1") // the pause counts from the end
	r.c.report(r.at(1200), report{kind: taskEnded})
	r.c.tick(r.at(1220))
	r.wants(3601220, "trigger 2")
	r.c.report(r.at(1221), report{kind: taskEnded, task: 1})
	r.ack(1222, 0, 2)
	r.ack(1222, 1, 2)
	r.c.written(r.at(1223), nil)
	r.wants(-1, "write 2 false", "commit")
	r.c.committed(r.at(1224), nil)
	r.wants(3601224, "CheckpointCompleted", "complete 2", "trigger 3")
	r.ack(1225, 0, 3)
	r.ack(1225, 1, 3)
	r.c.written(r.at(1226), nil)
	r.c.committed(r.at(1227), nil)
	r.wants(-1, "write 3 true", "commit", "CheckpointCompleted", "done false <nil>")
	r.c.report(r.at(1228), report{kind: taskFailed, err: errBroken})
	r.wants(-1) // it is over
}

// TestCoordinatorTolerates so many failed checkpoints in a row, and no more.
func TestCoordinatorTolerates(t *testing.T) {
	r := newCoordRig(t, CheckpointConfig{Interval: 100 * time.Millisecond, Timeout: 50 * time.Millisecond, TolerableFailures: 1})
	r.run(0)
	r.c.tick(r.at(100))
	r.ack(110, 0, 1)
	r.c.tick(r.at(150))
	r.wants(200, "Started", "start 0", "trigger 1", "abort 1", "CheckpointFailed")
	r.ack(160, 1, 1) // too late
	r.c.tick(r.at(200))
	r.ack(201, 0, 2)
	r.ack(201, 1, 2)
	r.c.written(r.at(202), nil)
	r.c.committed(r.at(203), nil)
	r.wants(300, "trigger 2", "write 2 false", "commit", "CheckpointCompleted", "complete 2")
	for i := range 2 {
		r.c.tick(r.at(300 + 100*i))
		r.ack(301+100*i, 0, int64(3+i))
		r.ack(301+100*i, 1, int64(3+i))
		r.c.written(r.at(302+100*i), errBroken)
	}
	r.wants(-1, "trigger 3", "write 3 false", "abort 3", "CheckpointFailed", "trigger 4", "write 4 false", "abort 4", "CheckpointFailed", "halt",
		"done false checkpoint 4 was given up: it cannot be written: broken")
}

// TestCoordinatorDeclines what is under way when a task fails (A13), and waits for what can't be
// taken back.
func TestCoordinatorDeclines(t *testing.T) {
	begun := func() *coordRig {
		r := newCoordRig(t, CheckpointConfig{Interval: 100 * time.Millisecond})
		r.run(0)
		r.c.tick(r.at(100))
		r.ack(101, 0, 1)
		return r
	}
	failure := report{kind: taskFailed, task: 1, err: errBroken}

	r := begun()
	r.c.report(r.at(102), failure)
	r.ack(103, 1, 1)
	r.wants(-1, "Started", "start 0", "trigger 1", "halt", "CheckpointFailed", "done false broken")

	r = begun()
	r.ack(102, 1, 1)
	r.c.report(r.at(103), failure)
	r.c.report(r.at(103), report{kind: taskFailed, err: errors.New("a consequence")})
	r.wants(-1, "Started", "start 0", "trigger 1", "write 1 false", "halt")
	r.c.written(r.at(104), nil) // it is published by the restore
	r.wants(-1, "done false broken")

	r = begun()
	r.ack(102, 1, 1)
	r.c.written(r.at(103), nil)
	r.c.report(r.at(104), failure)
	r.c.committed(r.at(105), nil)
	r.wants(-1, "Started", "start 0", "trigger 1", "write 1 false", "commit", "halt", "CheckpointCompleted", "done false broken")

	r = begun()
	r.ack(102, 1, 1)
	r.c.written(r.at(103), nil)
	r.c.committed(r.at(105), errBroken)
	r.wants(-1, "Started", "start 0", "trigger 1", "write 1 false", "commit", "halt", "done false checkpoint 1: broken")
}

// TestCoordinatorStops with a checkpoint of its own, behind the one under way, unless the input
// ends first.
func TestCoordinatorStops(t *testing.T) {
	r := newCoordRig(t, CheckpointConfig{})
	r.run(10)
	r.c.stop(r.at(10))
	r.ack(11, 0, 1)
	r.ack(11, 1, 1)
	r.c.written(r.at(12), nil)
	r.c.committed(r.at(13), nil)
	r.wants(-1, "Started", "start 0", "stop 1", "write 1 false", "commit", "CheckpointCompleted", "done true <nil>")

	r = newCoordRig(t, CheckpointConfig{Interval: 100 * time.Millisecond})
	r.run(0)
	r.c.tick(r.at(100))
	r.c.stop(r.at(101))
	r.wants(3600100, "Started", "start 0", "trigger 1")
	r.ack(102, 0, 1)
	r.ack(102, 1, 1)
	r.c.written(r.at(103), nil)
	r.c.committed(r.at(104), nil)
	r.wants(3600104, "write 1 false", "commit", "CheckpointCompleted", "complete 1", "stop 2")
	r.c.tick(r.at(3600104))
	r.wants(-1, "abort 2", "CheckpointFailed", "halt", "done false checkpoint 2 was given up: 2 of 2 tasks had not answered after 1h0m0s")

	r = newCoordRig(t, CheckpointConfig{})
	r.run(0)
	r.c.report(r.at(1), report{kind: taskEnded})
	r.c.report(r.at(1), report{kind: taskEnded, task: 1})
	r.c.stop(r.at(2))
	r.ack(3, 0, 1)
	r.ack(3, 1, 1)
	r.wants(-1, "Started", "start 0", "trigger 1", "write 1 true")
}

// TestCoordinatorBeforeAnythingIsOpen: nothing has been taken, so there is nothing to take a
// checkpoint of.
func TestCoordinatorBeforeAnythingIsOpen(t *testing.T) {
	r := newCoordRig(t, CheckpointConfig{})
	r.c.report(r.at(0), report{kind: taskRunning})
	r.c.stop(r.at(0))
	r.wants(-1, "halt", "done false stopped, resumable, from the last checkpoint that was completed")

	r = newCoordRig(t, CheckpointConfig{})
	r.c.change(r.at(0))
	if e := r.c.effects; len(e) != 2 || !e[1].outcome.changed || e[1].outcome.err != nil {
		t.Errorf("%+v", e)
	}
}

// TestImbalance: records that do not add up end the job for good.
func TestImbalance(t *testing.T) {
	r := newCoordRig(t, CheckpointConfig{Interval: 100 * time.Millisecond})
	r.c.operators = []planned{{name: "in", kind: checkpoint.KindSource}, {name: "op", kind: checkpoint.KindAsync, input: "in"}}
	r.run(0)
	r.c.tick(r.at(100))
	r.c.report(r.at(101), report{kind: taskAcked, ack: &ack{id: 1, counts: []opCounts{{operator: "in", in: 5, done: 5, out: 5}}}})
	r.c.report(r.at(102), report{kind: taskAcked, task: 1, ack: &ack{id: 1, task: 1, counts: []opCounts{{operator: "op", in: 4, done: 1, held: 2}}}})
	err := r.c.failed
	if err == nil || !strings.Contains(err.Error(), "op took 4 records: 1 were completed, 0 dropped, 0 dead-lettered and 2 held\nin emitted 5 records, but op took 4") {
		t.Errorf("the failure is %v", err)
	}
	s := &supervisor{}
	if _, final := s.failed(r.at(103), err, 0); final == nil {
		t.Error("it would restart")
	}
}
