package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// mailbox is an unbounded queue into one goroutine. It stays short: a few messages for each task
// and checkpoint.
type mailbox[E any] struct {
	mu   sync.Mutex
	box  []E
	wake chan struct{} // of one place
}

func (m *mailbox[E]) send(e E) {
	m.mu.Lock()
	m.box = append(m.box, e)
	m.mu.Unlock()
	m.ring()
}

// ring wakes the receiver.
func (m *mailbox[E]) ring() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// receive moves all messages to the end of dst.
func (m *mailbox[E]) receive(dst []E) []E {
	m.mu.Lock()
	defer m.mu.Unlock()
	dst = append(dst, m.box...)
	clear(m.box)
	m.box = m.box[:0]
	return dst
}

// message is what reaches the coordinator's goroutine.
type message struct {
	report    *report
	written   bool
	committed bool
	changed   bool // the splits of a source have
	err       error
}

// attempt runs every task once, from the beginning or from a checkpoint, and returns when all have
// ended.
func (r *Run) attempt(ctx context.Context, number int, from *restored) outcome {
	tctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	// These run in this order, also if an observer ends this goroutine.
	defer wg.Wait()
	defer cancel(errors.New("the attempt is over"))
	inbox := &mailbox[message]{wake: make(chan struct{}, 1)}
	splits := r.cut
	if from != nil {
		splits = from.splits
	}
	var boxes []*mailbox[control]
	tasks := build(r.stages, func(s *stage, index int) *taskEnv {
		box := &mailbox[control]{wake: make(chan struct{}, 1)}
		boxes = append(boxes, box)
		return &taskEnv{
			id: len(boxes) - 1, index: index, parallelism: s.parallelism,
			job: r.job.name, run: r.id, attempt: number, logger: r.cfg.Logger, tracer: r.cfg.Tracer,
			wake:    box.ring,
			report:  func(k report) { inbox.send(message{report: &k}) },
			restore: from, splits: splits, untimely: r.untimely,
		}
	})
	c := &coordinator{
		cfg: r.cfg.Checkpoint, header: r.header(number), operators: r.operators, tasks: len(tasks),
		committer: &r.committer, base: from, lastID: r.lastID,
	}
	r.tracker.attempt(from, tasks)
	r.tracker.set(func(p *Progress) { p.Attempt = number })
	for i, t := range tasks {
		wg.Go(func() { runTask(tctx, t, boxes[i]) })
	}
	r.watchSplits(tctx, inbox, func(f func()) { wg.Go(f) })
	out := r.coordinate(ctx, c, inbox, boxes, func(err error) { cancel(err) }, &wg)
	r.lastID = c.lastID
	return out
}

// coordinate is the goroutine around the coordinator: it passes events to it and carries out its
// effects.
func (r *Run) coordinate(ctx context.Context, c *coordinator, inbox *mailbox[message], boxes []*mailbox[control], cancel func(error), wg *sync.WaitGroup) outcome {
	timer := time.NewTimer(never)
	defer timer.Stop()
	stop := r.stop
	var messages []message
	for {
		for _, e := range c.effects {
			switch e.kind {
			case tell:
				for _, b := range boxes {
					b.send(e.control)
				}
			case write:
				r.emitted = emittedIn(e.snap)
				wg.Go(func() {
					m := message{written: true, err: errNotReturned}
					defer func() { inbox.send(m) }()
					m.err = r.keep(ctx, e.snap)
				})
			case commit:
				wg.Go(func() {
					m := message{committed: true, err: errNotReturned}
					defer func() { inbox.send(m) }()
					m.err = publish(ctx, e.plans)
				})
			case halt:
				r.tracker.set(func(p *Progress) {
					if c.failed != nil && p.State == StateRunning {
						p.State, p.LastError = StateFailing, c.failed
					}
				})
				cancel(c.failed)
			case note:
				r.note(e.event)
			case done:
				return e.outcome
			}
		}
		c.effects = c.effects[:0]
		if r.broken != nil && c.failed == nil && !c.over {
			c.fail(r.broken)
			continue
		}
		timer.Reset(until(time.Now(), c.next()))
		select {
		case <-inbox.wake:
		case <-timer.C:
			c.tick(time.Now())
		case <-stop:
			stop = nil
			r.tracker.set(func(p *Progress) { p.State = StateStopping })
			c.stop(time.Now())
		case <-ctx.Done():
			if p := c.now; p != nil && p.phase == collecting {
				r.note(CheckpointFailed{p.id, context.Cause(ctx)})
			}
			return outcome{err: context.Cause(ctx)}
		}
		messages = inbox.receive(messages[:0])
		for _, m := range messages {
			switch now := time.Now(); {
			case m.written:
				c.written(now, m.err)
			case m.committed:
				c.committed(now, m.err)
			case m.changed && m.err != nil:
				c.fail(m.err)
			case m.changed:
				c.change(now)
			default:
				c.report(now, *m.report)
			}
		}
		clear(messages)
	}
}

