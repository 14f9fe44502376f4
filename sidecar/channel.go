package sidecar

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/tensor"
)

// channel is the async.Caller of one subtask: one connection, and at most Window requests in flight
// on it. Call hands records to Window workers. A worker takes the records that have gathered,
// encodes them, sends the request and reports the answer. So the operator's goroutine neither
// encodes nor decodes nor waits.
type channel[IN, OUT any] struct {
	cfg  Config
	ep   endpoint.Endpoint
	name peerName
	sub  async.Subtask
	done async.Completer[OUT]
	log  *slog.Logger

	conn  grpc.ClientConnInterface
	own   *grpc.ClientConn // conn, if the channel made it; nil: Config.Conn
	wire  *wire            // what is known of own's connections; nil without own
	link  link
	share *sharing // nil: tensors travel in requests
	sig   tensor.Signature
	codec rowCodec[IN, OUT]
	// encoding is held while records are encoded: a row codec serves one goroutine at a time.
	encoding sync.Mutex

	ctx    context.Context // ends when the channel is closed
	cancel context.CancelFunc
	giveUp context.CancelCauseFunc // ends the opening
	tasks  sync.WaitGroup
	close  sync.Once

	mu       sync.Mutex
	more     sync.Cond // signals that a request may be due
	gather   gather[IN]
	unmade   []async.CallID // buffer of giveBack
	sizes    sizes
	requests uint64
	closed   bool
	accused  accused[OUT]
	// completing is held while outcomes are handed over, so that workers hand over one slice at
	// a time.
	completing sync.Mutex
	versions   versions
	// opened wakes listen when a request is sent. deaf says that listen waits for that.
	opened chan struct{}
	deaf   bool
	// away lists workers whose requests have lost their last wanted row. Used only within
	// Cancel.
	away []*worker[IN, OUT]
}

func newChannel[IN, OUT any](cfg Config, ep endpoint.Endpoint, sub async.Subtask, done async.Completer[OUT]) *channel[IN, OUT] {
	c := &channel[IN, OUT]{
		cfg: cfg, ep: ep, sub: sub, done: done,
		name:    peerName{endpoint: cfg.Endpoint, model: cfg.Model},
		log:     guard.Logger(cmp.Or(cfg.Logger, sub.Logger, slog.New(slog.DiscardHandler))),
		sizes:   newSizes(cfg.MaxBytes),
		accused: accused[OUT]{asked: make(chan struct{}, 1)},
		opened:  make(chan struct{}, 1),
	}
	c.more.L = &c.mu
	return c
}

// open connects, asks the server for the model, binds the codec and starts the goroutines.
func (c *channel[IN, OUT]) open(ctx context.Context, bind binder[IN, OUT]) (err error) {
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	ctx, c.giveUp = context.WithCancelCause(ctx)
	defer c.giveUp(nil)
	if c.conn = c.cfg.Conn; c.conn == nil {
		cfg := c.cfg
		cfg.Dialer, cfg.TLS = guardedDialer(cfg.Dialer, c.broke), guard.TLS(cfg.TLS, c.broke)
		c.wire = new(wire)
		if c.own, err = dial(&cfg, c.ep, c.wire, c.sub.Config.Timeout); err != nil {
			return permanent{err}
		}
		c.conn = c.own
	}
	states, _ := c.conn.(stateful)
	if c.own == nil {
		c.conn = guardedConn{c.conn, c.broke}
	}
	c.conn = shortConn{c.conn}
	c.link = link{
		conn: c.conn, backoff: c.cfg.Backoff, name: &c.name, version: c.cfg.Version, sig: &c.sig, log: c.log,
		suspend: func(why error) { c.done.Suspend(why) }, resume: c.done.Resume, stopped: c.holdWaiting, states: states,
		stated: c.cfg.Signature, silence: silencePeriod(c.sub.Config.Timeout), wire: c.wire, known: c.sub.Attempt > 0, moved: func() { c.accuse(nil) },
	}
	patience := cmp.Or(c.cfg.OpenTimeout, c.sub.Config.Hold, async.DefaultHold)
	if c.sig, err = c.link.awaitModel(ctx, c.cfg.Version, patience); err != nil {
		return err
	}
	if c.codec, err = bind(c.sig); err != nil {
		return c.name.mismatch(&c.sig, err)
	}
	c.gather.window = c.cfg.Window
	c.gather.rows = maxRows(&c.cfg, &c.sig, c.sub.Config)
	if c.cfg.SharedMemory > 0 {
		c.openSharing(ctx)
	}
	for range c.cfg.Window {
		c.tasks.Go(newWorker(c).run)
	}
	c.tasks.Go(c.judgeAccused)
	if c.own != nil && (c.cfg.Dialer != nil || c.ep.Network != "unix") {
		c.tasks.Go(c.listen)
	}
	c.tasks.Go(func() { c.link.watch(c.ctx) })
	return nil
}

