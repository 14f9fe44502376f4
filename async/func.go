package async

import (
	"context"
	"sync"

	"github.com/tensorferry/tensorferry/internal/guard"
)

// Func makes a Function of a function f that blocks. In each subtask f is called from up to workers
// goroutines at a time; 0 means as many as Config.MaxCalls. f must be safe for concurrent use. Its
// context ends at the record's deadline, and when the call is no longer wanted. f must then return,
// because Close waits for it. If f panics or ends its goroutine with runtime.Goexit, the record
// fails with a *PanicError.
func Func[IN, OUT any](f func(context.Context, IN) (OUT, error), workers int) Function[IN, OUT] {
	return plain[IN, OUT]{f, workers}
}

type plain[IN, OUT any] struct {
	f       func(context.Context, IN) (OUT, error)
	workers int
}

// MaxCalls makes plain a CallLimiter.
func (p plain[IN, OUT]) MaxCalls() int { return p.workers }

func (p plain[IN, OUT]) Open(_ context.Context, sub Subtask, done Completer[OUT]) (Caller[IN, OUT], error) {
	ctx, cancel := context.WithCancel(context.Background())
	return &workers[IN, OUT]{
		f: p.f, name: sub.Operator, limit: sub.Config.MaxCalls, done: done,
		ctx: ctx, cancel: cancel, pending: make(map[CallID]context.CancelFunc),
	}, nil
}

// workers calls a function from a bounded number of goroutines. A goroutine starts when a call
// finds none free, and ends when it finds no call.
type workers[IN, OUT any] struct {
	f      func(context.Context, IN) (OUT, error)
	name   string
	limit  int
	done   Completer[OUT]
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	running int
	queue   []job[IN]
	pending map[CallID]context.CancelFunc // of calls queued or running
}

type job[IN any] struct {
	call Call[IN]
	ctx  context.Context
}

func (w *workers[IN, OUT]) Call(batch []Call[IN]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil {
		return
	}
	for _, c := range batch {
		j := job[IN]{call: c}
		var cancel context.CancelFunc
		if c.Deadline.IsZero() {
			j.ctx, cancel = context.WithCancel(w.ctx)
		} else {
			j.ctx, cancel = context.WithDeadlineCause(w.ctx, c.Deadline, ErrTimeout)
		}
		w.pending[c.ID] = cancel
		w.queue = append(w.queue, j)
		if w.running < w.limit {
			w.running++
			w.wg.Go(w.work)
		}
	}
}

func (w *workers[IN, OUT]) work() {
	report := make([]Completion[OUT], 1)
	idle := false
	defer func() {
		if !idle { // f has ended this goroutine, and another takes its place
			w.wg.Go(w.work)
		}
	}()
	for {
		w.mu.Lock()
		if len(w.queue) == 0 {
			w.running--
			w.mu.Unlock()
			idle = true
			return
		}
		j := w.queue[0]
		w.queue[0] = job[IN]{}
		w.queue = w.queue[1:]
		w.mu.Unlock()
		w.do(j, report)
	}
}

// do makes one call and reports its outcome, also when f does not return.
func (w *workers[IN, OUT]) do(j job[IN], report []Completion[OUT]) {
	defer w.forget(j.call.ID)
	if j.ctx.Err() != nil {
		return // the operator no longer waits for it
	}
	report[0] = Completion[OUT]{ID: j.call.ID, Err: ErrGoexit}
	defer func() {
		if report[0].Err == ErrGoexit {
			report[0].Err = guard.Exited("the function")
		}
		// A failure after the call's context ended is about that end, which the operator knows of.
		if report[0].Err == nil || j.ctx.Err() == nil {
			w.done.Complete(report)
		}
	}()
	w.run(j, &report[0])
}

func (w *workers[IN, OUT]) run(j job[IN], c *Completion[OUT]) {
	defer recovered("the function of "+w.name, &c.Err)
	out, err := w.f(j.ctx, j.call.Record.Value)
	c.Outputs, c.Err = One(out), err
}

// forget ends the context of a call.
func (w *workers[IN, OUT]) forget(id CallID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if cancel := w.pending[id]; cancel != nil {
		cancel()
		delete(w.pending, id)
	}
}

func (w *workers[IN, OUT]) Cancel(ids []CallID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		if cancel := w.pending[id]; cancel != nil {
			cancel()
			delete(w.pending, id)
		}
	}
}

func (w *workers[IN, OUT]) Close() error {
	w.mu.Lock()
	w.cancel()
	w.mu.Unlock()
	w.wg.Wait()
	return nil
}
