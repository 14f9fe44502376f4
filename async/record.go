package async

import (
	"math"
	"time"

	"github.com/tensorferry/tensorferry/trace"
)

// EventTime is a record's own time in milliseconds since the Unix epoch, from MinTime to MaxTime.
type EventTime int64

// NoTime says that a record or a watermark carries no event time.
const NoTime EventTime = math.MinInt64

// MinTime and MaxTime bound event times: 0001-01-01T00:00:00Z and 9999-12-31T23:59:59.999Z. A
// source that gives a record a time beyond them, as one in microseconds is, gives it none: the
// runtime counts such records and takes them to have NoTime, so that no watermark follows them.
const (
	MinTime EventTime = -62_135_596_800_000
	MaxTime EventTime = 253_402_300_799_999
)

// BadTime is out of range. A source gives it to a record whose time cannot be said in milliseconds
// at all.
const BadTime EventTime = NoTime + 1

// Valid reports whether t is from MinTime to MaxTime.
func (t EventTime) Valid() bool { return MinTime <= t && t <= MaxTime }

// EndOfTime is the watermark after the last record of a bounded input.
const EndOfTime EventTime = math.MaxInt64

// Time returns t as a time.Time, and the zero Time for NoTime.
func (t EventTime) Time() time.Time {
	if t == NoTime {
		return time.Time{}
	}
	return time.UnixMilli(int64(t))
}

// At returns the event time of a time.Time: NoTime for the zero Time, and BadTime for one out of
// range.
func At(t time.Time) EventTime {
	if t.IsZero() {
		return NoTime
	}
	// In milliseconds a time far away would be another.
	if s := t.Unix(); s < int64(MinTime)/1000 || s > int64(MaxTime)/1000 {
		return BadTime
	}
	return EventTime(t.UnixMilli())
}

// Record is one element of a stream and where it came from. A result carries the time, key, split
// and position of the record that it answers, and the trace context of that record's span.
type Record[T any] struct {
	Value T
	// Time is the event time, NoTime if the source gives none. The zero value is
	// the epoch, so whoever makes records without times sets NoTime.
	Time EventTime
	// Key is set by a keyed exchange; empty before one.
	Key string
	// Split numbers the part of the source (a byte range of a file, a partition)
	// that holds the record, from 0.
	Split int
	// Position is where reading starts again to meet this very record: a byte
	// offset for files, an index for slices, an offset for logs.
	Position int64
	// Trace is the trace context that the record came with, and behind an operator that of the
	// operator's span for it. Nil: it has none, and an operator with a tracer may begin a trace. It
	// is not kept in checkpoints.
	Trace *trace.Context
}

// With returns r's envelope around another value.
func With[OUT, IN any](r Record[IN], v OUT) Record[OUT] {
	return Record[OUT]{Value: v, Time: r.Time, Key: r.Key, Split: r.Split, Position: r.Position, Trace: r.Trace}
}

// Watermark says that no record with a Time at or before it follows (Idle
// false), or that its input has gone idle and holds no watermark back (Idle
// true; Time is then not used).
type Watermark struct {
	Time EventTime
	Idle bool
}
