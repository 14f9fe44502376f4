package async

import (
	"math"
	"time"

	"github.com/tensorferry/tensorferry/trace"
)

// EventTime is a record's own time in milliseconds since the Unix epoch.
type EventTime int64

// NoTime says that a record or a watermark carries no event time.
const NoTime EventTime = math.MinInt64

// EndOfTime is the watermark after the last record of a bounded input.
const EndOfTime EventTime = math.MaxInt64

// Time returns t as a time.Time, and the zero Time for NoTime.
func (t EventTime) Time() time.Time {
	if t == NoTime {
		return time.Time{}
	}
	return time.UnixMilli(int64(t))
}

// At returns the event time of a time.Time, and NoTime for the zero Time.
func At(t time.Time) EventTime {
	if t.IsZero() {
		return NoTime
	}
	return EventTime(t.UnixMilli())
}

// Record is one element of a stream and where it came from. A result carries
// the time, key, split and position of the record that it answers, and the trace context of that record's span.
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
	// Trace is the trace context that the record came with, and behind an operator that of the operator's span for it. Nil: it
	// has none, and an operator with a tracer may begin a trace. It is not kept in checkpoints.
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
