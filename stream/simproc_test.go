package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// simProc is one life of the process.
type simProc struct {
	s      *sim
	dead   bool
	run    *Run
	super  *supervisor
	number int

	// Of the attempt:
	epoch int // counts attempts, to leave events of earlier ones alone
	tasks []*simTask
	coord *coordinator
	box   []message
	due   bool
	gone  bool // the attempt is over
}

type simTask struct {
	*task
	box     []control
	due     bool // a step is in the heap
	opened  bool
	broken  bool
	reading bool // a fetch is in the heap
	ended   bool // the reader has nothing left
}

// boot starts the process, afresh or from the newest checkpoint.
func (s *sim) boot() {
	resume, err := s.disk.Newest(context.Background())
	if err != nil && !errors.Is(err, checkpoint.ErrNoCheckpoint) {
		s.end(err)
		return
	}
	j := s.build(resume)
	s.boots++
	if s.boots > 1 {
		s.seen.rescaled++
	}
	stages, err := j.compile()
	if err != nil {
		s.end(err)
		return
	}
	p := &simProc{s: s, run: newRun(j), number: j.cfg.Attempt}
	s.proc = p
	p.run.plan(stages)
	p.super = &supervisor{strategy: j.cfg.strategy, jitter: s.rng.Float64}
	if err := p.run.openCommitters(context.Background()); err != nil {
		s.end(err)
		return
	}
	from, err := p.run.begin(context.Background())
	switch {
	case s.disk.crashed: // the loop sees it
	case err != nil && strings.Contains(err.Error(), "done"):
		s.after(nil, time.Second, "boot", s.boot) // a supervisor calls again
	case err != nil:
		s.end(err)
	case from != nil && from.finished:
		s.end(nil)
	default:
		p.settle(from)
	}
}

func (s *sim) end(err error) { s.done, s.err = true, err }

// kill drops the process; nothing of its memory survives.
func (p *simProc) kill() {
	p.dead = true
	p.drop()
}

func (p *simProc) drop() {
	p.epoch++
	for _, t := range p.tasks {
		if err := t.close(); err != nil {
			p.s.end(fmt.Errorf("close: %w", err))
		}
		if t.reader != nil {
			t.reader.shut()
		}
	}
	p.tasks = nil
}

// after schedules an event of the present attempt.
func (p *simProc) after(d time.Duration, label string, run func()) {
	epoch := p.epoch
	p.s.after(p, d, label, func() {
		if epoch == p.epoch {
			run()
		}
	})
}

// settle begins an attempt, unless it cannot keep where it reads from.
func (p *simProc) settle(from *restored) {
	if failed, err := p.run.tryToSettle(context.Background(), p.number, from); failed != nil || err != nil {
		p.over(outcome{err: errors.Join(failed, err)})
		return
	}
	p.attempt(from)
}

func (p *simProc) attempt(from *restored) {
	s := p.s
	splits := p.run.cut
	if from != nil {
		splits = from.splits
	}
	p.tasks, p.box, p.gone, p.due = nil, nil, false, false
	tasks := build(p.run.stages, func(st *stage, index int) *taskEnv {
		t := &simTask{}
		p.tasks = append(p.tasks, t)
		return &taskEnv{
			id: len(p.tasks) - 1, index: index, parallelism: st.parallelism, job: "sim", run: "run", attempt: p.number,
			logger: p.run.cfg.Logger, wake: func() { p.wake(t) },
			report:  func(r report) { p.send(message{report: &r}) },
			restore: from, splits: splits, untimely: p.run.untimely,
		}
	})
	for i, t := range tasks {
		p.tasks[i].task = t
	}
	p.coord = &coordinator{
		cfg: p.run.cfg.Checkpoint, header: p.run.header(p.number), operators: p.run.operators, tasks: len(tasks),
		committer: &p.run.committer, base: from, lastID: p.run.lastID,
	}
	for i, t := range p.tasks {
		p.after(s.small(), fmt.Sprintf("open %d", i), func() {
			err := t.open(context.Background())
			if err == nil && s.strike(0.01) {
				err = errors.New("open failed")
			}
			if err != nil {
				p.failed(t, err)
				return
			}
			t.opened = true
			p.send(message{report: &report{kind: taskRunning, task: i}})
			if t.reader != nil {
				t.reader.onRoom(func() { p.fetch(t) })
				p.fetch(t)
			}
			p.wake(t)
		})
	}
}

