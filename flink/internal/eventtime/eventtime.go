// Package eventtime converts event times between Beam's form and the operator's. Both count
// milliseconds since the Unix epoch. They differ in the value that means no time.
package eventtime

import (
	"context"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"

	"github.com/tensorferry/tensorferry/async"
)

// FromBeam returns the operator's form. Beam's smallest time, which elements without a time have,
// and times out of the operator's range become async.NoTime.
func FromBeam(t beam.EventTime) async.EventTime {
	if at := async.EventTime(t); at.Valid() {
		return at
	}
	return async.NoTime
}

// ToBeam returns Beam's form. No time, and a time out of range, become Beam's smallest time.
func ToBeam(t async.EventTime) beam.EventTime {
	if !t.Valid() {
		return mtime.MinTimestamp
	}
	return mtime.FromMilliseconds(int64(t))
}

var untimed = beam.NewCounter("tensorferry", "records_untimed")

// Read is ToBeam for a record from its source. It counts records whose time is out of range.
func Read(ctx context.Context, t async.EventTime) beam.EventTime {
	if !t.Valid() && t != async.NoTime {
		untimed.Inc(ctx, 1)
	}
	return ToBeam(t)
}
