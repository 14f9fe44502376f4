package ferry

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/tensor"
)

// emitTurn is how many answers leave in one step of the operator.
const emitTurn = 1024

// maxWindow bounds the requests in flight of a connection, since each one may hold an answer.
const maxWindow = 16

// patience is how long the opening of a channel takes before the client learns what it waits for.
const patience = time.Second

// connection is one subtask of a client: an operator, and the two goroutines that read and write.
type connection struct {
	s     *Server
	conn  *patient
	log   *slog.Logger
	plan  *plan
	rows  *rowCodec // nil: the form is JSON
	op    *async.Operator[payload, payload]
	woken chan struct{}
	in    *input
	out   *writer

	endpoint string // of the model server
	frame    atomic.Int64

	held   bool    // HELD was sent, and RESUMED was not
	sent   numbers // the newest STATS
	sentAt time.Time

	requests, requestRows, requestTime atomic.Int64
	figures                            figures
}

func (s *Server) newConnection(c net.Conn) *connection {
	conn := &connection{
		s: s, log: s.cfg.Logger, woken: make(chan struct{}, 1),
		conn: &patient{Conn: c, silence: s.cfg.Silence, until: time.Now().Add(s.cfg.HelloTimeout)},
	}
	conn.in = &input{wake: conn.wake, open: map[uint64]call{}}
	conn.out = newWriter(c, s.cfg.AnswerTimeout, conn.wake)
	return conn
}

func (c *connection) wake() {
	select {
	case c.woken <- struct{}{}:
	default:
	}
}

// serve runs the connection to its end and leaves nothing behind. It returns nil if the client
// ended it or is gone.
func (c *connection) serve(ctx context.Context) error {
	defer c.conn.Close()
	defer context.AfterFunc(ctx, func() { c.conn.Close() })()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	written := make(chan error, 1)
	go func() {
		err := c.out.run()
		if err != nil {
			cancel(fmt.Errorf("writing to the client: %w", err))
			c.conn.Close()
		}
		written <- err
	}()
	br := bufio.NewReaderSize(c.conn, 64<<10)
	read := make(chan struct{})
	close(read)
	err := c.begin(br)
	if err == nil {
		c.conn.ask = func() { c.out.frame(0, kindPing) }
		read = make(chan struct{})
		h := &heard{br: br, in: c.in, frame: func() int { return int(c.frame.Load()) }, pong: c.pong}
		go func() {
			defer close(read)
			if err := h.run(); err != nil {
				c.in.finish(err)
				cancel(err) // the opening may wait for a server
			}
		}()
		err = c.run(ctx)
	}
	if err == nil {
		c.out.frame(0, kindEnd)
	} else if !lost(err) {
		f := c.s.failureOf(err, c.endpoint)
		c.out.add(func(dst []byte) []byte { return appendFrame(dst, 0, kindBroken, f.append) })
	}
	c.out.end()
	c.linger(br, written, read)
	if errors.Is(err, io.EOF) && lost(err) {
		return nil
	}
	return err
}

// pong answers a PING.
func (c *connection) pong(id uint64) {
	c.out.await()
	c.out.frame(id, kindPong)
}

// operatorError is a failure of the operator. It may wrap one of the network, which is then the way
// to the model server.
type operatorError struct{ error }

func (e operatorError) Unwrap() error { return e.error }

