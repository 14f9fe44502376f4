package async

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"time"

	"github.com/tensorferry/tensorferry/internal/asyncq"
	"github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/internal/size"
	"github.com/tensorferry/tensorferry/trace"
)

// emitTurn bounds the entries that leave in one Step, so that timers, barriers and completions are
// handled in time under any load (A14).
const emitTurn = 1024

// Bounds of the operator's own delay between calls of a held record.
const (
	holdDelay    = 50 * time.Millisecond
	maxHoldDelay = 2 * time.Second
)

// Emitter takes what leaves an operator, in order. The slice belongs to the operator: an Emitter
// must not use it after Emit returns, and may keep the records in it. An Emitter may block; the
// operator waits meanwhile.
type Emitter[OUT any] interface {
	Emit([]Record[OUT])
	Watermark(Watermark)
}

// Status says what the host has to do after a Step.
type Status[IN any] struct {
	// Barrier is the id of the barrier that passes the operator now, behind everything that was
	// emitted so far, or 0. The host puts Entries and Watermarks into the checkpoint, forwards the
	// barrier, and goes on.
	Barrier int64
	// Entries are the records that were not yet emitted when the barrier passed, oldest first.
	// There are some only under the Snapshot policy or with a drain limit. Watermarks are the
	// queued watermarks, with their places among Entries. Both slices belong to the host.
	Entries    []Record[IN]
	Watermarks []QueuedWatermark
	// Ended reports that End was called and everything has been emitted.
	Ended bool
	// More reports that another Step has something to do at once, if there is room downstream.
	More bool
	// Next is when Step must run again if wake is not called before. The zero time means never.
	Next time.Time
}

// Operator runs an asynchronous function over the records of one subtask. It is a step function
// without a goroutine of its own. Its host feeds it, calls Step after wake and at Status.Next, and
// passes on what it emits. All methods must be called from one goroutine, the task. Only the
// Completer that the operator passes to the function's Open may be used from any goroutine.
type Operator[IN, OUT any] struct {
	cfg       Config
	sub       Subtask
	fn        Function[IN, OUT]
	onTimeout TimeoutHandler[IN, OUT]
	predicate RetryPredicate[OUT]
	fallback  FallbackMaker[IN, OUT]
	bytes     func(*IN) int64
	outBytes  func(*OUT) int64
	// resultBytes are those of results that wait for their turn.
	resultBytes int64
	letters     func([]Failed[IN])

	queue  *asyncq.Queue
	slots  []slot[IN, OUT]
	inbox  *inbox[OUT]
	caller Caller[IN, OUT]
	base   time.Time
	spare  mail[OUT]

	backlog    []entry[IN] // restored, not yet admitted
	refused    int64       // bytes of the record that did not fit in, or 0
	barrier    int64
	drainFrom  time.Time // when the present drain began, and what had left before
	drainStart int64
	ended      bool
	closed     bool
	failed     error
	suspended  error
	vetted     error // the newest error of a completion whose methods were tried
	heldFor    error

	calls    []Call[IN]
	cancels  []CallID
	out      []Record[OUT]
	failures []Failed[IN]
	stats    Stats
	// These gather the histograms in stats.
	called, waited, stayed tally
}

// slot is the payload of a queue entry: the record until its outcome has left (A6), and the
// outcome.
type slot[IN, OUT any] struct {
	rec     Record[IN]
	outs    Outputs[OUT]
	err     error      // the last failure, for the record's own error
	span    trace.Span // nil: the record is not sampled
	fate    fate
	isMark  bool
	failure *Failed[IN] // of a dead letter
	mark    Watermark
	came    asyncq.Time // when it was admitted
	since   asyncq.Time // of its newest call, and then of its outcome
	bytes   int64       // of its results, while they wait
}

// fate says what has become of a record that leaves.
type fate uint8

const (
	finished fate = iota
	dropped
	lettered
	failed // the operator failed with it, so it does not leave
)