func (p *simProc) failed(t *simTask, err error) {
	t.broken = true
	p.send(message{report: &report{kind: taskFailed, task: t.env.id, err: err}})
}

func (p *simProc) fetch(t *simTask) {
	if t.reading || t.ended {
		return
	}
	t.reading = true
	p.after(p.s.small(), fmt.Sprintf("fetch %d", t.env.id), func() {
		t.reading = false
		if t.reader.full() {
			return
		}
		if t.ended = !t.reader.fetch(context.Background()); !t.ended {
			p.fetch(t)
		}
	})
}

func (p *simProc) wake(t *simTask) {
	if t.due || !t.opened || t.broken || p.dead {
		return
	}
	t.due = true
	p.after(p.s.small(), fmt.Sprintf("step %d", t.env.id), func() { p.step(t) })
}

func (p *simProc) step(t *simTask) {
	t.due = false
	if t.broken {
		return
	}
	// What a task finds in its box is what lay there when it looked, which is a while before it
	// goes on.
	seen := len(t.box)
	if seen > 0 && p.s.chance(0.2) {
		seen = p.s.rng.IntN(seen)
		p.wake(t)
	}
	box := t.box[:seen]
	t.box = t.box[seen:]
	for _, c := range box {
		if err := t.control(c); err != nil {
			p.failed(t, err)
			return
		}
	}
	more, next, err := t.step(time.Now())
	switch {
	case err != nil:
		p.failed(t, err)
	case more:
		p.wake(t)
	case !next.IsZero():
		p.after(max(0, time.Until(next)), fmt.Sprintf("timer %d", t.env.id), func() { p.wake(t) })
	}
}

func (p *simProc) send(m message) {
	p.box = append(p.box, m)
	p.poke(p.s.small())
}

func (p *simProc) poke(d time.Duration) {
	p.after(d, "coordinator", p.coordinate)
}

func (p *simProc) coordinate() {
	if p.gone {
		return
	}
	c, s := p.coord, p.s
	box := p.box
	p.box = nil
	for _, m := range box {
		switch now := time.Now(); {
		case m.written:
			c.written(now, m.err)
		case m.committed:
			c.committed(now, m.err)
		default:
			c.report(now, *m.report)
		}
	}
	c.tick(time.Now())
	effects := c.effects
	c.effects = nil
	for _, e := range effects {
		switch e.kind {
		case tell:
			for _, t := range p.tasks {
				t.box = append(t.box, e.control)
				p.wake(t)
			}
		case write:
			for _, sec := range e.snap.Sections {
				if sec.Kind == checkpoint.KindAsync {
					s.seen.kept += len(sec.Parts)
				}
			}
			p.after(s.small(), "write", func() { p.send(message{written: true, err: s.disk.Write(context.Background(), e.snap)}) })
		case commit:
			p.after(s.small(), "commit", func() {
				p.send(message{committed: true, err: publish(context.Background(), e.plans)})
			})
		case note:
			switch e.event.(type) {
			case CheckpointCompleted:
				s.seen.checkpoints++
			case CheckpointFailed:
				s.seen.aborted++
			}
		case done:
			p.over(e.outcome)
			return
		}
	}
	if at := c.next(); !at.IsZero() {
		p.poke(max(0, time.Until(at)))
	}
}

// over is what lies between attempts.
func (p *simProc) over(out outcome) {
	s := p.s
	p.gone = true
	if p.coord != nil { // the attempt began
		p.run.lastID, p.coord = p.coord.lastID, nil
	}
	p.drop()
	if out.err == nil {
		s.end(nil)
		return
	}
	s.note("failure: %v", out.err)
	if s.disk.crashed {
		return
	}
	if !simulated(out.err) {
		s.end(out.err)
		return
	}
	// What is injected ends by itself, so no restart is in vain.
	delay, final := p.super.failed(time.Now(), out.err, int64(s.seen.restarts))
	if final != nil {
		s.end(final)
		return
	}
	s.seen.restarts++
	p.number++
	p.after(delay, "restart", func() {
		from, refused, err := p.run.goBack(context.Background())
		switch {
		case s.disk.crashed:
		case refused != nil:
			s.end(refused)
		case err != nil:
			p.over(outcome{err: err})
		default:
			p.settle(from)
		}
	})
}