// lost reports whether err says that the client is gone, so that there is no one to tell.
func lost(err error) bool {
	if errors.As(err, new(ruleError)) || errors.As(err, new(operatorError)) {
		return false
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.As(err, new(net.Error))
}

// linger closes the connection when everything has been written and the client has closed its side,
// or a moment later. If it closed at once, what the client has sent in the meantime would make the
// system discard what the client has not read.
func (c *connection) linger(br *bufio.Reader, written <-chan error, read <-chan struct{}) {
	if err := <-written; err == nil {
		if w, ok := c.conn.Conn.(interface{ CloseWrite() error }); ok {
			_ = w.CloseWrite() // the others go by END and BROKEN
		}
		_ = c.conn.Conn.SetReadDeadline(time.Now().Add(c.s.cfg.Linger))
		select {
		case <-read:
			_, _ = io.CopyN(io.Discard, c.conn.Conn, 64<<20)
		case <-time.After(c.s.cfg.Linger):
		}
	}
	c.conn.Close()
	<-read
}

// begin reads what a client sends first, and makes the operator.
func (c *connection) begin(br *bufio.Reader) error {
	magic := make([]byte, len(Magic))
	if _, err := io.ReadFull(br, magic); err != nil {
		return err
	}
	if string(magic) != Magic {
		return rule("the connection begins with %q; want the eight bytes of docs/ferry.md", magic)
	}
	h, err := readHead(br)
	if err == nil {
		err = h.within(maxHello)
	}
	if err != nil {
		return err
	}
	if h.kind != kindHello {
		return rule("the first frame is of kind %d; want HELLO (%d)", h.kind, kindHello)
	}
	body := make([]byte, h.size)
	if _, err := io.ReadFull(br, body); err != nil {
		return unexpected(err)
	}
	if c.plan, err = readHello(body); err != nil {
		return rule("%w", err)
	}
	p := c.plan
	c.log = c.log.With("job", p.Job, "operator", p.Operator, "subtask", p.Subtask)
	cfg, err := c.s.clientConfig(p)
	if err != nil {
		return err
	}
	c.endpoint = cfg.Endpoint
	cfg.Window = min(cmp.Or(cfg.Window, sidecar.DefaultWindow), maxWindow)
	cfg.MaxMessageSize = min(cmp.Or(cfg.MaxMessageSize, sidecar.DefaultMaxMessageSize), c.s.cfg.MaxFrame)
	cfg.Observe = func(r sidecar.Request) {
		c.requests.Add(1)
		c.requestRows.Add(int64(r.Rows))
		c.requestTime.Add(r.Took.Microseconds())
	}
	fn, err := c.function(cfg)
	if err != nil {
		return rule("%w", err)
	}
	p.cfg.Capacity = min(p.cfg.Capacity, c.s.cfg.MaxCalls)
	p.cfg.MaxCalls = min(p.cfg.MaxCalls, p.cfg.Capacity)
	if p.cfg.MaxBytes <= 0 || p.cfg.MaxBytes > c.s.cfg.MaxBytes {
		p.cfg.MaxBytes = c.s.cfg.MaxBytes
	}
	p.cfg.Tracer = c.s.cfg.Tracer
	sub := async.Subtask{Job: p.Job, Operator: p.Operator, Index: p.Subtask, Parallelism: p.Parallelism, Logger: c.log}
	if c.op, err = async.NewOperator(fn, p.cfg, sub, c.wake); err != nil {
		return rule("%w", err)
	}
	c.op.DeadLetters(c.failures)
	return nil
}

// open opens the channel to the model server, and sends WELCOME.
func (c *connection) open(ctx context.Context) error {
	over := c.waiting()
	err := c.op.Open(ctx)
	over()
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return operatorError{err}
	}
	cfg := c.op.Config()
	w := &welcome{
		version: uint16(min(c.plan.Version, version)), rows: uint32(cfg.Capacity), bytes: uint64(cfg.MaxBytes), frame: uint32(c.s.cfg.MaxFrame),
		timeout: millis(cfg.Timeout), hold: millis(cfg.Hold),
		model: c.plan.spec.Infer.Model, release: c.plan.spec.Infer.Version,
	}
	if c.rows != nil {
		if sig := c.rows.signature.Load(); sig != nil {
			w.inputs, w.outputs = sig.Inputs, sig.Outputs
		}
	}
	c.figures.mu.Lock()
	c.figures.of = model{c.endpoint, w.model}
	c.figures.mu.Unlock()
	c.in.allow(int(w.rows), w.bytes)
	c.frame.Store(int64(w.frame))
	c.out.add(func(dst []byte) []byte { return appendFrame(dst, 0, kindWelcome, w.append) })
	c.log.Info("a client is connected", "client", c.plan.Client, "endpoint", c.endpoint, "model", w.model, "capacity", cfg.Capacity)
	return nil
}

// millis rounds up, since 0 means none. A negative duration is none.
func millis(d time.Duration) uint64 {
	return uint64((max(d, 0) + time.Millisecond - 1).Milliseconds())
}

// waiting tells the client that the opening waits, if it takes long. The function that it returns
// says that the wait is over.
func (c *connection) waiting() (over func()) {
	said := make(chan struct{})
	timer := time.AfterFunc(patience, func() {
		defer close(said)
		c.sayHeld(fmt.Sprintf("the model server at %s is not ready yet", c.endpoint))
	})
	return func() {
		if !timer.Stop() {
			<-said // RESUMED must be behind HELD
			c.out.frame(0, kindResumed)
		}
	}
}

func (c *connection) sayHeld(why string) {
	c.out.add(func(dst []byte) []byte {
		return appendFrame(dst, 0, kindHeld, func(dst []byte) []byte { return appendText(dst, valid(why)) })
	})
}