// note passes an event to the observer, and keeps what Progress shows of it.
func (r *Run) note(e Event) {
	r.tracker.set(func(p *Progress) {
		switch e := e.(type) {
		case Started:
			r.ran = true
			if p.State != StateStopping {
				p.State = StateRunning
			}
		case CheckpointCompleted:
			p.CheckpointsCompleted++
			p.LastCheckpoint, p.LastCheckpointAt, p.LastCheckpointTook = e.ID, time.Now(), e.Duration
			p.Committed, r.tracker.own = r.emitted, e.ID
		case CheckpointFailed:
			p.CheckpointsFailed++
			p.LastError = fmt.Errorf("checkpoint %d: %w", e.ID, e.Err)
			r.cfg.Logger.Warn("a checkpoint failed", "job", r.job.name, "checkpoint", e.ID, "error", e.Err)
		}
	})
	r.observe(e)
}

// runTask is the goroutine of one task. It reports a failure before it closes anything, because
// closing may take a while, and no barrier may pass meanwhile.
func runTask(ctx context.Context, t *task, box *mailbox[control]) {
	var err error
	returned := false
	defer func() {
		if !returned {
			err = t.exited()
		}
		if err != nil {
			t.env.report(report{kind: taskFailed, task: t.env.id, err: err})
		}
		if err := t.close(); err != nil {
			t.env.logger.Warn("a subtask could not close everything", "job", t.env.job, "error", err)
		}
	}()
	err = driveTask(ctx, t, box)
	returned = true
}

// errNotReturned is wrapped by the failure of a user's function that ended its goroutine, as
// FailNow of a test does.
var errNotReturned = async.ErrGoexit

// driveTask steps a task until it fails or ctx ends. If the task has a reader, it runs on a
// goroutine of its own, which has ended when driveTask returns.
func driveTask(ctx context.Context, t *task, box *mailbox[control]) error {
	if err := t.open(ctx); err != nil {
		return err
	}
	if t.reader != nil {
		var wg sync.WaitGroup
		rctx, cancel := context.WithCancel(ctx)
		room := make(chan struct{}, 1)
		t.reader.onRoom(func() {
			select {
			case room <- struct{}{}:
			default:
			}
		})
		wg.Go(func() { runReader(rctx, t.reader, room) })
		defer wg.Wait()
		defer cancel()
	}
	t.env.report(report{kind: taskRunning, task: t.env.id})
	timer := time.NewTimer(never)
	defer timer.Stop()
	var words []control
	for ctx.Err() == nil {
		words = box.receive(words[:0])
		for _, w := range words {
			if err := t.control(w); err != nil {
				return err
			}
		}
		now := time.Now()
		more, next, err := t.step(now)
		if err != nil {
			return err
		}
		if more {
			continue
		}
		timer.Reset(until(now, next))
		select {
		case <-box.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// runReader is the goroutine of a source's reads, which may block.
func runReader(ctx context.Context, r fetcher, room <-chan struct{}) {
	returned := false
	defer func() {
		if !returned {
			r.broke()
		}
		_ = r.shut()
	}()
	for ctx.Err() == nil {
		if r.full() {
			select {
			case <-room:
			case <-ctx.Done():
			}
			continue
		}
		if !r.fetch(ctx) {
			break
		}
	}
	returned = true
}