// NewOperator checks the configuration and makes an operator. It returns an error if a field of cfg
// is wrong, if some failures have the action Fallback and fn is not a FallbackMaker, or if MaxCalls
// or Unwrap of fn panics. The fields of sub that are not set get defaults: the operator's name is
// "async", the parallelism 1, and nothing is logged. The operator calls wake, from any goroutine,
// when Step should run. wake must not block.
func NewOperator[IN, OUT any](fn Function[IN, OUT], cfg Config, sub Subtask, wake func()) (*Operator[IN, OUT], error) {
	cfg, err := cfg.Resolve()
	if err != nil {
		return nil, err
	}
	if _, err := layers(fn); err != nil {
		return nil, err
	}
	if l, ok := As[CallLimiter](fn); ok {
		err := guard.Apart("MaxCalls of the function", func() error {
			if limit := l.MaxCalls(); limit > 0 {
				cfg.MaxCalls = min(cfg.MaxCalls, limit)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	in := &inbox[OUT]{wake: wake}
	cfg.Tracer = guard.Tracer(cfg.Tracer, in.Fail)
	sub.Config = cfg
	if sub.Parallelism == 0 {
		sub.Parallelism = 1
	}
	if sub.Operator == "" {
		sub.Operator = "async"
	}
	if sub.Logger == nil {
		sub.Logger = slog.New(slog.DiscardHandler)
	}
	o := &Operator[IN, OUT]{cfg: cfg, sub: sub, fn: fn, base: time.Now(), inbox: in}
	o.onTimeout, _ = As[TimeoutHandler[IN, OUT]](fn)
	o.predicate, _ = As[RetryPredicate[OUT]](fn)
	o.fallback, _ = As[FallbackMaker[IN, OUT]](fn)
	if cfg.OnError.Uses(Fallback) && o.fallback == nil {
		return nil, fmt.Errorf("async: some failures have the action fallback, but the function makes no fallback results; implement async.FallbackMaker")
	}
	o.bytes = sizeOf(fn, sub.Logger)
	o.outBytes, _ = size.Of[OUT]()
	in.size, in.most = o.outBytes, cfg.MaxBytes
	o.queue = asyncq.New(asyncq.Config{
		Capacity: cfg.Capacity, MaxCalls: cfg.MaxCalls, Order: asyncq.Order(cfg.Order),
		// Timeout and Hold are bounded because the queue adds them to the present time.
		Timeout: asyncq.Time(min(max(cfg.Timeout, 0), math.MaxInt64/4)), Hold: asyncq.Time(min(cfg.Hold, math.MaxInt64/4)),
		Retries: max(cfg.Retry.Max, 0), RetryDelay: asyncq.Time(cfg.Retry.Delay),
		Multiplier: cfg.Retry.Multiplier, MaxDelay: asyncq.Time(cfg.Retry.MaxDelay),
		MaxBytes: max(cfg.MaxBytes, 0), Jitter: max(cfg.Retry.Jitter, 0), Seed: rand.Uint64(),
		Budget: float64(max(cfg.Retry.Budget, 0)), Refill: budgetRefill,
		HoldDelay: asyncq.Time(holdDelay), MaxHoldDelay: asyncq.Time(maxHoldDelay),
	})
	return o, nil
}

// Config returns the configuration with every default filled in.
func (o *Operator[IN, OUT]) Config() Config { return o.cfg }

// DeadLetters sets the function that takes the records whose failure has the action DeadLetter. It
// is called in a Step, in the turn of these records among the results, with slices that are valid
// until it returns. If that action is used, DeadLetters must be called before Open.
func (o *Operator[IN, OUT]) DeadLetters(take func([]Failed[IN])) { o.letters = take }

// Open opens the function's caller, before the first Step. It blocks for as long as the function's
// Open does. A panic there is returned as a *PanicError.
func (o *Operator[IN, OUT]) Open(ctx context.Context) (err error) {
	defer recovered("Open of "+o.sub.Operator, &err)
	if o.cfg.OnError.Uses(DeadLetter) && o.letters == nil {
		return fmt.Errorf("%s: some failures have the action dead letter, but nothing takes dead letters; call DeadLetters before Open", o.sub.Operator)
	}
	o.caller, err = o.fn.Open(ctx, o.sub, o.inbox)
	if err == nil && o.caller == nil {
		err = fmt.Errorf("%s: the function's Open returned neither a caller nor an error", o.sub.Operator)
	}
	return err
}

// Room returns how many records Admit takes now, if they are small. It is 0 while the operator is
// full, waits for a barrier to pass, or still admits restored records, and after it has ended or
// failed.
func (o *Operator[IN, OUT]) Room() int {
	if len(o.backlog) > 0 || o.barrier != 0 || (o.refused > 0 && !o.queue.Fits(o.refused)) {
		return 0
	}
	return o.queue.Room()
}

// Admit takes up to Room records and returns how many it took. The records belong to the operator
// from then on; the slice stays the host's. It takes fewer than Room if their bytes are too many;
// Room is then 0 until the next record fits in. The next Step makes the calls.
func (o *Operator[IN, OUT]) Admit(recs []Record[IN]) (n int) {
	defer o.failOnPanic("RecordBytes")
	now := o.clock(time.Time{})
	o.look()
	for most := min(len(recs), o.Room()); n < most && o.admit(now, &recs[n]); n++ {
	}
	o.stats.Admitted += int64(n)
	return n
}

// look handles the mail before an admission moves the queue's clock on. Otherwise an answer that
// came in time would count as late (A15).
func (o *Operator[IN, OUT]) look() {
	if o.failed == nil {
		o.takeReports()
	}
}

// admit takes one record in if there is room for its bytes.
func (o *Operator[IN, OUT]) admit(now asyncq.Time, rec *Record[IN]) bool {
	bytes := o.bytes(&rec.Value)
	if !o.queue.Fits(bytes) {
		o.refused = max(bytes, 1) // 0 means that no record was refused
		return false
	}
	o.refused = 0
	var key uint64
	if o.cfg.Order == Keyed {
		key = hashKey(rec.Key)
	}
	s := o.slot(o.queue.Admit(now, bytes, key))
	s.rec, s.came = *rec, now
	if o.cfg.Tracer != nil {
		o.beginSpan(s, now)
	}
	return true
}

// Watermark takes a watermark or idleness into the queue, in its place among the records. It
// returns false if there is no room for it.
func (o *Operator[IN, OUT]) Watermark(w Watermark) bool {
	if o.Room() == 0 {
		return false
	}
	now := o.clock(time.Time{})
	if o.look(); o.failed != nil {
		return false
	}
	s := o.slot(o.queue.AdmitMark(now))
	s.mark, s.isMark = w, true
	return true
}

// End says that no more input comes. The queued records are handled as before (A30). Status.Ended
// reports when all have left.
func (o *Operator[IN, OUT]) End() {
	o.ended = true
	o.queue.End()
}

// Step does everything that is due at now: it takes completions, fires timers, lets at most max
// entries leave, and makes calls. A max of 0 means that there is no room downstream. One Step emits
// at most 1024 entries; More says that others wait. After a Step there may be more Room than
// before.
//
// An error is the failure of the operator. After it nothing is emitted, and every further Step
// returns it.
func (o *Operator[IN, OUT]) Step(now time.Time, max int, out Emitter[OUT]) (Status[IN], error) {
	if o.failed == nil {
		o.step(o.clock(now), max, out)
		o.makeCancels()
	}
	if o.failed != nil {
		return Status[IN]{}, o.failed
	}
	st := Status[IN]{
		Ended: o.ended && len(o.backlog) == 0 && o.queue.Empty(),
		More:  o.queue.CanPop(), // step has admitted restored records as far as there is room
	}
	if o.barrier != 0 && o.mayPass(now) {
		st.Barrier = o.barrier
		st.Entries, st.Watermarks = o.snapshot()
		o.barrier = 0
		o.queue.Undrain()
		st.More = true // input may go on
	}
	if at, ok := o.queue.Next(); ok {
		st.Next = o.base.Add(time.Duration(at))
	}
	if end := o.drainFrom.Add(o.cfg.DrainLimit); o.barrier != 0 && o.cfg.DrainLimit > 0 && (st.Next.IsZero() || end.Before(st.Next)) {
		st.Next = end
	}
	return st, nil
}

func (o *Operator[IN, OUT]) step(now asyncq.Time, max int, out Emitter[OUT]) {
	o.takeReports()
	if o.failed == nil {
		o.queue.Tick(now)
		o.settle()
	}
	if o.failed != nil {
		return
	}
	o.admitBacklog(now)
	if o.emit(now, min(max, emitTurn), out) {
		// Emitting may take a while. Calls that are made now must not be charged for it (A7).
		now = o.clock(time.Time{})
		if o.takeReports(); o.failed == nil {
			o.queue.Tick(now)
			o.settle()
		}
		if o.failed != nil {
			return
		}
	}
	o.inbox.kept.Store(o.resultBytes)
	// Restored records come first for a slot that this emission freed.
	o.admitBacklog(now)
	o.queue.Start(now)
	o.settle()
	if o.failed == nil {
		o.makeCalls()
	}
}

// clock returns a time as the queue counts it. The zero Time stands for now.
func (o *Operator[IN, OUT]) clock(t time.Time) asyncq.Time {
	if t.IsZero() {
		t = time.Now()
	}
	return asyncq.Time(t.Sub(o.base))
}

func (o *Operator[IN, OUT]) slot(id asyncq.ID) *slot[IN, OUT] {
	for int(id.Slot) >= len(o.slots) {
		o.slots = append(o.slots, slot[IN, OUT]{})
	}
	return &o.slots[id.Slot]
}

// makeCalls passes the gathered calls to the caller.
func (o *Operator[IN, OUT]) makeCalls() {
	if len(o.calls) == 0 {
		return
	}
	defer o.failOnPanic("Call")
	o.stats.Calls += int64(len(o.calls))
	o.caller.Call(o.calls)
	clear(o.calls)
	o.calls = o.calls[:0]
}

func (o *Operator[IN, OUT]) makeCancels() {
	if len(o.cancels) == 0 {
		return
	}
	defer o.failOnPanic("Cancel")
	o.caller.Cancel(o.cancels)
	o.cancels = o.cancels[:0]
}

// failOnPanic is deferred. It turns a panic of the user's code into the operator's failure (A9).
func (o *Operator[IN, OUT]) failOnPanic(method string) {
	if v := recover(); v != nil {
		o.fail(guard.Caught(method+" of "+o.sub.Operator, v))
	}
}

// fail is the transition after which nothing leaves and nothing comes in (A13).
func (o *Operator[IN, OUT]) fail(err error) {
	if o.failed == nil {
		o.failed = err
		o.queue.Fail()
	}
}

// Close cancels what is in flight and closes the caller. It takes as long as the caller's Close
// does, and returns its error. It is idempotent, and may be called without an Open or after a
// failed one.
func (o *Operator[IN, OUT]) Close() (err error) {
	if o.closed {
		return nil
	}
	o.closed = true
	o.drained(time.Now())
	o.fail(errClosed)
	o.inbox.close()
	o.abandonSpans()
	if o.caller == nil {
		return nil
	}
	defer recovered("Close of "+o.sub.Operator, &err)
	now := o.clock(time.Time{})
	o.queue.InCall(func(id asyncq.ID, attempt uint32) { o.cancel(id, attempt, now) })
	o.makeCancels()
	return o.caller.Close()
}

func callID(id asyncq.ID, attempt uint32) CallID {
	return CallID{Entry: uint64(id.Gen)<<32 | uint64(id.Slot), Attempt: attempt}
}

func queueID(id CallID) asyncq.ID {
	return asyncq.ID{Slot: uint32(id.Entry), Gen: uint32(id.Entry >> 32)}
}

// recovered is deferred. It turns a panic into *err, and replaces an error that cannot be used.
func recovered(where string, err *error) {
	if v := recover(); v != nil {
		*err = guard.Caught(where, v)
	} else if *err != nil {
		*err = guard.Error(where, *err)
	}
}