// run is the host of the operator. It returns nil after END.
func (c *connection) run(ctx context.Context) (err error) {
	defer func() {
		if e := c.op.Close(); err == nil && e != nil {
			err = operatorError{e}
		}
	}()
	if err := c.open(ctx); err != nil {
		return err
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	draining := c.s.draining
	// These are taken, and not yet admitted: their bytes are too many for now.
	var recs []async.Record[payload]
	ended := false
	for {
		if recs, ended, err = c.in.take(recs); err != nil {
			return err
		}
		n := c.op.Admit(recs)
		recs = left(recs, n)
		if ended && len(recs) == 0 {
			c.op.End()
		}
		room := emitTurn
		if c.out.full() {
			room = 0
		}
		st, err := c.op.Step(time.Now(), room, c)
		if err != nil {
			return operatorError{err}
		}
		next := c.report(st.Next)
		if st.Ended {
			return nil
		}
		if st.More && room > 0 || len(recs) > 0 && c.op.Room() > 0 {
			continue
		}
		var due <-chan time.Time
		if !next.IsZero() {
			timer.Reset(time.Until(next))
			due = timer.C
		}
		select {
		case <-c.woken:
		case <-due:
		case <-draining:
			draining = nil
			c.out.frame(0, kindDrain)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// left moves the records behind the first n to the front.
func left(recs []async.Record[payload], n int) []async.Record[payload] {
	rest := copy(recs, recs[n:])
	clear(recs[rest:])
	return recs[:rest]
}

// Emit implements async.Emitter.
func (c *connection) Emit(recs []async.Record[payload]) {
	cancelled := 0
	c.in.mu.Lock()
	c.out.add(func(dst []byte) []byte {
		for i := range recs {
			id := uint64(recs[i].Position)
			if c.in.answered(id) {
				dst = appendHead(dst, id, kindCancelled, 0)
				cancelled++
				continue
			}
			dst = appendHead(dst, id, kindResult, len(recs[i].Value))
			dst = append(dst, recs[i].Value...)
		}
		return dst
	})
	c.in.mu.Unlock()
	c.figures.answers[answerResult].Add(int64(len(recs) - cancelled))
	c.figures.answers[answerCancelled].Add(int64(cancelled))
}

// Watermark implements async.Emitter. There are none.
func (c *connection) Watermark(async.Watermark) {}

// failures sends what became of records without a result.
func (c *connection) failures(failed []async.Failed[payload]) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.out.add(func(dst []byte) []byte {
		for i := range failed {
			id := uint64(failed[i].Record.Position)
			if c.in.answered(id) {
				dst = appendHead(dst, id, kindCancelled, 0)
				c.figures.answers[answerCancelled].Add(1)
				continue
			}
			err := failed[i].Err
			if r, ok := errors.AsType[*async.RecordError](err); ok {
				err = r.Err // the client knows better where the record is
			}
			f := c.s.failureOf(err, c.endpoint)
			f.action, f.class, f.attempts = c.plan.onError.For(failed[i].Class), failed[i].Class, uint32(failed[i].Attempts)
			c.figures.answers[answerOf(f.action)].Add(1)
			dst = appendFrame(dst, id, kindFailure, f.append)
		}
		return dst
	})
}

// report tells the client whether records are held, and once a second the numbers. It returns when
// it must be called again.
func (c *connection) report(next time.Time) time.Time {
	st := c.op.Stats()
	c.figures.mu.Lock()
	c.figures.stats = st
	c.figures.mu.Unlock()
	if held := st.Held > 0 || st.Suspended != nil; held != c.held {
		c.held = held
		if held {
			why := st.Suspended
			if why == nil {
				why = st.HeldFor
			}
			c.sayHeld(fmt.Sprint(why))
		} else {
			c.out.frame(0, kindResumed)
		}
	}
	n := numbers{
		statQueued: uint64(st.Queued), statInFlight: uint64(st.InFlight), statHeld: uint64(st.Held), statRetries: uint64(st.Retries),
		statRequests: uint64(c.requests.Load()), statRows: uint64(c.requestRows.Load()), statRequestTime: uint64(c.requestTime.Load()),
		statTimeouts: uint64(st.Timeouts), statLatency: uint64(st.Latency.Sum.Microseconds()), statAnswers: uint64(st.Latency.Count()),
	}
	if n == c.sent {
		return next
	}
	now := time.Now()
	if at := c.sentAt.Add(time.Second); now.Before(at) {
		if next.IsZero() || at.Before(next) {
			return at
		}
		return next
	}
	c.sent, c.sentAt = n, now
	c.out.add(func(dst []byte) []byte { return appendFrame(dst, 0, kindStats, n.append) })
	return next
}

// function makes the function of the form that the client asks for.
func (c *connection) function(cfg sidecar.Config) (async.Function[payload, payload], error) {
	if c.plan.Form == formJSON {
		return jsonFunction(c.plan, cfg)
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c.rows = &rowCodec{}
	return sidecar.NewAsyncFunction(cfg, tensor.Codec[payload, payload](c.rows)), nil
}
