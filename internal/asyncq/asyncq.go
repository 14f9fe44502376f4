// Package asyncq is the queue of the asynchronous operator: order, capacity, deadlines, attempts,
// holds, barriers. It is a pure state machine. Time comes in as a value. The queue appends what is
// to be done to Queue.Effects. It has no goroutine, channel, clock, context or I/O, and must never
// have one. It does not know records either: an entry is a slot number and a generation, and the
// driver of the queue keeps the payloads by slot.
//
// The life of an entry:
//
//	Admit -> ready -Start-> calling -Complete-> judged -Finish-> done -Pop-> free
//	           ^              |  |                 ^
//	           +--- held <----+  +-> retrying -+   | Tick: out of time
//	           +-------------------------------+   |
//	           (any state before done) ------------+
//
// The rules cited as A1, A2, ... are those of docs/rules.md.
package asyncq

// Time is nanoseconds on a clock that never goes back. An event with a time before the last event's
// counts as happening at the same time as that event.
type Time = int64

// never is later than any deadline.
const never Time = 1<<63 - 1

// ID names an entry. The generation distinguishes the entries that use a slot one after another.
type ID struct{ Slot, Gen uint32 }

// Config is fixed for the life of a queue. The driver has validated it.
type Config struct {
	// Capacity bounds entries not yet popped; MaxCalls bounds calls in progress.
	Capacity, MaxCalls int
	// Order is how entries leave.
	Order Order
	// MaxBytes bounds the bytes of entries not yet popped, their results included. An entry that is
	// larger than the bound passes alone (A5). Results of calls in progress may go beyond the
	// bound. Calls are then made one at a time until the bytes are within it again. 0 is no bound.
	MaxBytes int64
	// Timeout in nanoseconds from an entry's first call. 0 is no timeout.
	Timeout Time
	// Hold bounds how long an entry waits while the other side takes nothing. It also bounds how
	// long the oldest entry that waits is refused while others are taken (A40).
	Hold Time
	// Retries is how many retries may follow the first attempt. The delay before the first retry is
	// RetryDelay. Each further delay is Multiplier times the one before, and at most MaxDelay (0:
	// no bound). Each delay is made longer or shorter at random, by up to the share Jitter (A26).
	Retries    int
	RetryDelay Time
	Multiplier float64
	MaxDelay   Time
	Jitter     float64
	// Budget is how many retries the whole queue may make, at first and at most. Each retry takes
	// one, and each result returns the fraction Refill of one (A26). 0 is no bound.
	Budget, Refill float64
	// Seed of the jitter.
	Seed uint64
	// HoldDelay and MaxHoldDelay are the first and the longest delay before a held entry is called
	// again, if the other side does not say when to call. Each burst of refusals doubles the delay.
	HoldDelay, MaxHoldDelay Time
}

// Order says how entries leave.
type Order uint8

const (
	// Ordered: first in, first out (A16).
	Ordered Order = iota
	// Unordered: as they are done, within watermark segments (A17).
	Unordered
	// Keyed: as Unordered, but entries of one key leave in the order of their arrival (A19).
	Keyed
)

// Kind is what an Effect asks for.
type Kind uint8

const (
	// Call: start attempt Attempt of ID; it ends at Deadline.
	Call Kind = iota
	// Cancel: attempt Attempt of ID is no longer wanted. It comes before the Timeout of the same
	// entry.
	Cancel
	// Timeout: ID is out of time. The driver must answer with Finish or Fail
	// before the next event.
	Timeout
	// HoldOver: ID has waited for as long as it may. Answer as for Timeout.
	HoldOver
	// Emit: the results of ID leave, now. The driver must read this effect before its next Admit,
	// which may use the slot again.
	Emit
	// EmitMark: the watermark or status of ID leaves, now.
	EmitMark
)

// Effect is one thing to do. Effects are in the order in which they must be done.
type Effect struct {
	Kind     Kind
	ID       ID
	Attempt  uint32
	Deadline Time // of a Call; never if there is none
}

// Outcome is what the driver makes of a completion before the queue judges it.
type Outcome uint8

const (
	// Final: a result that is as good as it gets.
	Final Outcome = iota
	// Fault: a failure that is not worth another attempt.
	Fault
	// Transient: a result or failure that is worth another attempt, if one is left.
	Transient
	// Unavailable: no attempt took place (connection lost, server not ready); hold.
	Unavailable
	// Overloaded: as Unavailable, because the other side has too much to do. The limit on calls
	// falls (A40).
	Overloaded
	// Unmade: the call never began, for a reason on this side. It is made again in its turn.
	Unmade
)

// Judgment is what becomes of an entry after a completion (A44).
type Judgment uint8

const (
	// Ignored: late, a duplicate, or unknown.
	Ignored Judgment = iota
	// Waiting: held or waiting for its retry; the outcome was consumed.
	Waiting
	// Decide: the outcome is the entry's last. The driver answers with Finish or Fail before the
	// next event.
	Decide
	// Expired: as Decide, but the entry is out of time: the outcome came at its deadline and was a
	// failure, or meant a further wait.
	Expired
	// HeldOut: as Decide, but others were taken while the entry was refused for as long as it may
	// wait.
	HeldOut
)

type state uint8

const (
	free state = iota
	ready
	calling
	retrying
	held
	judged
	done
	mark
)

const none = int32(-1)