// broke fails the operator because a function of the configuration has panicked. No record is to
// blame for that.
func (c *channel[IN, OUT]) broke(why error) {
	c.giveUp(why)
	c.done.Fail(why)
}

// maxRows returns the largest number of rows in a request: the smallest of what the model allows,
// what the configuration allows, and an equal share of the operator's capacity.
func maxRows(cfg *Config, sig *tensor.Signature, op async.Config) int {
	capacity := cmp.Or(op.MaxCalls, op.Capacity, async.DefaultCapacity)
	n := min(cfg.MaxBatch, (capacity+cfg.Window-1)/cfg.Window)
	if most := sig.MaxRows(); most > 0 {
		n = min(n, most)
	}
	return max(n, 1)
}

// Call takes over calls. It never waits for the network, an answer or the codec.
func (c *channel[IN, OUT]) Call(batch []async.Call[IN]) {
	c.mu.Lock()
	// A goroutine that takes the link down flushes the waiting calls afterwards, under the
	// lock. So calls are either refused here or handed back by that flush.
	why := c.link.down.Load()
	if why == nil && !c.closed {
		c.gather.add(batch)
		c.wake()
	}
	c.mu.Unlock()
	if why != nil {
		held := make([]async.Completion[OUT], len(batch))
		for i := range batch {
			held[i] = async.Completion[OUT]{ID: batch[i].ID, Err: why}
		}
		c.done.Complete(held)
	}
}

// openSharing sets up the shared memory. If it does not suit the model, tensors travel in requests.
func (c *channel[IN, OUT]) openSharing(ctx context.Context) {
	s := &sharing{conn: c.conn, name: &c.name, log: c.log, slots: 2 * c.cfg.Window}
	s.slot = c.cfg.SharedMemory / s.slots / minSlot * minSlot
	var err error
	if s.layout, err = divide(&c.sig, s.slot, c.gather.rows); err != nil {
		s.without(fmt.Sprintf("%v; reserve more than %d bytes", err, c.cfg.SharedMemory))
		return
	}
	s.open(ctx)
	c.share = s
}

// Cancel forgets calls that have their outcome, and aborts requests that hold no other calls. A
// request whose tensors lie in shared memory is not aborted: its worker waits until the server is
// done with it, and another worker takes this one's place.
func (c *channel[IN, OUT]) Cancel(ids []async.CallID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gather.cancel(ids)
	for _, w := range c.away {
		c.finish(w.group)
		c.gather.recycle(w.group)
		w.group = nil
		if !c.closed {
			c.tasks.Go(newWorker(c).run)
		}
	}
	clear(c.away)
	c.away = c.away[:0]
	c.wake() // the cancelled calls may have blocked others
}

// Close cancels what is in flight and waits until every goroutine and the connection
// are gone. Nothing is completed any more. Idempotent; safe for concurrent use.
func (c *channel[IN, OUT]) Close() (err error) {
	c.close.Do(func() {
		c.mu.Lock()
		c.closed = true
		c.more.Broadcast()
		c.mu.Unlock()
		if c.cancel != nil {
			c.cancel()
		}
		c.tasks.Wait()
		c.share.close()
		if c.own != nil {
			err = c.own.Close()
		}
	})
	return err
}

// complete hands outcomes to the operator.
func (c *channel[IN, OUT]) complete(rows []async.Completion[OUT]) {
	c.completing.Lock()
	defer c.completing.Unlock()
	c.done.Complete(rows)
}

// wake wakes a worker for each request that is due. Under c.mu.
func (c *channel[IN, OUT]) wake() {
	for range c.gather.due() {
		c.more.Signal()
	}
}

// take waits for the records of the next request. Nil: the channel is closed.
func (c *channel[IN, OUT]) take() (r *group[IN], maxBytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.closed {
		if c.giveBack() {
			continue
		}
		if r := c.gather.next(); r != nil {
			return r, c.sizes.now
		}
		c.more.Wait()
	}
	return nil, 0
}

