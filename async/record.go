package async

import (
	"math"
	"time"

	"github.com/tensorferry/tensorferry/trace"
)

// EventTime is the time of a record in milliseconds since the Unix epoch, from MinTime to MaxTime.
type EventTime int64

// NoTime is the time of a record or a watermark that has no event time.
const NoTime EventTime = math.MinInt64

const (
	// MinTime and MaxTime bound event times: 0001-01-01T00:00:00Z and 9999-12-31T23:59:59.999Z. A
	// time beyond them, for example one in microseconds, does not count: the runtime counts such
	// records and replaces their time by NoTime, so that no watermark follows them.
	MinTime EventTime = -62_135_596_800_000
	MaxTime EventTime = 253_402_300_799_999
)

// BadTime is a time out of range. A source sets it for a record whose time cannot be expressed in
// milliseconds.
const BadTime EventTime = NoTime + 1

// Valid reports whether t is from MinTime to MaxTime.
func (t EventTime) Valid() bool { return MinTime <= t && t <= MaxTime }

// EndOfTime is the time of the watermark after the last record of a bounded input.
const EndOfTime EventTime = math.MaxInt64

// Time returns t as a time.Time. For NoTime it returns the zero Time.
func (t EventTime) Time() time.Time {
	if t == NoTime {
		return time.Time{}
	}
	return time.UnixMilli(int64(t))
}

// At returns the event time of a time.Time. It returns NoTime for the zero Time and BadTime for a
// time out of range.
func At(t time.Time) EventTime {
	if t.IsZero() {
		return NoTime
	}
	// Far from the epoch, UnixMilli overflows and returns another time.
	if s := t.Unix(); s < int64(MinTime)/1000 || s > int64(MaxTime)/1000 {
		return BadTime
	}
	return EventTime(t.UnixMilli())
}

// Record is one element of a stream, with its origin. A result has the time, key, split and
// position of the record that it answers, and the trace context of that record's span.
type Record[T any] struct {
	Value T
	// Time is the event time. It is NoTime if the source gives none. The zero value is the Unix
	// epoch, so code that makes records without times must set NoTime.
	Time EventTime
	// Key is set by a keyed exchange. It is empty before one.
	Key string
	// Split is the number, from 0, of the part of the source that holds the record, such as a byte
	// range of a file or a partition.
	Split int
	// Position is the position at which reading must start to read this record again: a byte offset
	// for files, an index for slices, an offset for logs.
	Position int64
	// Trace is the trace context with which the record came. Behind an operator it is the context
	// of the operator's span for the record. If it is nil, an operator with a tracer may begin a
	// trace. Checkpoints do not keep it.
	Trace *trace.Context
}

// With returns a record with the value v and everything else from r.
func With[OUT, IN any](r Record[IN], v OUT) Record[OUT] {
	return Record[OUT]{Value: v, Time: r.Time, Key: r.Key, Split: r.Split, Position: r.Position, Trace: r.Trace}
}

// Watermark says that no record with a Time at or before its own follows. If Idle is true, it says
// instead that the input has gone idle and holds no watermark back. Time is then not used.
type Watermark struct {
	Time EventTime
	Idle bool
}