// entry is one slot, of two cache lines. link belongs to the list that the entry is in: a ready
// list or the done list of its segment. dprev and dnext belong to the list of deadlines.
type entry struct {
	state   state
	started bool // has had a call, so its time is running or stands still
	inList  bool // in the list of deadlines
	behind  bool // keyed: an earlier entry of its key has not left yet
	starved bool // a further retry was allowed, but the budget was empty
	retry   bool // its next call is a retry
	gen     uint32
	attempt uint32 // number of the newest call, which identifies its answer
	tries   int32  // retries scheduled so far
	ends    int32  // attempts that did not end in a hold

	link         int32
	dprev, dnext int32
	heap         [2]int32 // position in the heap of timers, by timer kind

	// keyed: the next entry of the key in the segment, and in the bucket of the table
	knext, bnext int32

	key   uint64
	call  uint64 // number of its newest call, among all calls of the queue
	bytes int64

	seg      uint64 // number of its segment, when unordered
	seq      uint64 // order of arrival
	deadline Time   // while the time runs
	left     Time   // of the timeout, while the time stands still
	came     Time   // when it was admitted
}

// Queue is the state machine. It is used from one goroutine.
type Queue struct {
	cfg Config
	now Time
	// Effects collects what is to be done. The driver reads it after each event and truncates it.
	Effects []Effect

	entries []entry
	freed   []int32 // free slots, last in first out
	live    int     // entries and marks not yet popped
	marks   int     // of these, the marks
	running int     // calls in progress
	bytes   int64
	seq     uint64

	again     heap // ready entries that were called before; they go first, the oldest ahead
	fresh     list // ready entries that were not called before
	deadlines list // FIFO, since all timeouts are equal; deadlines moved by a hold are in timers
	timers    timers
	order     ring    // ordered: slots in order of arrival
	segs      segRing // other orders: segments between marks
	keys      keyTable
	limit     callLimit
	patience  patience
	pause     Time // no call is made before it, since the only call in progress was refused
	budget    float64
	random    uint64
	scratch   []int32

	heldCount, retryCount, doneCount int
	holds, retries                   int64 // begun since New

	suspended, draining, ended, failed bool
}

// New returns an empty queue.
func New(cfg Config) *Queue {
	if cfg.Capacity < 1 || cfg.MaxCalls < 1 {
		panic("asyncq: capacity and calls must be at least 1")
	}
	q := &Queue{cfg: cfg, fresh: emptyList, deadlines: emptyList, budget: cfg.Budget, random: cfg.Seed}
	q.limit.reset(cfg.MaxCalls)
	q.patience = patience{check: never, eldest: none, ripe: -1, tookAt: -1}
	q.segs.push(segment{list: emptyList, mark: none})
	return q
}

// Now returns the time of the newest event.
func (q *Queue) Now() Time { return q.now }

// advance moves the queue's clock, never back.
func (q *Queue) advance(now Time) Time {
	if now > q.now {
		q.now = now
	}
	return q.now
}

func (q *Queue) effect(k Kind, slot int32) {
	e := &q.entries[slot]
	q.Effects = append(q.Effects, Effect{Kind: k, ID: ID{uint32(slot), e.gen}, Attempt: e.attempt, Deadline: e.deadline})
}

// lookup returns the slot of a live entry, or none.
func (q *Queue) lookup(id ID) int32 {
	if int64(id.Slot) >= int64(len(q.entries)) || q.entries[id.Slot].gen != id.Gen || q.entries[id.Slot].state == free {
		return none
	}
	return int32(id.Slot)
}

// Free returns how many entries can be admitted, apart from bytes, barriers and failure.
func (q *Queue) Free() int { return q.cfg.Capacity - q.live }

// Fits reports whether there is room for an entry with this number of bytes (A5).
func (q *Queue) Fits(bytes int64) bool {
	return q.live < q.cfg.Capacity && (q.cfg.MaxBytes == 0 || q.bytes == 0 || q.bytes+bytes <= q.cfg.MaxBytes)
}

// Room returns how many entries may be admitted from the input. It is 0 during a drain (A32), after
// the end of the input, and after a failure (A13).
func (q *Queue) Room() int {
	if q.draining || q.ended || q.failed {
		return 0
	}
	return q.Free()
}

// Len returns the number of entries not yet popped, marks included.
func (q *Queue) Len() int { return q.live }

// Attempts returns how many attempts of a live entry have ended. Calls that ended in a hold are not
// attempts.
func (q *Queue) Attempts(id ID) int {
	if s := q.lookup(id); s != none {
		return int(q.entries[s].ends)
	}
	return 0
}

// Starved reports whether an entry had fewer retries than allowed, because the budget was empty.
func (q *Queue) Starved(id ID) bool {
	s := q.lookup(id)
	return s != none && q.entries[s].starved
}

// Stats counts the live entries by what they are doing, and events since New. While calls are
// suspended, an entry that waits for a call counts as held.
type Stats struct {
	Live, Calling, Held, Retrying, Done int
	// Holds counts how often an entry was held, whether it had been called or not. Retries counts
	// the calls that followed a failed one.
	Holds, Retries int64
	// Limit is how many calls may be in progress at present.
	Limit int
	Bytes int64
}

// Stats returns the present counts.
func (q *Queue) Stats() Stats {
	held := q.heldCount
	if q.suspended {
		held += q.waiting()
	}
	return Stats{
		Live: q.live, Calling: q.running, Held: held, Retrying: q.retryCount, Done: q.doneCount,
		Holds: q.holds, Retries: q.retries, Limit: q.limit.now(), Bytes: q.bytes,
	}
}

// waiting counts the entries that wait for a call and are not held.
func (q *Queue) waiting() int {
	return q.live - q.marks - q.running - q.heldCount - q.retryCount - q.doneCount
}