// giveBack returns calls that have not begun to the operator if too many results wait there (A5).
// So the results that a channel makes are bounded by the answers of its window. It reports whether
// it returned any. Called with c.mu held, which it releases meanwhile.
func (c *channel[IN, OUT]) giveBack() bool {
	if c.gather.pending.len() == 0 || !c.done.ResultsFull() {
		return false
	}
	c.unmade = c.gather.surplus(c.unmade[:0])
	if len(c.unmade) == 0 {
		return false
	}
	back := make([]async.Completion[OUT], len(c.unmade))
	for i, id := range c.unmade {
		back[i] = async.Completion[OUT]{ID: id, Err: async.ErrUnmade}
	}
	c.mu.Unlock()
	defer c.mu.Lock()
	c.done.Complete(back)
	return true
}

// launch settles what became of the group's calls when they were encoded, and returns the context
// and id of the request. If no row is left to send, the request is over. From launch until landed,
// a request in shared memory may be abandoned by Cancel.
func (c *channel[IN, OUT]) launch(w *worker[IN, OUT], r *group[IN]) (ctx context.Context, cancel context.CancelFunc, id string, rows int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gather.encoded(r, w.fates)
	if r.live == 0 {
		c.finish(r)
		c.gather.recycle(r)
		return nil, nil, "", 0
	}
	c.wake() // for the calls that did not fit in
	if r.sent = time.Now(); c.deaf {
		c.deaf = false
		select {
		case c.opened <- struct{}{}:
		default:
		}
	}
	latest := latestDeadline(r.calls)
	switch {
	case w.shares:
		// A deadline of this side must not end this request (A50).
		w.group = r
		w.req.SetTimeout(latest)
		r.abort = func() { c.away = append(c.away, w) }
		w.ended = new(ended)
		ctx, cancel = context.WithValue(c.ctx, endedKey{}, w.ended), func() {}
	case latest.IsZero():
		ctx, cancel = context.WithCancel(c.ctx)
		r.abort = cancel
	default:
		ctx, cancel = context.WithDeadline(c.ctx, latest)
		r.abort = cancel
	}
	c.requests++
	var buf [96]byte
	b := append(buf[:0], c.sub.Operator...)
	for i, n := range [...]uint64{uint64(c.sub.Index), uint64(c.sub.Attempt), c.requests} {
		b = strconv.AppendUint(append(b, "/.-"[i]), n, 10)
	}
	return ctx, cancel, string(b), len(r.calls)
}

// finish takes an answered group out of flight, so that other requests can start. Under c.mu.
func (c *channel[IN, OUT]) finish(r *group[IN]) {
	c.gather.answered(r)
	c.wake()
}

// leave runs and, which acts on a failure, and then finish, in one step under the lock. So a Cancel
// finds each call either in the group or in a part of it. Afterwards only the caller uses the
// group.
func (c *channel[IN, OUT]) leave(r *group[IN], and func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if and != nil {
		and()
	}
	c.finish(r)
}

// passed finishes a request that has reached the model.
func (c *channel[IN, OUT]) passed(w *worker[IN, OUT], r *group[IN]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reached(w, r)
	c.finish(r)
}

// reached notes the size of a request that was not refused for its size. Under c.mu.
func (c *channel[IN, OUT]) reached(w *worker[IN, OUT], r *group[IN]) {
	if w.shares { // its tensors were not in the message
		return
	}
	if c.sizes.passed(w.batch.Bytes(), r.part, time.Now()) {
		c.log.Info("sidecar: requests are kept smaller because larger ones were refused", "endpoint", c.name.endpoint, "bytes", c.sizes.now)
	}
	if r.trial {
		c.gather.tried()
	}
}

// landed notes that the request of a worker with shared memory is over. It returns false if no row
// of the request was wanted any more: the group is gone, and another worker has taken this one's
// place.
func (c *channel[IN, OUT]) landed(w *worker[IN, OUT]) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.group == nil {
		return false
	}
	w.group.abort = nil // a Cancel now only marks its rows
	w.group = nil
	return true
}

func (c *channel[IN, OUT]) recycle(r *group[IN]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gather.recycle(r)
}

// holdWaiting returns every call that is not in flight to the operator, which holds it.
func (c *channel[IN, OUT]) holdWaiting(why *Error) {
	c.share.lost()
	c.mu.Lock()
	ids := c.gather.flush(nil)
	c.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	held := make([]async.Completion[OUT], len(ids))
	for i, id := range ids {
		held[i] = async.Completion[OUT]{ID: id, Err: why}
	}
	c.done.Complete(held)
}

// latestDeadline returns when the last call's time is over. Zero: never.
func latestDeadline[IN any](calls []async.Call[IN]) (latest time.Time) {
	for i := range calls {
		d := calls[i].Deadline
		if d.IsZero() {
			return d
		}
		if d.After(latest) {
			latest = d
		}
	}
	return latest
}
