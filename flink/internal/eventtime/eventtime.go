// Package eventtime takes event times from Beam's form to the operator's and back. Both count
// milliseconds since the Unix epoch; they differ in what stands for no time at all.
package eventtime

import (
	"context"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"

	"github.com/tensorferry/tensorferry/async"
)

// FromBeam returns the operator's form. Beam gives elements that have no time its smallest one.
// What is out of the operator's range is none.
func FromBeam(t beam.EventTime) async.EventTime {
	if at := async.EventTime(t); at.Valid() {
		return at
	}
	return async.NoTime
}

// ToBeam returns Beam's form. What is none, or out of range, is its smallest.
func ToBeam(t async.EventTime) beam.EventTime {
	if !t.Valid() {
		return mtime.MinTimestamp
	}
	return mtime.FromMilliseconds(int64(t))
}

var untimed = beam.NewCounter("tensorferry", "records_untimed")

// Read is ToBeam for a record as its source gives it. Those whose times are out of range are
// counted.
func Read(ctx context.Context, t async.EventTime) beam.EventTime {
	if !t.Valid() && t != async.NoTime {
		untimed.Inc(ctx, 1)
	}
	return ToBeam(t)
}
